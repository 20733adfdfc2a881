"""Schedules: each time makes one job, whichever processes run, restart, are late or configured otherwise."""

import asyncio
import json
import signal
import subprocess
import time

import pytest
from support import processes
from support.executors import succeed
from support.schedules import (
    DAY_MS,
    daily,
    minute_before,
    now_ms,
    promise,
    schedule_state,
    scheduler,
    toml,
)
from support.wait import wait_until
from support.worker_processes import run_burst_worker
from support.workers import LONG_LEASE, count_calls

from aragora_q.base import JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import ScheduleState
from aragora_q.cron import MAX_COUNTED


def job_id(at, name="nightly"):
    return f"{name}@{at // 1000}"


def enqueued(harness):
    return harness.counters().get("enqueued", 0)


async def test_a_worker_runs_the_job_of_a_time(new_harness, worker_pool):
    """The job has the tag of its schedule, and its history says which time it is for."""
    harness = new_harness(**LONG_LEASE)
    at = minute_before(harness.redis)
    promise(harness, at)
    harness.config = QueueConfig(
        **harness.config.model_dump(exclude_unset=True),
        schedules={"nightly": daily(at, job={"tags": {"team": "a"}})},
    )
    worker_pool.start(harness, succeed)
    job = await harness.wait_for_status(job_id(at), JobStatus.COMPLETED)
    assert job.tags == {"schedule": "nightly", "team": "a"}
    [line] = await harness.queue.tracker.history(job.id)
    assert (line["cause"], line["by"]) == ("scheduled", "schedule nightly")
    assert line["reason"].startswith("due 20")
    assert await schedule_state(harness) == ScheduleState(
        "nightly", last_at=at / 1000, next_at=(at + DAY_MS) / 1000, last_job=job.id
    )


async def test_many_at_once_enqueue_a_time_once(new_harness):
    """Fifteen schedulers look at the same moment."""
    harness = new_harness()
    at = minute_before(harness.redis)
    promise(harness, at)
    many = [scheduler(harness, nightly=daily(at)) for _ in range(15)]
    steps = await asyncio.gather(*(each.step() for each in many))
    assert sum(count for count, _ in steps) == 1
    assert (enqueued(harness), harness.counters()["ticks"]) == (1, 1)


