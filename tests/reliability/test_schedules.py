"""Schedules by a server's clock that the tests set: changes of daylight saving time, jumps, different hosts."""

import asyncio
import mmap
import random
import struct
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from support import servers
from support.schedules import now_ms, promise, schedule_state, scheduler
from support.workers import kill_clients

from aragora_q.errors import SERVER_ERRORS

BERLIN = ZoneInfo("Europe/Berlin")
JOB = {"payload": {}}


class Clock:
    """The clock of a server, which the test sets."""

    def __init__(self, file):
        file.write_bytes(struct.pack("l", 0))
        self._file = file

    def set(self, text, zone=BERLIN):
        self.set_seconds(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())

    def set_seconds(self, at):
        seconds = at - time.time()
        with self._file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as offset:
            offset[:8] = struct.pack("l", round(seconds))


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path / "offset")


@pytest.fixture
def clocked(preloaded_server, new_harness, clock, tmp_path):
    """A queue on a server with this clock."""
    file = str(tmp_path / "offset")
    server = preloaded_server("clock", servers.debian_redis, CLOCK_OFFSET_FILE=file)
    return new_harness(redis_url=server.url)


def shown(harness, zone=BERLIN):
    """The times of the jobs that were enqueued, in their order."""
    ids = [job_id for event, job_id in harness.events() if event == "enqueued"]
    return [
        datetime.fromtimestamp(int(each.partition("@")[2]), zone).strftime("%d %H:%M %Z")
        for each in ids
    ]


async def follow(process, clock, *times):
    """Let a process look at each of these times."""
    for text in times:
        clock.set(text)
        await process.step()


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 2 * * *", ["28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"]),
        ("*/30 2 * * *", ["28 02:30 CET", "30 02:30 CEST"]),
    ],
)
async def test_the_clock_is_put_forward(clocked, clock, cron, expected):
    """A fixed time that is skipped is due at the change; one that follows the clock is not."""
    clock.set("2026-03-28T01:00")
    process = scheduler(clocked, s={"cron": cron, "time_zone": "Europe/Berlin", "job": JOB})
    await process.step()
    await follow(
        process, clock, "2026-03-28T02:30:01", "2026-03-29T01:59:59", "2026-03-29T03:00:01",
        "2026-03-29T03:30:01", "2026-03-30T02:30:01",
    )  # fmt: skip
    assert shown(clocked) == expected


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 2 * * *", ["25 02:30 CEST", "26 02:30 CET"]),
        ("30 * * * *", ["25 02:30 CEST", "25 02:30 CET", "26 02:30 CET"]),
    ],
)
async def test_the_clock_is_put_back(clocked, clock, cron, expected):
    """A fixed time that comes twice is due once; one that follows the clock is due twice."""
    clock.set("2026-10-25T02:00")
    process = scheduler(clocked, s={"cron": cron, "time_zone": "Europe/Berlin", "job": JOB})
    await process.step()
    await follow(process, clock, "2026-10-25T02:30:01")
    clock.set("2026-10-25T01:30:01", ZoneInfo("UTC"))  # 02:30:01 for the second time
    await process.step()
    await follow(process, clock, "2026-10-26T02:30:01")
    assert shown(clocked) == expected


async def test_the_servers_clock_is_set_back(clocked, clock):
    """A time that is done with is not enqueued again; the next ones are."""
    hourly = {"cron": "0 * * * *", "job": JOB}
    clock.set("2026-05-05T09:30")
    process = scheduler(clocked, s=hourly)
    await process.step()
    await follow(process, clock, "2026-05-05T10:00:01")
    clock.set("2026-05-05T08:00:01")
    for each in (process, scheduler(clocked, s=hourly)):
        assert (await each.step())[0] == 0
    state = await schedule_state(clocked, "s")
    assert state.next_at == datetime.fromisoformat("2026-05-05T11:00+02:00").timestamp()
    await follow(process, clock, "2026-05-05T10:00:02", "2026-05-05T11:00:01")
    assert shown(clocked) == ["05 10:00 CEST", "05 11:00 CEST"]


