"""Prompts for a model too small for tags, roles and labels: short, plain text, one question at a time."""

from __future__ import annotations

from collections.abc import Sequence

from aragora_q.executors.debate.prompts import Prompt, ballot_form
from aragora_q.executors.debate.requests import AgentRequest, Propose, Review, Revise, Vote

PROPOSE = "Answer in two sentences. Begin with the answer itself."
REVIEW = "Say in one sentence what is wrong or missing in this answer."
REVISE = "Write the best answer in two sentences."
VOTE = "Which answer is best?"


def prompt_for(request: AgentRequest) -> Prompt:
    """Return the prompt for `request`.

    A review covers only the first answer shown, in plain text. A revision sees one other answer and
    no reviews, because a small model's reviews only confuse it.
    """
    match request:
        case Propose(question):
            return Prompt("", f"{question}\n\n{PROPOSE}")
        case Review(question, answers):
            lines = [f"Someone answered: {text}" for text in answers.values()][:1]
            return Prompt("", _text(question, lines, REVIEW))
        case Revise(question, answers, own, _):
            others = [text for label, text in answers.items() if label != own]
            lines = [f"One answer: {answers[own]}", *(f"Another answer: {t}" for t in others[:1])]
            return Prompt("", _text(question, lines, REVISE))
        case Vote(question, answers):
            lines = [f"{label}: {text}" for label, text in answers.items()]
            return Prompt("", _text(question, lines, VOTE), ballot_form(tuple(sorted(answers))))


def _text(question: str, lines: Sequence[str], instruction: str) -> str:
    return "\n\n".join([f"Question: {question}", *lines, instruction])
