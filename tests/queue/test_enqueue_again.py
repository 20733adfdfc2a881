"""A job that was read can be changed and enqueued again: what is stored is what the job says then."""

from dataclasses import replace

import pytest

from aragora_q.base import Job
from aragora_q.contracts import Completed, Retry
from aragora_q.errors import InvalidPayload


async def test_a_job_that_was_read_is_sent_with_its_new_payload(harness):
    """Another id and payload, set on the job or on a copy: that payload is stored."""
    await harness.enqueue("a")
    read = await harness.queue.get_job("a")
    copy = replace(read, id="b", payload={"n": 2})
    read.id, read.payload = "c", {"n": 3}
    assert [result.created for result in await harness.queue.enqueue_many([copy, read])]
    read.id = "d"
    read.payload["n"] = 4  # in place
    await harness.queue.enqueue(read)
    payloads = [(await harness.queue.get_job(name)).payload for name in ("a", "b", "c", "d")]
    assert payloads == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]


async def test_a_checked_job_that_changes_is_sent_as_it_is_then(harness):
    """`check` before a change neither fixes what is sent nor lets an invalid payload pass."""
    job = Job({"n": 1}, id="a")
    harness.queue.check(job)
    job.payload["n"] = 2
    await harness.queue.enqueue(job)
    assert (await harness.queue.get_job("a")).payload == {"n": 2}
    bad = Job({}, id="b")
    harness.queue.check(bad)
    bad.payload["n"] = float("nan")
    with pytest.raises(InvalidPayload):
        await harness.queue.enqueue(bad)
    assert await harness.queue.get_status("b") is None


async def test_an_executors_changes_of_its_job_are_not_kept(harness):
    """Retries and the ended job have the payload that was enqueued, whatever the executor did to its copy."""
    await harness.enqueue("a")
    session = await harness.worker()
    job = await harness.start_one(session)
    job.payload = {"n": "changed"}
    await harness.report(session, job, Retry("again", 0))
    job = await harness.start_delayed(session)
    job.payload = {"n": "changed"}
    await harness.report(session, job, Completed(b"{}"))
    assert (await harness.queue.get_job("a")).payload == {"n": 1}
