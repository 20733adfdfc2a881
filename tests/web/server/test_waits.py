"""Requests of the HTTP API that wait, when their process stops."""

import http.client
import json
import select
import time
from contextlib import closing

from support.queue_harness import run_on_queue

JOB = "/api/v1/queues/debates/jobs/j1"


def test_they_are_answered_with_the_job_as_it_is(start_console, patient, redis_url):
    """SIGTERM ends the wait at once: 200 with a job that has not ended, and a quick stop."""

    async def enqueue(harness):
        await harness.enqueue("j1")

    run_on_queue(redis_url, enqueue)
    console = start_console(REDIS_URL=redis_url, **patient)
    with closing(http.client.HTTPConnection(console.host, console.port, timeout=60)) as client:
        client.request("GET", f"{JOB}?wait=60")
        for _ in range(10):  # it has come as far as these
            assert console.get(JOB).status == 200
        assert select.select([client.sock], [], [], 0)[0] == []
        began_at = time.monotonic()
        console.stop()
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())["status"]) == (200, "pending")
    assert time.monotonic() - began_at < 25
    assert "Traceback" not in console.log