@pytest.mark.slow
async def test_processes_enqueue_each_time_once(new_harness, worker_process, redis_url, tmp_path):
    """Four workers and four passes of reap start at once, over 20 schedules that are due."""
    harness = new_harness()
    at = minute_before(harness.redis)
    names = [f"s{n}" for n in range(20)]
    for name in names:
        promise(harness, at, name)
    (tmp_path / "aragora-q.toml").write_text(toml({name: daily(at) for name in names}))
    workers = [worker_process(redis_url, f"w{n}") for n in range(4)]
    reaps = [
        subprocess.Popen(
            processes.cli("reap", "--json"),
            env=processes.env(REDIS_URL=redis_url),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    printed = [json.loads(each.communicate(timeout=60)[0]) for each in reaps]
    assert [each.returncode for each in reaps] == [0] * 4
    for worker in workers:
        worker.wait_until_started()
    await harness.wait_for_end(*(job_id(at, name) for name in names))

    def told():  # a worker logs a job after it has enqueued it
        logged = sum(worker.text().count("scheduled job enqueued") for worker in workers)
        return logged + sum(each.get("ticks", 0) for each in printed)

    await wait_until(lambda: told() >= 20, what="the lines of all jobs")
    assert told() == 20
    assert (enqueued(harness), harness.counters()["ticks"]) == (20, 20)


async def test_a_time_is_not_enqueued_again_when_its_job_is_purged(harness):
    """Neither by the process that enqueued it nor by one that starts later."""
    at = minute_before(harness.redis)
    promise(harness, at)
    first = scheduler(harness, nightly=daily(at))
    assert (await first.step())[0] == 1
    await harness.queue.cancel(job_id(at))
    assert await harness.queue.purge_many([job_id(at)]) == ["purged"]
    for each in (first, scheduler(harness, nightly=daily(at))):
        assert (await each.step())[0] == 0
    assert enqueued(harness) == 1


async def test_nothing_of_the_past_is_due_at_first(harness):
    """A new schedule begins with its next time."""
    at = minute_before(harness.redis)
    count, seconds = await scheduler(harness, nightly=daily(at)).step()
    assert count == 0
    assert 0 < seconds <= 32
    state = await schedule_state(harness)
    assert state.next_at == (at + DAY_MS) / 1000
    assert abs(state.last_at * 1000 - now_ms(harness.redis)) < 60_000


async def test_times_of_an_outage_are_missed(harness, caplog):
    """By default nothing is enqueued late; each process sees it, one counts and logs it."""
    at = minute_before(harness.redis, 7200)
    promise(harness, at)
    for _ in range(3):
        assert (await scheduler(harness, nightly=daily(at)).step())[0] == 0
    state = await schedule_state(harness)
    assert (state.missed, state.last_at, state.next_at) == (1, at / 1000, (at + DAY_MS) / 1000)
    assert enqueued(harness) == 0
    assert harness.counters()["ticks_missed"] == 1
    [line] = [each for each in caplog.records if "schedule missed" in each.getMessage()]
    assert (line.levelname, line.schedule, line.missed) == ("WARNING", "nightly", 1)


@pytest.mark.parametrize(("seconds", "expected"), [(500, 1), (605, 0)])
async def test_ten_minutes_are_not_late(harness, seconds, expected):
    """A time that passed up to ten minutes ago is enqueued, whatever `catch_up` is; then it is missed."""
    at = minute_before(harness.redis, seconds)
    promise(harness, at)
    assert (await scheduler(harness, nightly=daily(at)).step())[0] == expected
    assert (await schedule_state(harness)).missed == 1 - expected


async def test_the_last_time_of_an_outage_is_enqueued_late(harness):
    """With `catch_up = "last"`, the newest of the times that passed; the others are missed."""
    newest = minute_before(harness.redis, 1800)  # the next one is half an hour away
    promise(harness, newest - 5 * 3_600_000)
    minute = newest // 60_000 % 60
    every_hour = {"cron": f"{minute} * * * *", "catch_up": "last", "job": {"payload": {}}}
    for expected in (1, 0):
        assert (await scheduler(harness, nightly=every_hour).step())[0] == expected
    state = await schedule_state(harness)
    assert (state.last_job, state.missed) == (job_id(newest), 5)
    assert enqueued(harness) == 1


async def test_a_late_job_says_so(harness):
    """Its history names the time that it is for, and how long ago that was."""
    at = minute_before(harness.redis, 7200)
    promise(harness, at)
    await scheduler(harness, nightly=daily(at, catch_up="last")).step()
    [line] = await harness.queue.tracker.history(job_id(at))
    assert line["reason"].endswith("ago")


async def test_a_year_of_missed_minutes_is_bounded(harness):
    """What passed is counted up to a bound, in little time, and the newest minute is enqueued."""
    promise(harness, minute_before(harness.redis, 365 * 86_400))
    began = time.process_time()
    every_minute = {"cron": "* * * * *", "job": {"payload": {}}, "time_zone": "Europe/Berlin"}
    assert (await scheduler(harness, nightly=every_minute).step())[0] == 1
    assert time.process_time() - began < 5
    state = await schedule_state(harness)
    assert state.missed == MAX_COUNTED - 1
    assert now_ms(harness.redis) / 1000 - state.last_at < 120


async def test_a_paused_schedule_skips_its_times(harness):
    """They are neither enqueued nor missed, also not after the end of the pause."""
    at = minute_before(harness.redis)
    promise(harness, at)
    await harness.queue.schedules.pause("nightly", by="ann@host")
    process = scheduler(harness, nightly=daily(at, catch_up="last"))
    assert (await process.step())[0] == 0
    state = await schedule_state(harness)
    assert (state.last_at, state.next_at, state.missed) == (at / 1000, (at + DAY_MS) / 1000, 0)
    await harness.queue.schedules.resume("nightly", by="ann@host")
    assert (await process.step())[0] == 0
    assert enqueued(harness) == 0


async def test_a_full_queue_makes_the_job_wait(new_harness, caplog):
    """It is enqueued once there is room, and logged once until then."""
    harness = new_harness(max_backlog=1)
    at = minute_before(harness.redis)
    promise(harness, at)
    await harness.enqueue("a")
    process = scheduler(harness, nightly=daily(at))
    for _ in range(3):
        assert (await process.step())[0] == 0
    await harness.queue.cancel("a")
    assert (await process.step())[0] == 1
    waits = [each for each in caplog.records if "the queue is full" in each.getMessage()]
    assert len(waits) == 1


async def test_a_refused_job_is_missed_and_says_why(harness, caplog):
    """As that of a sealed group: once, until a job of the schedule is enqueued again."""
    at = minute_before(harness.redis)
    promise(harness, at)
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g")
    for _ in range(2):
        refused = scheduler(harness, nightly=daily(at, job={"group": "g"}))
        assert (await refused.step())[0] == 0
    state = await schedule_state(harness)
    assert (state.missed, state.last_at) == (1, at / 1000)
    assert "group g is sealed" in state.error
    [line] = [each for each in caplog.records if "job refused" in each.getMessage()]
    assert "sealed" in line.error
    promise(harness, at)
    assert (await scheduler(harness, nightly=daily(at)).step())[0] == 1
    assert (await schedule_state(harness)).error is None


async def test_a_changed_expression_fires_no_time_of_the_past(harness):
    """Neither at a restart nor when the configuration is read again; the next time is that of the new one."""
    at, other = minute_before(harness.redis), minute_before(harness.redis, 300)
    process = scheduler(harness, nightly=daily(at))
    await process.step()
    changed = QueueConfig(
        **harness.config.model_dump(exclude_unset=True), schedules={"nightly": daily(other)}
    )
    process.reconfigure(changed)
    assert (await process.step())[0] == 0
    assert (await schedule_state(harness)).next_at == (other + DAY_MS) / 1000
    assert (await scheduler(harness, nightly=daily(at)).step())[0] == 0
    assert (await schedule_state(harness)).next_at == (at + DAY_MS) / 1000
    assert enqueued(harness) == 0


async def test_another_queues_schedule_is_left_alone(harness):
    """Its worker sends nothing because of it."""
    at = minute_before(harness.redis)
    promise(harness, at)
    process = scheduler(harness, nightly=daily(at, queue="other"))
    harness.redis.config_resetstat()
    assert (await process.step())[0] == 0
    assert count_calls(harness, "hgetall") == 0
    assert enqueued(harness) == 0


async def test_a_burst_enqueues_what_is_due(harness, tmp_path, redis_url):
    """Also if the queue is empty when it begins; it runs the job, too."""
    at = minute_before(harness.redis)
    promise(harness, at)
    (tmp_path / "aragora-q.toml").write_text(toml({"nightly": daily(at)}))
    run_burst_worker(redis_url, "--executor", "support.executors:make")
    assert await harness.queue.get_status(job_id(at)) is JobStatus.COMPLETED


async def test_schedules_are_read_again(harness, worker_process, redis_url, tmp_path):
    """At SIGHUP, a worker follows those of its configuration file: new ones, and no others."""
    file = tmp_path / "aragora-q.toml"
    at = minute_before(harness.redis)
    file.write_text(toml({}))
    worker = worker_process(redis_url).wait_until_started()
    file.write_text(toml({"new": daily(at)}))
    worker.signal(signal.SIGHUP)

    async def next_at():
        return (await schedule_state(harness, "new")).next_at

    assert await wait_until(next_at, what="the schedule to be known") == (at + DAY_MS) / 1000
    file.write_text(toml({"newer": daily(at)}))
    worker.signal(signal.SIGHUP)

    async def newer_at():
        return (await schedule_state(harness, "newer")).next_at

    await wait_until(newer_at, what="the newer schedule to be known")
