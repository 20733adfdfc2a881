"""Demo agents: scripted agents that show how a debate works. They call no model.

Their answers are computed from the words of the question, and every answer says so. The three personas
follow different rules, so that a debate has a majority and a minority. No network, no randomness.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from aragora_q import tracing
from aragora_q.answer_form import AnswerForm
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.prices import FREE, Price
from aragora_q.executors.debate.prompts import max_input_tokens, prompt_for
from aragora_q.executors.debate.providers import PERSONAS
from aragora_q.executors.debate.requests import (
    PLAIN,
    AgentRequest,
    Answer,
    Discuss,
    Manner,
    Propose,
    Reply,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

LABEL = "[demo]"
DISCLAIMER = "(Computed from the words of the question; no model was called.)"
TRIAL = "on a small scale"
PAUSE_SECONDS = 0.1
"""Delay of every reply, so that a debate can be watched."""

_STOP_WORDS = (
    "a an and are as at be better by can could did do does for from has have how i if in is it "
    "its more not of on or our over should than that the their them there they this to use "
    "using was we were what when where which who why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

MAX_SCHEMA_DEPTH = 8
MAX_ITEMS = 3
MAX_STRING_CHARS = 1_000
MAX_OUTPUT_WORDS = 500


def model_of(name: str, seat: int) -> str:
    """Return the model of an agent of a seat: agents called just `demo` have one persona after the other."""
    return name if ":" in name else f"demo:{PERSONAS[seat % len(PERSONAS)]}"


class DemoAgent:
    """An agent with a persona: `bold` says yes, `careful` says no, `curious` suggests a trial.

    In a round, `careful` joins the answer of `curious`; the others keep theirs.
    """

    settings = ""
    own_settings: Mapping[str, Any] = MappingProxyType({})
    provider = account = "demo"
    max_output_tokens = larger_output_tokens = MAX_OUTPUT_WORDS
    call_timeout_seconds = 900.0

    def __init__(self, name: str, persona: str, price: Price | None = FREE) -> None:
        self.name = name
        self.price = price
        self.model = f"demo:{persona}"
        self._persona = persona

    def digest(self, request: AgentRequest) -> str:
        """Return a digest of what a model would be asked."""
        return stable_hash(repr(prompt_for(request)))

    def max_input_tokens(self, request: AgentRequest, manner: Manner = PLAIN) -> int:
        """As of a model: a word of `request` is a token."""
        return max_input_tokens(prompt_for(request), manner.repair, is_tool=False)

    async def reply(
        self,
        request: AgentRequest,
        manner: Manner = PLAIN,  # noqa: ARG002 - as `Agent`
        max_output_tokens: int | None = None,  # noqa: ARG002 - likewise
    ) -> Reply:
        """Compute the reply; its token counts are counts of words.

        Raises:
            PermanentError: the answer's JSON schema is not a simple one.

        """
        called = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self.provider,
            "gen_ai.request.model": self.model,
        }
        with tracing.span(f"chat {self.model}", "client", called) as span:
            await asyncio.sleep(PAUSE_SECONDS)
            text = json.dumps(self._value(request), ensure_ascii=False)
            input_words, output_words = (len(part.split()) for part in (str(request), text))
            span.set({
                "gen_ai.response.model": self.model,
                "gen_ai.usage.input_tokens": input_words,
                "gen_ai.usage.output_tokens": output_words,
            })  # fmt: skip
        return Reply(
            text,
            model=self.model,
            input_tokens=input_words,
            output_tokens=output_words,
            cost_usd=self.price.cost_usd(input_words, output_words) if self.price else None,
        )

    def _value(self, request: AgentRequest) -> dict[str, Any]:
        topic = request.topic
        match request:
            case Propose():
                return _said(_answer(self._persona, topic))
            case Review(_, answers):
                return {**self._review(topic, answers), "same_as": _same(topic.form, answers)}
            case Revise(_, answers, own):
                revised = self._revised(topic, answers, own)
                return {**_said(revised), "changed": revised.verdict != answers[own].verdict}
            case Discuss(_, answers, own):
                revised = self._revised(topic, answers, own)
                return {**self._review(topic, answers), **_said(revised)}
            case Vote(_, answers):
                return {
                    "reason": f"{LABEL} The persona {self._persona} prefers it.",
                    "choice": self._best(topic, answers),
                    "confidence": 60,
                    "same_as": _same(topic.form, answers),
                }
            case Synthesize(_, answers, votes, winner):
                text = topic.form.text(answers[winner].verdict)
                share = f"{votes.get(winner, 0)} of {sum(votes.values())} votes"
                return {"text": f"{text} This answer won {share}. {DISCLAIMER}"}

    def _review(self, topic: Topic, answers: Mapping[str, Answer]) -> dict[str, Any]:
        keys = {topic.form.key(answer.verdict) for answer in answers.values()}
        best = self._best(topic, answers)
        return {"points": _points(topic.form, answers), "best": best, "stop": len(keys) == 1}

    def _best(self, topic: Topic, answers: Mapping[str, Answer]) -> str:
        """Return the label of the best answer: `bold` prefers its own, the others that of `curious`."""
        preferred = _answer("bold" if self._persona == "bold" else "curious", topic)
        texts = {label: topic.form.text(each.verdict) for label, each in answers.items()}
        matches = [label for label, each in answers.items() if each.verdict == preferred.verdict]
        return matches[0] if matches else min(answers, key=lambda label: texts[label])

    def _revised(self, topic: Topic, answers: Mapping[str, Answer], own: str) -> Answer:
        curious = _answer("curious", topic)
        joins = self._persona == "careful" and any(
            each.verdict == curious.verdict for each in answers.values()
        )
        return curious if joins else answers[own]


def _said(answer: Answer) -> dict[str, Any]:
    return {"answer": answer.verdict, "reasons": answer.reasons}


def _answer(persona: str, topic: Topic) -> Answer:
    """Return the answer of `persona`. Raises PermanentError."""
    question, form = topic.question, topic.form
    words = question.split()
    by_persona: Mapping[str, Any]
    match form.kind:
        case "choice":
            first, last, shortest = form.options[0], form.options[-1], min(form.options, key=len)
            by_persona = {"bold": first, "careful": last, "curious": shortest}
        case "number":
            by_persona = {"bold": len(words), "careful": len(question), "curious": len(set(words))}
        case "boolean":
            by_persona = {"bold": True, "careful": False, "curious": len(words) % 2 == 0}
        case "schema":
            by_persona = dict.fromkeys(PERSONAS, _instance(form))
        case _:
            by_persona, reasons = _text_answers(question)
            return Answer(f"{LABEL} {by_persona[persona]}", f"{reasons[persona]}{DISCLAIMER}")
    return Answer(by_persona[persona], f"{LABEL} {DISCLAIMER}")


def _text_answers(question: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return verdicts and reasons by persona."""
    if sides := _sides(question):
        verdicts = {
            "bold": f"Choose the first: {sides[0]}.",
            "careful": f"Choose the second: {sides[1]}.",
            "curious": f"Try both {TRIAL}, starting with the shorter name: {min(sides, key=len)}.",
        }
        return verdicts, dict.fromkeys(PERSONAS, "")
    topic = ", ".join(_topic(question)) or "nothing in particular"
    verdicts = {"bold": "Yes.", "careful": "No.", "curious": f"Try it {TRIAL} first."}
    reasons = {
        "bold": f"The question names {topic}, which is enough to start. ",
        "careful": f"The question names {topic}, but no cost and no deadline. ",
        "curious": f"Measure: {topic}. ",
    }
    return verdicts, reasons


