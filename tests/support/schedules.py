"""Schedules that are due at a chosen time of the past, by the server's clock."""

import json
from datetime import UTC, datetime

from aragora_q.contracts import ScheduleState
from aragora_q.scheduler import Scheduler

DAY_MS = 86_400_000


def now_ms(redis):
    seconds, micros = redis.time()
    return seconds * 1000 + micros // 1000


def minute_before(redis, seconds=90):
    """The minute in which it was `seconds` ago, in ms."""
    at = now_ms(redis) - seconds * 1000
    return at - at % 60_000


def daily(at, **fields):
    """The settings of a schedule that is due each day at the time of `at`, in UTC."""
    time = datetime.fromtimestamp(at / 1000, UTC)
    job = {"payload": {"do": []}, **fields.pop("job", {})}
    return {"cron": f"{time.minute} {time.hour} * * *", "job": job, **fields}


def promise(harness, at, name="nightly"):
    """As a process leaves it that ended before `at`, the next time."""
    harness.redis.hset(
        harness.keys.schedules, mapping={f"last:{name}": at - DAY_MS, f"next:{name}": at}
    )


def scheduler(harness, **schedules):
    """A scheduler of a process with these schedules."""
    queue = harness.other_client(schedules=schedules)
    return Scheduler(queue.schedules, queue.config)


async def schedule_state(harness, name="nightly"):
    return (await harness.queue.schedules.read()).states.get(name, ScheduleState(name))


def toml(schedules):
    """A configuration file with these schedules; their jobs do nothing."""
    lines = []
    for name, schedule in schedules.items():
        lines.append(f"[schedules.{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in schedule.items() if key != "job"]
        lines.append("job = { payload = { do = [] } }")
    return "\n".join(lines)
