"""The arms of an experiment: the ways in which each question is debated, from a TOML file or from options."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aragora_q import codec
from aragora_q.errors import InvalidPayload
from aragora_q.experiments.notes import ARM_TAG
from aragora_q.experiments.values import ARM_FIELDS, check_known, read_value
from aragora_q.labels import check_labels

ONLY_ARM = "debate"
"""The name of the arm of an experiment that names none."""

MAX_ARMS = 100
EXAMPLE = "for example --arm 'big agents=claude,gpt rounds=2'"


class Arm(NamedTuple):
    """One way to debate the questions.

    Its own fields win over those of a question, and these over defaults.
    """

    name: str
    fields: Mapping[str, Any]
    """Its own fields of a debate."""
    defaults: Mapping[str, Any] = {}
    """Fields of all arms, for questions and arms that do not have them."""

    @property
    def as_written(self) -> dict[str, Any]:
        """What the arm says of its debates, wherever it is from."""
        return {**self.defaults, **self.fields}


class ArmsFile(NamedTuple):
    """What a file of arms has."""

    defaults: Mapping[str, Any] = {}
    arms: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Names and fields."""


def arms_of(
    defaults: Mapping[str, Any], file: ArmsFile | None = None, options: Iterable[str] = ()
) -> list[Arm]:
    """Return the arms of a file and of options `NAME field=value …`; one named `debate` if there are none.

    `defaults` win over those of the file.

    Raises:
        InvalidPayload: an arm or field breaks a rule; or a name is used twice.
    """
    file = file or ArmsFile()
    own = [*file.arms, *map(parse_arm, options)] or [(ONLY_ARM, {})]
    if len(own) > MAX_ARMS:
        raise InvalidPayload(f"{len(own)} arms, at most {MAX_ARMS} are allowed")
    names = [name for name, _ in own]
    for n, (name, fields) in enumerate(own):
        _check_arm(name, fields)
        if name in names[:n]:
            raise InvalidPayload(f"two arms are named {name}")
    return [Arm(name, fields, {**file.defaults, **defaults}) for name, fields in own]


def _check_arm(name: str, fields: Mapping[str, Any]) -> None:
    """Raise InvalidPayload if the name cannot be the value of a tag, or no arm has one of the fields."""
    try:
        check_labels(None, None, {ARM_TAG: name})
    except InvalidPayload as error:
        raise InvalidPayload(f"name of an arm: {error}") from None
    check_known(fields, ARM_FIELDS, f"field of arm {name}:")
    _check_json(fields, f"arm {name}")


def parse_arm(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and fields of `NAME field=value field=value`, split as a shell does.

    Raises:
        InvalidPayload: it is not that. Which fields an arm has is not checked.
    """
    try:
        name, *words = shlex.split(text)
    except ValueError as error:
        reason = "it has no name" if not text.strip() else str(error).lower()
        raise InvalidPayload(f"arm {text!r:.100}: {reason}", hint=EXAMPLE) from None
    if "=" in name and name.partition("=")[0] in ARM_FIELDS:
        raise InvalidPayload(f"arm {text!r:.100} has no name", hint=EXAMPLE)
    fields: dict[str, Any] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals:
            raise InvalidPayload(f"arm {name:.48}: {word!r:.100} is not field=value", hint=EXAMPLE)
        if field in fields:
            raise InvalidPayload(f"arm {name:.48}: {field} is given twice")
        fields[field] = read_value(field, value, ",")
    return name, fields


def read_toml(data: bytes) -> ArmsFile:
    """Return what a file of arms has: the table [defaults], and tables [arms.NAME].

    Raises:
        InvalidPayload: it is not TOML, has something else, or has neither.
    """
    try:
        document = tomllib.loads(codec.text(data))
    except RecursionError:
        raise InvalidPayload("not TOML: nested too deeply") from None
    except ValueError as error:
        raise InvalidPayload(f"not TOML: {error}", hint="nothing was enqueued") from None
    check_known(document, ("defaults", "arms"), "table")
    defaults, arms = _table(document, "defaults"), _table(document, "arms")
    if not (defaults or arms):
        raise InvalidPayload("there are no arms and no defaults", hint="an arm is [arms.NAME]")
    check_known(defaults, ARM_FIELDS, "field of [defaults]:")
    _check_json(defaults, "[defaults]")
    return ArmsFile(defaults, [(name, _table(arms, name, "arms.")) for name in arms])


def _table(tables: Mapping[str, Any], name: str, above: str = "") -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise InvalidPayload(f"[{above}{name:.48}] must be a table of fields, got {table!r:.100}")
    return table


def _check_json(fields: Mapping[str, Any], where: str) -> None:
    """Raise InvalidPayload for a value that TOML has and JSON has not, such as a date."""
    for field, value in fields.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InvalidPayload(f"{where}: {field} is not JSON: {value!r:.100}") from None
