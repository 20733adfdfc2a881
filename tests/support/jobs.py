"""Jobs that several tests of commands need."""

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed, Retry


def numbered_job(n):
    return Job(payload={"n": n}, id=f"j{n}")


async def enqueue_in_every_state(harness):
    """One job in each state, and one delayed; each has the name of its state as id."""
    session = await harness.worker(lease_seconds=600)
    for name, outcome in (
        ("completed", Completed(b'{"a":1}')),
        ("failed", Failed("no\nuse")),
        ("retrying", Retry("again", 60)),
    ):
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("cancelled")
    await harness.queue.cancel("cancelled")
    await harness.enqueue("processing")
    await harness.start_one(session)
    await harness.enqueue("pending")
    await harness.enqueue("delayed", delay_seconds=60)
    return session
