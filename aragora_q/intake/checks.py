"""Decide whether a job may be enqueued: its agents, budgets, and what its price may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q.base import MAX_USD, Job
from aragora_q.errors import InvalidPayload
from aragora_q.intake.jobs import is_debate
from aragora_q.job_fields import APPROVE_ABOVE, MAX_QUOTE, create_job
from aragora_q.job_rules import check_job

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.executors.debate.quote import Approval

_THRESHOLD_FIELDS = frozenset((APPROVE_ABOVE, MAX_QUOTE))


class Thresholds(NamedTuple):
    """US dollars at which `enqueue` holds or refuses a debate; None: at no amount."""

    approve_above: float | None
    """It is held if it can cost more."""
    max_quote: float | None
    """It is refused if it is expected to cost more."""


NO_THRESHOLDS = Thresholds(None, None)


def check_seats(
    payload: Mapping[str, Any], config: QueueConfig, *, in_experiment: bool = False
) -> str:
    """Check the names of a debate. Return a warning about its agents, or nothing.

    There is one, they are all one model, or none has the service tier that the job asks for. An experiment
    compares what one agent, or one model, is worth: there, the first two are no mistake.

    Raises:
        InvalidPayload: a name does not resolve.
    """
    if not is_debate(payload, config):
        return ""
    from aragora_q.executors import debate

    debate.check_payload_agents(payload, config)
    agents, tier = payload["agents"], payload.get("service_tier")
    warnings = []
    if in_experiment:
        pass
    elif len(agents) == 1:
        warnings.append("one agent does not debate: it is asked once, and there is no vote")
    elif model := debate.only_model(agents, config):
        warnings.append(f"all agents are {model}, and share its errors: agreement means little")
    if tier is not None and not debate.has_tier(agents, tier, config):
        warnings.append(f"no agent has the service tier {tier}: they are asked as they are")
    return "; ".join(warnings)


def check_budget(job: Job, config: QueueConfig) -> None:
    """Raise InvalidPayload if a debate needs more than its own limits, or a budget's, ever have room for."""
    if not is_debate(job.payload, config) or job.payload.get("forked_from") is not None:
        return  # what is left to be paid for is known when it has taken over what it may
    limits = job.payload.get("max_tokens"), job.payload.get("max_cost_usd")
    if limits == (None, None) and not config.budgets:
        return  # most debates; even a repeated import takes a microsecond
    from aragora_q.executors import debate

    debate.check_payload_budget(job.payload, config)
    if config.budgets:
        from aragora_q.gates.policy import Need, check_floor

        check_floor(config, job, [Need(*each) for each in debate.least_costs(job.payload, config)])


def create_follower(
    group: str, fields: dict[str, Any], defaults: Mapping[str, Any], config: QueueConfig
) -> tuple[Job, str]:
    """Return the job that follows a group, checked as one that is enqueued, and a warning about its agents.

    Raises:
        InvalidPayload: a field breaks a rule.
    """
    if fields.get("group") is not None:
        raise InvalidPayload("field group: a job that follows a group cannot be in a group")
    job = create_job(fields, defaults, lambda *_: f"{group}.then")
    check_job(job)
    warning = check_seats(job.payload, config)
    check_budget(job, config)
    return job, warning


def take_thresholds(fields: Any, default: Thresholds = NO_THRESHOLDS) -> Thresholds:
    """Remove `approve_above_usd` and `max_quote_usd` from the fields of a line, and return them, or `default`.

    Raises:
        InvalidPayload: one is not an amount.
    """
    if not isinstance(fields, dict) or _THRESHOLD_FIELDS.isdisjoint(fields):  # most lines
        return default
    return Thresholds(
        _take_usd(fields, APPROVE_ABOVE, default.approve_above),
        _take_usd(fields, MAX_QUOTE, default.max_quote),
    )


def _take_usd(fields: dict[str, Any], name: str, default: float | None) -> float | None:
    value = fields.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_USD:
        raise InvalidPayload(f"{name} must be US dollars from 0 to {MAX_USD:,}, got {value!r:.100}")
    return float(value)


def held_fields(approval: Approval | None, *, created: bool = True) -> dict[str, Any]:
    """Return the fields that say that a new job waits for an approval, if it does."""
    return {"held": True, "most_usd": approval.usd} if approval and created else {}
