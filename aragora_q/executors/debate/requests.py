"""What a debate asks of an agent, and the agent's reply.

The protocol creates requests. Agents answer them with text: a language model with the help of
`prompts.py`, a demo agent by fixed rules. `replies.py` judges the text. Answers of the seats appear under
labels, so an agent does not learn who wrote which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aragora_q.answer_form import AnswerForm
from aragora_q.context import CallOutcome
from aragora_q.errors import AragoraQError, PermanentError
from aragora_q.executors.debate.journal import MAX_BYTES
from aragora_q.job import DebateJobPayload

if TYPE_CHECKING:
    from aragora_q.executors.debate.prices import Price

CHARS_PER_WORD = 7
"""To ask for a number of words where the limit is in characters."""
MAX_CHARS_PER_WORD = 40
"""Characters kept per word that was asked for: an answer is cut only far beyond its length."""

MAX_BYTES_PER_CHAR = 4
POINTS_CHARS = 700
POINTS_CHARS_PER_ANSWER = 250

MIN_PREFIX_TOKENS = 1_024
"""Providers' caches keep no shorter beginning of a prompt."""
PREFIX_FRAME_TOKENS = 300
"""What instructions and form add to a question where they begin all prompts, about."""
BYTES_PER_TOKEN = 4
"""Of usual text, about: only to estimate. `prompts.MIN_BYTES_PER_TOKEN` makes bounds."""

SHARED = "reply"
"""Name of the form that all calls of a debate may share, and of its only field."""

LARGER = 4
"""Factor of an agent's output limit for a reply that was cut."""
MAX_LARGER_TOKENS = 64_000
"""Output limit that LARGER does not exceed, unless the agent's does."""


def larger_output(max_tokens: int) -> int:
    """Return the output limit for a reply that was cut at `max_tokens`."""
    return max(max_tokens, min(max_tokens * LARGER, MAX_LARGER_TOKENS))


