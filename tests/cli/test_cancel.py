"""`aragora-q cancel`, and the JSON output of status, wait and cancel."""

from support.jobs import enqueue_in_every_state, numbered_job


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


async def test_ids_from_stdin(harness, run_cli):
    """`list --jsonl | cancel -` cancels what was listed; ids and JSON lines may be mixed."""
    await enqueue_in_every_state(harness)
    listed = run_cli("list", "-s", "pending", "--jsonl").out + "retrying\n"
    ended = run_cli("cancel", "-", "--quiet", stdin=listed)
    assert (ended.code, sorted(ended.lines)) == (0, ["delayed", "pending", "retrying"])


async def test_many_ids_take_few_round_trips(harness, run_cli):
    """100 ids are one call of the script."""
    await harness.queue.enqueue_many([numbered_job(n) for n in range(100)])
    harness.redis.config_resetstat()
    assert len(run_cli("cancel", *(f"j{n}" for n in range(100)), "-q").lines) == 100
    calls = harness.redis.info("commandstats")
    assert (
        sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
        <= 2
    )
