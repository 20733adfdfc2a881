"""`aragora-q reap`: one maintenance pass at a time, for queues without live workers."""

import contextlib
import re
import urllib.request
from typing import get_args

import pytest
from support import servers
from support.queue_harness import PREFIX
from support.schedules import daily, minute_before, promise, toml
from support.wait import wait_until_sync

from aragora_q import maintenance
from aragora_q.cli import reap
from aragora_q.contracts import ReclaimDecision
from aragora_q.maintenance import reap_pass


@pytest.fixture
def dead_workers_jobs(on_queue, redis_client):
    """Starts jobs for a worker whose last heartbeat is a day old."""

    def start(*job_ids, crashes=0):
        async def started(harness):
            worker = await harness.worker("dead-1", lease_seconds=60)  # a grace of 30 seconds
            for job_id in job_ids:
                await harness.enqueue(job_id)
                await harness.start_one(worker)
                harness.backdate(job_id)
                if crashes:
                    redis_client.hset(harness.keys.job(job_id), "crashes", crashes)

        on_queue(started)
        redis_client.zadd(f"{PREFIX}workers", {"dead-1": 1})
        grace = {"last_heartbeat_seen": 1, "grace_count": 2, "grace_until": 1}
        redis_client.hset(f"{PREFIX}control", mapping=grace)

    return start


def test_a_dry_run_explains_and_changes_nothing(run_cli, dead_workers_jobs, redis_client):
    """--dry-run: job, worker, idle time, crashes and decision, from the script that would do it."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter(f"{PREFIX}job:*")}
    ended = run_cli("reap", "--dry-run", "--json")
    reclaimed = {job["id"]: job for job in ended.object["reclaimed"]}
    assert reclaimed["lost"]["decision"] == "reclaimed"
    assert reclaimed["lost"]["reason"] == "worker died: retry"
    assert reclaimed["lost"]["worker_id"] == "dead-1"
    assert reclaimed["lost"]["idle_seconds"] > 80_000
    assert reclaimed["poison"]["decision"] == "poisoned"
    assert {
        key: redis_client.dump(key) for key in redis_client.scan_iter(f"{PREFIX}job:*")
    } == before
    assert redis_client.hget(f"{PREFIX}counters", "last_reap_at") is None
    shown = run_cli("reap", "--dry-run")
    assert "worker died: retry" in shown.out
    assert "would reclaim 2 jobs; nothing was changed" in shown.err


def test_a_pass_does_what_the_dry_run_printed(run_cli, dead_workers_jobs, redis_client):
    """The jobs run again or fail, the dead worker is removed, and the pass is recorded."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    planned = run_cli("reap", "--dry-run", "--json").object["reclaimed"]
    done = run_cli("reap", "--json").object
    assert [(job["id"], job["decision"]) for job in done["reclaimed"]] == [
        (job["id"], job["decision"]) for job in planned
    ]
    assert (
        redis_client.hget(f"{PREFIX}job:lost", "status"),
        redis_client.hget(f"{PREFIX}job:poison", "status"),
    ) == (
        "retrying",
        "failed",
    )
    assert redis_client.zrange(f"{PREFIX}workers", 0, -1) == []
    assert (done["complete"], done["skipped"]) == (True, False)
    assert run_cli("stats", "--json").object["last_reap_at"] > 1_600_000_000_000


def test_the_time_limit_bounds_a_pass(on_queue, dead_workers_jobs):
    """After its time limit, a pass stops and reports that it is incomplete; the next one continues."""
    dead_workers_jobs("lost")

    async def passes(harness):
        return [await reap_pass(harness.queue, "reaper", max_seconds=s) for s in (0, 60)]

    short, long = on_queue(passes)
    assert (short.reclaimed, short.is_complete) == ([], False)
    assert ([job.id for job in long.reclaimed], long.is_complete) == (["lost"], True)


def test_the_time_limit_bounds_a_dry_run(run_cli, dead_workers_jobs, monkeypatch):
    """It lists what it found until then, and that there may be more; a limit that is long enough lists all."""
    dead_workers_jobs("lost")
    limits = []

    async def counting(queue, reclaimer, *, max_seconds=None, **options):
        limits.append(max_seconds)
        return await reap_pass(queue, reclaimer, max_seconds=0, **options)

    monkeypatch.setattr(maintenance, "reap_pass", counting)
    shown = run_cli("reap", "--dry-run", "--max-time", "7")
    assert limits == [7]
    assert "would reclaim at least 0 jobs; nothing was changed" in shown.err
    assert run_cli("reap", "--dry-run", "--json").object["complete"] is False


