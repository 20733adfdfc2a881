"""`aragora-q pause` and `resume`."""


async def test_pause_and_resume(harness, run_cli):
    """No job starts while paused; both commands may be repeated."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    messages = [run_cli("pause").err, run_cli("pause").err]
    assert (await session.start(1)).state == "paused"
    messages += [run_cli("resume").err, run_cli("resume").err]
    assert [job.id for job in (await session.start(1)).jobs] == ["a"]
    assert messages == [
        "queue debates is paused\n", "queue debates was already paused\n",
        "queue debates is resumed\n", "queue debates was not paused\n",
    ]  # fmt: skip
    assert run_cli("pause", "-q").err == ""
    assert run_cli("resume", "-q").err == ""
