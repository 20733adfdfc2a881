"""The payload and the result of a debate job.

`create_debate_job` validates a payload and builds a `Job` for the queue; the debate executor reads the
payload back with `DebateJobPayload.from_dict`. Must not know queues, Redis or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeGuard

from aragora_q.base import (
    JOB_ID_PATTERN,
    JOB_ID_PUNCTUATION,
    MAX_JOB_ID_CHARS,
    Job,
    new_job_id,
)
from aragora_q.errors import InvalidPayload, did_you_mean

CONSENSUS_MODES = ("majority", "supermajority", "unanimous", "weighted", "judge", "any", "none")
MAX_QUESTION_CHARS = 20_000
AGENTS_RANGE = (2, 16)
ROUNDS_RANGE = (0, 20)
MAX_AGENT_CHARS = 200
MAX_TIMEOUT_SECONDS = 30 * 86_400
MAX_TOKENS_RANGE = (1, 1_000_000_000)


@dataclass(frozen=True)
class DebateJobPayload:
    """What a debate is to do. Fields are not checked until `validate` is called; `from_dict` does both.

    Example:
        >>> from aragora_q import DebateJobPayload
        >>> payload = DebateJobPayload("Tea or coffee?", ["claude", "gpt"], rounds=2)
        >>> payload.validate()
        >>> payload.to_dict()["consensus"]
        'majority'
    """

    question: str
    """At most 20,000 characters."""
    agents: list[str]
    """2 to 16 names of the configuration's `[agents]` table, or model strings. An agent may occur twice."""
    rounds: int = 3
    """0 to 20 rounds of criticism and revision; 0: the agents vote on independent answers."""
    consensus: str = "majority"
    """`majority`, `supermajority`, `unanimous`, `weighted`, `judge`, `any` or `none`."""
    timeout_seconds: float | None = None
    """Seconds for the debate, counted from the start of its first attempt. No round begins after 80 %."""
    max_tokens: int | None = None
    """Limit of input and output tokens. No round begins that would not fit with the vote after it."""
    max_cost_usd: float | None = None
    """As `max_tokens`, in US dollars; covers only models with a known price."""
    judge: str | None = None
    """The agent that decides with consensus `judge`; None: the first one."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of the agents with consensus `weighted`; 1 for an agent that is missing."""
    transcript: bool = False
    """True: the result includes all answers."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON data of the client, kept with the job and not used."""

    def validate(self) -> None:
        """Check every field.

        Raises:
            InvalidPayload: names the field, its value and the rule.
        """
        if not isinstance(self.question, str) or not self.question.strip():
            raise InvalidPayload(
                "question is empty", hint="pass the question that the agents debate"
            )
        if len(self.question) > MAX_QUESTION_CHARS:
            raise InvalidPayload(
                f"question has {len(self.question)} characters, at most {MAX_QUESTION_CHARS} are allowed"
            )
        if not isinstance(self.agents, list) or not all(_is_agent(name) for name in self.agents):
            raise InvalidPayload(
                f"agents must be a list of names of 1 to {MAX_AGENT_CHARS} characters, got {self.agents!r:.200}"
            )
        _check_range("number of agents", len(self.agents), AGENTS_RANGE)
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool):
            raise InvalidPayload(f"rounds must be a whole number, got {self.rounds!r:.100}")
        _check_range("rounds", self.rounds, ROUNDS_RANGE)
        if self.consensus not in CONSENSUS_MODES:
            raise InvalidPayload(
                f"consensus is {self.consensus!r:.100}, must be one of {', '.join(CONSENSUS_MODES)}",
                hint=did_you_mean(str(self.consensus), CONSENSUS_MODES),
            )
        if self.timeout_seconds is not None and not is_timeout(self.timeout_seconds):
            raise InvalidPayload(
                f"timeout_seconds must be a number above 0 and at most {MAX_TIMEOUT_SECONDS}, "
                f"got {self.timeout_seconds!r:.100}"
            )
        if not isinstance(self.metadata, dict):
            raise InvalidPayload(f"metadata must be a JSON object, got {self.metadata!r:.100}")
        self._validate_vote()

    def _validate_vote(self) -> None:
        if self.max_tokens is not None:
            _check_range("max_tokens", self.max_tokens, MAX_TOKENS_RANGE)
        if self.max_cost_usd is not None and not _is_positive_number(self.max_cost_usd):
            raise InvalidPayload(
                f"max_cost_usd must be a number above 0, got {self.max_cost_usd!r:.100}"
            )
        if self.judge is not None and not _is_agent(self.judge):
            raise InvalidPayload(f"judge must be the name of an agent, got {self.judge!r:.100}")
        if not isinstance(self.transcript, bool):
            raise InvalidPayload(f"transcript must be true or false, got {self.transcript!r:.100}")
        if not isinstance(self.weights, dict):
            raise InvalidPayload(f"weights must be a JSON object, got {self.weights!r:.100}")
        for name, weight in self.weights.items():
            if name not in self.agents:
                raise InvalidPayload(
                    f"weights: {name!r:.100} is not one of the agents",
                    hint=did_you_mean(str(name), self.agents),
                )
            if not _is_positive_number(weight):
                raise InvalidPayload(
                    f"weights: {name} must have a number above 0, got {weight!r:.100}"
                )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateJobPayload:
        """Build a payload from JSON data and validate it.

        Raises:
            InvalidPayload: a field is missing, unknown or breaks a rule.
        """
        known = tuple(attribute.name for attribute in fields(cls))
        for name in data:
            if name not in known:
                raise InvalidPayload(
                    f"unknown field {name!r:.100}; the fields of a debate are {', '.join(known)}",
                    hint=did_you_mean(name, known),
                )
        for name in ("question", "agents"):
            if name not in data:
                raise InvalidPayload(f"field {name} is missing")
        payload = cls(**data)
        payload.validate()
        return payload

    def to_dict(self) -> dict[str, Any]:
        """Return the payload as JSON data, without fields that are None, False or empty."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False and value != {}
        }


@dataclass(frozen=True)
class DebateResult:
    """The result of a debate, as `Job.result` holds it. Read it with `from_dict`.

    Example:
        >>> from aragora_q import DebateResult
        >>> def answer(job) -> str | None:
        ...     return DebateResult.from_dict(job.result).final_answer
    """

    debate_id: str
    """The job's id."""
    consensus_reached: bool
    final_answer: str | None
    """The winning answer; None if there is none."""
    confidence: float
    """Agreement: the share of seats that voted for the final answer, 0 to 1. Not the probability that it
    is right."""
    rounds_used: int
    """Rounds begun."""
    participants: list[str]
    """The agents that were in the debate at its end."""
    duration_seconds: float
    token_usage: dict[str, int] = field(default_factory=dict)
    """Tokens and requests over all attempts, in total and by agent."""
    error: str | None = None
    """The agents that dropped out, and why; None if none did."""
    transcript: list[dict[str, Any]] | None = None
    """If the payload asked for it: `phase`, `round`, `seat`, `agent` and `said` of every answer."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, without the transcript if there is none."""
        data = asdict(self)
        if self.transcript is None:
            del data["transcript"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateResult:
        """Build a result from JSON data, such as `Job.result`."""
        return cls(**data)


def create_debate_job(  # noqa: PLR0913 - the fields of a debate, and of a job
    question: str,
    agents: Sequence[str],
    rounds: int = 3,
    consensus: str = "majority",
    *,
    job_id: str | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    delay_seconds: float = 0.0,
    timeout_seconds: float | None = None,
    max_tokens: int | None = None,
    max_cost_usd: float | None = None,
    judge: str | None = None,
    weights: Mapping[str, float] | None = None,
    transcript: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Job:
    """Return a job that debates `question`. Nothing is sent; pass the job to `JobQueue.enqueue`.

    The fields of the debate are those of `DebateJobPayload`. `job_id`, `priority`, `max_attempts` and
    `delay_seconds` are those of `Job`; `enqueue` checks them. With the same `job_id`, enqueueing again
    changes nothing: the first job is kept.

    Raises:
        InvalidPayload: a field of the debate breaks a rule.

    Example:
        >>> from aragora_q import create_debate_job
        >>> job = create_debate_job("Tea or coffee?", ["claude", "gpt"], rounds=2, priority=1)
        >>> print(job.status, job.payload["rounds"])
        pending 2
    """
    payload = DebateJobPayload(
        question=question,
        agents=agents if isinstance(agents, str) else list(agents),  # type: ignore[arg-type] # validate refuses a str
        rounds=rounds,
        consensus=consensus,
        timeout_seconds=timeout_seconds,
        max_tokens=max_tokens,
        max_cost_usd=max_cost_usd,
        judge=judge,
        weights=dict(weights or {}),
        transcript=transcript,
        metadata=dict(metadata or {}),
    )
    payload.validate()
    return Job(
        payload=payload.to_dict(),
        id=new_job_id() if job_id is None else job_id,
        priority=priority,
        max_attempts=max_attempts,
        delay_seconds=delay_seconds,
    )


MAX_DELAY_SECONDS = 366 * 86_400
MAX_ATTEMPTS_RANGE = (1, 1_000)
PRIORITY_RANGE = (-1_000, 1_000)


def check_job(job: Job) -> None:
    """Raise InvalidPayload if the id, payload, priority, attempts or delay of a job break a rule."""
    if not isinstance(job.id, str) or not JOB_ID_PATTERN.fullmatch(job.id):
        raise InvalidPayload(
            f"invalid job id {job.id!r:.100}: use 1 to {MAX_JOB_ID_CHARS} letters, digits and "
            f"{JOB_ID_PUNCTUATION}, starting with a letter or digit"
        )
    if not isinstance(job.payload, dict):
        raise InvalidPayload(
            f"job {job.id}: payload must be a JSON object, got {job.payload!r:.100}"
        )
    _check_range("priority", job.priority, PRIORITY_RANGE)
    if job.max_attempts is not None:
        _check_range("max_attempts", job.max_attempts, MAX_ATTEMPTS_RANGE)
    if not _is_number(job.delay_seconds) or not 0 <= job.delay_seconds <= MAX_DELAY_SECONDS:
        raise InvalidPayload(
            f"delay_seconds is {job.delay_seconds!r:.100}, must be a number between 0 and {MAX_DELAY_SECONDS}"
        )


def is_timeout(value: object) -> bool:
    """Return True if `value` is a valid time limit of an attempt, in seconds."""
    return _is_number(value) and 0 < value <= MAX_TIMEOUT_SECONDS


def _check_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidPayload(
            f"{name} is {value!r:.100}, must be a whole number from {low} to {high}"
        )


def _is_agent(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.strip()) <= MAX_AGENT_CHARS


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < value < math.inf
