"""`aragora-q requeue`: dead letters are queued again, by id or from `list`."""

from support.jobs import enqueue_in_every_state


async def test_failed_jobs_go_from_list_to_requeue(harness, run_cli):
    """`list -s failed --jsonl | requeue -` requeues them; repeating it changes nothing and exits 0."""
    await enqueue_in_every_state(harness)
    listed = run_cli("list", "-s", "failed", "--jsonl").out + "cancelled\n"
    first = run_cli("requeue", "-", "--json", stdin=listed)
    assert (first.code, first.objects) == (0, [
        {"id": "failed", "requeued": True, "status": "pending"},
        {"id": "cancelled", "requeued": True, "status": "pending"},
    ])  # fmt: skip
    again = run_cli("requeue", "-", "--json", stdin=listed)
    assert (again.code, [line["requeued"] for line in again.objects]) == (0, [False, False])
    assert sorted(run_cli("list", "-s", "pending", "-q").lines) == [
        "cancelled", "delayed", "failed", "pending",
    ]  # fmt: skip


async def test_requeue_says_what_it_cannot_do(harness, run_cli):
    """Unknown ids, completed jobs and invalid ids: one line each, exit 3; the others are requeued."""
    await enqueue_in_every_state(harness)
    ended = run_cli("requeue", "missing", "completed", "a b", "failed", "--quiet")
    assert (ended.code, ended.lines) == (3, ["failed"])
    assert "job missing was not requeued: not found in queue debates, or expired" in ended.err
    assert (
        "completed: enqueue it under another id, or a debate with changes by enqueue --from"
        in ended.err
    )
    assert "job a b was not requeued: not a job id" in ended.err
    broken = run_cli("requeue", "-", stdin='{"no": "id"}\n')
    assert broken.code == 65
    assert "line 1: the JSON object has no id" in broken.err
