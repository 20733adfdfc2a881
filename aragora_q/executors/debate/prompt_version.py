"""The version of all prompts, computed from their wording. Used by the protocol for a debate's record."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

from aragora_q.answer_form import AnswerForm
from aragora_q.executors.debate import prompts
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.local import prompts as local_prompts
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


@cache
def prompt_version() -> str:
    """Return a digest that changes with the wording of any prompt or the form of any reply."""
    built = [
        prompt_for(request)
        for prompt_for in (prompts.prompt_for, local_prompts.prompt_for)
        for request in _requests()
    ]
    return stable_hash(*map(repr, built))


def _requests() -> Iterator[AgentRequest]:
    """One request of each kind and answer form, for short and for long questions."""
    forms = (
        (AnswerForm(), ("a", "b")),
        (AnswerForm("choice", ("a", "b")), ("a", "b")),
        (AnswerForm("number"), (1, 2)),
        (AnswerForm("boolean"), (True, False)),
        (AnswerForm("schema", json_schema={"type": "null"}), (None, None)),
    )
    for (form, verdicts), shares_prefix in product(forms, (False, True)):
        topic = Topic("q", form, shares_prefix=shares_prefix)
        answers = {"L": Answer(verdicts[0], "r"), "M": Answer(verdicts[1])}
        yield Propose(topic)
        yield Review(topic, answers)
        yield Revise(topic, answers, "L", ("r",))
        yield Discuss(topic, answers, "L", ("r",))
        yield Vote(topic, answers)
        yield Vote(topic, answers, as_judge=True)
        yield Synthesize(topic, answers, {"L": 1, "M": 1}, "L")
