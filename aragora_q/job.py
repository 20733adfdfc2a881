"""A debate as a job: what a client asks for, and what it gets back.

`create_debate_job` validates and builds the `Job` that a queue takes; the debate executor reads it
back with `DebateJobPayload.from_dict`. Knows nothing of queues, Redis or models.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeGuard

from aragora_q.base import JOB_ID_PATTERN, Job, new_job_id
from aragora_q.errors import InvalidPayload

CONSENSUS_MODES = ("majority", "supermajority", "unanimous", "weighted", "judge", "any", "none")
MAX_QUESTION_CHARS = 20_000
AGENTS_RANGE = (2, 16)
ROUNDS_RANGE = (0, 20)
MAX_AGENT_CHARS = 200
MAX_TIMEOUT_SECONDS = 30 * 86_400
MAX_TOKENS_RANGE = (1, 1_000_000_000)


@dataclass(frozen=True)
class DebateJobPayload:
    """What a debate is asked to do. `validate` tells whether it can.

    `agents` are names from the configuration's `[agents]` table or model strings; the same agent
    may sit twice. `rounds` 0 is a plain vote on independent answers. `timeout_seconds` bounds the
    debate from the start of its first attempt: at 80 % of it no new round begins. `max_tokens` is a
    budget of tokens, input and output, `max_cost_usd` one of money, as far as prices are known: no
    round begins that, with the vote after it, would not fit.
    `judge` is the agent that decides in consensus mode `judge` (default: the first one), `weights`
    are the agents' in mode `weighted` (default 1). `transcript` asks for all that was said.
    `metadata` travels with the job untouched.
    """

    question: str
    agents: list[str]
    rounds: int = 3
    consensus: str = "majority"
    timeout_seconds: float | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    judge: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    transcript: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise InvalidPayload, naming field, value and rule, unless every field is sound."""
        if not isinstance(self.question, str) or not self.question.strip():
            raise InvalidPayload("question is empty", hint="give the debate something to settle")
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
                hint=_did_you_mean(str(self.consensus), CONSENSUS_MODES),
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
                    f"weights: {name!r:.100} is none of the agents",
                    hint=_did_you_mean(str(name), self.agents),
                )
            if not _is_positive_number(weight):
                raise InvalidPayload(f"weights: {name} has {weight!r:.100}, not a number above 0")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateJobPayload:
        """Build and validate from JSON data. Raises InvalidPayload, also for unknown fields."""
        known = tuple(each.name for each in fields(cls))
        for name in data:
            if name not in known:
                raise InvalidPayload(
                    f"unknown field {name!r:.100}, a debate has {', '.join(known)}",
                    hint=_did_you_mean(name, known),
                )
        for name in ("question", "agents"):
            if name not in data:
                raise InvalidPayload(f"{name} is missing")
        payload = cls(**data)
        payload.validate()
        return payload

    def to_dict(self) -> dict[str, Any]:
        """The payload as JSON data, without fields that hold nothing."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value is not False and value != {}
        }


@dataclass(frozen=True)
class DebateResult:
    """How a debate ended.

    `confidence` is agreement, the share of seats behind the final answer (0 to 1), not the
    probability that it is right. `rounds_used` counts rounds begun. `participants` are the agents
    still in the debate at its end; `error` names those that dropped out, and why. `token_usage`
    counts tokens and requests over all attempts, in all and per agent. `transcript`, where asked
    for, is a list of `phase`, `round`, `seat`, `agent` and what was `said`.
    """

    debate_id: str
    consensus_reached: bool
    final_answer: str | None
    confidence: float
    rounds_used: int
    participants: list[str]
    duration_seconds: float
    token_usage: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    transcript: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data, without a transcript that nobody asked for."""
        data = asdict(self)
        if self.transcript is None:
            del data["transcript"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateResult:
        """Read a result back, as `Job.result` holds it."""
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
    """A job that debates `question`. Raises InvalidPayload for anything a queue would refuse.

    With a `job_id` of your own, enqueueing again changes nothing: the first one stands.
    """
    payload = DebateJobPayload(
        question=question,
        agents=agents if isinstance(agents, str) else list(agents),  # type: ignore[arg-type] # validate says so
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
    job = Job(
        payload=payload.to_dict(),
        id=new_job_id() if job_id is None else job_id,
        priority=priority,
        max_attempts=max_attempts,
        delay_seconds=delay_seconds,
    )
    check_job(job)
    return job


MAX_DELAY_SECONDS = 366 * 86_400
MAX_ATTEMPTS_RANGE = (1, 1_000)
PRIORITY_RANGE = (-1_000, 1_000)


def check_job(job: Job) -> None:
    """Raise InvalidPayload unless id, priority, attempts and delay are what a queue can take."""
    if not isinstance(job.id, str) or not JOB_ID_PATTERN.fullmatch(job.id):
        raise InvalidPayload(
            f"job id {job.id!r:.100} is not 1 to 64 of letters, digits and ._@=+-, a letter or digit first"
        )
    _check_range("priority", job.priority, PRIORITY_RANGE)
    if job.max_attempts is not None:
        _check_range("max_attempts", job.max_attempts, MAX_ATTEMPTS_RANGE)
    if not _is_number(job.delay_seconds) or not 0 <= job.delay_seconds <= MAX_DELAY_SECONDS:
        raise InvalidPayload(
            f"delay_seconds is {job.delay_seconds!r:.100}, must be a number between 0 and {MAX_DELAY_SECONDS}"
        )


def is_timeout(value: object) -> bool:
    """Whether `value` is a number of seconds that an attempt may last."""
    return _is_number(value) and 0 < value <= MAX_TIMEOUT_SECONDS


def _check_range(name: str, value: int, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidPayload(
            f"{name}: {value!r:.100} is not a whole number between {low} and {high}"
        )


def _is_agent(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.strip()) <= MAX_AGENT_CHARS


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < value < math.inf


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
