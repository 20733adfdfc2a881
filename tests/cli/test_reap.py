"""`aragora-q reap`: one maintenance pass at a time, for queues whose workers are gone."""

import contextlib
import re
import urllib.request

import pytest
from support import servers
from support.queue_harness import PREFIX
from support.wait import wait_until_sync

from aragora_q.maintenance import reap_pass


@pytest.fixture
def dead_workers_jobs(on_queue, redis_client):
    """Starts jobs for a worker whose last heartbeat is a day old."""

    def start(*job_ids, crashes=0):
        async def started(harness):
            worker = await harness.worker("dead-1")
            for job_id in job_ids:
                await harness.enqueue(job_id)
                await harness.start_one(worker)
                harness.backdate(job_id)
                if crashes:
                    redis_client.hset(harness.keys.job(job_id), "crashes", crashes)

        on_queue(started)
        redis_client.zadd(f"{PREFIX}workers", {"dead-1": 1})
        marks = {"last_heartbeat_seen": 1, "grace_count": 2, "grace_until": 1}
        redis_client.hset(f"{PREFIX}control", mapping=marks)

    return start


def test_a_dry_run_explains_and_changes_nothing(run_cli, dead_workers_jobs, redis_client):
    """--dry-run: job, worker, idle time, crashes and decision, from the script that would do it."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter(f"{PREFIX}job:*")}
    ended = run_cli("reap", "--dry-run", "--json")
    taken = {each["id"]: each for each in ended.object["taken"]}
    assert taken["lost"]["decision"] == "reclaimed"
    assert taken["lost"]["reason"] == "worker died: runs again"
    assert taken["lost"]["worker_id"] == "dead-1"
    assert taken["lost"]["idle_seconds"] > 80_000
    assert taken["poison"]["decision"] == "poisoned"
    assert {
        key: redis_client.dump(key) for key in redis_client.scan_iter(f"{PREFIX}job:*")
    } == before
    assert redis_client.hget(f"{PREFIX}counters", "last_reap_at") is None
    shown = run_cli("reap", "--dry-run")
    assert "worker died: runs again" in shown.out
    assert "would take over 2 jobs; nothing was changed" in shown.err


def test_a_pass_does_what_the_dry_run_said(run_cli, dead_workers_jobs, redis_client):
    """The jobs run again or fail, the dead worker is forgotten, and the pass is recorded."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    said = run_cli("reap", "--dry-run", "--json").object["taken"]
    done = run_cli("reap", "--json").object
    assert [(each["id"], each["decision"]) for each in done["taken"]] == [
        (each["id"], each["decision"]) for each in said
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
        return [await reap_pass(harness.queue, "reaper", budget_seconds=s) for s in (0, 60)]

    short, long = on_queue(passes)
    assert (short.taken, short.is_complete) == ([], False)
    assert ([each.id for each in long.taken], long.is_complete) == (["lost"], True)


def test_a_second_pass_at_the_same_time_says_so_and_is_fine(run_cli, redis_client):
    """One pass at a time: exit 0, so that cron sends no mail; no output with --quiet."""
    redis_client.hset(f"{PREFIX}control", "maintenance_lock", "other 9999999999999")
    ended = run_cli("reap")
    assert (ended.code, ended.out) == (0, "")
    assert "another reap is at work" in ended.err
    assert run_cli("reap", "--json").object == {"skipped": True}
    quiet = run_cli("reap", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_lock_of_a_killed_pass_expires(run_cli, redis_client):
    """A pass that was killed does not block later ones."""
    redis_client.hset(f"{PREFIX}control", "maintenance_lock", "dead 1")
    assert run_cli("reap", "--json").object["skipped"] is False
    assert redis_client.hget(f"{PREFIX}control", "maintenance_lock") is None


def test_what_is_due_is_promoted(run_cli, on_queue, redis_client):
    """With no worker alive, cron makes due jobs runnable."""

    on_queue(lambda harness: harness.enqueue("later", delay_seconds=1000))
    redis_client.zadd(f"{PREFIX}delayed", {"later": 1})
    assert run_cli("reap", "--json").object["promoted"] == 1
    assert redis_client.xlen(f"{PREFIX}stream") == 1


def test_the_grace_after_an_outage_is_reported(run_cli, dead_workers_jobs, redis_client):
    """If no worker sent heartbeats, nothing is reclaimed until they had time to return; the output says so."""
    dead_workers_jobs("lost")
    redis_client.hdel(f"{PREFIX}control", "last_heartbeat_seen", "grace_count", "grace_until")
    ended = run_cli("reap")
    assert "took over 0 jobs" in ended.err
    assert "before they had time to return" in ended.err
    again = run_cli("reap", "--json").object
    assert (again["taken"], again["grace_until"] is not None) == ([], True)


def test_a_silence_that_an_older_version_noted(run_cli, dead_workers_jobs, redis_client):
    """A record without a count of graces, as an older version wrote it, does no harm."""
    dead_workers_jobs("lost")
    redis_client.hdel(f"{PREFIX}control", "grace_count")
    assert run_cli("reap").code == 0


def test_workers_export_when_cron_last_did_its_work(run_cli, start_command, redis_client):
    """A pass is too short to be scraped, so workers export the times of the last reap and purge."""
    assert (run_cli("reap").code, run_cli("purge").code) == (0, 0)
    port = servers.free_port()
    start_command("worker", "--exec", "true", "--metrics-port", str(port))

    def exported():
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                text = reply.read().decode()
            found = re.findall(
                r"^aragora_q_last_(\w+)_timestamp_seconds{.*} (.*)$", text, re.MULTILINE
            )
            times = {name: float(at) for name, at in found}
            return times if times.get("reap") and times.get("purge") else None

    times = wait_until_sync(exported, 30, "the times of reap and purge")
    for name in ("reap", "purge"):
        assert times[name] == int(redis_client.hget(f"{PREFIX}counters", f"last_{name}_at")) / 1000
