"""The debate executor: several agents answer a question, review, revise and vote.

Built by `create_default_executor`. `protocol.py` runs a debate and its rounds; `vote.py` holds the vote;
`participants.py` asks agents, or their `fallbacks.py`, with `leads.py` and `calls.py`, and waits as
`overloads.py` says; `replies.py` judges what they say, and `entries.py` makes it an entry of `journal.py`,
which lets an interrupted debate resume; `consensus.py` has the rules of decision, and `outcome.py` writes the
result. `limits.py` keeps to the job's limits, `quote.py` says what calls take at least and at most.
`estimate.py` says what a debate will probably take, with `call_sizes.py`; `lesson.py` makes what it is based
on from finished debates. `agents.py` resolves agent names; `prompts.py` and `labels.py` make what models see.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.context import DetachedAttempt, Executor, current_attempt
from aragora_q.errors import AragoraQError, InvalidPayload
from aragora_q.executors.debate.agents import (
    AgentRegistry,
    agent_settings,
    check_agents,
    check_prices,
    choose_agents,
    config_of,
    has_tier,
    only_model,
    without_price,
)
from aragora_q.executors.debate.fallbacks import check_fallbacks, fallbacks_by_seat
from aragora_q.executors.debate.providers import provider_of
from aragora_q.job import DebateJobPayload
from aragora_q.money import MICROS

if TYPE_CHECKING:
    from collections import Counter

    from aragora_q.executors.debate.estimate import DebateQuote
    from aragora_q.executors.debate.quote import Approval, Fallbacks, Terms
    from aragora_q.history import CallHistory

__all__ = [
    "agents_without_price",
    "approval_above",
    "calls_to_take_over",
    "check_agents",
    "check_payload_agents",
    "check_payload_budget",
    "choose_agents",
    "create",
    "has_tier",
    "least_costs",
    "only_model",
    "quote_of",
    "settings_of",
]


def check_payload_agents(payload: Mapping[str, Any], config: QueueConfig) -> None:
    """Check that every name in the JSON of a debate resolves: agents, those of `escalate`, and the judge.

    A payload that is not a debate passes.

    Raises:
        InvalidPayload: a name is unknown; the hint suggests the nearest known name.
        ConfigError: the configuration has a price of something that is not a model, or a fallback that is not
            an agent.

    """
    check_prices(config)
    check_fallbacks(config)
    agents = payload.get("agents")
    if "question" not in payload or not isinstance(agents, list):
        return
    escalate, judge = payload.get("escalate"), payload.get("judge")
    names = [
        *agents,
        *(escalate if isinstance(escalate, list) else []),
        *([judge] if judge else []),
    ]
    check_agents(dict.fromkeys(map(str, names)), config)


def check_payload_budget(payload: Mapping[str, Any], config: QueueConfig) -> None:
    """Check the limits of tokens and cost in the JSON of a debate.

    Raises:
        InvalidPayload: a limit is below what any such debate needs, or a field breaks a rule.

    """
    if payload.get("max_tokens") is None and payload.get("max_cost_usd") is None:
        return
    from aragora_q.executors.debate import quote  # noqa: PLC0415 - most debates have no limits

    debate, terms = _debate_and_terms(payload, config)
    quote.check_budget(debate, terms, quote.floor(debate, terms))


def least_costs(payload: Mapping[str, Any], config: QueueConfig) -> list[tuple[str, str, float]]:
    """Return what the JSON of a debate costs at least, as agent, provider and US dollars of each seat.

    Agents without a known price are left out: the worker may know it.

    Raises:
        InvalidPayload: a field breaks a rule, or a name is unknown.

    """
    from aragora_q.executors.debate import quote  # noqa: PLC0415 - only where a budget applies

    debate, terms = _debate_and_terms(payload, config)
    names = debate.all_agents
    return [
        (
            names[line.seat],
            provider_of(config_of(names[line.seat], config)),
            line.amount.micros / MICROS,
        )
        for line in quote.floor(debate, terms).lines
        if line.amount.micros is not None
    ]


def agents_without_price(payload: Mapping[str, Any], config: QueueConfig) -> list[str]:
    """Return the agents in the JSON of a debate whose price is not known.

    Raises:
        InvalidPayload: a field breaks a rule, or a name is unknown.
        ConfigError: the list that may have the price is not installed.

    """
    return without_price(DebateJobPayload.from_dict(payload).all_agents, config)


def settings_of(
    payload: Mapping[str, Any], config: QueueConfig
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the agents in the JSON of a debate, and what is configured of each, as `agent_settings` says.

    Of a name that is unknown: nothing.

    Raises:
        InvalidPayload: a field breaks a rule.

    """
    names = DebateJobPayload.from_dict(payload).all_agents
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in settings:
        with suppress(InvalidPayload):
            settings[name] = agent_settings(name, config, payload.get("service_tier"))
    return names, settings


