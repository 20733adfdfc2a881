"""`aragora-q requeue`: dead letters are queued again, by id or from `list`."""

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


async def test_failed_jobs_go_from_list_to_requeue(harness, run_cli):
    """`list -s failed --jsonl | requeue -` puts them back; a second time changes nothing and exits 0."""
    await in_every_state(harness)
    listed = run_cli("list", "-s", "failed", "--jsonl").out + "cancelled\n"
    first = run_cli("requeue", "-", "--json", stdin=listed)
    assert (first.code, first.objects) == (0, [
        {"id": "failed", "requeued": True, "status": "pending"},
        {"id": "cancelled", "requeued": True, "status": "pending"},
    ])  # fmt: skip
    again = run_cli("requeue", "-", "--json", stdin=listed)
    assert (again.code, [each["requeued"] for each in again.objects]) == (0, [False, False])
    assert sorted(run_cli("list", "-s", "pending", "-q").lines) == [
        "cancelled", "delayed", "failed", "pending",
    ]  # fmt: skip


async def test_requeue_says_what_it_cannot_do(harness, run_cli):
    """Unknown ids, completed jobs and no ids at all: a line each, exit 3; the others go through."""
    await in_every_state(harness)
    ended = run_cli("requeue", "nobody", "completed", "a b", "failed", "--quiet")
    assert (ended.code, ended.lines) == (3, ["failed"])
    assert [line.split(": ")[-2] for line in ended.err.splitlines()[:1]] == [
        "job nobody is not requeued"
    ]
    assert "completed: enqueue it again under another id" in ended.err
    assert "job a b is not requeued: no job id" in ended.err
    broken = run_cli("requeue", "-", stdin='{"no": "id"}\n')
    assert broken.code == 65
    assert "line 1: neither a job id nor a JSON object with one" in broken.err
