"""Worker processes, jobs for them, and whether what they started still runs; for tests without a loop."""

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from stage import Stage

from aragora_q.base import Job


def cli(*args):
    """The command line that runs aragora-q with `args`."""
    return [sys.executable, "-m", "aragora_q", *args]


def env(**variables):
    """This test's environment, and `variables`."""
    return {**os.environ, **variables}


def is_running(pid):
    """Whether a process runs: it exists and is not a zombie that waits for its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


FAST = {"ARAGORA_QUEUE_CLAIM_IDLE_MS": "1000", "ARAGORA_QUEUE_RETRY_BASE_DELAY": "0.01"}


def ask(redis_url, question):
    """Run one coroutine function of a stage on the queue, from a test without an event loop."""

    async def asking():
        stage = Stage(redis_url)
        try:
            return await question(stage.queue)
        finally:
            await stage.close()

    return asyncio.run(asking())


def enqueue(redis_url, job_id, **fields):
    payload = {"question": "To be or not to be?", "agents": ["a", "b"]}
    return ask(redis_url, lambda queue: queue.enqueue(Job({**payload, **fields}, id=job_id)))


def job(redis_url, job_id):
    return ask(redis_url, lambda queue: queue.get_job(job_id))


def work(redis_url, *args, expect=0, **variables):
    """Run a worker until nothing is left to do; what it said on stderr."""
    done = subprocess.run(
        cli("worker", "--burst", "--metrics-port", "0", *args),
        env=env(REDIS_URL=redis_url, **FAST, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    assert not done.stdout
    return done.stderr


@contextmanager
def working(redis_url, *args, **variables):
    """A worker that runs meanwhile, killed afterwards."""
    worker = subprocess.Popen(
        cli("worker", "--metrics-port", "0", *args),
        env=env(REDIS_URL=redis_url, **FAST, **variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()