def approval_above(
    max_usd: float, payload: Mapping[str, Any], config: QueueConfig
) -> Approval | None:
    """Return why the JSON of a debate needs an approval: it may cost more than `max_usd`; None if it cannot.

    Raises:
        InvalidPayload: a field breaks a rule, or a name is unknown.

    """
    from aragora_q.executors.debate import quote  # noqa: PLC0415 - only a debate that may need one

    debate, terms = _debate_and_terms(payload, config)
    return quote.approval_above(max_usd, debate, terms, _fallbacks(debate, config))


def quote_of(payload: Mapping[str, Any], config: QueueConfig, history: CallHistory) -> DebateQuote:
    """Return what the JSON of a debate takes at least, probably, and at most.

    `history` is that of the queue, from `RedisStreamsQueue.call_history`; without one, `CallHistory()`.

    Raises:
        InvalidPayload: a field breaks a rule, or a name is unknown.

    """
    from aragora_q.executors.debate import estimate  # noqa: PLC0415 - only where one is asked for

    debate, terms = _debate_and_terms(payload, config)
    return estimate.quote_debate(debate, terms, history, _fallbacks(debate, config))


async def calls_to_take_over(
    payload: Mapping[str, Any], source: str, journal: Mapping[str, Any], config: QueueConfig
) -> tuple[Counter[tuple[str, str, str]], bool] | None:
    """Return how many finished calls of the debate `source` the JSON of another one may take over.

    They are counted by kind of phase, agent and model; and True if they are all that it takes. `journal` is
    that of `source`. None: not known here, because an agent cannot be built here.

    Raises:
        InvalidPayload: a field breaks a rule, or a name is unknown.
    """
    from aragora_q.executors.debate import seeds  # noqa: PLC0415 - only for a debate that takes calls over
    from aragora_q.executors.debate.protocol import Debate  # noqa: PLC0415 - likewise

    debate, terms = _debate_and_terms(payload, config)
    registry, names = AgentRegistry(config), debate.all_agents
    if any(provider_of(config_of(name, config)) == "local" for name in names):
        return None  # building one starts a server
    try:
        for seat, name in enumerate(names):
            await registry.agent(name, seat, debate.service_tier)
    except AragoraQError:
        return None
    attempt = DetachedAttempt()
    for name, value in seeds.seeds_of(source, journal).items():
        await attempt.checkpoint(name, value)
    job = Job(payload=dict(payload), id="replay")
    fallbacks = _fallbacks(debate, config)
    replay = Debate(job, debate, registry, attempt, config.max_result_bytes, terms, fallbacks)
    taken, is_complete = await replay.replay()
    return seeds.taken_calls(taken), is_complete


def _debate_and_terms(
    payload: Mapping[str, Any], config: QueueConfig
) -> tuple[DebateJobPayload, list[Terms]]:
    """Return the debate in the JSON of a job, and the terms of its agents. Raises InvalidPayload."""
    from aragora_q.executors.debate import quote  # noqa: PLC0415 - names are checked without it

    debate = DebateJobPayload.from_dict(payload)
    return debate, quote.terms_of(debate.all_agents, config, debate.service_tier)


def _fallbacks(payload: DebateJobPayload, config: QueueConfig) -> Fallbacks:
    from aragora_q.executors.debate import quote  # noqa: PLC0415 - names are checked without it

    return [
        dict(zip(names, quote.terms_of(names, config, payload.service_tier), strict=True))
        for names in fallbacks_by_seat(payload, config)
    ]


def create(config: QueueConfig) -> Executor:
    """Build the executor that runs debates with the agents of `config`.

    The executor takes a job with a `DebateJobPayload`, runs the debate, and returns
    `DebateResult.to_dict()`. Every finished call is stored as a checkpoint, so another attempt resumes
    the debate without repeating it. The executor raises:
        InvalidPayload: the payload is not valid, or names an unknown agent. The job fails.
        PermanentError: too few agents are left, or none could vote. The job fails, with its answers as its
            partial result.
        RetryLater: a provider asked to wait. The job is retried after that, uncharged.
        AgentUnavailable: an agent failed in a way that may be temporary. The job is retried; on its
            last attempt, such agents drop out instead, if enough others are left.
        LeaseLost: the job is no longer this attempt's.

    Raises:
        ConfigError: a configured agent cannot be built (unknown provider, missing key or extra).

    """
    from aragora_q.executors.debate.protocol import Debate  # noqa: PLC0415 - names are checked without it

    check_fallbacks(config)
    registry = AgentRegistry(config)
    registry.check()

    async def run_debate(job: Job) -> Mapping[str, Any]:
        payload, terms = _debate_and_terms(job.payload, config)
        debate = Debate(
            job,
            payload,
            registry,
            current_attempt(),
            config.max_result_bytes,
            terms,
            _fallbacks(payload, config),
        )
        return (await debate.run()).to_dict()

    return run_debate
