"""What the queue accepts it can show again: payloads, results, progress and checkpoints of any shape."""

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.errors import InvalidPayload


def _nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


UNREADABLE = {
    "depth": (_nested(230), "nested too deeply"),
    "digits": ({"n": 10**5_000}, "more than 4,300 digits"),
}
READABLE = {"depth": _nested(190), "digits": {"n": 10**4_000}}


@pytest.mark.parametrize(("value", "reason"), UNREADABLE.values(), ids=UNREADABLE)
async def test_a_payload_that_no_worker_could_read_is_refused(harness, value, reason):
    """Nothing is enqueued; the error names job and reason."""
    with pytest.raises(InvalidPayload, match=f"job a: .*{reason}"):
        await harness.queue.enqueue(Job(payload=value, id="a"))
    assert await harness.queue.get_job("a") is None


@pytest.mark.parametrize(("value", "reason"), UNREADABLE.values(), ids=UNREADABLE)
async def test_progress_and_checkpoints_that_could_not_be_read_are_refused(harness, value, reason):
    """The executor gets a ValueError; the running job stays readable."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    with pytest.raises(ValueError, match=reason):
        await session.checkpoint(job, "step", value)
    with pytest.raises(ValueError, match=reason):
        await session.report_progress(job, value)
    assert await session.checkpoints(job) == {}
    assert (await harness.queue.get_job("a")).progress is None


@pytest.mark.parametrize("value", READABLE.values(), ids=READABLE)
async def test_deep_and_long_values_are_kept(harness, value):
    """Everything within the limits comes back as it was, from wherever it is stored."""
    session = await harness.worker()
    await harness.queue.enqueue(Job(payload=value, id="a"))
    job = await harness.start_one(session)
    await session.checkpoint(job, "step", value)
    assert await session.checkpoints(job) == {"step": value}
    assert (await harness.queue.get_job("a")).payload == value


@pytest.mark.parametrize(
    "payload",
    [b'{\n  "n": 1\n}', b'{"n":1}\n', b'\n{"n":1}', b'\n\n{"n":\n1}\r\n\n'],
    ids=["indented", "trailing", "leading", "all"],
)
async def test_a_payload_with_line_breaks_leaves_its_job_readable(harness, payload):
    """JSON that another program wrote over several lines is shown, with its result, after completion."""
    session = await harness.worker()
    harness.write_raw({"id": "a", "payload": payload})
    job = await harness.start_one(session)
    assert await harness.report(session, job, Completed(b'{"answer":"4\\n2"}')) == "completed"
    known = await harness.queue.get_job("a")
    assert known.status is JobStatus.COMPLETED
    assert (known.payload, known.result) == ({"n": 1}, {"answer": "4\n2"})
    assert known.raw_payload == payload
