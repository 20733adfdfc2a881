"""Requests of the HTTP API that wait, when their process stops."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from support.queue_harness import run_on_queue

JOB = "/api/v1/queues/debates/jobs/j1"


def test_they_are_answered_with_the_job_as_it_is(start_console, redis_url):
    """SIGTERM ends the wait at once: 200 with a job that has not ended, and a quick stop."""

    async def enqueue(harness):
        await harness.enqueue("j1")

    run_on_queue(redis_url, enqueue)
    console = start_console(REDIS_URL=redis_url)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(console.get, f"{JOB}?wait=60")
        for _ in range(10):  # it has come as far as these
            assert console.get(JOB).status == 200
        assert not waiting.done()
        began_at = time.monotonic()
        console.stop()
        answer = waiting.result(10)
    assert (answer.status, json.loads(answer.text)["status"]) == (200, "pending")
    assert time.monotonic() - began_at < 2
    assert "Traceback" not in console.log
