"""Celery."""

from celery import Celery
from peer import PAYLOAD, URL, ran

app = Celery("peer", broker=URL)
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=100
)


@app.task(name="task")
def task(_payload):
    ran()


async def client(measure):
    async def enqueue():
        task.delay(PAYLOAD)

    await measure(enqueue)
