"""The pages of webhooks: what waits, what was delivered or failed, and what operators do.

Of an address only its host is shown: the rest may be a secret.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from aragora_q.errors import InvalidPayload
from aragora_q.formats import count
from aragora_q.web.access import Access, Operator, Viewer
from aragora_q.web.pages.confirming import Confirmation, Question
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import redirect, render
from aragora_q.webhook_views import WebhookRow, require_webhook, webhook_rows

router = APIRouter()

DELIVERIES_SHOWN = 100


@router.get("/webhooks")
async def list_webhooks(request: Request, access: Viewer) -> Response:
    """Return the page of all webhooks, those with a problem first."""
    read = await access.queue.outbox.states([*access.console.config.webhooks])
    rows = webhook_rows(access.console.config, read)
    return render(
        request,
        "webhooks.html",
        now=read.now,
        rows=rows,
        waiting=sum(row.waiting for row in rows),
    )


@router.get("/webhooks/{name}")
async def show_webhook(request: Request, access: Viewer, name: str) -> Response:
    """Return the page of one webhook: its state, and its newest messages."""
    row, now = await _require(access, name)
    deliveries = await access.queue.outbox.deliveries(row.name, DELIVERIES_SHOWN)
    return render(
        request,
        "webhook.html",
        now=now,
        row=row,
        deliveries=deliveries,
        failed=sum(each.result == "failed" for each in deliveries),
        is_cut=len(deliveries) == DELIVERIES_SHOWN,
    )


@router.post("/webhooks/{name}/enable")
async def enable_webhook(request: Request, access: Operator, name: str) -> Response:
    """Send what waits for a webhook again."""
    form = await Form.of(request)
    row, _ = await _require(access, name)
    access.log_action("webhook enable", [row.name], form.reason)
    changed = await access.queue.outbox.enable(row.name, by=access.actor.by, reason=form.reason)
    state = "is enabled" if changed else "was not disabled"
    return redirect(form.back(_page(row.name)), f"Webhook {row.name} {state}.")


@router.post("/webhooks/{name}/disable")
async def disable_webhook(request: Request, access: Operator, name: str) -> Response:
    """Send nothing to a webhook until it is enabled."""
    form = await Form.of(request)
    row, _ = await _require(access, name)
    access.log_action("webhook disable", [row.name], form.reason)
    changed = await access.queue.outbox.disable(row.name, by=access.actor.by, reason=form.reason)
    state = "is disabled" if changed else "was already disabled"
    return redirect(form.back(_page(row.name)), f"Webhook {row.name} {state}.")


@router.post("/webhooks/{name}/redeliver")
async def redeliver(request: Request, access: Operator, name: str) -> Response:
    """Send checked messages (`id`), or all that failed (`failed`), again, once that is confirmed."""
    form = await Form.of(request)
    row, _ = await _require(access, name)
    back = form.back(_page(row.name))
    ids = list(dict.fromkeys(form.texts("id")))
    if form.text("failed"):
        ids = [
            each.id
            for each in await access.queue.outbox.deliveries(row.name, MAX_SENT)
            if each.result == "failed"
        ]
    if not ids:
        return redirect(back, "No message was selected: nothing is sent again.")
    confirmed = form.number("confirmed")
    page = Confirmation(request, access, form, back)
    if confirmed is None:
        return page.ask(_about(row.name, ids))
    access.log_action("webhook redeliver", ids, form.reason)
    ...


def _page(name: str) -> str:
    return f"/webhooks/{quote(name, safe='')}"
