"""The payload and the result of a debate job.

`create_debate_job` validates a payload and builds a `Job` for the queue; the debate executor reads the
payload back with `DebateJobPayload.from_dict`. Must not know queues, Redis or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, dataclass, field, fields
from operator import is_not
from typing import Any

from aragora_q.answer_form import AnswerForm, is_blank
from aragora_q.base import (
    MAX_USD,
    Job,
    new_job_id,
)
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.job_rules import (
    AGENTS_RANGE,
    MAX_AGENT_CHARS,
    MAX_TIMEOUT_SECONDS,
    check_choice,
    check_range,
    is_agent,
    is_id,
    is_positive_number,
    is_timeout,
)

CONSENSUS_MODES = (
    "majority", "supermajority", "unanimous", "weighted", "judge", "synthesis", "any", "none",
)  # fmt: skip
JUDGED = ("judge", "synthesis")
"""The modes that need a judge."""

DEBATE_MODES = ("auto", "always", "never")
RESUME_MODES = ("continue", "strict")
SERVICE_TIERS = ("auto", "default", "flex", "priority")
MAX_QUESTION_CHARS = 20_000
ROUNDS_RANGE = (0, 20)
MAX_TOKENS_RANGE = (1, 1_000_000_000)
MAX_ANSWER_WORDS_RANGE = (20, 5_000)

EXPERIMENT_NOTE = "experiment"
"""The field of `metadata` in which an experiment notes what a debate is in it."""


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
    """1 to 16 names of the configuration's `[agents]` table, or model strings. A name may occur several
    times: each is a separate seat. One agent is asked once: there are no rounds, and no vote."""
    rounds: int = 3
    """At most this many rounds of review and revision, 0 to 20; 0: independent answers are voted on."""
    consensus: str = "majority"
    """`majority`, `supermajority`, `unanimous`, `weighted`, `judge`, `synthesis`, `any` or `none`."""
    answer_form: str | dict[str, Any] = "text"
    """`text`, `choice` (of `options`), `number`, `boolean`, or a JSON schema."""
    options: list[str] = field(default_factory=list)
    """The options of answer form `choice`: 2 to 50 different texts. Refused with another form."""
    debate: str = "auto"
    """`auto`: rounds end when answers agree or a round changes none; `always`: all rounds; `never`: none."""
    escalate: list[str] = field(default_factory=list)
    """Agents that join only if the others disagree."""
    timeout_seconds: float | None = None
    """Seconds of running time, over all attempts. No round begins after 80 %; at the end the votes that
    are there decide."""
    max_tokens: int | None = None
    """Limit of the tokens of all calls, input and output. A phase that does not fit, with the vote after
    it, does not begin."""
    max_cost_usd: float | None = None
    """As `max_tokens`, in US dollars. Refused if the price of an agent is not known."""
    judge: str | None = None
    """The agent that decides with consensus `judge`, or writes the answer with `synthesis`. Required
    there, and refused elsewhere; none of the agents."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of the agents with consensus `weighted`, refused elsewhere; 1 for an agent that is missing."""
    max_answer_words: int = 200
    """Length of an answer that agents are asked for, 20 to 5,000 words."""
    resume: str = "continue"
    """If an interrupted debate continues with other models or settings: `continue` keeps finished calls,
    and the result says so; `strict` asks the changed seats again."""
    transcript: bool = False
    """True: the result includes every reply."""
    service_tier: str | None = None
    """`auto`, `default`, `flex` (half price, slow) or `priority`: the service tier in which agents are asked
    whose provider has it, and whose configuration names none. None: as configured."""
    forked_from: str | None = None
    """The id of the debate in the same queue whose finished calls are taken over where they would be made
    again exactly so: same prompt, agent, model and settings. They cost nothing here."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON data of the client, kept with the job and not used."""

    def validate(self) -> None:
        """Check every field.

        Raises:
            InvalidPayload: names the field, its value and the rule.
        """
        _check_first(self.question, self.agents, self.rounds, self.consensus)
        if self.timeout_seconds is not None and not is_timeout(self.timeout_seconds):
            raise InvalidPayload(
                f"timeout_seconds must be a number above 0 and at most {MAX_TIMEOUT_SECONDS}, "
                f"got {self.timeout_seconds!r:.100}"
            )
        if not isinstance(self.metadata, dict):
            raise InvalidPayload(f"metadata must be a JSON object, got {self.metadata!r:.100}")
        if self.forked_from is not None and not is_id(self.forked_from):
            raise InvalidPayload(
                f"forked_from must be the id of a debate, got {self.forked_from!r:.100}"
            )
        self._validate_rounds()
        self._validate_vote()

    def _validate_rounds(self) -> None:
        form = AnswerForm.parse(self.answer_form, self.options)
        if self.consensus == "synthesis" and form.is_closed:
            raise InvalidPayload("consensus synthesis requires answer_form text")
        check_choice("debate", self.debate, DEBATE_MODES)
        check_choice("resume", self.resume, RESUME_MODES)
        if self.service_tier is not None:
            check_choice("service_tier", self.service_tier, SERVICE_TIERS)
        check_range("max_answer_words", self.max_answer_words, MAX_ANSWER_WORDS_RANGE)
        if not isinstance(self.escalate, list) or not all(map(is_agent, self.escalate)):
            raise InvalidPayload(
                f"escalate must be a list of names of agents, got {self.escalate!r:.200}"
            )
        if self.escalate:
            if len(self.agents) == 1:
                raise InvalidPayload(
                    "escalate requires two agents: one has no other to disagree with"
                )
            check_range(
                "number of agents with escalate",
                self.max_seats,
                AGENTS_RANGE,
            )
            if self.max_rounds == 0:
                raise InvalidPayload(
                    "escalate requires a round: rounds must be above 0, and debate not never"
                )

    @property
    def all_agents(self) -> list[str]:
        """All names of agents that may be asked: `agents`, `escalate`, and the judge as the last one."""
        return [*self.agents, *self.escalate, *([self.judge] if self.judge else [])]

    @property
    def max_seats(self) -> int:
        """The number of seats if those of `escalate` join; a judge is not a seat."""
        return len(self.agents) + len(self.escalate)

    @property
    def is_single(self) -> bool:
        """True if there is one answer only: nothing to review, to vote on, or to judge."""
        return self.max_seats == 1

    @property
    def max_rounds(self) -> int:
        """The number of rounds at most: none if `debate` is `never`, or for one agent."""
        return 0 if self.debate == "never" or self.is_single else self.rounds

    @property
    def has_budget(self) -> bool:
        """True if tokens or cost are limited."""
        return self.max_tokens is not None or self.max_cost_usd is not None

    def _validate_vote(self) -> None:
        if self.max_tokens is not None:
            check_range("max_tokens", self.max_tokens, MAX_TOKENS_RANGE)
        usd = self.max_cost_usd
        if usd is not None and not (is_positive_number(usd) and usd <= MAX_USD):
            raise InvalidPayload(
                f"max_cost_usd must be a number above 0 and at most {MAX_USD:,}, got {usd!r:.100}"
            )
        self._validate_judge()
        if not isinstance(self.transcript, bool):
            raise InvalidPayload(f"transcript must be true or false, got {self.transcript!r:.100}")
        self._validate_weights()

    def _validate_judge(self) -> None:
        if self.judge is not None and not is_agent(self.judge):
            raise InvalidPayload(f"judge must be the name of an agent, got {self.judge!r:.100}")
        if self.consensus in JUDGED:
            if self.judge is None:
                raise InvalidPayload(
                    f"consensus {self.consensus} requires a judge",
                    hint="name an agent that is none of the agents",
                )
            if self.judge in (*self.agents, *self.escalate):
                raise InvalidPayload(
                    f"judge {self.judge!r:.100} is one of the agents, and must not judge its own answer"
                )
        elif self.judge is not None:
            raise InvalidPayload(
                f"judge requires consensus judge or synthesis, not {self.consensus}"
            )

    def _validate_weights(self) -> None:
        if not isinstance(self.weights, dict):
            raise InvalidPayload(f"weights must be a JSON object, got {self.weights!r:.100}")
        for name, weight in self.weights.items():
            if name not in (*self.agents, *self.escalate):
                raise InvalidPayload(
                    f"weights: {name!r:.100} is not one of the agents",
                    hint=did_you_mean(str(name), self.agents),
                )
            if not is_positive_number(weight):
                raise InvalidPayload(
                    f"weights: {name} must have a number above 0, got {weight!r:.100}"
                )
        if self.weights and self.consensus != "weighted":
            raise InvalidPayload(f"weights require consensus weighted, not {self.consensus}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateJobPayload:
        """Build a payload from JSON data and validate it.

        Raises:
            InvalidPayload: a field is missing, unknown or breaks a rule.
        """
        if not _DEFAULTS.keys() >= data.keys():
            name = next(name for name in data if name not in _DEFAULTS)
            raise InvalidPayload(
                f"unknown field {name!r:.100}; the fields of a debate are {', '.join(_DEFAULTS)}",
                hint=did_you_mean(name, tuple(_DEFAULTS)),
            )
        for name in ("question", "agents"):
            if name not in data:
                raise InvalidPayload(f"field {name} is missing")
        fresh = {name: make() for name, make in _FACTORIES.items()}
        payload = _payload({**_DEFAULTS, **fresh, **data})
        payload.validate()
        return payload

    def to_dict(self) -> dict[str, Any]:
        """Return the payload as JSON data: the first four fields, and others that are not at their default.

        Changing it later does not change the payload, nor the other way round.

        Raises:
            InvalidPayload: a field is nested too deeply, or contains itself.
        """
        try:
            return {
                name: _copied(value)
                for name, value in vars(self).items()
                if name in _FIRST or value != _DEFAULTS[name]
            }
        except RecursionError:
            raise InvalidPayload("a field of the debate is nested too deeply") from None


_DEFAULTS: Mapping[str, Any] = {
    each.name: each.default if each.default_factory is MISSING else each.default_factory()
    for each in fields(DebateJobPayload)
}
"""The default of each field, in their order; MISSING for one that has none."""

_FACTORIES: Mapping[str, Callable[[], Any]] = {
    each.name: each.default_factory
    for each in fields(DebateJobPayload)
    if each.default_factory is not MISSING
}
"""What makes the default of a field that no two payloads may share."""

_FIRST = {name: _DEFAULTS[name] for name in ("question", "agents", "rounds", "consensus")}
"""The default of each field that is always sent; most debates have no other one."""

_ATOMS = frozenset((str, int, float, bool, type(None)))


def checked_payload(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `DebateJobPayload.from_dict(data).to_dict()` does: for most debates in a third of the time.

    The list `agents` may be that of `data`.
    """
    payload = {**_FIRST, **data}
    has_others = len(payload) > len(_FIRST) or MISSING in payload.values()
    if has_others or payload["consensus"] in JUDGED:
        return DebateJobPayload.from_dict(data).to_dict()
    _check_first(**payload)
    return payload


def _check_first(question: object, agents: Any, rounds: Any, consensus: object) -> None:
    """Check the fields of _FIRST. Raises InvalidPayload."""
    if not isinstance(question, str):
        raise InvalidPayload(f"question must be a text, got {question!r:.100}")
    if is_blank(question):
        raise InvalidPayload("question is empty", hint="pass the question that the agents debate")
    if len(question) > MAX_QUESTION_CHARS:
        raise InvalidPayload(
            f"question has {len(question)} characters, at most {MAX_QUESTION_CHARS} are allowed"
        )
    if not isinstance(agents, list) or not all(map(is_agent, agents)):
        raise InvalidPayload(
            f"agents must be a list of names of 1 to {MAX_AGENT_CHARS} characters, got {agents!r:.200}"
        )
    check_range("number of agents", len(agents), AGENTS_RANGE)
    check_range("rounds", rounds, ROUNDS_RANGE)
    check_choice("consensus", consensus, CONSENSUS_MODES)


def _copied(value: Any) -> Any:
    """Return a deep copy. For JSON data, it takes a tenth of the time of `deepcopy`, or of `asdict`."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [*map(_copied, value)]
    if kind is dict:
        return {name: _copied(part) for name, part in value.items()}
    return deepcopy(value)


@dataclass(frozen=True)
class DebateResult:
    """The result of a debate, as `Job.result` holds it. Read it with `from_dict`.

    `consensus_reached`, `confidence` and `verdict` follow from `votes` and `groups` alone;
    `docs/debates.md` says how to recount them.

    Example:
        >>> from aragora_q import DebateResult
        >>> def answer(job) -> str | None:
        ...     return DebateResult.from_dict(job.result).final_answer
    """

    debate_id: str
    """The job's id."""
    consensus_reached: bool
    final_answer: str | None
    """The winning answer as text: the verdict, and in text form its reasons; None if there is none."""
    confidence: float
    """Agreement: the share of all seats (in mode `weighted`: of their weight) that voted for the verdict, 0
    to 1. Seats that dropped out or abstained count. Not the probability that the verdict is right."""
    rounds_used: int
    """Rounds begun."""
    participants: list[str]
    """The agents that were in the debate at its end."""
    duration_seconds: float
    """Running time over all attempts, without waits between them."""
    token_usage: dict[str, int] = field(default_factory=dict)
    """Tokens and calls over all attempts, in total and by agent, also of calls that brought no reply."""
    error: str | None = None
    """What went wrong: seats that dropped out and why, abstentions, agents that were replaced, models that
    changed; None if nothing."""
    verdict: Any = None
    """The winning verdict: a text, option, number, boolean or JSON value; None if there is none."""
    reasons: str | None = None
    """The reasons of the best-liked answer with that verdict."""
    decided_by: str | None = None
    """`votes`, `judge`, or None if nothing was decided."""
    written_by: str | None = None
    """The agent that wrote `final_answer` from all answers, with consensus `synthesis`; else None."""
    ended_by: str | None = None
    """Why no further round began: `rounds`, `agreement`, `unchanged`, `max_tokens`, `max_cost`, `timeout`,
    `journal_full`; None: the job failed before the rounds were over."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """The different verdicts: `verdict`, `seats` that hold it at the end, and its `share` of the votes.
    A tie goes to the verdict with the higher sum of its voters' confidence, then to the earlier one."""
    votes: list[dict[str, Any]] = field(default_factory=list)
    """One per seat that joined: `seat`, `agent`, `model`, `group` (an index of `groups`; None: abstained or
    dropped out), `confidence` (0 to 100 or None), `weight`, `self` (for its own answer), `implied` (known
    without asking), `reason`; and of its ballot, None without one: `answers` (how many it chose from),
    `place` (of its choice in the order in which it saw them, from 1), `label` (the place of its choice's
    label in alphabetical order, from 1)."""
    by_model: dict[str, Any] = field(default_factory=dict)
    """The vote with one voice per model: `models`, `consensus_reached`, `confidence`, `verdict`."""
    abstentions: int = 0
    """Seats in the debate at its end that backed no answer."""
    first_votes: list[dict[str, Any]] = field(default_factory=list)
    """The independent answers, before the debate: `seat` and `verdict`."""
    changed: list[dict[str, Any]] = field(default_factory=list)
    """Seats that changed their verdict: `seat`, `before` and `after`."""
    dissent: list[dict[str, Any]] = field(default_factory=list)
    """Other verdicts that seats hold or voted for: `verdict`, `seats`, `voters`, `reasons`."""
    flags: list[dict[str, Any]] = field(default_factory=list)
    """Answers that address the voters or imitate the debate's own marks: `seat`, `phase`, `round`, `why`."""
    seats: list[dict[str, Any]] = field(default_factory=list)
    """One per seat, judge included: `seat`, `agent`, `model`, `settings` (of the agent, those that are not at
    their default; without address and key), `service_tier` (asked for; None: the provider's default),
    `served_in` (the tiers in which the provider says that it served), `answered_by` (models that replied),
    `fallbacks` (who replied in place of the agent: `agent`, `calls`, `why`), `dropped` (why, or None), `calls`
    (without a reply, too), `input_tokens`, `output_tokens`, `cached_tokens`, `cost_usd` (None: unknown),
    `unpriced_calls`, `taken_over` (replies of another debate), `seconds` (of all calls, without waits at
    gates), `median_seconds` (of those with a reply; None if there is none), `cut` (replies cut at a limit)."""
    cost_usd: float | None = None
    """Price of all calls with a known price; None if no call has one."""
    quote_usd: float | None = None
    """What the debate was expected to cost before its first call; None if a price was not known."""
    unpriced_calls: int = 0
    """Calls whose price is not known, such as those that were cut off."""
    forked_from: str | None = None
    """The debate whose finished calls were taken over; None if it began without."""
    taken_over: int = 0
    """Replies that were taken over from it: they cost nothing here, and are in no count of calls or tokens."""
    degraded: bool = False
    """True if a fallback answered for an agent, or a seat dropped out."""
    problems: list[dict[str, str]] = field(default_factory=list)
    """What `error` says, one row each: `code`, such as `dropped` or `fallback`, and `text`."""
    record: dict[str, Any] = field(default_factory=dict)
    """What was asked of whom: `version`, `prompt_version`, `settings`, `price_list`, `started_at` (Unix
    seconds), `nonce`, `labels`."""
    transcript: list[dict[str, Any]] | None = None
    """If the payload asked for it: `phase`, `round`, `seat`, `agent` and `said` of every reply."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, without the transcript if there is none."""
        data = asdict(self)
        if self.transcript is None:
            del data["transcript"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DebateResult:
        """Build a result from JSON data, such as `Job.result`. Fields that this version does not know are
        ignored.
        """
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


def create_debate_job(  # noqa: PLR0913 - the fields of a debate, and of a job
    question: str,
    agents: Sequence[str],
    rounds: int = 3,
    consensus: str = "majority",
    *,
    answer_form: str | Mapping[str, Any] = "text",
    options: Sequence[str] | None = None,
    debate: str = "auto",
    escalate: Sequence[str] | None = None,
    job_id: str | None = None,
    priority: int = 0,
    max_attempts: int | None = None,
    delay_seconds: float = 0.0,
    group: str | None = None,
    tenant: str | None = None,
    tags: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    max_tokens: int | None = None,
    max_cost_usd: float | None = None,
    judge: str | None = None,
    weights: Mapping[str, float] | None = None,
    max_answer_words: int = 200,
    resume: str = "continue",
    transcript: bool = False,
    service_tier: str | None = None,
    forked_from: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Job:
    """Return a job that debates `question`. Nothing is sent; pass the job to `JobQueue.enqueue`.

    The fields of the debate are those of `DebateJobPayload`. `job_id`, `priority`, `max_attempts`,
    `delay_seconds`, `group`, `tenant` and `tags` are those of `Job`; `enqueue` checks them. With the same
    `job_id`, enqueueing again changes nothing: the first job is kept.

    Raises:
        InvalidPayload: a field of the debate breaks a rule.

    Example:
        >>> from aragora_q import create_debate_job
        >>> job = create_debate_job("Tea or coffee?", ["claude", "gpt"], rounds=2, priority=1)
        >>> print(job.status, job.payload["rounds"])
        pending 2
    """
    fields = {
        "question": question,
        "agents": _as_list(agents),
        "rounds": rounds,
        "consensus": consensus,
    }
    others = {
        "answer_form": answer_form,
        "options": options,
        "debate": debate,
        "escalate": escalate,
        "timeout_seconds": timeout_seconds,
        "max_tokens": max_tokens,
        "max_cost_usd": max_cost_usd,
        "judge": judge,
        "weights": weights,
        "max_answer_words": max_answer_words,
        "resume": resume,
        "transcript": transcript,
        "service_tier": service_tier,
        "forked_from": forked_from,
        "metadata": metadata,
    }
    if any(map(is_not, others.values(), _OTHER_DEFAULTS)):
        fields |= others
        fields |= {
            "answer_form": _as_dict(answer_form),
            "options": _as_list([] if options is None else options),
            "escalate": _as_list([] if escalate is None else escalate),
            "weights": _as_dict(weights or {}),
            "metadata": _as_dict(metadata or {}),
        }
    return Job(
        payload=checked_payload(fields),
        id=new_job_id() if job_id is None else job_id,
        priority=priority,
        max_attempts=max_attempts,
        delay_seconds=delay_seconds,
        group=group,
        tenant=tenant,
        tags=_as_dict(tags) if tags else {},
    )


_OTHER_DEFAULTS = [
    (create_debate_job.__kwdefaults__ or {})[name] for name in _DEFAULTS if name not in _FIRST
]


def _payload(values: dict[str, Any]) -> DebateJobPayload:
    """Return a payload with these values of all fields.

    As `DebateJobPayload(**values)`, in a third of the time: a frozen class sets one field after the other.
    """
    payload = object.__new__(DebateJobPayload)
    object.__setattr__(payload, "__dict__", values)
    return payload


def _as_list(names: Any) -> Any:
    """Return texts as a list; a single text, or anything else, as it is, which `validate` refuses."""
    is_list = type(names) is list or (
        hasattr(names, "__iter__") and not isinstance(names, str | Mapping)
    )
    return list(names) if is_list else names


def _as_dict(data: Any) -> Any:
    """Return a mapping as a dict; anything else as it is, for `validate` to judge."""
    return dict(data) if isinstance(data, Mapping) else data
