"""`RedisOutbox`: messages for webhooks, as the scripts that end jobs and groups left them.

Each change is one script; sends nothing to a target. Part of `RedisStreamsQueue`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from aragora_q.changes import actor
from aragora_q.contracts import (
    Claimed,
    ClaimRequest,
    Delivery,
    DeliveryTotals,
    Outbox,
    Settled,
    SettleResult,
    WebhooksRead,
    WebhookState,
)
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import batched
from aragora_q.streams import states

MAX_ANSWER_CHARS = 500
"""What is kept of a target's answer."""

_OTHER_TYPE = re.compile("WRONGTYPE")  # what a key of another type is read as: nothing

TOTALS = ("deliveries", "deliveries_failed", "deliveries_dropped")


class RedisOutbox(Outbox):
    """The outbox of one queue."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.keys

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        if not requests:
            return Claimed([], None)
        due_ms, *rows = await self._connection.run(
            "claim_deliveries",
            [
                (None, (each.webhook, each.limit, round(each.lease_seconds * 1000)))
                for each in requests
            ],
        )
        return Claimed([_claimed(row) for row in rows], due_ms / 1000 if due_ms >= 0 else None)

    async def settle(self, settled: Sequence[Settled]) -> list[SettleResult]:
        results: list[SettleResult] = []
        for batch in batched(settled):
            items = [
                (
                    None,
                    (
                        each.delivery.webhook,
                        each.delivery.id,
                        each.delivery.attempts,
                        each.result,
                        round(each.delay_seconds * 1000),
                        round(each.pause_seconds * 1000),
                        each.answer[:MAX_ANSWER_CHARS].encode(errors="replace"),
                    ),
                )
                for each in batch
            ]
            answers = await self._connection.run("settle_deliveries", items)
            results += [cast("SettleResult", answer.decode()) for answer in answers]
        return results

    async def states(self, names: Sequence[str]) -> WebhooksRead:
        now_ms, *rows = await self._connection.run(
            "webhook_states", [(None, (name,)) for name in names]
        )
        totals = await self._connection.execute("HMGET", self._keys.counters, *TOTALS)
        return WebhooksRead(
            now_ms / 1000,
            {name: _state(name, row) for name, row in zip(names, rows, strict=True)},
            DeliveryTotals(*(replies.whole(total) or 0 for total in totals)),
        )

    async def known(self) -> set[str]:
        fields = await self._connection.execute("HGETALL", self._keys.webhooks)
        return {name.partition(":")[2] for name in replies.text_map(fields)} - {""}

    async def deliveries(self, names: Sequence[str], limit: int) -> list[Delivery]:
        rows = await self._connection.run(
            "list_deliveries", [(None, (name,)) for name in names], limit=limit
        )
        listed: list[Delivery] = []
        for batch in batched(rows):
            keys = [self._keys.delivery(replies.text(row[0])) for row in batch]
            found = await self._connection.read_all(
                (("HGETALL", key) for key in keys), absent=_OTHER_TYPE
            )
            listed += [_listed(row, fields or []) for row, fields in zip(batch, found, strict=True)]
        return listed

    async def redeliver(
        self, ids: Sequence[str], *, webhook: str = "", by: str = "", reason: str = ""
    ) -> list[str]:
        results: list[str] = []
        for batch in batched(ids):
            answers = await self._connection.run(
                "redeliver",
                [(None, (each,)) for each in batch],
                webhook=webhook,
                **actor(by, reason),
            )
            results += [answer.decode() for answer in answers]
        return results

    async def enable(self, name: str, *, by: str = "", reason: str = "") -> bool:
        return await self._change("enable", name, by, reason)

    async def disable(self, name: str, *, by: str = "", reason: str = "") -> bool:
        return await self._change("disable", name, by, reason)

    async def forget(self, name: str, *, by: str = "", reason: str = "") -> bool:
        return await self._change("forget", name, by, reason)

    async def _change(self, action: str, name: str, by: str, reason: str) -> bool:
        result = await self._connection.run(
            "change_webhook", action=action, name=name, **actor(by, reason)
        )
        return bool(result == b"changed")


def _claimed(row: Sequence[Any]) -> Delivery:
    delivery_id, webhook, kind, subject, event, at_ms, attempts, due_ms = row
    return Delivery(
        replies.text(delivery_id),
        replies.text(webhook),
        cast("Literal['job', 'group']", replies.text(kind)),
        replies.text(subject),
        cast("Any", replies.text(event)),
        at_ms / 1000,
        attempts,
        due_ms / 1000,
    )


def _listed(row: Sequence[Any], pairs: Sequence[Any]) -> Delivery:
    delivery_id, webhook, due_ms = row
    fields = replies.text_map(pairs)
    return Delivery(
        replies.text(delivery_id),
        replies.text(webhook),
        cast("Any", fields.get("kind", "job")),
        fields.get("subject", "?"),
        cast("Any", fields.get("event", "?")),
        states.seconds(fields.get("at")) or 0.0,
        replies.whole(fields.get("attempts")) or 0,
        due_ms / 1000 if due_ms >= 0 else None,
        states.seconds(fields.get("ended_at")),
        cast("Any", "waiting" if due_ms >= 0 else fields.get("result", "failed")),
        fields.get("answer", ""),
    )


def _state(name: str, row: Sequence[Any]) -> WebhookState:
    waiting, oldest_ms, failures, last_ok_at, error, error_at, disabled = row
    return WebhookState(
        name,
        waiting,
        oldest_ms / 1000 if oldest_ms >= 0 else None,
        replies.whole(failures) or 0,
        states.seconds(last_ok_at),
        replies.text(error),
        states.seconds(error_at),
        states.paused(disabled),
    )
