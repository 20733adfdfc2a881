"""Demo agents: scripted agents that show how a debate works. They call no model.

Their answers are computed from the words of the question, and every answer says so. The three personas
follow different rules, so that a debate has a majority and a minority. No network, no randomness.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from aragora_q.executors.debate.requests import AgentRequest, Propose, Reply, Review, Revise, Vote

LABEL = "[demo]"
DISCLAIMER = "(Computed from the words of the question; no model was called.)"
TRIAL = "on a small scale"
PAUSE_SECONDS = 0.1
"""Delay of every reply, so that a debate can be watched."""

PERSONAS = ("bold", "careful", "curious")

_STOP_WORDS = (
    "a an and are as at be better by can could did do does for from has have how i if in is it "
    "its more not of on or our over should than that the their them there they this to use "
    "using was we were what when where which who why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


class DemoAgent:
    """An agent with a persona: `bold` says yes, `careful` says no, `curious` suggests a trial.

    In a revision, `careful` joins an answer that suggests a trial; the others keep theirs.
    """

    def __init__(self, name: str, persona: str) -> None:
        self.name = name
        self._persona = persona

    async def reply(self, request: AgentRequest) -> Reply:
        """Compute the reply; its token counts are counts of words."""
        await asyncio.sleep(PAUSE_SECONDS)
        value: dict[str, Any]
        match request:
            case Propose(question):
                value = {"text": _answer(self._persona, question)}
            case Review(question, answers):
                stop = len(set(answers.values())) == 1
                best = self._best(question, answers)
                value = {"points": _points(answers), "best": best, "stop": stop}
            case Revise(_, answers, own, _):
                value = {"text": self._revised(answers, own)}
            case Vote(question, answers):
                value = {"choice": self._best(question, answers), "confidence": 60}
        input_words, output_words = (len(str(part).split()) for part in (request, value))
        return Reply(value, input_words, output_words)

    def _best(self, question: str, answers: Mapping[str, str]) -> str:
        """Return the label of the best answer: `bold` prefers its own, the others the suggestion of a trial."""
        preferred = _answer("bold" if self._persona == "bold" else "curious", question)
        matches = [label for label, text in sorted(answers.items()) if text == preferred]
        return matches[0] if matches else min(answers)

    def _revised(self, answers: Mapping[str, str], own: str) -> str:
        trials = [text for text in answers.values() if TRIAL in text]
        return trials[0] if trials and self._persona == "careful" else answers[own]


def _answer(persona: str, question: str) -> str:
    if sides := _sides(question):
        answers = {
            "bold": f"Choose the first: {sides[0]}.",
            "careful": f"Choose the second: {sides[1]}.",
            "curious": f"Try both {TRIAL}, starting with the shorter name: {min(sides, key=len)}.",
        }
    else:
        topic = ", ".join(_topic(question)) or "nothing in particular"
        answers = {
            "bold": f"Yes. The question names {topic}, which is enough to start.",
            "careful": f"No. The question names {topic}, but no cost and no deadline.",
            "curious": f"Try it {TRIAL} first, and measure: {topic}.",
        }
    return f"{LABEL} {answers[persona]} {DISCLAIMER}"


def _points(answers: Mapping[str, str]) -> str:
    points = (
        f"{label} {'suggests' if TRIAL in text else 'lacks'} a trial"
        for label, text in sorted(answers.items())
    )
    return f"{LABEL} {'; '.join(points)}."


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
