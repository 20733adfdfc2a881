"""Workers in this process, on one stage: started, watched and stopped."""

import asyncio
import threading
from contextlib import asynccontextmanager, suppress

from waiting import wait_until

from aragora_q.base import TERMINAL
from aragora_q.streams import RedisStreamsQueue
from aragora_q.worker import DebateWorker


class Crew:
    """Starts workers; each has a queue, hence connections, of its own."""

    def __init__(self):
        self._hired = []

    def hire(self, stage, executor, worker_id="w1", **options):
        """A worker at work; its `task` is what `start` runs in."""
        queue = RedisStreamsQueue(stage.config)
        worker = DebateWorker(queue, worker_id, executor=executor, **options)
        worker.task = asyncio.create_task(worker.start())
        self._hired.append((worker, queue))
        return worker

    async def dismiss(self):
        for worker, _ in self._hired:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.stop(hurry=True), 15)
        for worker, queue in self._hired:
            await asyncio.gather(worker.task, return_exceptions=True)
            await queue.close()


class Steps:
    """An executor whose jobs wait at a gate; remembers who entered, left, and was cancelled."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.entered, self.left, self.cancelled = [], [], []
        self.peak = 0

    async def __call__(self, job):
        self.entered.append(job.id)
        self.peak = max(self.peak, len(self.entered) - len(self.left) - len(self.cancelled))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        self.left.append(job.id)
        return {"attempt": job.attempts}


async def ended(stage, *job_ids, timeout=20):
    """Wait until all these jobs have ended; the one, or all of them."""

    async def all_ended():
        with suppress(Exception):
            statuses = [await stage.queue.get_status(job_id) for job_id in job_ids]
            return all(status in TERMINAL for status in statuses)
        return False

    await wait_until(all_ended, timeout, f"{job_ids[:3]} to end")
    jobs = [await stage.queue.get_job(job_id) for job_id in job_ids]
    return jobs[0] if len(jobs) == 1 else jobs


@asynccontextmanager
async def reaping(stage, every_seconds=0.05):
    """A caretaker on a thread and a loop of its own, which no blocked loop here can stop."""
    stop, taken = threading.Event(), []

    async def reap():
        queue = RedisStreamsQueue(stage.config)
        while not stop.is_set():
            with suppress(Exception):
                taken.extend(await queue.reclaim("cron"))
            await asyncio.sleep(every_seconds)
        await queue.close()

    thread = threading.Thread(target=lambda: asyncio.run(reap()))
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
