"""`aragora-q purge`: deletes ended jobs of the chosen statuses past their retention, and no live ones."""

import pytest
from support import invariants
from support.queue_harness import PREFIX

from aragora_q.contracts import Completed, Failed

DAY_MS = 86_400_000


@pytest.fixture
def jobs(on_queue, redis_client):
    """One job of every kind; those that have ended did so ten days ago."""

    async def make(harness):
        worker = await harness.worker("w1")
        for job_id in ("done", "bad", "stopped", "runs"):
            await harness.enqueue(job_id)
        await harness.queue.cancel("stopped")
        done, bad, _ = (await worker.start(3)).jobs
        await harness.report(worker, done, Completed(b"{}"))
        await harness.report(worker, bad, Failed("no"))
        await harness.enqueue("waits")
        await harness.enqueue("later", delay_seconds=1000)

    on_queue(make)
    for index in ("completed", "failed", "cancelled"):
        for job_id, at in redis_client.zrange(f"{PREFIX}{index}", 0, -1, withscores=True):
            redis_client.zadd(f"{PREFIX}{index}", {job_id: at - 10 * DAY_MS})


def _kept(redis_client):
    return {job for job in ("done", "bad", "stopped", "runs", "waits", "later")
            if redis_client.exists(f"{PREFIX}job:{job}")}  # fmt: skip


def test_ended_jobs_past_their_retention_are_deleted(run_cli, jobs, redis_client):
    """Without options no confirmation is needed: jobs of every terminal status past their retention."""
    ended = run_cli("purge", "--json")
    assert ended.object == {
        "dry_run": False, "purged": {"cancelled": 1, "completed": 1, "failed": 1},
    }  # fmt: skip
    assert _kept(redis_client) == {"runs", "waits", "later"}
    assert run_cli("stats", "--json").object["last_purge_at"] > 1_600_000_000_000
    invariants.check(redis_client, PREFIX)


def test_only_the_given_statuses(run_cli, jobs, redis_client):
    """--status limits it; an unknown or live status is a usage error."""
    assert run_cli("purge", "--status", "failed", "--quiet").code == 0
    assert _kept(redis_client) == {"done", "stopped", "runs", "waits", "later"}
    for wrong in ("processing", "nonsense"):
        assert run_cli("purge", "--status", wrong).code == 2


def test_a_dry_run_only_counts(run_cli, jobs, redis_client):
    """--dry-run prints a number per status; it changes no key and records no pass."""
    ended = run_cli("purge", "--dry-run")
    assert "would delete: 1 cancelled, 1 completed, 1 failed" in ended.err
    assert len(_kept(redis_client)) == 6
    assert run_cli("stats", "--json").object["last_purge_at"] is None


def test_younger_jobs_only_with_yes(run_cli, jobs, redis_client, monkeypatch):
    """Below the retention time --yes is needed if there is no terminal; above it, it is not."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_JOB_TTL_DAYS", "30")
    assert run_cli("purge", "--json").object["purged"] == {
        "cancelled": 0,
        "completed": 0,
        "failed": 0,
    }
    refused = run_cli("purge", "--older-than", "36h")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert len(_kept(redis_client)) == 6
    assert run_cli("purge", "--older-than", "40d").code == 0
    assert len(_kept(redis_client)) == 6
    assert run_cli("purge", "--older-than", "36h", "--yes").code == 0
    assert _kept(redis_client) == {"runs", "waits", "later"}


def test_many_are_deleted_in_bounded_steps(run_cli, redis_client):
    """No call deletes more than a batch, however many there are."""
    ids = {f"old-{n}": 1 for n in range(250)}
    redis_client.zadd(f"{PREFIX}completed", ids)
    redis_client.config_resetstat()
    assert run_cli("purge", "--json").object["purged"]["completed"] == 250
    calls = redis_client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] + calls.get("cmdstat_eval", {"calls": 0})["calls"] >= 5
    assert redis_client.zcard(f"{PREFIX}completed") == 0


def test_a_malformed_age_is_a_usage_error(run_cli):
    """Only values such as 90s, 15m, 36h and 7d are accepted; otherwise nothing happens."""
    assert run_cli("purge", "--older-than", "soon").code == 2


def test_by_id(run_cli, jobs, redis_client):
    """Ended jobs are deleted by id, whatever their age; live ones are not, unknown ones are errors."""
    shown = run_cli("purge", "bad", "waits", "gone", "--json")
    assert shown.code == 3
    assert shown.objects == [
        {"id": "bad", "deleted": True, "status": None},
        {"id": "waits", "deleted": False, "status": "pending"},
    ]
    assert "gone not found" in shown.err
    assert run_cli("purge", "-", stdin="done\n").out == "done deleted\n"
    assert _kept(redis_client) == {"stopped", "runs", "waits", "later"}
    for more in (["--older-than", "1s"], ["--group", "g"], ["--dry-run"]):
        assert run_cli("purge", "stopped", *more).code == 2
