"""Webhooks: their state, their messages, and what operators do with both."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response
from pydantic import Field
from typing_extensions import TypedDict

from aragora_q.errors import InvalidPayload
from aragora_q.redis.keys import MAX_SENT
from aragora_q.web.access import Operator, Viewer
from aragora_q.web.api.routing import (
    Because,
    Reason,
    Strict,
    answer,
    body_of,
    described,
    new_router,
    takes,
    takes_reason,
)
from aragora_q.webhook_views import (
    DeliveryJson,
    WebhookJson,
    delivery_ids,
    delivery_json,
    forget_webhook,
    read_webhook,
    read_webhooks,
    webhook_json,
)

router = new_router("webhooks")


class Webhooks(TypedDict):
    """Webhooks that are configured here or known to the queue, those with a problem first."""

    webhooks: list[WebhookJson]


class Deliveries(TypedDict):
    """The newest messages of a webhook, newest first, those that wait and those that ended."""

    deliveries: list[DeliveryJson]


class SwitchedWebhook(TypedDict):
    """Whether a webhook is enabled now. `changed` false: it was so before."""

    name: str
    enabled: bool
    changed: bool


class ForgottenWebhook(TypedDict):
    """A webhook whose state and messages were to be deleted. `forgotten` false: there were none any more."""

    name: str
    forgotten: bool


class Redelivered(TypedDict):
    """What became of a message: `redelivered`, `waiting` (it is due now), `full` (the outbox) or `unknown`.

    `unknown`: it is not kept any more, or is of another webhook.
    """

    id: str
    result: str


class ManyRedelivered(TypedDict):
    """Messages that were to be sent again: a result for each."""

    results: list[Redelivered]


class DeliveriesQuery(Strict):
    """The query of messages."""

    limit: int = Field(100, ge=1, le=MAX_SENT)


class SelectedDeliveries(Because):
    """The messages to send again: `ids`, or all of the webhook that `failed`."""

    ids: list[str] | None = Field(None, min_length=1, max_length=MAX_SENT)
    failed: bool = False


@router.get("/webhooks", response_model=Webhooks, responses=described())
async def list_webhooks(access: Viewer) -> Response:
    """List webhooks, as `webhook list`. Of an address only the host is shown."""
    rows, _ = await read_webhooks(access.queue.outbox, access.console.config)
    return answer({"webhooks": [webhook_json(row) for row in rows]})


@router.get("/webhooks/{name}", response_model=WebhookJson, responses=described())
async def get_webhook(access: Viewer, name: str) -> Response:
    """Return a webhook, as in the list."""
    row, _ = await read_webhook(access.queue.outbox, access.console.config, name)
    return answer(webhook_json(row))


@router.get("/webhooks/{name}/deliveries", response_model=Deliveries, responses=described())
async def list_deliveries(
    access: Viewer, name: str, query: Annotated[DeliveriesQuery, Query()]
) -> Response:
    """List the newest messages of a webhook, as `webhook deliveries`."""
    outbox = access.queue.outbox
    await read_webhook(outbox, access.console.config, name)
    found = await outbox.deliveries([name], query.limit)
    return answer({"deliveries": [delivery_json(each) for each in found]})


@router.post("/webhooks/{name}/enable", response_model=SwitchedWebhook, **takes_reason())
async def enable_webhook(access: Operator, name: str, because: Reason) -> Response:
    """Send the messages of a webhook again, those that waited first."""
    return await _switch(access, name, because, enabled=True)


@router.post("/webhooks/{name}/disable", response_model=SwitchedWebhook, **takes_reason())
async def disable_webhook(access: Operator, name: str, because: Reason) -> Response:
    """Send nothing to a webhook until it is enabled; its messages wait."""
    return await _switch(access, name, because, enabled=False)


async def _switch(access: Operator, name: str, because: Reason, *, enabled: bool) -> Response:
    outbox = access.queue.outbox
    await read_webhook(outbox, access.console.config, name)
    verb, change = ("enable", outbox.enable) if enabled else ("disable", outbox.disable)
    access.log_action(f"webhook {verb}", [name], because.reason)
    changed = await change(name, by=access.actor.by, reason=because.reason)
    return answer({"name": name, "enabled": enabled, "changed": changed})


@router.post("/webhooks/{name}/forget", response_model=ForgottenWebhook, **takes_reason())
async def forget(access: Operator, name: str, because: Reason) -> Response:
    """Delete all that is kept of a webhook that no configuration has any more; 422 if the console's has it."""
    outbox = access.queue.outbox
    row, _ = await read_webhook(outbox, access.console.config, name)
    access.log_action("webhook forget", [name], because.reason)
    changed = await forget_webhook(outbox, row, by=access.actor.by, reason=because.reason)
    return answer({"name": name, "forgotten": changed})


@router.post(
    "/webhooks/{name}/redeliver",
    response_model=ManyRedelivered,
    responses=described(body=True),
    openapi_extra=takes(SelectedDeliveries),
)
async def redeliver(
    access: Operator,
    name: str,
    body: Annotated[SelectedDeliveries, Depends(body_of(SelectedDeliveries))],
) -> Response:
    """Send messages of a webhook again, as `webhook redeliver`; by id, also delivered ones."""
    if (body.ids is None) == (not body.failed):
        raise InvalidPayload("give either ids or failed: true")
    outbox = access.queue.outbox
    await read_webhook(outbox, access.console.config, name)
    ids = body.ids or await delivery_ids(outbox, name, "failed")
    access.log_action("webhook redeliver", ids, body.reason)
    results = await outbox.redeliver(ids, webhook=name, by=access.actor.by, reason=body.reason)
    access.log_changed(sum(each in ("redelivered", "waiting") for each in results))
    return answer({"results": [{"id": i, "result": r} for i, r in zip(ids, results, strict=True)]})
