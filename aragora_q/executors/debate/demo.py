"""Demo agents: they show how a debate goes, and know nothing.

What they say is computed from the words of the question by the rules below, and every answer says
so. Three voices with different rules, so that a debate of theirs has a majority and a minority. No
network, no model, no randomness.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from aragora_q.executors.debate.requests import Propose, Reply, Review, Revise, Task, Vote

LABEL = "[demo]"
DISCLAIMER = "(Computed from the words of the question, not thought.)"
TRIAL = "on a small scale"
PAUSE_SECONDS = 0.1
"""How long a demo agent takes for a reply, so that a debate can be watched."""

PERSONAS = ("bold", "careful", "curious")
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be better by can could did do does for from has have how i if in is it "
        "its more not of on or our over should than that the their them there they this to use "
        "using was we were what when where which who why will with would you your",
    )
)


class DemoAgent:
    """A voice: `bold` says yes and stays with it, `careful` says no, `curious` asks for a trial."""

    def __init__(self, name: str, persona: str) -> None:
        self.name = name
        self._persona = persona

    async def reply(self, task: Task) -> Reply:
        """Compute the answer; tokens are words."""
        await asyncio.sleep(PAUSE_SECONDS)
        value: dict[str, Any]
        match task:
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
        read, written = (len(str(part).split()) for part in (task, value))
        return Reply(value, read, written)

    def _best(self, question: str, answers: Mapping[str, str]) -> str:
        """The label of the best answer: the bold prefer their own, the others what asks for a trial."""
        liked = _answer("bold" if self._persona == "bold" else "curious", question)
        named = [label for label, text in sorted(answers.items()) if text == liked]
        return named[0] if named else min(answers)

    def _revised(self, answers: Mapping[str, str], own: str) -> str:
        """Reviewed once, the careful go over to the answer that asks for a trial."""
        trials = [text for text in answers.values() if TRIAL in text]
        return trials[0] if trials and self._persona == "careful" else answers[own]


def _answer(persona: str, question: str) -> str:
    if sides := _sides(question):
        said = {
            "bold": f"Take the first: {sides[0]}.",
            "careful": f"Take the second: {sides[1]}.",
            "curious": f"Try both {TRIAL}, first the one with the shorter name: {min(sides, key=len)}.",
        }
    else:
        topic = ", ".join(_topic(question)) or "nothing in particular"
        said = {
            "bold": f"Yes. The question names {topic}, and naming is half of doing.",
            "careful": f"No. The question names {topic}, but neither cost nor deadline.",
            "curious": f"Try it {TRIAL} first, and measure: {topic}.",
        }
    return f"{LABEL} {said[persona]} {DISCLAIMER}"


def _points(answers: Mapping[str, str]) -> str:
    points = (
        f"{label} {'asks for' if TRIAL in text else 'lacks'} a trial"
        for label, text in sorted(answers.items())
    )
    return f"{LABEL} {'; '.join(points)}."


def _sides(question: str) -> list[str]:
    """The two things between which the question asks to choose, if it does."""
    left, _, right = question.rpartition(":")[2].strip().rstrip("?!. ").partition(" or ")
    runs = [[run for run in _runs(part) if run] for part in (left, right)]
    return [runs[0][-1], runs[1][0]] if all(runs) else []


def _runs(text: str) -> list[str]:
    """`text` broken at its stop words."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        if word.lower().strip(",;'\"") in STOP_WORDS:
            runs.append([])
        else:
            runs[-1].append(word)
    return [" ".join(run) for run in runs]


def _topic(question: str) -> list[str]:
    """Up to three words that carry the question, in its order: the longest that are no stop words."""
    found = dict.fromkeys(re.findall(r"[^\W_]+", question.lower()))
    words = [word for word in found if word not in STOP_WORDS]
    chosen = sorted(words, key=len, reverse=True)[:3]
    return [word for word in words if word in chosen]
