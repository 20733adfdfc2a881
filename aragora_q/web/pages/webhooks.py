"""The pages of webhooks: what waits, what was delivered or failed, and what operators do.

Of an address only its host is shown: the rest may be a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.formats import count
from aragora_q.web.access import Operator, Viewer
from aragora_q.web.pages.confirming import Confirmation, Question
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import redirect, render
from aragora_q.webhook_views import (
    WebhookRow,
    delivery_ids,
    forget_webhook,
    read_webhook,
    read_webhooks,
)

router = APIRouter()

PAGE = "/webhooks"
DELIVERIES_SHOWN = 100


@router.get("/webhooks")
async def list_webhooks(request: Request, access: Viewer) -> Response:
    """Return the page of all webhooks, those with a problem first."""
    rows, read = await read_webhooks(access.queue.outbox, access.console.config)
    waiting = sum(row.waiting for row in rows)
    return render(request, "webhooks.html", now=read.now, rows=rows, waiting=waiting)


@router.get("/webhooks/{name}")
async def show_webhook(request: Request, access: Viewer, name: str) -> Response:
    """Return the page of one webhook: its state, and its newest messages."""
    outbox = access.queue.outbox
    row, now = await read_webhook(outbox, access.console.config, name)
    deliveries = await outbox.deliveries([name], DELIVERIES_SHOWN)
    return render(
        request,
        "webhook.html",
        now=now,
        row=row,
        deliveries=deliveries,
        has_failed=any(each.result == "failed" for each in deliveries),
        is_cut=len(deliveries) == DELIVERIES_SHOWN,
    )


@router.post("/webhooks/{name}/enable")
async def enable_webhook(request: Request, access: Operator, name: str) -> Response:
    """Send the messages of a webhook again."""
    return await _switch(request, access, name, enabled=True)


@router.post("/webhooks/{name}/disable")
async def disable_webhook(request: Request, access: Operator, name: str) -> Response:
    """Send nothing to a webhook until it is enabled."""
    return await _switch(request, access, name, enabled=False)


async def _switch(request: Request, access: Operator, name: str, *, enabled: bool) -> Response:
    form, outbox = await Form.of(request), access.queue.outbox
    await read_webhook(outbox, access.console.config, name)
    verb, change = ("enable", outbox.enable) if enabled else ("disable", outbox.disable)
    access.log_action(f"webhook {verb}", [name], form.reason)
    changed = await change(name, by=access.actor.by, reason=form.reason)
    unchanged = "was not disabled" if enabled else "was already disabled"
    state = f"is {verb}d" if changed else unchanged
    return redirect(form.back(_page(name)), f"Webhook {name} {state}.")


@router.post("/webhooks/{name}/forget")
async def forget(request: Request, access: Operator, name: str) -> Response:
    """Delete state and messages of a webhook that is not configured here, once that is confirmed."""
    form, outbox = await Form.of(request), access.queue.outbox
    row, _ = await read_webhook(outbox, access.console.config, name)
    if not row.is_configured:
        confirmed = form.number("confirmed")
        page = Confirmation(request, access, form, PAGE)
        if confirmed is None:
            return page.ask(_about_forgetting(row))
        if row.waiting > confirmed:
            notice = f"{count(row.waiting, 'message')} waiting by now, not {confirmed:,}: nothing is deleted."
            return page.ask(_about_forgetting(row), notice, status_code=409)
    access.log_action("webhook forget", [name], form.reason)
    await forget_webhook(outbox, row, by=access.actor.by, reason=form.reason)
    return redirect(PAGE, f"Webhook {name} is forgotten.")


def _about_forgetting(row: WebhookRow) -> Question:
    """Return the question whether the state and the messages of a webhook shall be deleted."""
    waiting = (
        f" {count(row.waiting, 'message')} waiting for it will never be sent."
        if row.waiting
        else ""
    )
    return Question(
        row.waiting,
        title=f"Forget webhook {row.name}",
        text=f"Delete what Redis keeps of webhook {row.name}, also its messages?",
        label="Forget the webhook",
        address=f"{_page(row.name)}/forget",
        command=("webhook", "forget", row.name),
        warning=f"If the configuration of a worker still has it, it begins again.{waiting}",
    )


@router.post("/webhooks/{name}/redeliver")
async def redeliver(request: Request, access: Operator, name: str) -> Response:
    """Send checked messages (`id`), or all that were given up (`failed`), again, once that is confirmed."""
    form, outbox = await Form.of(request), access.queue.outbox
    back, confirmed = form.back(_page(name)), form.number("confirmed")
    await read_webhook(outbox, access.console.config, name)
    is_all = bool(form.text("failed"))
    ids = (
        await delivery_ids(outbox, name, "failed")
        if is_all
        else list(dict.fromkeys(form.texts("id")))
    )
    if not ids:
        why = "No message failed" if is_all else "No message was selected"
        return redirect(back, f"{why}: nothing is sent again.")
    page = Confirmation(request, access, form, back)
    if confirmed is None:
        return page.ask(_about(name, ids, is_all=is_all))
    if len(ids) > confirmed:
        grown = f"{count(len(ids), 'message')} failed by now, not {confirmed:,}"
        notice = f"{grown}: nothing is sent again."
        return page.ask(_about(name, ids, is_all=is_all), notice, status_code=409)
    access.log_action("webhook redeliver", ids, form.reason)
    results = await outbox.redeliver(ids, webhook=name, by=access.actor.by, reason=form.reason)
    return redirect(back, f"{_text(results)}.")


def _about(name: str, ids: Sequence[str], *, is_all: bool) -> Question:
    """Return the question whether messages shall be sent again."""
    messages = count(len(ids), "message")
    failed = " that failed" if is_all else ""
    return Question(
        len(ids),
        title=f"Send {messages} again",
        text=f"Send {messages}{failed} to webhook {name} again?",
        label=f"Send {messages} again",
        address=f"{_page(name)}/redeliver",
        command=("webhook", "redeliver", *(("--webhook", name, "--failed") if is_all else ids)),
        fields=[("failed", "1")] if is_all else [("id", each) for each in ids],
        warning="The target receives each message with the same id as before.",
        tone="primary",
    )


def _text(results: Sequence[str]) -> str:
    """Return what became of messages that were to be sent again."""
    numbers = Counter(results)
    said = {
        "redelivered": "to be sent again",
        "waiting": "waited already, due now",
        "full": "not sent again, because too many messages wait",
        "unknown": "not of this webhook, or not kept any more",
    }
    parts = [f"{count(numbers[each], 'message')} {said[each]}" for each in said if numbers[each]]
    return "; ".join(parts)


def _page(name: str) -> str:
    return f"{PAGE}/{quote(name, safe='')}"
