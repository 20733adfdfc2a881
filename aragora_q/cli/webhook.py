"""`aragora-q webhook`: list, test, enable, disable and forget webhooks; list messages, and send them again."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import (
    CODES,
    AsJson,
    LoadConfig,
    OnlyErrors,
    Reason,
    Yes,
    with_config,
    with_queue,
)
from aragora_q.errors import NothingFound, did_you_mean
from aragora_q.redis.keys import MAX_DELIVERIES_LISTED

if TYPE_CHECKING:
    from aragora_q.config.tables import WebhookConfig
    from aragora_q.contracts import Delivery, DeliveryTotals
    from aragora_q.streams.queue import RedisStreamsQueue
    from aragora_q.webhook_views import WebhookRow
    from aragora_q.webhooks.sending import Sent

MAX_ANSWER_CHARS = 60
HOW_TO_ADD = "to add one: a table [webhooks.NAME] with url and secret_file in aragora-q.toml"

PROBLEMS = {
    "full": "too many messages wait for its webhook: try again later",
    "unknown": "not found; it may be too old",
}
"""Results of `redeliver` that an operator must see."""

EXIT_CODES = {"redelivered": 0, "waiting": 0, "unknown": 3, "full": 75}

webhook = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@webhook.callback()
def _webhook() -> None:
    """List, test, enable, disable and forget webhooks; list their messages, and send them again.

    A webhook is a target in the configuration. Jobs and groups name it in `notify`, and workers report their
    ends to it, at least once each, for up to 24 hours.
    """


Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Name of a webhook.")]


@webhook.command(
    "list",
    epilog="\b\nExamples:\n  aragora-q webhook list\n"
    "  aragora-q webhook list --jsonl | jq -c 'select(.state != \"ok\")'\n\n\b\n"
    f"Exit codes:\n  0 ok   {CODES}",
)
@with_queue
async def list_(
    queue: RedisStreamsQueue,
    *,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only names.")] = False,
) -> None:
    """List webhooks, those with a problem first.

    All that this configuration or the queue knows, with what waits and what failed. Of an address, only the
    host is shown.
    """
    from aragora_q.webhook_views import read_webhooks, webhook_json

    rows, read = await read_webhooks(queue.outbox, queue.config)
    if quiet:
        output.lines(row.name for row in rows)
    elif as_json:
        for row in rows:
            output.json_line(webhook_json(row))
    elif not rows:
        output.info(f"no webhook is configured, and queue {queue.config.queue} knows none")
        output.info(HOW_TO_ADD)
    else:
        _print_table(rows, read.now)
        output.lines(_totals_rows(read.totals))


def _print_table(rows: Sequence[WebhookRow], now: float) -> None:
    output.table(
        ("WEBHOOK", "STATE", "WAITING", "OLDEST", "LAST OK", "FAILURES", "TARGET"),
        [
            (
                row.name,
                row.condition,
                f"{row.waiting:,}",
                "" if row.oldest_at is None else output.duration(max(now - row.oldest_at, 0)),
                "never" if row.last_ok_at is None else output.ago(row.last_ok_at, now),
                f"{row.failures:,}",
                row.host,
            )
            for row in rows
        ],
    )
    notes = [note for row in rows for note in _notes(row, now)]
    if notes:
        output.line()
    for note in notes:
        output.lines(output.wrapped(note))


def _notes(row: WebhookRow, now: float) -> Iterator[str]:
    """Yield what is wrong with a webhook, and what to do."""
    if row.disabled is not None:
        by = f" by {row.disabled.by}" if row.disabled.by else ""
        why = f": {row.disabled.reason}" if row.disabled.reason else ""
        yield f"{row.name}: disabled{by} {output.ago(row.disabled.at, now)}{why}"
        yield f"{row.name}: to send what waits: aragora-q webhook enable {row.name}"
    is_shown = bool(row.failures or row.disabled) and not _is_reason(row)
    if row.last_error and row.last_error_at is not None and is_shown:
        yield f"{row.name}: last error {output.ago(row.last_error_at, now)}: {row.last_error}"
    if row.condition == "late":
        yield f"{row.name}: no worker that runs has it in its configuration, or none runs"
    if not row.is_configured:
        yield f"{row.name}: not in the configuration here; workers that have it send its messages"
        yield f"{row.name}: if no worker has it any more: aragora-q webhook forget {row.name}"


def _is_reason(row: WebhookRow) -> bool:
    """Return True if the last error is why the webhook is disabled."""
    return row.disabled is not None and row.disabled.reason == row.last_error


def _totals_rows(totals: DeliveryTotals) -> Iterator[str]:
    lost = [
        f"{number:,} {what}"
        for number, what in ((totals.failed, "given up"), (totals.dropped, "dropped"))
        if number
    ]
    if lost:
        yield ""
        yield f"messages of this queue: {totals.delivered:,} delivered, {', '.join(lost)}"


@webhook.command(
    "test",
    epilog="\b\nExamples:\n  aragora-q webhook test ops\n\n\b\n"
    "Exit codes:\n  0 the target answered with 2xx   1 it did not\n"
    "  3 no such webhook   78 invalid configuration, or the secret cannot be read",
)
@with_config
def send_test(
    load: LoadConfig, *, name: Name, as_json: AsJson = False, quiet: OnlyErrors = False
) -> int:
    """Send one signed message of type `test` from this host.

    It needs no Redis, and changes nothing in the queue. The secret must be readable for you.
    """
    from aragora_q.webhooks import messages, sending

    settings = load()
    target = settings.webhooks.get(name)
    if target is None:
        raise NothingFound(
            f"webhook {name:.60} is not in the configuration",
            hint=did_you_mean(name, settings.webhooks) or HOW_TO_ADD,
        )
    message_id = _new_id()
    sent = sending.send(target, message_id, messages.trial_message(settings.queue, name))
    if as_json:
        output.json_line(_sent_json(name, target, message_id, sent))
    elif not quiet or sent.result != "delivered":
        output.line(f"{name}: {sent.text} ({output.duration(sent.seconds)})")
        if sent.body:
            output.lines(output.wrapped(f"{name}: its answer begins: {sent.body}"))
    return 0 if sent.result == "delivered" else 1


def _new_id() -> str:
    """Return an id unlike those of messages in the outbox: receivers take one id once."""
    import uuid

    return f"test-{uuid.uuid4().hex}"


def _sent_json(name: str, target: WebhookConfig, message_id: str, sent: Sent) -> dict[str, Any]:
    from urllib.parse import urlsplit

    return {
        "name": name,
        "host": urlsplit(target.url).hostname,
        "id": message_id,
        "delivered": sent.result == "delivered",
        "status": sent.status,
        "text": sent.text,
        "answer": sent.body or None,
        "seconds": sent.seconds,
    }


@webhook.command(
    epilog="\b\nExamples:\n  aragora-q webhook deliveries\n"
    "  aragora-q webhook deliveries ops --failed\n\n\b\n"
    f"Exit codes:\n  0 ok   3 no such webhook\n  {CODES}",
)
@with_queue
async def deliveries(
    queue: RedisStreamsQueue,
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", show_default=False, help="Name of a webhook. Default: all."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only messages that were given up.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            min=1,
            max=MAX_DELIVERIES_LISTED,
            help="Maximum number of messages.",
        ),
    ] = 20,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only ids.")] = False,
) -> None:
    """List messages, newest first: waiting, delivered, given up.

    The queue keeps each for 7 days after its last attempt, and the last 1,000 of a webhook.
    """
    from aragora_q.webhook_views import delivery_json, read_webhook, read_webhooks

    if name is None:
        rows, read = await read_webhooks(queue.outbox, queue.config)
        now = read.now
    else:
        row, now = await read_webhook(queue.outbox, queue.config, name)
        rows = [row]
    names = [row.name for row in rows]
    disabled = {row.name for row in rows if row.disabled is not None}
    listed = await queue.outbox.deliveries(names, MAX_DELIVERIES_LISTED if failed else limit)
    shown = [each for each in listed if not failed or each.result == "failed"][:limit]
    if quiet:
        output.lines(each.id for each in shown)
    elif as_json:
        for each in shown:
            output.json_line(delivery_json(each))
    elif not shown:
        of = f" of webhook {name}" if name else ""
        output.info(f"no {'failed ' if failed else ''}message{of} in queue {queue.config.queue}")
    else:
        output.table(
            ("MESSAGE", "TO", "EVENT", "OF", "WHEN", "RESULT"),
            [_delivery_row(each, now, disabled) for each in shown],
        )


def _delivery_row(each: Delivery, now: float, disabled: Container[str]) -> tuple[str, ...]:
    result = str(each.result)
    if each.result == "waiting" and each.webhook in disabled:
        result += ", disabled"
    elif each.due_at is not None:
        result += ", due" if each.due_at <= now else f", next {output.ago(each.due_at, now)}"
    is_plain = each.result == "delivered"  # at the first attempt, with 2xx
    if each.attempts > is_plain:
        result += f", {output.count(each.attempts, 'attempt')}"
    if each.answer and not is_plain:
        result += f": {output.truncate(each.answer, MAX_ANSWER_CHARS)}"
    return each.id, each.webhook, each.event, each.subject, output.ago(each.at, now), result


@webhook.command(
    epilog="\b\nExamples:\n  aragora-q webhook redeliver 1795834981161-12\n"
    "  aragora-q webhook redeliver --webhook ops --failed --yes\n\n\b\n"
    "Exit codes:\n  0 all are due again   1 not confirmed   2 usage, or --yes is required\n"
    "  3 no such webhook, or a message is unknown, or too old\n"
    f"  {CODES}",
)
@with_queue
async def redeliver(
    queue: RedisStreamsQueue,
    *,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", show_default=False, help="Messages, as `deliveries` lists them."
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--webhook", metavar="NAME", help="Those of this webhook that wait."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="With --webhook: those that were given up.")
    ] = False,
    reason: Reason = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the messages, change nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> int:
    """Send messages again, or at once if they wait.

    With --webhook, all that wait for it; with --failed, all that were given up instead: then the command asks
    for confirmation, or requires --yes where stdin is not a terminal. A message keeps its id: a receiver
    that has it may skip it.
    """
    wanted = await _wanted(queue, ids or [], of, failed=failed)
    if failed and not dry_run and not yes and wanted:
        _confirm(
            f"Send {output.count(len(wanted), 'message')} to {of} again?",
            "this would send many messages: add --yes to confirm, or --dry-run to count them",
        )
    if dry_run:
        # JSON: `dry_run` (true), `messages` (number).
        if as_json:
            output.json_line({"dry_run": True, "messages": len(wanted)})
        elif not quiet:
            output.line(f"would send again: {output.count(len(wanted), 'message')}")
        return 0
    results = await queue.outbox.redeliver(wanted, by=options.operator(), reason=reason)
    for each, result in zip(wanted, results, strict=True):
        if as_json:
            output.json_line({"id": each, "result": result})
        elif result in PROBLEMS:
            output.info(f"message {each:.60}: {PROBLEMS[result]}")
    if not as_json and not quiet:
        number = sum(result not in PROBLEMS for result in results)
        output.line(f"{output.count(number, 'message')} to be sent now")
    await _warn_of_disabled(queue)
    return max((EXIT_CODES[result] for result in results), default=0)


async def _warn_of_disabled(queue: RedisStreamsQueue) -> None:
    from aragora_q.webhook_views import read_webhooks

    rows, _ = await read_webhooks(queue.outbox, queue.config)
    for row in rows:
        if row.disabled is not None and row.waiting:
            enable = f"aragora-q webhook enable {row.name}"
            output.info(f"webhook {row.name} is disabled: its messages wait until {enable}")


async def _wanted(
    queue: RedisStreamsQueue, ids: list[str], of: str | None, *, failed: bool
) -> list[str]:
    """Return the ids of messages that the arguments name. Raises typer.BadParameter."""
    from aragora_q.webhook_views import delivery_ids, read_webhook

    if (not ids) == (of is None) or (failed and of is None):
        raise typer.BadParameter("give ids, or --webhook NAME, with or without --failed")
    if of is None:
        return list(dict.fromkeys(ids))
    await read_webhook(queue.outbox, queue.config, of)
    return await delivery_ids(queue.outbox, of, "failed" if failed else "waiting")


def _confirm(question: str, hint: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(hint)
    typer.confirm(question, abort=True, err=True)


@webhook.command(
    epilog="\b\nExamples:\n  aragora-q webhook enable ops --reason 'receiver is back'\n\n\b\n"
    f"Exit codes:\n  0 the webhook is enabled   3 no such webhook\n  {CODES}",
)
@with_queue
async def enable(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Send the messages of a disabled webhook again.

    What waits is sent at once, and has 24 hours again. A webhook is disabled by `disable`, or when its target
    answers 410: it wants no more messages.
    """
    from aragora_q.webhook_views import read_webhook

    row, _ = await read_webhook(queue.outbox, queue.config, name)
    changed = await queue.outbox.enable(name, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "enabled": True, "changed": changed})
    elif not quiet:
        what = "is enabled" if changed else "was not disabled"
        waiting = f"; {output.count(row.waiting, 'message')} to be sent" if row.waiting else ""
        output.line(f"{name} {what}{waiting}")


