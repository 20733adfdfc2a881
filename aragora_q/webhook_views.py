"""Webhooks as people and programs see them: what the configuration says, with the state that Redis keeps.

Used by the command line, the API and the console. Of an address only its host is shown: the rest may be a
secret. Times of rows are Unix seconds, those of JSON Unix ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.errors import InvalidPayload, WebhookNotFound
from aragora_q.redis.keys import MAX_DELIVERIES_LISTED
from aragora_q.shapes import OverrideJson
from aragora_q.views import paused_json

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.tables import WebhookConfig
    from aragora_q.contracts import Delivery, Outbox, Paused, WebhooksRead, WebhookState

WebhookCondition = Literal["disabled", "failing", "late", "not configured here", "ok"]
"""What an operator sees of a webhook first. `late`: messages wait for long, although none failed lately."""

ORDER = get_args(WebhookCondition)


@dataclass(frozen=True)
class WebhookRow:
    """A webhook. `host` and `events` are blank if this process' configuration does not have it."""

    name: str
    condition: WebhookCondition
    host: str
    events: Sequence[str]
    waiting: int
    oldest_at: float | None
    """When what the oldest waiting message reports happened."""
    failures: int
    """Failed deliveries in a row."""
    last_ok_at: float | None
    last_error: str
    last_error_at: float | None
    disabled: Paused | None

    @property
    def is_configured(self) -> bool:
        """True if this process' configuration has it."""
        return bool(self.host)


class WebhookJson(TypedDict):
    """A webhook. `host` null: the configuration of this process does not have it."""

    name: str
    state: str
    host: str | None
    events: list[str]
    waiting: int
    oldest_at: int | None
    failures: int
    last_ok_at: int | None
    last_error: str | None
    last_error_at: int | None
    disabled: OverrideJson | None


class DeliveryJson(TypedDict):
    """A message, waiting or sent. `answer`: the last one, or why there was none."""

    id: str
    webhook: str
    kind: str
    subject: str
    event: str
    at: int | None
    attempts: int
    result: str
    due_at: int | None
    ended_at: int | None
    answer: str | None


async def read_webhooks(
    outbox: Outbox, config: QueueConfig
) -> tuple[list[WebhookRow], WebhooksRead]:
    """Return webhooks that are configured here or have a state, those with a problem first; and the answer."""
    names = sorted({*config.webhooks, *await outbox.known()})
    read = await outbox.states(names)
    rows = [_row(config.webhooks.get(name), read.states[name], read.now) for name in names]
    return sorted(rows, key=lambda row: ORDER.index(row.condition)), read


async def read_webhook(outbox: Outbox, config: QueueConfig, name: str) -> tuple[WebhookRow, float]:
    """Return a webhook, and the time. Raises WebhookNotFound: it is not configured here, and has no state."""
    if name not in config.webhooks and name not in await outbox.known():
        raise WebhookNotFound(name, config.webhooks)
    read = await outbox.states([name])
    return _row(config.webhooks.get(name), read.states[name], read.now), read.now


async def forget_webhook(outbox: Outbox, row: WebhookRow, *, by: str, reason: str) -> bool:
    """Delete the state and the messages of a webhook. Returns False if there was none.

    Raises:
        InvalidPayload: it is configured here.
    """
    if row.is_configured:
        raise InvalidPayload(
            f"webhook {row.name} is configured here: nothing is forgotten",
            hint="remove it from the configuration of all workers first, or disable it",
        )
    return await outbox.forget(row.name, by=by, reason=reason)


async def delivery_ids(
    outbox: Outbox, name: str, result: Literal["waiting", "failed"]
) -> list[str]:
    """Return the ids of all messages of a webhook that wait, or that were given up; newest first."""
    found = await outbox.deliveries([name], MAX_DELIVERIES_LISTED)
    return [each.id for each in found if each.result == result]


def _row(declared: WebhookConfig | None, state: WebhookState, now: float) -> WebhookRow:
    condition: WebhookCondition = "ok"
    if state.disabled:
        condition = "disabled"
    elif declared is None:
        condition = "not configured here"
    elif state.failures:
        condition = "failing"
    elif state.is_late(now):
        condition = "late"
    return WebhookRow(
        name=state.name,
        condition=condition,
        host=urlsplit(declared.url).hostname or "" if declared else "",
        events=declared.events if declared else (),
        waiting=state.waiting,
        oldest_at=state.oldest_at,
        failures=state.failures,
        last_ok_at=state.last_ok_at,
        last_error=state.last_error,
        last_error_at=state.last_error_at,
        disabled=state.disabled,
    )


def webhook_json(row: WebhookRow) -> WebhookJson:
    """Return a webhook."""
    return {
        "name": row.name,
        "state": row.condition,
        "host": row.host or None,
        "events": list(row.events),
        "waiting": row.waiting,
        "oldest_at": _ms(row.oldest_at),
        "failures": row.failures,
        "last_ok_at": _ms(row.last_ok_at),
        "last_error": row.last_error or None,
        "last_error_at": _ms(row.last_error_at),
        "disabled": paused_json(row.disabled),
    }


def delivery_json(delivery: Delivery) -> DeliveryJson:
    """Return a message."""
    return {
        "id": delivery.id,
        "webhook": delivery.webhook,
        "kind": delivery.kind,
        "subject": delivery.subject,
        "event": delivery.event,
        "at": _ms(delivery.at),
        "attempts": delivery.attempts,
        "result": delivery.result,
        "due_at": _ms(delivery.due_at),
        "ended_at": _ms(delivery.ended_at),
        "answer": delivery.answer or None,
    }


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
