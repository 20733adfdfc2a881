"""Prompts for a model too small for tags, roles and many fields: short, plain text, one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aragora_q.executors.debate.prompts import Prompt, object_form
from aragora_q.executors.debate.requests import (
    AgentRequest,
    Answer,
    Discuss,
    Propose,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

PROPOSE = "Answer in two sentences. Begin with the answer itself."
REVIEW = "Say in one sentence what is wrong or missing in this answer."
REVISE = "Write the best answer in two sentences. Begin with the answer itself."
VOTE = "Which answer is best?"
SYNTHESIZE = "Write one answer from these. Begin with the first."
CLOSED = {
    "choice": "Answer with one of these: {options}.",
    "number": "Answer with a number.",
    "boolean": "Answer with true or false.",
    "schema": "Answer with JSON.",
}

SENTENCE: dict[str, Any] = {
    "type": "string",
    "pattern": "^This answer [a-z][A-Za-z0-9 ,'-]{15,200}[.]$",
}
"""Of a text without a pattern, a small model writes fragments of JSON and code instead."""


def prompt_for(request: AgentRequest) -> Prompt:
    """Return the prompt for `request`.

    A review covers only the first answer shown, and names no best answer. A revision sees one other
    answer and no reviews, because a small model's reviews only confuse it. An answer in text form is
    asked for in plain text, because a small model's sentences are worse in JSON.
    """
    topic = request.topic
    match request:
        case Propose():
            return _answer(topic, (), PROPOSE)
        case Review(_, answers):
            lines = [_line("Someone answered", topic, each) for each in answers.values()][:1]
            return Prompt(
                "", _text(topic, lines, REVIEW), object_form("review", {"points": SENTENCE})
            )
        case Revise(_, answers, own) | Discuss(_, answers, own):
            others = [each for label, each in answers.items() if label != own][:1]
            lines = [_line("One answer", topic, answers[own])]
            lines += [_line("Another answer", topic, each) for each in others]
            return _answer(topic, lines, REVISE)
        case Vote(_, answers):
            lines = [_line(label, topic, each) for label, each in answers.items()]
            choice = {"type": "string", "enum": sorted(answers)}
            return Prompt("", _text(topic, lines, VOTE), object_form("ballot", {"choice": choice}))
        case Synthesize(_, answers, _, winner):
            others = [each for label, each in answers.items() if label != winner]
            lines = [_line("One answer", topic, answers[winner])]
            lines += [_line("Another answer", topic, each) for each in others]
            return Prompt("", _text(topic, lines, SYNTHESIZE))


def _answer(topic: Topic, lines: Sequence[str], task: str) -> Prompt:
    form = topic.form
    if not form.is_closed:
        return Prompt("", _text(topic, lines, task))
    task = CLOSED[form.kind].format(options="; ".join(form.options))
    return Prompt("", _text(topic, lines, task), object_form("answer", {"answer": form.schema}))


def _line(lead: str, topic: Topic, answer: Answer) -> str:
    verdict = topic.form.text(answer.verdict)
    return f"{lead}: {verdict} {answer.reasons}".rstrip()


def _text(topic: Topic, lines: Sequence[str], task: str) -> str:
    return "\n\n".join([f"Question: {topic.question}", *lines, task])