async def test_redis_lost_its_data_right_before_a_time(clocked, clock):
    """A process that looked before enqueues the time, once; one that starts afterwards does not."""
    hourly = {"cron": "0 * * * *", "job": JOB}
    clock.set("2026-05-05T09:59:40")
    process = scheduler(clocked, s=hourly)
    await process.step()
    clocked.redis.flushall()
    clock.set("2026-05-05T10:00:01")
    assert (await process.step())[0] == 1
    assert [(await each.step())[0] for each in (process, scheduler(clocked, s=hourly))] == [0, 0]
    assert shown(clocked) == ["05 10:00 CEST"]
    clocked.redis.flushall()
    assert (await scheduler(clocked, s=hourly).step())[0] == 0


async def test_the_servers_clock_was_ahead_by_years(clocked, clock):
    """The schedule is done with the times until then, and says so; after a pause it goes on from now."""
    hourly = {"cron": "0 * * * *", "job": JOB}
    clock.set("2026-05-05T09:30")
    process = scheduler(clocked, s=hourly)
    await process.step()
    assert not (await schedule_state(clocked, "s")).is_ahead(now_ms(clocked.redis) / 1000)
    await follow(process, clock, "2031-05-05T10:00:01", "2026-05-05T10:00:01")
    assert (await schedule_state(clocked, "s")).is_ahead(now_ms(clocked.redis) / 1000)
    await clocked.queue.schedules.pause("s")
    await clocked.queue.schedules.resume("s")
    assert not (await schedule_state(clocked, "s")).is_ahead(now_ms(clocked.redis) / 1000)
    await follow(process, clock, "2026-05-05T11:00:01")
    assert shown(clocked) == ["05 10:00 CEST", "05 11:00 CEST"]  # the first one was in 2031


async def test_hosts_with_other_expressions_do_not_starve_each_other(clocked, clock):
    """Each enqueues its own times, whatever next time the other one has set."""
    clock.set("2026-05-05T09:30")
    hosts = [
        scheduler(clocked, s={"cron": cron, "time_zone": "Europe/Berlin", "job": JOB})
        for cron in ("0 10,12 * * *", "0 11,13 * * *")
    ]
    for hour in (9, 10, 11, 12, 13):
        clock.set(f"2026-05-05T{hour:02}:30")  # late, but not for long
        for minute in ("00", "01"):
            clock.set(f"2026-05-05T{hour:02}:{minute}:01")
            for host in hosts if hour % 2 else reversed(hosts):
                await host.step()
    assert shown(clocked) == [f"05 {hour}:00 CEST" for hour in (10, 11, 12, 13)]
    assert (await schedule_state(clocked, "s")).missed == 0


async def test_hosts_in_the_middle_of_an_upgrade(clocked, clock):
    """Those with the new expression and those with the old one run side by side, and restart."""
    clock.set("2026-05-05T09:30")
    old, new = (
        {"cron": cron, "time_zone": "Europe/Berlin", "job": JOB}
        for cron in ("0 * * * *", "30 * * * *")
    )
    first = scheduler(clocked, s=old)
    await first.step()
    await follow(first, clock, "2026-05-05T10:00:01")
    clock.set("2026-05-05T10:10")
    second = scheduler(clocked, s=new)
    await second.step()
    await follow(second, clock, "2026-05-05T10:30:01")
    third = scheduler(clocked, s=new)
    await follow(third, clock, "2026-05-05T11:05", "2026-05-05T11:30:01")
    assert shown(clocked) == ["05 10:00 CEST", "05 10:30 CEST", "05 11:30 CEST"]


