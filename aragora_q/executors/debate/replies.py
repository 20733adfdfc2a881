"""Judge a reply before it is used: read the JSON that a request asks for, or say why it is unusable.

The only place that decides what counts as an answer, a review or a ballot. Used by the participants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic_core import from_json

from aragora_q.answer_form import MAX_TEXT_CHARS, is_blank
from aragora_q.executors.debate.labels import contains
from aragora_q.executors.debate.requests import (
    SHARED,
    AgentRequest,
    Discuss,
    Propose,
    Reply,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

MAX_REASON_CHARS = 300
"""Length at which the reason of a ballot is cut, with an ellipsis as its last character."""

MAX_OBJECT_STARTS = 50
"""Braces in a reply that are tried as the beginning of its JSON object."""

NOTHING = re.compile(r"(?:\s|```\w*+|null|\{\s*+\}|\[\s*+\]|\"\")*+")
"""A reply without content: an empty code block, or an empty JSON value. It never backtracks: a reply could
make that take forever.
"""

NO_ANSWER = "the reply was not a JSON object with answer and reasons"

OTHER_FIELDS = frozenset(
    ("points", "best", "stop", "reason", "choice", "confidence", "same_as", "changed")
)
"""Fields of replies: an object with two of them, but without an answer, is of a form that was not asked for."""

Value = dict[str, Any]
"""A reply as JSON data, in the form that its request describes, and `cut` if it is not complete."""


class Unusable(Exception):
    """A reply is not what was asked for. The message says why, in words that a model understands."""


def read(request: AgentRequest, reply: Reply) -> Value:
    """Return what `reply` says. It says `cut` if a text was cut, here or by the agent's token limit.

    Raises:
        Unusable: it is blank, not of the form, or contains the debate's nonce.

    """
    text = reply.text.encode(errors="replace").decode().strip()  # a model may send half a character
    if is_blank(text) or NOTHING.fullmatch(text):
        raise Unusable("the reply was blank")
    try:
        value = _READERS[type(request)](request, text, reply)
    except Unusable:
        if reply.is_cut:
            raise Unusable("the token limit cut the reply before its end") from None
        raise
    if contains("".join(_texts(value)), request.topic.nonce):
        raise Unusable("the reply contained the marks of this conversation")
    if reply.is_cut:
        value["cut"] = True
    return value


def is_object(request: AgentRequest, reply: Reply) -> bool:
    """Return True if the reply has a JSON object, whatever is in it."""
    return _object(request.topic, reply.text, reply) is not None


def _propose(request: Propose, text: str, reply: Reply) -> Value:
    return _answer(request.topic, _answer_data(request.topic, text, reply))


def _revise(request: Revise, text: str, reply: Reply) -> Value:
    data = _answer_data(request.topic, text, reply)
    return {**_answer(request.topic, data), "changed": data.get("changed") is not False}


def _discuss(request: Discuss, text: str, reply: Reply) -> Value:
    data = _required(_object(request.topic, text, reply))
    return {**_review_of(request, data), **_answer(request.topic, data)}


def _review(request: Review, text: str, reply: Reply) -> Value:
    data = _required(_object(request.topic, text, reply))
    value = _review_of(request, data)
    if not value["points"] and value["best"] is None:
        raise Unusable("points and best are missing")
    return {**value, "same_as": _same_as(data, request.answers)}


def _vote(request: Vote, text: str, reply: Reply) -> Value:
    data = _required(_object(request.topic, text, reply))
    choice = _label(data.get("choice"), request.answers)
    if choice is None:
        raise Unusable(f"choice must be one of {', '.join(request.answers)}")
    reason, is_cut = _shortened(str(data.get("reason") or ""), MAX_REASON_CHARS)
    return {
        "reason": f"{reason[:-1]}…" if is_cut else reason,
        "choice": choice,
        "confidence": _confidence(data.get("confidence")),
        "same_as": _same_as(data, request.answers),
    }


def _synthesize(request: Synthesize, text: str, reply: Reply) -> Value:
    data = _object(request.topic, text, reply)
    said = text if data is None else data.get("text")
    if not isinstance(said, str) or is_blank(said):
        raise Unusable("text is missing")
    said, is_cut = _shortened(said.strip(), request.topic.max_answer_chars)
    return {"text": said, **({"cut": True} if is_cut else {})}


_READERS: Mapping[type, Callable[[Any, str, Reply], Value]] = {
    Propose: _propose,
    Revise: _revise,
    Discuss: _discuss,
    Review: _review,
    Vote: _vote,
    Synthesize: _synthesize,
}


def _answer(topic: Topic, data: Mapping[str, Any]) -> Value:
    try:
        verdict = topic.form.read(data.get("answer"))
    except ValueError as error:
        raise Unusable(str(error)) from None
    reasons = data.get("reasons")
    reasons, is_cut = _shortened(
        reasons.strip() if isinstance(reasons, str) else "", topic.max_answer_chars
    )
    if not topic.form.is_closed and len(verdict) > MAX_TEXT_CHARS:
        # The conclusion went on: nothing of it is lost, the reasons begin with it.
        reasons, was_cut = _shortened(f"{verdict}\n\n{reasons}".strip(), topic.max_answer_chars)
        verdict, is_cut = _shortened(verdict, MAX_TEXT_CHARS)[0].rstrip(), is_cut or was_cut
    return {"answer": verdict, "reasons": reasons, **({"cut": True} if is_cut else {})}


def _answer_data(topic: Topic, text: str, reply: Reply) -> Value:
    data = _object(topic, text, reply) or {}
    if "answer" in data:
        return data
    if reply.is_cut and isinstance(data.get("reasons"), str):
        text = data["reasons"]  # they come first, and the answer is what was cut off
    elif len(OTHER_FIELDS & data.keys()) > 1:
        raise Unusable(NO_ANSWER)
    return _from_prose(topic, text)


def _from_prose(topic: Topic, text: str) -> Value:
    """Return an answer in text form from prose: its first sentence, then all of it. Other forms need JSON."""
    if topic.form.is_closed or text.lstrip("`json \n").startswith("{"):
        raise Unusable(NO_ANSWER)
    first, _, rest = text.partition("\n")
    sentence = re.match(r".+?[.!?](?=\s)", first)
    if sentence:
        first, rest = sentence[0], text[sentence.end() :]
    return {"answer": first.strip(), "reasons": rest.strip()}


def _review_of(request: Review | Discuss, data: Mapping[str, Any]) -> Value:
    points = data.get("points")
    text, is_cut = _shortened(
        points.strip() if isinstance(points, str) else "", request.topic.max_points_chars
    )
    best = _label(data.get("best"), request.answers)
    value = {"points": text, "best": best, "stop": data.get("stop") is True}
    return {**value, "cut": True} if is_cut else value


def _same_as(data: Mapping[str, Any], answers: Mapping[str, Any]) -> list[list[str]]:
    """Return the lists of labels whose answers come to the same; unknown labels are left out."""
    lists = data.get("same_as")
    if not isinstance(lists, list):
        return []
    if all(isinstance(each, str) for each in lists):  # one list, not a list of lists
        lists = [lists]
    found = [
        list(dict.fromkeys(filter(None, (_label(label, answers) for label in each))))
        for each in lists
        if isinstance(each, list)
    ]
    return [each for each in found if len(each) > 1][: len(answers)]


def _label(value: Any, answers: Mapping[str, Any]) -> str | None:
    if not isinstance(value, str):
        return None
    if value in answers:
        return value
    words = set(re.findall(r"[^\W_]+", value.upper()))
    found = [label for label in answers if label in words]
    return found[0] if len(found) == 1 else None


def _confidence(value: Any) -> int | None:
    """Return a confidence from 0 to 100. 0.8 and "80 %" are 80; anything that is not a number is None."""
    if isinstance(value, str):
        match = re.search(r"\d+(\.\d+)?", value)
        value = float(match[0]) if match else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    percent: float = value * 100 if 0 < value <= 1 else value
    return round(min(100, max(0, percent)))


def _required(data: Value | None) -> Value:
    if data is None:
        raise Unusable("the reply was not a JSON object")
    return data


def _object(topic: Topic, text: str, reply: Reply) -> Value | None:
    """Return the JSON object in `text`, also from a code block or with words around it; else None.

    Of an object that was cut by a limit, what is there; but no verdict of a closed form at its end, as 12
    may be the beginning of 1200.
    """
    for match in islice(re.finditer(r"\{", text), MAX_OBJECT_STARTS):
        candidate = text[match.start() :]
        end = candidate.rfind("}") + 1
        is_part = False
        try:
            value = from_json(candidate[:end] if end else candidate, allow_inf_nan=False)
        except ValueError:
            if not reply.is_cut:
                continue
            is_part = True
            try:
                value = from_json(candidate, allow_partial="trailing-strings")
            except ValueError:
                continue
        value = _unwrapped(value)
        if is_part and topic.form.is_closed and value and [*value][-1] == "answer":
            del value["answer"]
        if isinstance(value, dict):
            return value
    return None


def _unwrapped(value: Any) -> Any:
    """Return the reply in an object of the form that all calls of a debate share; else `value`."""
    inside = value.get(SHARED) if isinstance(value, dict) else None
    return inside if isinstance(inside, dict) else value


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in JSON data, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield name
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _shortened(text: str, max_chars: int) -> tuple[str, bool]:
    return (text, False) if len(text) <= max_chars else (text[:max_chars], True)
