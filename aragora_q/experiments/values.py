"""Fields of a debate as an experiment's files and options write them: which there are, and values as text.

Also what a right verdict is in the answer form of an arm. Used by `questions`, `arms` and `rows`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from aragora_q import codec
from aragora_q.answer_form import WORDS, AnswerForm
from aragora_q.errors import InvalidPayload, did_you_mean
from aragora_q.job import DebateJobPayload

_TYPES = {each.name: str(each.type) for each in fields(DebateJobPayload)}
"""The annotation of each field of a debate."""

DEBATE_FIELDS = tuple(name for name in _TYPES if name not in ("metadata", "forked_from"))
"""Fields that say what the debate is to do. A debate of an experiment takes over no other one."""

ARM_FIELDS = tuple(name for name in DEBATE_FIELDS if name != "question")
"""Fields that an arm may set."""


def check_known(names: Iterable[object], known: tuple[str, ...], what: str) -> None:
    """Raise InvalidPayload if one of `names` is not known; `what` is, for example, `field of an arm`."""
    for name in names:
        if name not in known:
            raise InvalidPayload(
                f"unknown {what} {name!r:.100}; there are {', '.join(known)}",
                hint=did_you_mean(str(name), known),
            )


def read_value(name: str, text: str, separators: str) -> Any:
    """Return the value of a field that is written as text.

    JSON, if the field is not a text; lists also as texts with one of `separators` between them. What is
    neither is returned as it is: the check of the debate names the rule that it breaks.
    """
    kind, stripped = _TYPES.get(name, ""), text.strip()
    if kind.startswith("str") and not ("dict" in kind and stripped.startswith("{")):
        return text
    if kind.startswith("list") and not stripped.startswith("["):
        separator = next((each for each in separators if each in text), separators[0])
        return [part.strip() for part in text.split(separator)]
    if kind.startswith("dict") and not stripped.startswith("{"):
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {key.strip(): read_json(number) for key, _, number in pairs}
    return read_json(text)


def read_json(text: str) -> Any:
    """Return the value of JSON, also of booleans as spreadsheets write them; other text as it is."""
    word = text.strip().lower()
    try:
        return codec.decode((word if word in ("true", "false") else text).encode(errors="replace"))
    except ValueError:
        return text


def right_in(form: AnswerForm, expected: Any) -> list[Any]:
    """Return the verdicts of this form that are right if `expected` is.

    A debate that asks in text may be one arm, and one that asks for a number or a boolean another: the right
    verdict is then what a reply would say in words.

    Raises:
        ValueError: there is none; the message says what a verdict must be.
    """
    if form.kind == "text" and isinstance(expected, bool):
        return [word for word, value in WORDS.items() if value is expected]
    if form.kind == "text" and isinstance(expected, int | float):
        return [form.text(expected)]
    return [form.read(expected)]
