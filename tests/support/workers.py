"""Workers in the test's own process: started, observed and stopped."""

import asyncio
import threading
from contextlib import asynccontextmanager, suppress

from support.wait import wait_until

from aragora_q.errors import RedisUnreachable
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker.debate_worker import DebateWorker

LONG_LEASE = {"claim_idle_ms": 60_000}
"""Settings for tests in which no lease may expire."""


class WorkerPool:
    """Starts workers, each with its own connections, and stops those that still run."""

    def __init__(self):
        self._started = []

    def start(self, harness, executor, worker_id="w1", **options):
        """A started worker; its `task` is the one that runs `DebateWorker.start`."""
        queue = RedisStreamsQueue(harness.config)
        worker = DebateWorker(queue, worker_id, executor=executor, **options)
        worker.task = asyncio.create_task(worker.start())
        self._started.append((worker, queue))
        return worker

    async def stop(self):
        for worker, _ in self._started:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.stop(immediately=True), 60)
        for worker, queue in self._started:
            await asyncio.gather(worker.task, return_exceptions=True)
            await queue.close()


def lose_first_reply(worker):
    """Lose the worker's first reply that has started jobs; returns the list of these jobs, empty until then."""
    original, lost = worker._session.start, []

    async def lossy(limit, **options):
        fetched = await original(limit, **options)
        if fetched.jobs and not lost:
            lost.extend(fetched.jobs)
            raise RedisUnreachable("the answer was lost")
        return fetched

    worker._session.start = lossy
    return lost


async def wait_until_registered(harness, worker):
    record = harness.keys.worker(worker.identity.worker_id)
    await wait_until(
        lambda: harness.redis.exists(record) or worker.task.done(), what="it to register"
    )
    assert not worker.task.done(), worker.task.exception()


async def enqueue_with_retry(harness, job_id):
    """Enqueue as a client does whose connections are cut: again, until it succeeds."""

    async def is_enqueued():
        try:
            return await harness.enqueue(job_id)
        except RedisUnreachable:
            return None

    await wait_until(is_enqueued, what=f"{job_id} to be enqueued")


def kill_clients(harness):
    harness.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def count_calls(harness, command):
    """How often the server has run a command since its statistics were reset."""
    stats = harness.redis.info("commandstats")
    return stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]


@asynccontextmanager
async def reclaiming(harness, every_seconds=0.05):
    """Reclaim periodically in a thread with its own loop, so that a blocked loop cannot stop it."""
    stop, claimed = threading.Event(), []

    async def reclaim():
        queue = RedisStreamsQueue(harness.config)
        while not stop.is_set():
            with suppress(Exception):
                claimed.extend(await queue.reclaim("cron"))
            await asyncio.sleep(every_seconds)
        await queue.close()

    thread = threading.Thread(target=lambda: asyncio.run(reclaim()))
    thread.start()
    try:
        yield claimed
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
