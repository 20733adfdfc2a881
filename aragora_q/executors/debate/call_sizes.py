"""What a call of a debate takes: as the calls of finished debates did; what they do not show is assumed.

Used by `estimate.py`. The more calls of its kind are known, the less is assumed. Must not know which calls a
debate makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from aragora_q.context import MAX_CALL_SECONDS
from aragora_q.executors.debate.quote import MAX_TRIES, Terms
from aragora_q.executors.debate.requests import BYTES_PER_TOKEN, Topic
from aragora_q.history import CallHistory, CallKind, CallSums

Level = Literal["least", "expected", "most"]

BYTES_PER_WORD = 6
REASON_WORDS = 25
"""Length of the reason of a vote."""
REPLY_TOKENS = 30
"""The rest of a reply: names of fields, labels, numbers."""

INPUT_SHARE: Mapping[Level, float] = {"least": 1 / 3, "expected": 1 / 2, "most": 1.0}
"""Part of the highest input that is assumed: it counts 2 bytes per token, so a half is 4 bytes."""
LENGTH: Mapping[Level, float] = {"least": 1 / 4, "expected": 1.0, "most": 2.0}
"""Length of an answer or a review that is assumed, as a multiple of what is asked for."""
DEVIATIONS: Mapping[Level, int] = {"least": -2, "expected": 0, "most": 2}
"""Standard deviations between the mean of known calls and a level."""
LEAST_SHARE = 0.1
"""Part of a mean below which no level is, however much calls differ."""

ASSUMED_CALLS = 3
"""How many known calls an assumption weighs as much as."""


class Size(NamedTuple):
    """What one request to an agent takes. Tokens and seconds are those of each of its calls."""

    calls: float
    output_tokens: float
    input_share: float
    """Part of the highest input."""
    cached_share: float
    """Part of the input that comes from the provider's cache."""
    answer_bytes: float
    """Length of the answer as other seats see it."""
    points_bytes: float
    """Length of the review as other seats see it."""
    seconds: float | None
    """None: nothing is known."""
    seconds_deviation: float


class _Known(NamedTuple):
    """What all known calls of a model have in common."""

    calls: float
    output_factor: float
    """Their output, as a multiple of what would be assumed."""
    input_share: float
    token_seconds: Mapping[str, float]
    """Seconds per token of output, by service tier."""


