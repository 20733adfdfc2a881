"""Agents whose replies a test decides."""

import json
from dataclasses import replace

from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.prompts import prompt_for
from aragora_q.executors.debate.requests import (
    PLAIN,
    Discuss,
    Propose,
    Reply,
    Review,
    Revise,
    Synthesize,
    Vote,
)

THREE = ["ann", "bob", "cyd"]


class ScriptedAgent:
    """An agent whose replies come from a function of the request; `asked` lists its requests."""

    def __init__(self, name, reply, model=None, settings="scripted"):
        self.name = name
        self.model = model or f"scripted:{name}"
        self.settings = settings
        self.own_settings = {}
        self.provider = self.account = "scripted"
        self.price = None
        self.max_output_tokens, self.larger_output_tokens = 1_000, 4_000
        self.call_timeout_seconds = 900.0
        self.asked = []
        self.manners = []
        self._reply = reply

    def digest(self, request):
        return stable_hash(repr(prompt_for(request)))

    def max_input_tokens(self, request, manner=PLAIN):
        return len(repr(request)) // 2

    async def reply(self, request, manner=PLAIN, max_output_tokens=None):
        self.asked.append(request)
        self.manners.append(manner)
        reply = self._reply(request)
        return reply if reply.model else replace(reply, model=self.model)


def said(value, tokens=(10, 5), **fields):
    """A reply: JSON of `value`, or a text as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return Reply(text, input_tokens=tokens[0], output_tokens=tokens[1], **fields)


def label_of(request, verdict):
    """The label of the answer with that verdict; else the first label."""
    labels = (label for label, each in request.answers.items() if each.verdict == verdict)
    return next(labels, min(request.answers))


def saying(verdict, *, best=None, stop=False, revised=None, choice=None, same=()):
    """Replies of an agent that keeps to one verdict. `best` and `choice` are verdicts; `same` lists
    verdicts that it takes for the same.
    """

    def reply(task):
        match task:
            case Propose():
                value = {"answer": verdict, "reasons": f"Because of {verdict}."}
            case Review() | Vote():
                same_as = [[n for n, each in task.answers.items() if each.verdict in same]]
                value = {"same_as": same_as if len(same_as[0]) > 1 else []}
                if isinstance(task, Review):
                    label = label_of(task, best or choice or verdict)
                    value |= {"points": f"{verdict} is better", "best": label, "stop": stop}
                else:
                    label = label_of(task, choice or verdict)
                    value |= {"reason": "It is best.", "choice": label, "confidence": 80}
            case Revise():
                value = {
                    "answer": revised or verdict,
                    "reasons": f"Because of {revised or verdict}.",
                    "changed": bool(revised),
                }
            case Discuss():
                label = label_of(task, best or choice or verdict)
                value = {
                    "points": f"{verdict} is better", "best": label, "stop": stop,
                    "answer": verdict if revised is None else revised, "reasons": "It is so.",
                }  # fmt: skip
            case Synthesize():
                value = {"text": f"In short: {verdict}"}
        return said(value)

    return reply


def failing(error, on, then=None):
    """An agent that raises `error` for tasks of the type `on`."""
    good = then or saying("good")

    def reply(task):
        if isinstance(task, on):
            raise error
        return good(task)

    return reply
