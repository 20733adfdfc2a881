"""`aragora-q providers`: list, pause and resume providers of models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import CODES, AsJson, OnlyErrors, Reason, with_queue
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.formats import duration, truncate
from aragora_q.views import pause_of, providers_json, unused

if TYPE_CHECKING:
    from aragora_q.gates.accounts import Account, Accounts
    from aragora_q.gates.overrides import Override
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_NAMED = 9
"""Providers in a hint."""

providers = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@providers.callback()
def _providers() -> None:
    """List, pause and resume providers of models.

    An account is a provider with its address and an API key; all workers of all queues with the same
    prefix share its gate. A gate closes when the provider refuses calls, and opens by itself, but not if the
    account's credit is used up: then `resume` opens it. While it is closed, workers put off the jobs that
    need it and run others.
    """


def _check_name(name: str) -> str:
    from aragora_q.gates.accounts import check_provider

    try:
        return check_provider(name)
    except InvalidPayload as error:
        raise typer.BadParameter(str(error)) from None


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        callback=_check_name,
        help="A provider, for all its accounts, or one account.",
    ),
]


@providers.command(
    "list",
    epilog="\b\nExamples:\n  aragora-q providers list\n"
    "  aragora-q providers list --jsonl | jq -c 'select(.state != \"open\")'\n\n\b\n"
    f"Exit codes:\n  0 ok   {CODES}",
)
@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only accounts.")] = False,
) -> None:
    """List accounts that jobs have needed, and paused providers."""
    async with _open_accounts(queue) as accounts:
        found, pauses = await accounts.accounts(), await accounts.pauses()
        agents = await accounts.agents(each.name for each in found)
    now = await queue.tracker.server_time()
    if quiet:
        output.lines(each.name for each in found)
    elif as_json:
        for row in providers_json(found, agents, pauses, now):
            output.json_line(row)
    elif not found and not pauses:
        output.info(f"no provider was called yet at {queue.connection.address}")
    else:
        _print_table(found, agents, pauses, now)


@providers.command(
    epilog="\b\nExamples:\n  aragora-q providers pause openai --reason 'bill of the month'\n\n\b\n"
    f"Exit codes:\n  0 the provider is paused   2 usage\n  {CODES}",
)
@with_queue
async def pause(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Begin no more calls to a provider until `resume`.

    Calls under way go on. Jobs that need it are put off, uncharged; after 15 minutes they are held, and freed
    by `resume`.
    """
    async with _open_accounts(queue) as accounts:
        is_new = await accounts.pause(name, by=options.operator(), reason=reason)
        found = await accounts.accounts()
    known = _names(found)
    if as_json:
        output.json_line({"name": name, "paused": True, "changed": is_new})
    elif not quiet:
        output.info(f"{name} {'is paused' if is_new else 'was already paused'}")
        if name not in known:
            providers = sorted({each.provider for each in found})[:MAX_NAMED]
            hint = did_you_mean(name, known) or f"those known are {', '.join(providers)}"
            output.info(f"no calls to it are known{': ' + hint if providers else ''}")


@providers.command(
    epilog="\b\nExamples:\n  aragora-q providers resume openai\n\n\b\n"
    "Exit codes:\n  0 the provider is not paused, and no gate of it is closed\n"
    f"  2 usage   3 no such provider\n  {CODES}",
)
@with_queue
async def resume(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Let calls to a provider begin again.

    Whatever stopped them: a pause, a rate limit, an outage, used-up credit. Held jobs go on within seconds;
    jobs that were put off keep their due times.
    """
    async with _open_accounts(queue) as accounts:
        changed, account, paused_by = await accounts.resume(
            name, by=options.operator(), reason=reason
        )
    if account:
        whose = "" if paused_by == account else f" with {paused_by}"
        raise typer.BadParameter(
            f"{account} stays paused{whose}: aragora-q providers resume {paused_by}",
            param_hint="NAME",
        )
    if as_json:
        output.json_line({"name": name, "paused": False, "changed": changed})
    elif not quiet:
        output.info(f"{name} {'takes calls again' if changed else 'was neither paused nor closed'}")


@asynccontextmanager
async def _open_accounts(queue: RedisStreamsQueue) -> AsyncIterator[Accounts]:
    from aragora_q.gates.accounts import Accounts

    async with queue.connection.open_gates() as gates:
        yield Accounts(gates)


def _names(found: list[Account]) -> set[str]:
    return {name for each in found for name in each.paused_by if name}


def _print_table(
    found: list[Account],
    agents: Mapping[str, Sequence[str]],
    pauses: Mapping[str, Override],
    now: float,
) -> None:
    rows = []
    for each in found:
        pause = pause_of(each, pauses)
        why = pause.text("paused", now) if pause is not None else each.reason
        limit = "" if each.limit is None else str(each.limit)
        numbers = (str(each.under_way), limit, str(each.waiting), str(each.faults))
        names = truncate(", ".join(agents[each.name]), 60)
        rows.append((each.name, each.state, _opens(each), why, *numbers, names))
    rows += [
        (name, "paused", "on resume", pauses[name].text("paused", now), "0", "", "0", "0", "")
        for name in unused(pauses, found)
    ]
    head = ("ACCOUNT", "STATE", "OPENS", "WHY", "CALLS", "LIMIT", "WAITING", "FAULTS", "AGENTS")
    output.table(head, rows)


def _opens(account: Account) -> str:
    if not account.is_closed:
        return ""
    seconds = account.opens_in_seconds
    return "on resume" if seconds is None else f"in {duration(seconds)}"
