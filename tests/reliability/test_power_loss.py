"""Row 29: what a power cut loses, by `appendfsync` and `durability`. The table is in docs/reliability.md.

kill -9 loses nothing that was written, because the kernel keeps it; a power cut does. A shim records
how much was on disk at the last fsync, and the test cuts the append-only file there.
"""

import asyncio
import time
from contextlib import suppress

import pytest
from support import invariants, servers
from support.queue_harness import QueueHarness

from aragora_q.base import Job
from aragora_q.errors import NotDurable

pytestmark = pytest.mark.slow

SECONDS = 2.2


async def _enqueue_for(server, durability, seconds):
    """Enqueue from several clients for some seconds; return their harnesses and the acknowledged ids."""
    harnesses = [QueueHarness(server.url, durability=durability) for _ in range(4)]
    accepted = []
    deadline = time.monotonic() + seconds

    async def client(number, harness):
        n = 0
        while time.monotonic() < deadline:
            job = Job(payload={"n": n}, id=f"c{number}-{n}")
            n += 1
            with suppress(NotDurable):  # the disk was too slow: the job does not count as accepted
                await harness.queue.enqueue(job)
                accepted.append(job.id)
                if n % 10 == 0:
                    await _run_group(harness.queue, f"g{number}-{n}")

    await asyncio.gather(*(client(n, harness) for n, harness in enumerate(harnesses)))
    return harnesses, accepted


async def _run_group(queue, name):
    """A group of one job, its end, and the job that follows it."""
    await queue.enqueue(Job(payload={}, id=f"only-{name}", group=name))
    await queue.seal_group(name, Job(payload={}, id=f"then-{name}"))
    await queue.cancel(f"only-{name}")


def _cut_power(server):
    server.kill()
    for file in (server.directory / "appendonlydir").glob("*.aof"):
        synced = file.with_name(f"{file.name}.synced")
        size = int(synced.read_text()) if synced.exists() else 0
        with file.open("r+b") as opened:
            opened.truncate(min(size, file.stat().st_size))


@pytest.mark.parametrize(
    ("appendfsync", "durability", "may_lose"),
    [("no", "none", True), ("everysec", "none", True), ("always", "none", False),
     ("everysec", "fsync", False)],
)  # fmt: skip
async def test_power_cut(preloaded_server, record_property, appendfsync, durability, may_lose):
    """`fsync`, or a server that always syncs, loses nothing; otherwise what was not synced is lost.

    Wherever it cuts: what is left agrees, and a group that has ended is followed by its job.
    """
    server = preloaded_server(
        "power_loss", servers.redis82, "--appendonly", "yes", "--appendfsync", appendfsync,
        "--aof-load-truncated", "yes",
    )  # fmt: skip
    harnesses, accepted = await _enqueue_for(server, durability, SECONDS)
    for harness in harnesses:
        await harness.close()
    _cut_power(server)
    server.start()
    harness = QueueHarness(server.url)
    statuses = await asyncio.gather(*(harness.queue.get_status(job_id) for job_id in accepted))
    entries = {fields["id"] for _, fields in harness.entries()}
    invariants.check(harness.redis, harness.keys.queue_prefix)
    groups = await harness.queue.tracker.groups(100_000)
    followed = {group.then_id for group in groups if group.then_status == "enqueued"}
    assert followed == {job_id for job_id in entries if job_id.startswith("then-")}
    await harness.close()
    kept = {job_id for job_id, status in zip(accepted, statuses, strict=True) if status}
    record_property("accepted", len(accepted))
    record_property("lost", len(accepted) - len(kept))
    assert kept <= entries, "no half-written job: whoever has a hash has its entry"
    assert accepted
    assert may_lose or kept == set(accepted)
    if appendfsync == "no":
        assert not kept, "else the shim does not cut"