class CallSizes:
    """What the calls of a debate take, at one level."""

    def __init__(self, topic: Topic, history: CallHistory, level: Level) -> None:
        self.used: set[CallKind] = set()
        """The kinds of known calls that were used."""
        self._topic = topic
        self._history = history
        self._level = level
        self._models: dict[tuple[str, int], _Known] = {}

    def is_known(self, terms: Terms) -> bool:
        """Return True if history has calls of the agent's model, in any phase and tier."""
        return self._model(terms).calls > 0

    def of(self, terms: Terms, phase: str) -> Size:
        """Return what a request of a phase to an agent takes."""
        level, topic = self._level, self._topic
        kind = CallKind(terms.model, terms.service_tier or "", phase)
        known, model = self._history.calls.get(kind, CallSums()), self._model(terms)
        if known.calls:
            self.used.add(kind)
        words = words_asked(topic, phase)
        known_words = _ratio(known.words, known.requests) or words
        # Replies that are asked to be longer than those of history are as much longer.
        growth = _expected_output(terms, words) / _expected_output(terms, known_words)
        output, deviation = _mean_and_deviation(
            known.output_tokens, known.output_squares, known.calls
        )
        spread = max(LEAST_SHARE, 1 + DEVIATIONS[level] * _ratio(deviation, output))
        output_tokens = _blend(
            self._assumed_output(terms, words, model), output * growth * spread, known.calls
        )
        input_share = _blend(
            _blend(INPUT_SHARE[level], model.input_share, model.calls),
            _ratio(known.input_tokens, known.max_input_tokens),
            known.calls,
        )
        cached_share = _blend(0.0, self._cached_share(known), known.calls)
        repeats = max(0.0, _ratio(known.calls, known.requests) - 1) * (1 + DEVIATIONS[level] / 2)
        # Within what is possible, also if another program wrote to the history.
        calls = min(1 + _blend(0.0, repeats, known.calls), MAX_TRIES)
        most_output = (terms.max_output_tokens + (calls - 1) * terms.larger_output_tokens) / calls

        def length(asked: int, measured: float) -> float:
            assumed = asked * BYTES_PER_WORD * LENGTH[level]
            text = _ratio(measured, known.requests) * spread * words / known_words
            return _blend(assumed, text, known.requests)

        seconds, seconds_deviation = _mean_and_deviation(
            known.seconds, known.seconds_squares, known.calls
        )
        token_seconds = model.token_seconds.get(kind.service_tier)
        if not known.calls and token_seconds is not None:
            seconds = output_tokens * token_seconds
        return Size(
            calls=calls,
            output_tokens=min(output_tokens, most_output),
            input_share=min(input_share, 1.0),
            cached_share=0.0 if level == "most" else min(cached_share, 1.0),
            answer_bytes=length(topic.max_words, known.answer_bytes),
            points_bytes=length(topic.max_points_words, known.points_bytes),
            seconds=None if token_seconds is None else min(seconds * growth, MAX_CALL_SECONDS),
            seconds_deviation=min(seconds_deviation * growth, MAX_CALL_SECONDS),
        )

    def _cached_share(self, known: CallSums) -> float:
        """Return the part of the input that came from caches, in debates whose prompts are made alike."""
        if self._topic.shares_prefix:
            return min(1.0, _ratio(known.shared_cached_tokens, known.shared_input_tokens))
        others = max(0.0, known.input_tokens - known.shared_input_tokens)
        return min(1.0, _ratio(known.cached_tokens, others))

    def _assumed_output(self, terms: Terms, words: float, model: _Known) -> float:
        match self._level:
            case "most":
                return terms.max_output_tokens
            case "least":
                output = _text_tokens(words) * LENGTH["least"]
            case _:
                output = _expected_output(terms, words)
        return output * _blend(1.0, model.output_factor, model.calls)

    def _model(self, terms: Terms) -> _Known:
        """Return what the known calls of an agent's model have in common, in all phases."""
        key = terms.model, terms.thinking_tokens
        if key not in self._models:
            rows = [
                (kind, sums) for kind, sums in self._history.calls.items() if kind.model == key[0]
            ]
            assumed = sum(
                sums.calls * _expected_output(terms, _ratio(sums.words, sums.requests))
                for _, sums in rows
            )
            tiers = {kind.service_tier for kind, _ in rows}
            self._models[key] = _Known(
                sum(sums.calls for _, sums in rows),
                _ratio(sum(sums.output_tokens for _, sums in rows), assumed),
                _ratio(
                    sum(sums.input_tokens for _, sums in rows),
                    sum(sums.max_input_tokens for _, sums in rows),
                ),
                {
                    tier: _ratio(
                        sum(sums.seconds for kind, sums in rows if kind.service_tier == tier),
                        sum(sums.output_tokens for kind, sums in rows if kind.service_tier == tier),
                    )
                    for tier in tiers
                },
            )
        return self._models[key]


def words_asked(topic: Topic, phase: str) -> int:
    """Return how many words the reply is asked to have."""
    match phase:
        case "review":
            return topic.max_points_words
        case "discuss":
            return topic.max_words + topic.max_points_words
        case "vote" | "judge":
            return REASON_WORDS
    return topic.max_words


def _text_tokens(words: float) -> float:
    return words * BYTES_PER_WORD / BYTES_PER_TOKEN + REPLY_TOKENS


def _expected_output(terms: Terms, words: float) -> float:
    """Return what a reply takes, as long as nothing is known."""
    return min(terms.thinking_tokens + _text_tokens(words), terms.max_output_tokens)


def _ratio(sum_of: float, by: float) -> float:
    return sum_of / by if by else 0.0


def _mean_and_deviation(total: float, squares: float, count: float) -> tuple[float, float]:
    mean = _ratio(total, count)
    return mean, math.sqrt(max(0.0, _ratio(squares, count) - mean * mean))


def _blend(assumed: float, measured: float, calls: float) -> float:
    """Return a mean: the more calls it was measured on, the less the assumption weighs."""
    return (ASSUMED_CALLS * assumed + calls * measured) / (ASSUMED_CALLS + calls)