@webhook.command(
    epilog="\b\nExamples:\n  aragora-q webhook disable ops --reason 'receiver moves'\n\n\b\n"
    f"Exit codes:\n  0 the webhook is disabled   3 no such webhook\n  {CODES}",
)
@with_queue
async def disable(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Send nothing to a webhook until `enable`.

    Its messages wait: up to 10,000, each for up to 7 days.
    """
    from aragora_q.webhook_views import read_webhook

    row, _ = await read_webhook(queue.outbox, queue.config, name)
    changed = await queue.outbox.disable(name, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "enabled": False, "changed": changed})
    elif not quiet:
        waiting = f"; {output.count(row.waiting, 'message')} waiting" if row.waiting else ""
        output.line(f"{name} {'is disabled' if changed else 'was already disabled'}{waiting}")


@webhook.command(
    epilog="\b\nExamples:\n  aragora-q webhook forget ops\n\n\b\n"
    "Exit codes:\n  0 forgotten   1 not confirmed   2 usage, or --yes is required\n"
    f"  3 no such webhook   65 the configuration here has it\n  {CODES}",
)
@with_queue
async def forget(
    queue: RedisStreamsQueue,
    *,
    name: Name,
    reason: Reason = "",
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: OnlyErrors = False,
) -> None:
    """Delete what the queue keeps of a removed webhook.

    Use it when no configuration has it any more. Messages that wait are deleted, too: then the command asks for
    confirmation, or requires --yes where stdin is not a terminal.
    """
    from aragora_q.webhook_views import forget_webhook, read_webhook

    row, _ = await read_webhook(queue.outbox, queue.config, name)
    if row.waiting and not row.is_configured and not yes:
        wait = output.count(row.waiting, "message")
        _confirm(
            f"Delete {wait} that {'waits' if row.waiting == 1 else 'wait'} for {name}?",
            f"this would delete {wait} waiting for {name}: add --yes to confirm",
        )
    changed = await forget_webhook(queue.outbox, row, by=options.operator(), reason=reason)
    if as_json:
        output.json_line({"name": name, "forgotten": changed})
    elif not quiet:
        output.line(f"{name} {'is forgotten' if changed else 'was not known'}")
