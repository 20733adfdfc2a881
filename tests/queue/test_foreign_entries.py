"""Entries that another program wrote, with far more fields than a job has, harm no other job."""

from support.queue_harness import decisions

from aragora_q.base import JobStatus
from aragora_q.contracts import Completed

FIELDS = 20_000
"""More than Lua's `unpack` can put on its stack."""


def _write_huge(harness):
    return harness.write_raw({f"field{n}": "x" for n in range(FIELDS)})


async def test_a_huge_pending_entry_is_reclaimed_with_its_page(new_harness):
    """Jobs of a dead worker behind it are reclaimed in the same pass; it becomes a dead letter."""
    harness = new_harness(claim_idle_ms=60_000)
    dead = await harness.worker("dead")
    await harness.worker("alive")
    await harness.enqueue("before")
    entry = _write_huge(harness)
    await harness.enqueue("after")
    await harness.start_one(dead, limit=1)
    assert harness.deliver("dead") == [entry]
    await harness.start_one(dead, limit=1)
    for each in harness.pending():
        harness.backdate_entry(harness.keys.stream_normal, each["message_id"])
    harness.stop_heartbeat("dead", 100_000)
    reclaimed = decisions(await harness.queue.reclaim("alive"))
    assert reclaimed == [
        ("before", "reclaimed"),
        (f"malformed-{entry}", "malformed"),
        ("after", "reclaimed"),
    ]
    assert (await harness.queue.get_job(f"malformed-{entry}")).status is JobStatus.FAILED


async def test_a_huge_waiting_entry_is_a_dead_letter(new_harness):
    """A start sets it aside and starts the job behind it."""
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker()
    entry = _write_huge(harness)
    await harness.enqueue("a")
    job = await harness.start_one(session, limit=10)
    assert job.id == "a"
    letter = await harness.queue.get_job(f"malformed-{entry}")
    assert len(letter.payload["malformed"]) > FIELDS
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
