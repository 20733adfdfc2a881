"""`aragora-q cancel`, and the JSON of status and wait beside it."""

from aragora_q.base import Completed, Failed, Retry


async def in_every_state(harness):
    """One job in each state, and one delayed; the names say which."""
    session = await harness.worker(lease_seconds=600)
    for name, outcome in (("completed", Completed(b'{"a":1}')), ("failed", Failed("no\nuse")),
                          ("retrying", Retry("again", 60))):  # fmt: skip
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("cancelled")
    await harness.queue.cancel("cancelled")
    await harness.enqueue("processing")
    await harness.start_one(session)
    await harness.enqueue("pending")
    await harness.enqueue("delayed", delay_seconds=60)
    return session


async def test_status_wait_and_cancel_by_json(harness, run_cli):
    """The three name every job's state; an unknown one is told on stderr and exits 3."""
    await in_every_state(harness)
    shown = run_cli("status", "failed", "nobody", "--json")
    assert (shown.code, shown.object["history"][-1]["error"]) == (3, "no\nuse")
    assert "no job nobody in queue debates" in shown.err
    assert run_cli("wait", "completed", "--json").object["result"] == {"a": 1}
    assert run_cli("wait", "completed", "failed", "-q").code == 1
    assert run_cli("wait", "nobody").code == 3
    ended = run_cli("cancel", "pending", "completed", "nobody", "--json")
    assert ended.code == 3
    assert ended.objects == [
        {"id": "pending", "cancelled": True, "status": "cancelled"},
        {"id": "completed", "cancelled": False, "status": "completed"},
    ]