def _points(form: AnswerForm, answers: Mapping[str, Answer]) -> str:
    if form.is_closed:
        return f"{LABEL} {DISCLAIMER}"
    points = (
        f"{label} {'suggests' if TRIAL in form.text(answer.verdict) else 'lacks'} a trial"
        for label, answer in sorted(answers.items())
    )
    return f"{LABEL} {'; '.join(points)}."


def _same(form: AnswerForm, answers: Mapping[str, Answer]) -> list[list[str]]:
    """Return the lists of labels of equal verdicts."""
    by_key: dict[str, list[str]] = {}
    for label, answer in answers.items():
        by_key.setdefault(form.key(answer.verdict), []).append(label)
    return [labels for labels in by_key.values() if len(labels) > 1]


def _instance(form: AnswerForm) -> Any:
    """Return a small value that fits the schema of `form`. Raises PermanentError if none is found."""
    try:
        return form.read(_smallest(form.schema, MAX_SCHEMA_DEPTH))
    except (ValueError, TypeError, LookupError):
        raise PermanentError(
            "demo agents find no value for the JSON schema in answer_form",
            hint="use an agent with a model, or a schema of types, required properties and enum",
        ) from None


def _smallest(schema: Any, depth: int) -> Any:
    """Return a value for a simple schema: its first choice, required properties, least numbers and lengths.

    Raises:
        ValueError: the schema is nested deeper than `depth`.

    """
    if depth == 0:
        raise ValueError("nested too deep")
    match schema:
        case {"const": value} | {"enum": [value, *_]}:
            return value
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]}:
            return _smallest(first, depth - 1)
        case {"type": [first, *_]}:
            return _smallest({**schema, "type": first}, depth - 1)
        case {"type": str(kind)} if kind in _BY_TYPE:
            return _BY_TYPE[kind](schema, depth - 1)
    return None


def _object(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: _smallest(properties.get(name, {}), depth) for name in schema.get("required", ())}


def _array(schema: Mapping[str, Any], depth: int) -> list[Any]:
    length = min(schema.get("minItems", 0), MAX_ITEMS)
    return [_smallest(schema.get("items", {}), depth) for _ in range(length)]


def _string(schema: Mapping[str, Any], _: int) -> str:
    length = min(schema.get("minLength", 0), MAX_STRING_CHARS)
    return LABEL.ljust(length, ".")[: schema.get("maxLength", MAX_STRING_CHARS)]


def _number(schema: Mapping[str, Any], _: int) -> Any:
    if "exclusiveMinimum" in schema:
        return math.floor(schema["exclusiveMinimum"]) + 1
    return math.ceil(schema["minimum"]) if "minimum" in schema else min(0, schema.get("maximum", 0))


_BY_TYPE: Mapping[str, Callable[[Mapping[str, Any], int], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _number,
    "boolean": lambda _schema, _depth: True,
    "null": lambda _schema, _depth: None,
}


def _sides(question: str) -> list[str]:
    """Return the two alternatives of a question like "tabs or spaces?", or an empty list."""
    left, _, right = question.rpartition(":")[2].strip().rstrip("?!. ").partition(" or ")
    runs = [[run for run in _runs(part) if run] for part in (left, right)]
    return [runs[0][-1], runs[1][0]] if all(runs) else []


def _runs(text: str) -> list[str]:
    """Split `text` at its stop words."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        if word.lower().strip(",;'\"") in STOP_WORDS:
            runs.append([])
        else:
            runs[-1].append(word)
    return [" ".join(run) for run in runs]


def _topic(question: str) -> list[str]:
    """Return the three longest words that are not stop words, in the question's order."""
    unique = dict.fromkeys(re.findall(r"[^\W_]+", question.lower()))
    words = [word for word in unique if word not in STOP_WORDS]
    chosen = sorted(words, key=len, reverse=True)[:3]
    return [word for word in words if word in chosen]
