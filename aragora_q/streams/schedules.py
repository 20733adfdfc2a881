"""`RedisSchedules`: what the queue knows of its schedules; the job of each time is enqueued exactly once.

Used through `RedisStreamsQueue.schedules` by the scheduler of workers and `reap`, by the commands and the
console. Knows neither configurations nor cron expressions.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from aragora_q.base import MAX_ERROR_CHARS, Job
from aragora_q.changes import actor
from aragora_q.contracts import (
    Plan,
    Schedules,
    SchedulesRead,
    ScheduleState,
    Tick,
    TickResult,
)
from aragora_q.errors import InvalidPayload, QueueFull
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import batched
from aragora_q.streams import states

if TYPE_CHECKING:
    from aragora_q.streams.queue import EnqueueFields, EnqueueItem

FIELDS = ("last", "next", "job", "missed", "paused", "error")
"""What the hash `schedules` has of a schedule, as `<field>:<name>`."""


class RedisSchedules(Schedules):
    """The schedules of one queue.

    `check` makes the item of a job for `enqueue.lua`, or raises InvalidPayload; `send` sends items to it;
    `refusal` makes the error of an item that the script refused.
    """

    def __init__(
        self,
        connection: Connection,
        check: Callable[..., EnqueueItem],
        send: Callable[[Sequence[EnqueueItem]], Awaitable[tuple[list[bytes], bool]]],
        refusal: Callable[[EnqueueFields, bytes], InvalidPayload],
    ) -> None:
        self._connection = connection
        self._check = check
        self._send = send
        self._refusal = refusal

    async def read(self) -> SchedulesRead:
        (seconds, micros), found = await self._connection.read_all(
            [("TIME",), ("HGETALL", self._connection.keys.schedules)]
        )
        now = int(seconds) + int(micros) // 1000 / 1000
        fields: dict[str, dict[str, str]] = {}
        for key, value in replies.text_map(found).items():
            kind, _, name = key.partition(":")
            if kind in FIELDS and name:
                fields.setdefault(name, {})[kind] = value
        return SchedulesRead(now, {name: _state(name, fields[name]) for name in sorted(fields)})

    async def enqueue(self, ticks: Sequence[Tick]) -> list[TickResult]:
        results: dict[int, TickResult] = {}
        items: list[tuple[int, EnqueueItem]] = []
        for n, tick in enumerate(ticks):
            of = {
                "schedule": tick.schedule,
                "at": tick.at,
                "next": tick.next_at,
                "last": tick.last_at or 0,
                "missed": tick.missed,
            }
            try:
                item = self._item(tick.job, of, f"schedule {tick.schedule}", tick.reason)
            except InvalidPayload as error:
                results[n] = error
            else:
                items.append((n, item))
        for batch in batched(items, weigh=lambda each: len(each[1][1].payload)):
            statuses, _ = await self._send([item for _, item in batch])
            for (n, (_, fields)), status in zip(batch, statuses, strict=True):
                is_known = status in replies.NOT_REFUSED or status == b"full"
                results[n] = (
                    cast("TickResult", status.decode())
                    if is_known
                    else self._refusal(fields, status)
                )
        return [results[n] for n in range(len(ticks))]

    async def plan(self, plans: Sequence[Plan]) -> list[bool]:
        results: list[bool] = []
        for batch in batched(plans):
            items = [(None, _plan_fields(plan)) for plan in batch]
            statuses = await self._connection.run("plan_schedules", items)
            results += [status == b"planned" for status in statuses]
        return results

    async def run(self, name: str, job: Job, *, by: str = "", reason: str = "") -> bool:
        item = self._item(job, {"schedule": name}, by, reason)
        [status], _ = await self._send([item])
        if status == b"full":
            config = self._connection.config
            raise QueueFull(config.queue, config.max_backlog)
        if status not in (b"created", b"exists"):
            raise self._refusal(item[1], status)
        return bool(status == b"created")

    async def pause(self, name: str, *, by: str = "", reason: str = "") -> bool:
        return await self._change("pause", name, by, reason)

    async def resume(
        self, name: str, *, next_at: float | None = None, by: str = "", reason: str = ""
    ) -> bool:
        return await self._change("resume", name, by, reason, _ms(next_at))

    async def forget(self, name: str, *, by: str = "", reason: str = "") -> bool:
        return await self._change("forget", name, by, reason)

    async def _change(
        self, action: str, name: str, by: str, reason: str, next_ms: str = ""
    ) -> bool:
        result = await self._connection.run(
            "change_schedule",
            action=action,
            name=name,
            next_ms=next_ms,
            **actor(by, reason),
        )
        return bool(result == b"changed")

    def _item(self, job: Job, of: dict[str, Any], by: str, reason: str) -> EnqueueItem:
        tick = {**of, **{name: text.decode() for name, text in actor(by, reason).items()}}
        return self._check(job, tick=json.dumps(tick))


def _state(name: str, fields: dict[str, str]) -> ScheduleState:
    """Return the state of a schedule; what another program wrote is left out."""
    return ScheduleState(
        name,
        last_at=states.seconds(fields.get("last")),
        next_at=states.seconds(fields.get("next")),
        last_job=fields.get("job"),
        missed=replies.whole(fields.get("missed")) or 0,
        error=fields.get("error"),
        paused=states.paused(fields.get("paused")),
    )


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else str(round(seconds * 1000))


def _plan_fields(plan: Plan) -> tuple[str | int | bytes, ...]:
    return (
        plan.schedule.name,
        _ms(plan.schedule.last_at),
        "" if plan.last_at is None else plan.last_at,
        plan.missed,
        plan.next_at,
        plan.error[:MAX_ERROR_CHARS].encode(errors="replace"),
    )
