"""Turn a reply into an entry of the journal: judged, with seats instead of labels, and with bounded facts.

Used by the participants. Whatever a provider says about its reply, the entry can be stored and added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aragora_q.context import CallOutcome
from aragora_q.executors.debate import keys, replies
from aragora_q.executors.debate.journal import Entry
from aragora_q.executors.debate.replies import Unusable, Value
from aragora_q.executors.debate.requests import Agent, AgentRequest, CallFault, Manner, Reply
from aragora_q.job_rules import MAX_AGENT_CHARS

MAX_SAID_CHARS = 300
"""Length at which the text of a reply that was not used is cut."""

MAX_TIER_CHARS = 40
"""Length at which the name of a service tier that a provider says is cut."""

MAX_TOKENS = 1_000_000_000
"""No call has more; a provider that says so does not count tokens."""

MAX_REASON_CHARS = 1_000
"""Maximum length of the reason why a seat dropped out."""


def entry_of(
    agent: Agent, request: AgentRequest, manner: Manner, reply: Reply, labels: Mapping[str, int]
) -> Entry:
    """Return the part of a journal entry that follows from a reply: not where and when it was asked for.

    `labels` maps the labels in the request to seats.
    """
    judged = _judged(request, reply, labels)
    entry = {
        **_asked(agent),
        **_taken(reply.model or agent.model, reply),
        "settings": agent.settings,
        "own_settings": dict(agent.own_settings) or False,
        "larger": manner.larger,
        "repair": bool(manner.repair),
        "limited": reply.is_cut,
        "served_in": _text(reply.service_tier, MAX_TIER_CHARS) or False,
        "outcome": _outcome(reply, judged),
        **judged,
    }
    return {name: value for name, value in entry.items() if value is not False}


def fault_entry_of(agent: Agent, fault: CallFault) -> Entry:
    """Return the part of a journal entry that follows from a fault, as `entry_of`."""
    return {
        **_asked(agent),
        **_taken(fault.model, fault),
        "outcome": fault.outcome,
        "why": _text(str(fault.error), MAX_SAID_CHARS),
    }


def _asked(agent: Agent) -> dict[str, str]:
    asked = {
        "agent": agent.name,
        "model": agent.model,
        "provider": agent.provider,
        "account": agent.account,
        "service_tier": agent.own_settings.get("service_tier"),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _taken(model: str, call: Reply | CallFault) -> dict[str, Any]:
    """Return what a call took, as far as it is known."""
    return {
        "answered_by": _text(model, MAX_AGENT_CHARS),
        "in": _count(call.input_tokens),
        "out": _count(call.output_tokens),
        "cached": _count(call.cached_tokens),
        "usd": _price(call.cost_usd),
    }


def _outcome(reply: Reply, judged: Mapping[str, Any]) -> CallOutcome:
    if "refused" in judged:
        return "refused"
    if reply.is_cut:
        return "cut"
    return "unusable" if "unusable" in judged else "ok"


def reason_of(error: BaseException) -> str:
    """Return the error's message, with its hint if it has one."""
    hint = getattr(error, "hint", "")
    return _text(f"{error} ({hint})" if hint else str(error), MAX_REASON_CHARS)


def _judged(request: AgentRequest, reply: Reply, labels: Mapping[str, int]) -> dict[str, Any]:
    """Return the part of a journal entry that says what became of the reply."""
    if reply.refused is not None:
        return {"value": None, "refused": reason_of(reply.refused), **_said(reply)}
    is_prose = reply.is_form_enforced and not reply.is_cut and not replies.is_object(request, reply)
    try:
        value = replies.read(request, reply)
    except Unusable as error:
        return {"value": None, "unusable": str(error), "prose": is_prose, **_said(reply)}
    return {"value": _with_seats(value, labels), "prose": is_prose}


def _said(reply: Reply) -> dict[str, str]:
    """Return how a reply that is not used begins, without keys, which a gateway may repeat."""
    said = _text(keys.mask(reply.text.strip()), MAX_SAID_CHARS)
    return {"said": said} if said else {}


def _with_seats(value: Value, labels: Mapping[str, int]) -> Value:
    """Return a reply with seats instead of labels."""
    stored = dict(value)
    for name in ("best", "choice"):
        if stored.get(name) is not None:
            stored[name] = labels[stored[name]]
    if "same_as" in stored:
        stored["same_as"] = [[labels[label] for label in each] for each in stored["same_as"]]
    return stored


def _text(said: str, max_chars: int) -> str:
    """Return what a provider said as text that JSON can hold, cut at `max_chars`."""
    return said[:max_chars].encode(errors="backslashreplace").decode()


def _count(tokens: object) -> int:
    """Return tokens as a provider counts them; 0 if that is not a count."""
    is_count = isinstance(tokens, int | float) and 0 <= tokens < MAX_TOKENS
    return int(tokens) if is_count else 0  # type: ignore[call-overload]


def _price(usd: float | None) -> float | None:
    return usd if usd is not None and 0 <= usd < math.inf else None