@dataclass(frozen=True)
class Topic:
    """What all requests of a debate share."""

    question: str
    form: AnswerForm = field(default_factory=AnswerForm)
    """The form of the seats' verdicts."""
    nonce: str = "0"
    """Part of all tags in prompts; no text of the debate contains it."""
    max_words: int = 200
    """Length of an answer that agents are asked for."""
    max_answer_chars: int = 8_000
    """Length at which the reasons of an answer are cut."""
    max_points_chars: int = 700
    """Length at which a review is cut."""
    shares_prefix: bool = False
    """True if the calls of the debate begin alike, for as many tokens as providers' caches keep."""

    @property
    def max_points_words(self) -> int:
        """How many words a review is asked to have at most."""
        return self.max_points_chars // CHARS_PER_WORD

    @classmethod
    def of(cls, payload: DebateJobPayload, nonce: str) -> Topic:
        """Return the topic of a debate. Its journal has room for all answers at the length allowed here."""
        seats = payload.max_seats
        reviews = seats * payload.max_rounds
        room = MAX_BYTES // MAX_BYTES_PER_CHAR
        points = max(POINTS_CHARS, POINTS_CHARS_PER_ANSWER * (seats - 1))
        form = AnswerForm.parse(payload.answer_form, payload.options)
        return cls(
            payload.question,
            form,
            nonce,
            payload.max_answer_words,
            max_answer_chars=min(
                payload.max_answer_words * MAX_CHARS_PER_WORD, room * 2 // 3 // (seats + reviews)
            ),
            max_points_chars=min(points, room // 3 // max(reviews, 1)),
            shares_prefix=_shares_prefix(payload, form),
        )


def _shares_prefix(payload: DebateJobPayload, form: AnswerForm) -> bool:
    """Return True if the question is long enough, and an agent is asked more than once."""
    votes = not (form.is_closed or payload.consensus == "none" or payload.is_single)
    is_asked_again = payload.max_rounds > 0 or votes or len({*payload.agents}) < len(payload.agents)
    material = "".join([payload.question, *form.options, json.dumps(form.schema)])
    tokens = len(material.encode(errors="replace")) // BYTES_PER_TOKEN + PREFIX_FRAME_TOKENS
    return is_asked_again and tokens >= MIN_PREFIX_TOKENS


@dataclass(frozen=True)
class Answer:
    """A seat's answer: a verdict in the form of the topic, and the reasons for it."""

    verdict: Any
    reasons: str = ""

    def text(self, form: AnswerForm) -> str:
        """Return the verdict and the reasons as one text."""
        verdict = form.text(self.verdict)
        return f"{verdict}\n\n{self.reasons}" if self.reasons else verdict


@dataclass(frozen=True)
class Propose:
    """Answer the question independently. Reply: `answer`, `reasons`."""

    topic: Topic


@dataclass(frozen=True)
class Review:
    """Review the answers, of text form. Reply: `points`, `best` (a label or None), `stop`, `same_as`.

    `stop`: no further round is useful. `same_as`: lists of labels whose answers come to the same.
    """

    topic: Topic
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Revise:
    """Keep or change your own answer, labeled `own`, in view of `reviews`.

    Reply: `answer`, `reasons`, `changed`. `changed` is False if the answer comes to the same as before.
    """

    topic: Topic
    answers: Mapping[str, Answer]
    own: str
    reviews: Sequence[str]


@dataclass(frozen=True)
class Discuss:
    """Review the answers, of a closed form, and answer again: a round in one call.

    `reviews` are those of the round before. Reply: `points`, `best` (a label or None), `stop`, `answer`,
    `reasons`.
    """

    topic: Topic
    answers: Mapping[str, Answer]
    own: str
    reviews: Sequence[str]


@dataclass(frozen=True)
class Vote:
    """Choose the best answer. Reply: `reason`, `choice` (a label), `confidence` (0 to 100), `same_as`."""

    topic: Topic
    answers: Mapping[str, Answer]
    as_judge: bool = False


@dataclass(frozen=True)
class Synthesize:
    """Write one answer from all answers and the votes for them. Reply: `text`."""

    topic: Topic
    answers: Mapping[str, Answer]
    votes: Mapping[str, int]
    """Number of votes by label."""
    winner: str
    """The label of the answer that won the vote."""


AgentRequest = Propose | Review | Revise | Discuss | Vote | Synthesize


@dataclass(frozen=True)
class Manner:
    """How to ask: what the debate has learned about an agent or from the reply before."""

    prompted: bool = False
    """Ask for JSON in words, because the provider ignores schemas."""
    repair: str = ""
    """Why the reply before was not usable; the request is repeated with this remark after it."""
    larger: bool = False
    """Allow a longer reply than usual, because the one before was cut."""
    other_way: Any = None
    """How to send the request instead, from the `CallFault` of the one before."""


PLAIN = Manner()


@dataclass(frozen=True)
class Reply:
    """What an agent said, and what it cost. The text is not judged yet."""

    text: str
    """JSON of the form that the request describes, or whatever else was said."""
    is_cut: bool = False
    """True: the text ends where a token limit did."""
    is_form_enforced: bool = True
    """False: the form was not enforced by the provider, but asked for in words, or not at all."""
    refused: PermanentError | None = None
    """The model refused, or its provider filtered the reply: the seat drops out, even if there is text."""
    model: str = ""
    """The model that answered, as the provider names it."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that came from the provider's cache."""
    cost_usd: float | None = None
    """None: the price is not known."""
    service_tier: str = ""
    """The tier in which the provider says that it served; blank if it does not say."""


class CallFault(Exception):
    """A request that brought no reply: what that means for the debate, and what it took."""

    def __init__(
        self,
        error: AragoraQError,
        outcome: CallOutcome,
        *,
        model: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        cost_usd: float | None = None,
        retry_after_seconds: float | None = None,
        other_way: Any = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.outcome = outcome
        self.model = model
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = cached_tokens
        self.cost_usd = cost_usd
        """None: unknown, as when a reply was cut off; 0: the provider refused the request."""
        self.retry_after_seconds = retry_after_seconds
        self.other_way = other_way
        """For `Manner.other_way` if the provider may take the request in another way; None: `error` counts."""


class Agent(Protocol):
    """A participant that answers requests."""

    name: str
    model: str
    """The configured model, such as `anthropic:claude-sonnet-5-5` or `demo:bold`."""
    settings: str
    """A digest of everything else that is configured and may change replies, such as the server."""
    own_settings: Mapping[str, Any]
    """Settings that are not at their default, such as `effort`; never an address or a key."""
    provider: str
    account: str
    """What shares the provider's limits: a provider, its address and an API key; without the key itself."""
    price: Price | None
    """None: unknown."""
    max_output_tokens: int
    """The limit of a reply, thinking included."""
    larger_output_tokens: int
    """The output limit if `Manner.larger` is set; equal to `max_output_tokens` if it cannot be raised."""
    call_timeout_seconds: float

    def max_input_tokens(self, request: AgentRequest, manner: Manner = PLAIN) -> int:
        """Return how many tokens of input `request` can become, the form included."""

    def digest(self, request: AgentRequest) -> str:
        """Return a digest of the exact prompt and form that `request` becomes, at PLAIN manner."""

    async def reply(
        self,
        request: AgentRequest,
        manner: Manner = PLAIN,
        max_output_tokens: int | None = None,
    ) -> Reply:
        """Answer one request, with exactly one request to the provider.

        `max_output_tokens` lowers the limit of the reply.

        Raises:
            CallFault: the call failed. Its `error` is one of these:
                PermanentError: asking again cannot help. The agent drops out of the debate.
                GateClosed: the service tier has no capacity. The attempt waits, for as long as it takes.
                RetryLater: the provider is overloaded, or named a time to wait. The attempt is retried
                    after it, uncharged; `delay_seconds` is 0 if the provider named no time.
                HoldJob: the provider's account has no credit. The job is held.
                AgentUnavailable: a fault that may be temporary. The attempt is retried.
                WorkerUnable: this process cannot send. The job is released.

        """