async def test_state_that_is_lost_or_forgotten(clocked, clock):
    """A process that has run since before a time does not enqueue it a second time; the next ones are due."""
    clock.set("2026-05-05T09:30")
    process = scheduler(clocked, s={"cron": "0 * * * *", "job": JOB})
    await process.step()
    await follow(process, clock, "2026-05-05T10:00:01")
    [job_id] = [job_id for event, job_id in clocked.events() if event == "enqueued"]
    await clocked.queue.cancel(job_id)
    await clocked.queue.purge_many([job_id])
    assert await clocked.queue.schedules.forget("s")
    assert [(await process.step())[0] for _ in range(3)] == [0, 0, 0]
    await follow(process, clock, "2026-05-05T11:00:01")
    assert shown(clocked) == ["05 10:00 CEST", "05 11:00 CEST"]


@pytest.mark.parametrize(("catch_up", "expected"), [("none", []), ("last", ["07 06:00 CEST"])])
async def test_redis_was_away_for_days(clocked, clock, catch_up, expected):
    """A worker that ran all the time catches up as its schedule says."""
    clock.set("2026-05-05T05:00")
    daily = {"cron": "0 6 * * *", "time_zone": "Europe/Berlin", "catch_up": catch_up, "job": JOB}
    process = scheduler(clocked, s=daily)
    await process.step()
    await follow(process, clock, "2026-05-07T12:00", "2026-05-07T12:01")
    assert shown(clocked) == expected
    assert (await schedule_state(clocked, "s")).missed == 3 - len(expected)


async def test_a_little_late_is_on_time(clocked, clock):
    """Up to ten minutes, a time is enqueued whatever `catch_up` says: as after a failover."""
    clock.set("2026-05-05T06:09:30")
    due = datetime.fromisoformat("2026-05-05T06:00+02:00").timestamp()
    promise(clocked, round(due * 1000), "s")
    process = scheduler(clocked, s={"cron": "0 6 * * *", "time_zone": "Europe/Berlin", "job": JOB})
    await process.step()
    assert shown(clocked) == ["05 06:00 CEST"]


async def _step(process):
    try:
        await process.step()
    except SERVER_ERRORS:
        return


@pytest.mark.parametrize("seed", range(3))
async def test_every_time_is_enqueued_or_missed_once(clocked, clock, seed):
    """While processes look at once, restart, lose their connections, and jobs end and are purged."""
    choose = random.Random(seed)
    minutely = {"cron": "* * * * *", "time_zone": "Europe/Berlin", "job": JOB}
    began = at = datetime.fromisoformat("2026-10-25T02:30:10+02:00").timestamp()
    clock.set_seconds(at)
    processes = [scheduler(clocked, s=minutely) for _ in range(3)]
    await processes[0].step()
    for _ in range(60):
        at += choose.choice([1, 5, 20, 60, 61, 150, 400])
        clock.set_seconds(at)
        if choose.random() < 0.2:
            processes[choose.randrange(3)] = scheduler(clocked, s=minutely)
        steps = [asyncio.create_task(_step(process)) for process in processes]
        if choose.random() < 0.3:
            await asyncio.sleep(choose.uniform(0, 0.003))
            kill_clients(clocked)
        await asyncio.gather(*steps)
        if choose.random() < 0.3:
            last = (await schedule_state(clocked, "s")).last_job
            if last and await clocked.queue.cancel_many([last]) != ["unknown"]:
                await clocked.queue.purge_many([last])
    await processes[0].step()
    counters, state = clocked.counters(), await schedule_state(clocked, "s")
    times = now_ms(clocked.redis) // 60_000 - int(began) // 60
    assert counters["enqueued"] == counters["ticks"]
    assert counters["ticks"] + counters.get("ticks_missed", 0) == times
    assert state.missed == counters.get("ticks_missed", 0)
    ids = [job_id for event, job_id in clocked.events() if event == "enqueued"]
    assert len(ids) == len(set(ids)) == counters["ticks"]
