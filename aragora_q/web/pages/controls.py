"""The switches of the pages: pause and resume the queue and providers, set and reset budgets."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from aragora_q.errors import InvalidPayload, ProviderNotFound
from aragora_q.formats import dollars
from aragora_q.gates.accounts import Accounts
from aragora_q.gates.book import Book, Budget, changed_budget
from aragora_q.web.access import Operator
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import redirect

router = APIRouter()

MONEY = "/money"


@router.post("/queue/{verb}")
async def pause_queue(request: Request, access: Operator, verb: str) -> Response:
    """Stop starting jobs of the queue, or start them again."""
    if verb not in ("pause", "resume"):
        raise HTTPException(404)
    form, paused = await Form.of(request), verb == "pause"
    access.log_action(verb, reason=form.reason)
    changed = await access.queue.pause(paused=paused, by=access.actor.by, reason=form.reason)
    now = f"is {verb}d" if changed else f"was {'already' if paused else 'not'} paused"
    return redirect(form.back("/"), f"Queue {access.queue.config.queue} {now}.")


@router.post("/providers/pause")
async def pause_provider(request: Request, access: Operator) -> Response:
    """Let no call to a provider, or to one account, begin."""
    form, accounts = await Form.of(request), Accounts(access.gates)
    name, reason = form.text("name"), form.reason
    access.log_action("providers pause", [name], reason)
    if name not in {n for each in await accounts.accounts() for n in each.paused_by}:
        raise ProviderNotFound(f"no calls to {name!r:.100} are known")
    is_new = await accounts.pause(name, by=access.actor.by, reason=reason)
    state = "is paused" if is_new else "was already paused"
    return redirect(form.back(MONEY), f"Provider {name} {state}.")


@router.post("/providers/resume")
async def resume_provider(request: Request, access: Operator) -> Response:
    """Let calls to a provider, or to one account, begin again, whatever stopped them."""
    form, accounts = await Form.of(request), Accounts(access.gates)
    name = form.text("name")
    access.log_action("providers resume", [name], form.reason)
    changed, account, paused_by = await accounts.resume(
        name, by=access.actor.by, reason=form.reason
    )
    if account:
        return redirect(form.back(MONEY), f"Provider {name} stays paused: resume {paused_by}, too.")
    state = "takes calls again" if changed else "was neither paused nor closed"
    return redirect(form.back(MONEY), f"Provider {name} {state}.")


@router.post("/budgets/set")
async def set_budget(request: Request, access: Operator) -> Response:
    """Set a budget for all workers, over what they declare. What is left blank stays as it is."""
    form, book = await Form.of(request), Book(access.gates)
    name, reason = form.text("name"), form.reason
    access.log_action("budget set", [name], reason)
    given = {each: form.text(each) for each in ("limit_usd", "window", "scope", "on_full")}
    given = {each: value for each, value in given.items() if value}
    before = await book.budget(name)
    try:
        wanted = changed_budget(name, before, given)
    except InvalidPayload as error:
        return redirect(form.back(MONEY), f"Nothing was set: {error}.")
    await book.set_budget(name, wanted, by=access.actor.by, reason=reason)
    was = f" (was {_limit(before)})" if before else ""
    limit = f"{dollars(wanted.limit_usd)}/{wanted.window}"
    return redirect(form.back(MONEY), f"Budget {name} is set to {limit}{was}.")


@router.post("/budgets/reset")
async def reset_budget(request: Request, access: Operator) -> Response:
    """Let what workers declare apply again."""
    form, book = await Form.of(request), Book(access.gates)
    name = form.text("name")
    access.log_action("budget reset", [name], form.reason)
    before = await book.require(name)
    is_reset = await book.reset_budget(name, by=access.actor.by, reason=form.reason)
    found = await book.budget(name)
    applies = f"{_limit(found)} applies" if found else "no budget of this name applies"
    state = f"is reset (was {_limit(before)})" if is_reset else "was not set"
    return redirect(form.back(MONEY), f"Budget {name} {state}: {applies}.")


def _limit(found: Budget) -> str:
    return f"{dollars(found.limit_usd)}/{found.window}"
