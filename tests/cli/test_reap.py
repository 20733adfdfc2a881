"""`aragora-q reap`: what cron does for a queue whose workers are gone, once at a time, and why."""

import asyncio
import contextlib
import re
import urllib.request

import pytest
import servers
from stage import Stage
from waiting import wait_until_sync

from aragora_q.maintenance import reap_pass

STEM = "aragora:queue:debates:"


@pytest.fixture
def dead_workers_jobs(redis_url, raw):
    """Starts jobs for a worker that then falls silent for a day; gives a stage's raw helpers."""

    async def start(*job_ids, crashes=0):
        stage = Stage(redis_url, raw=raw)
        try:
            worker = await stage.worker("dead-1")
            for job_id in job_ids:
                await stage.enqueue(job_id)
                await stage.started(worker)
                stage.age(job_id)
                if crashes:
                    raw.hset(stage.keys.job(job_id), "crashes", crashes)
        finally:
            await stage.queue.close()
        raw.zadd(f"{STEM}workers", {"dead-1": 1})
        raw.hset(
            f"{STEM}control", mapping={"last_heartbeat_seen": 1, "grace_count": 2, "grace_until": 1}
        )

    return lambda *job_ids, **options: asyncio.run(start(*job_ids, **options))


def test_a_dry_run_explains_and_changes_nothing(invoke, dead_workers_jobs, raw):
    """--dry-run: job, worker, silence, deaths and decision, by the script that would do it."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    before = {key: raw.dump(key) for key in raw.scan_iter(f"{STEM}job:*")}
    ended = invoke("reap", "--dry-run", "--json")
    taken = {each["id"]: each for each in ended.object["taken"]}
    assert taken["lost"]["decision"] == "reclaimed"
    assert taken["lost"]["reason"] == "worker died: runs again"
    assert taken["lost"]["worker_id"] == "dead-1"
    assert taken["lost"]["idle_seconds"] > 80_000
    assert taken["poison"]["decision"] == "poisoned"
    assert {key: raw.dump(key) for key in raw.scan_iter(f"{STEM}job:*")} == before
    assert raw.hget(f"{STEM}counters", "last_reap_at") is None
    shown = invoke("reap", "--dry-run")
    assert "worker died: runs again" in shown.out
    assert "would take over 2 jobs; nothing was changed" in shown.err


def test_a_pass_does_what_the_dry_run_said(invoke, dead_workers_jobs, raw):
    """The jobs run again or fail, the dead worker is forgotten, and the good pass is noted."""
    dead_workers_jobs("lost")
    dead_workers_jobs("poison", crashes=2)
    said = invoke("reap", "--dry-run", "--json").object["taken"]
    done = invoke("reap", "--json").object
    assert [(each["id"], each["decision"]) for each in done["taken"]] == [
        (each["id"], each["decision"]) for each in said
    ]
    assert (raw.hget(f"{STEM}job:lost", "status"), raw.hget(f"{STEM}job:poison", "status")) == (
        "retrying",
        "failed",
    )
    assert raw.zrange(f"{STEM}workers", 0, -1) == []
    assert (done["complete"], done["skipped"]) == (True, False)
    assert invoke("stats", "--json").object["last_reap_at"] > 1_600_000_000_000


def test_the_budget_bounds_a_pass(redis_url, raw, dead_workers_jobs):
    """Its time over, a pass takes no further step, and says that there is more to do; the next goes on."""
    dead_workers_jobs("lost")

    async def passes():
        stage = Stage(redis_url, raw=raw)
        try:
            return [await reap_pass(stage.queue, "reaper", budget_seconds=s) for s in (0, 60)]
        finally:
            await stage.queue.close()

    short, long = asyncio.run(passes())
    assert (short.taken, short.is_complete) == ([], False)
    assert ([each.id for each in long.taken], long.is_complete) == (["lost"], True)


def test_a_second_pass_at_the_same_time_says_so_and_is_fine(invoke, raw):
    """Single flight: exit 0, so that cron sends no mail; silent with --quiet."""
    raw.hset(f"{STEM}control", "maintenance_lock", "other 9999999999999")
    ended = invoke("reap")
    assert (ended.code, ended.out) == (0, "")
    assert "another reap is at work" in ended.err
    assert invoke("reap", "--json").object == {"skipped": True}
    quiet = invoke("reap", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_killed_pass_blocks_nobody_for_long(invoke, raw):
    """The lock of a pass that died ends by itself."""
    raw.hset(f"{STEM}control", "maintenance_lock", "dead 1")
    assert invoke("reap", "--json").object["skipped"] is False
    assert raw.hget(f"{STEM}control", "maintenance_lock") is None


def test_what_is_due_is_promoted(invoke, redis_url, raw):
    """With no worker alive, cron makes due jobs runnable."""

    async def delayed():
        stage = Stage(redis_url, raw=raw)
        await stage.enqueue("later", delay_seconds=1000)
        await stage.queue.close()

    asyncio.run(delayed())
    raw.zadd(f"{STEM}delayed", {"later": 1})
    assert invoke("reap", "--json").object["promoted"] == 1
    assert raw.xlen(f"{STEM}stream") == 1


def test_the_grace_after_an_outage_is_told(invoke, dead_workers_jobs, raw):
    """When all were silent, nothing is taken before they had time to come back; the operator hears why."""
    dead_workers_jobs("lost")
    raw.hdel(f"{STEM}control", "last_heartbeat_seen", "grace_count", "grace_until")
    ended = invoke("reap")
    assert "took over 0 jobs" in ended.err
    assert "before they had time to return" in ended.err
    again = invoke("reap", "--json").object
    assert (again["taken"], again["grace_until"] is not None) == ([], True)


def test_a_silence_that_an_older_version_noted(invoke, dead_workers_jobs, raw):
    """A note without a count of graces, as after an upgrade: reap works on."""
    dead_workers_jobs("lost")
    raw.hdel(f"{STEM}control", "grace_count")
    assert invoke("reap").code == 0


def test_workers_export_when_cron_last_did_its_work(invoke, start_command, raw):
    """A reap is over too soon to be scraped: any worker tells when the last one, and purge, went well."""
    assert (invoke("reap").code, invoke("purge").code) == (0, 0)
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
        assert times[name] == int(raw.hget(f"{STEM}counters", f"last_{name}_at")) / 1000
