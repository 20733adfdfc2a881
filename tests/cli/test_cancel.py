"""`aragora-q cancel`, and the JSON output of status, wait and cancel."""

from support.jobs import enqueue_in_every_state


async def test_status_wait_and_cancel_by_json(harness, run_cli):
    """All three print each job's status; an unknown job is an error on stderr and exit code 3."""
    await enqueue_in_every_state(harness)
    shown = run_cli("status", "failed", "missing", "--json")
    assert (shown.code, shown.object["history"][-1]["error"]) == (3, "no\nuse")
    assert "job missing not found in queue debates" in shown.err
    assert run_cli("wait", "completed", "--json").object["result"] == {"a": 1}
    assert run_cli("wait", "completed", "failed", "-q").code == 1
    assert run_cli("wait", "missing").code == 3
    ended = run_cli("cancel", "pending", "completed", "missing", "--json")
    assert ended.code == 3
    assert ended.objects == [
        {"id": "pending", "cancelled": True, "status": "cancelled"},
        {"id": "completed", "cancelled": False, "status": "completed"},
    ]
