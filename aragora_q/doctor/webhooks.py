"""Check the webhooks: what this host needs to deliver to them, and the messages that wait.

Used by `checks.py`. Looks targets up; sends no message.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import WebhookConfig
from aragora_q.contracts import WebhooksRead, WebhookState
from aragora_q.doctor.report import Finding
from aragora_q.errors import AragoraQError
from aragora_q.formats import count, duration
from aragora_q.redis.keys import MAX_OUTBOX
from aragora_q.webhooks import sending, signing

NEARLY_FULL = 0.9
"""Share of an outbox from which on it is reported."""


async def of_webhooks(config: QueueConfig, read: WebhooksRead) -> list[Finding]:
    """Return what is wrong with webhooks. A host may lack those that other hosts have."""
    here = await asyncio.gather(
        *(asyncio.to_thread(_of_host, name, each) for name, each in config.webhooks.items())
    )
    found = [finding for findings in here for finding in findings]
    for name, state in read.states.items():
        found += _of_state(state, read.now, is_configured=name in config.webhooks)
    return found


def _of_host(name: str, webhook: WebhookConfig) -> list[Finding]:
    """Return what would keep this host from delivering."""
    checks: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: signing.read_keys(webhook.secret_file), ""),
        (lambda: sending.tls_context(webhook.ca_file), "correct the path, on the hosts that run workers"),
        (lambda: sending.look_up(webhook), "check url, allow_networks, and the name servers of this host"),
    )  # fmt: skip
    if "/" not in webhook.secret_file and not os.environ.get("CREDENTIALS_DIRECTORY"):
        checks = checks[1:]  # only services have credentials
    found = []
    for check, remedy in checks:
        try:
            check()
        except AragoraQError as error:
            found.append(
                Finding("warning", "webhooks", f"webhook {name}: {error}", error.hint or remedy)
            )
    return found


def _of_state(state: WebhookState, now: float, *, is_configured: bool) -> Iterator[Finding]:
    name, wait = state.name, f"{count(state.waiting, 'message')}"
    if state.disabled is not None:
        why = f": {state.disabled.reason}" if state.disabled.reason else ""
        yield Finding(
            "warning",
            "webhooks",
            f"webhook {name} is disabled by {state.disabled.by}{why}; {wait} waiting",
            f"aragora-q webhook enable {name}; if no host has it any more: aragora-q webhook forget {name}",
        )
    elif state.is_late(now):
        since = duration(state.oldest_seconds(now))
        why = state.last_error if state.failures else "no worker tries"
        yield Finding(
            "warning",
            "webhooks",
            f"the oldest message for webhook {name} has waited {since}; {wait} waiting: {why}",
            f"aragora-q webhook test {name}, on a host that runs workers; if no host has it any more: "
            f"aragora-q webhook forget {name}",
        )
    elif state.waiting and not is_configured:
        yield Finding(
            "note",
            "webhooks",
            f"{wait} waiting for webhook {name}, which is not in this configuration",
            f"if no other host has it: aragora-q webhook forget {name}",
        )
    if state.waiting > NEARLY_FULL * MAX_OUTBOX:
        yield Finding(
            "warning",
            "webhooks",
            f"{wait} waiting for webhook {name}: from {MAX_OUTBOX:,} on, new ones are dropped",
            "repair its target; messages that wait are sent by themselves",
        )
