"""`aragora-q purge`: what has ended long enough ago goes, of the statuses asked for, and nothing that lives."""

import asyncio

import invariants
import pytest
from stage import Stage

from aragora_q.contracts import Completed, Failed

STEM = "aragora:queue:debates:"
DAY_MS = 86_400_000


@pytest.fixture
def jobs(redis_url, raw):
    """One job of every kind; those that have ended did so ten days ago."""

    async def make():
        stage = Stage(redis_url, raw=raw)
        worker = await stage.worker("w1")
        for job_id in ("done", "bad", "stopped", "runs"):
            await stage.enqueue(job_id)
        await stage.queue.cancel("stopped")
        done, bad, _ = (await worker.start(3)).jobs
        await stage.end(worker, done, Completed(b"{}"))
        await stage.end(worker, bad, Failed("no"))
        await stage.enqueue("waits")
        await stage.enqueue("later", delay_seconds=1000)
        await stage.queue.close()

    asyncio.run(make())
    for index in ("completed", "failed", "cancelled"):
        for job_id, at in raw.zrange(f"{STEM}{index}", 0, -1, withscores=True):
            raw.zadd(f"{STEM}{index}", {job_id: at - 10 * DAY_MS})


def _kept(raw):
    return {job for job in ("done", "bad", "stopped", "runs", "waits", "later")
            if raw.exists(f"{STEM}job:{job}")}  # fmt: skip


def test_all_that_is_past_retention_goes_and_nothing_that_lives(invoke, jobs, raw):
    """Plain purge never asks: ended jobs past the retention time, of every terminal status."""
    ended = invoke("purge", "--json")
    assert ended.object == {
        "dry_run": False, "purged": {"cancelled": 1, "completed": 1, "failed": 1},
    }  # fmt: skip
    assert _kept(raw) == {"runs", "waits", "later"}
    assert invoke("stats", "--json").object["last_purge_at"] > 1_600_000_000_000
    invariants.check(raw, STEM)


def test_only_what_was_asked_for(invoke, jobs, raw):
    """--status limits it; an unknown or live status is a usage error."""
    assert invoke("purge", "--status", "failed", "--quiet").code == 0
    assert _kept(raw) == {"done", "stopped", "runs", "waits", "later"}
    for wrong in ("processing", "nonsense"):
        assert invoke("purge", "--status", wrong).code == 2


def test_a_dry_run_only_counts(invoke, jobs, raw):
    """--dry-run says how many of each; no key is touched, no pass is noted."""
    ended = invoke("purge", "--dry-run")
    assert "would delete: 1 cancelled, 1 completed, 1 failed" in ended.err
    assert len(_kept(raw)) == 6
    assert invoke("stats", "--json").object["last_purge_at"] is None


def test_younger_jobs_only_when_that_is_meant(invoke, jobs, raw, monkeypatch):
    """Below the retention time it wants --yes where nobody can be asked; above, it does not."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_JOB_TTL_DAYS", "30")
    assert invoke("purge", "--json").object["purged"] == {
        "cancelled": 0,
        "completed": 0,
        "failed": 0,
    }
    refused = invoke("purge", "--older-than", "36h")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert len(_kept(raw)) == 6
    assert invoke("purge", "--older-than", "40d").code == 0
    assert len(_kept(raw)) == 6
    assert invoke("purge", "--older-than", "36h", "--yes").code == 0
    assert _kept(raw) == {"runs", "waits", "later"}


def test_many_go_in_bounded_steps(invoke, raw):
    """No call deletes more than a batch, however many there are."""
    ids = {f"old-{n}": 1 for n in range(250)}
    raw.zadd(f"{STEM}completed", ids)
    raw.config_resetstat()
    assert invoke("purge", "--json").object["purged"]["completed"] == 250
    calls = raw.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] + calls.get("cmdstat_eval", {"calls": 0})["calls"] >= 5
    assert raw.zcard(f"{STEM}completed") == 0


def test_a_malformed_age_is_a_usage_error(invoke):
    """90s, 15m, 36h, 7d: whatever else, nothing happens."""
    assert invoke("purge", "--older-than", "soon").code == 2