def test_a_second_pass_at_the_same_time_is_skipped(run_cli, redis_client):
    """One pass at a time: exit 0, so that cron sends no mail; no output with --quiet."""
    redis_client.hset(f"{PREFIX}control", "maintenance_lock", "other 9999999999999")
    ended = run_cli("reap")
    assert (ended.code, ended.out) == (0, "")
    assert "another reap is running" in ended.err
    assert run_cli("reap", "--json").object == {"skipped": True}
    quiet = run_cli("reap", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_lock_of_a_killed_pass_expires(run_cli, redis_client):
    """A pass that was killed does not block later ones."""
    redis_client.hset(f"{PREFIX}control", "maintenance_lock", "dead 1")
    assert run_cli("reap", "--json").object["skipped"] is False
    assert redis_client.hget(f"{PREFIX}control", "maintenance_lock") is None


def test_due_jobs_are_promoted(run_cli, on_queue, redis_client):
    """Without a live worker, reap makes due jobs runnable."""

    on_queue(lambda harness: harness.enqueue("later", delay_seconds=1000))
    redis_client.zadd(f"{PREFIX}delayed", {"later": 1})
    assert run_cli("reap", "--json").object["promoted"] == 1
    assert redis_client.xlen(f"{PREFIX}stream") == 1


def test_jobs_of_schedules_are_enqueued(run_cli, harness, tmp_path):
    """Without a live worker, reap enqueues what is due, once, by its own configuration; a dry run does not."""
    at = minute_before(harness.redis)
    (tmp_path / "aragora-q.toml").write_text(toml({"one": daily(at), "two": daily(at)}))
    for name in ("one", "two"):
        promise(harness, at, name)
    assert run_cli("reap", "--dry-run", "--json").object["ticks"] == 0
    assert "enqueued 2 scheduled jobs" in run_cli("reap").err
    assert run_cli("reap", "--json").object["ticks"] == 0
    assert sorted(run_cli("list", "--json").ids) == [
        f"{name}@{at // 1000}" for name in ("one", "two")
    ]


def test_a_pass_writes_samples_for_the_charts(run_cli, redis_client):
    """Without a live worker, reap writes the minute's and the hour's sample, once; a dry run writes none."""
    streams = [f"{PREFIX}samples:minute", f"{PREFIX}samples:hour"]
    run_cli("reap", "--dry-run")
    assert not redis_client.exists(*streams)
    for _ in range(2):
        assert run_cli("reap", "--json").object["complete"]
    for stream, seconds in zip(streams, (60, 3600), strict=True):
        samples = redis_client.xrange(stream)
        times = {int(entry_id.partition("-")[0]) // 1000 for entry_id, _ in samples}
        assert len(times) == len(samples) <= 2  # two, if a minute began between the passes
        assert samples
        assert not any(at % seconds for at in times)


def test_the_grace_after_an_outage_is_reported(run_cli, dead_workers_jobs, redis_client):
    """If no worker sent heartbeats, nothing is reclaimed before the grace period ends; the output says so."""
    dead_workers_jobs("lost")
    redis_client.hdel(f"{PREFIX}control", "last_heartbeat_seen", "grace_count", "grace_until")
    ended = run_cli("reap")
    assert "reclaimed 0 jobs" in ended.err
    assert "reclaiming starts after the grace period" in ended.err
    again = run_cli("reap", "--json").object
    assert (again["reclaimed"], again["grace_until"] is not None) == ([], True)


def test_an_outage_that_an_older_version_recorded(run_cli, dead_workers_jobs, redis_client):
    """A control hash without `grace_count`, as an older version wrote it, is accepted."""
    dead_workers_jobs("lost")
    redis_client.hdel(f"{PREFIX}control", "grace_count")
    assert run_cli("reap").code == 0


def test_the_exporter_shows_the_times_of_the_last_reap_and_purge(
    run_cli, start_command, redis_client
):
    """A pass is too short to be scraped, so the exporter shows when the last ones succeeded."""
    assert (run_cli("reap").code, run_cli("purge").code) == (0, 0)
    port = servers.free_port()
    start_command("exporter", "--listen", f"127.0.0.1:{port}")

    def exported():
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                text = reply.read().decode()
            found = re.findall(
                r"^aragora_q_queue_last_(\w+)_timestamp_seconds{.*} (.*)$", text, re.MULTILINE
            )
            times = {name: float(at) for name, at in found}
            return times if times.get("reap") and times.get("purge") else None

    times = wait_until_sync(exported, 30, "the times of reap and purge")
    for name in ("reap", "purge"):
        assert times[name] == int(redis_client.hget(f"{PREFIX}counters", f"last_{name}_at")) / 1000


def test_every_decision_has_a_reason():
    """A decision without one would end the command after its work was done."""
    assert set(reap.REASONS) == set(get_args(ReclaimDecision))
