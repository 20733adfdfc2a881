"""The form of a debate's answers, and when two answers are equal.

An answer of a seat is a *verdict* with reasons. Its form is text, one of several options, a number, a
boolean, or JSON of a schema; all but text are *closed*: two verdicts are equal exactly when their keys are.
Two texts with different keys may still mean the same; voters decide that. Used by `job` to check a payload,
and by the debate. Pure: no I/O, no models.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from aragora_q.errors import InvalidPayload, did_you_mean

KINDS = ("text", "choice", "number", "boolean")
MAX_TEXT_CHARS = 300
OPTIONS_RANGE = (2, 50)
MAX_OPTION_CHARS = 300
MAX_SCHEMA_CHARS = 10_000
MAX_NUMBER_CHARS = 50
UNSUPPORTED_KEYWORDS = frozenset({
    "pattern", "patternProperties",  # may take unlimited time to match
    "uniqueItems", "unevaluatedItems", "unevaluatedProperties",  # more than proportional time
    "$dynamicRef", "$recursiveRef", "$id", "$schema",  # may name other documents
})  # fmt: skip
MAX_SUBSCHEMAS = 200
"""Most schemas within a schema, counted again wherever a $ref names them."""
MAX_NESTING = 40
"""Most levels of nesting of a schema, with those that a $ref names, and of a verdict."""
MAX_JSON_CHARS = 4_000
"""Longest verdict of a JSON schema. With the limits of the schema it bounds the time of a check."""

_SCHEMAS_BY_NAME = ("properties", "$defs", "definitions", "dependentSchemas")
_DATA = ("enum", "const", "default", "examples", "required", "dependentRequired")

WORDS = {"true": True, "yes": True, "false": False, "no": False}
"""What a model may write for a boolean."""


@dataclass(frozen=True)
class AnswerForm:
    """What a verdict may be. Build it with `parse`, which checks it."""

    kind: str = "text"
    """`text`, `choice`, `number`, `boolean` or `schema`."""
    options: tuple[str, ...] = ()
    """The options of `choice`."""
    json_schema: Mapping[str, Any] | None = None
    """The schema of `schema`."""

    @classmethod
    def parse(cls, answer_form: object, options: object = None) -> AnswerForm:
        """Return the form that a payload's fields `answer_form` and `options` describe.

        Raises:
            InvalidPayload: names the field, its value and the rule.
        """
        if answer_form == "text" and not options:  # most debates
            return TEXT
        if isinstance(answer_form, Mapping):
            if options:
                raise InvalidPayload("options require answer_form choice, not a JSON schema")
            return cls("schema", json_schema=_checked_schema(dict(answer_form)))
        if answer_form not in KINDS:
            raise InvalidPayload(
                f"answer_form is {answer_form!r:.100}, must be one of {', '.join(KINDS)} or a JSON schema",
                hint=did_you_mean(str(answer_form), KINDS),
            )
        kind = str(answer_form)
        if kind == "choice":
            if options is None or options == []:
                low, high = OPTIONS_RANGE
                raise InvalidPayload(
                    "answer_form choice requires options", hint=f"list {low} to {high} texts"
                )
            return cls(kind, _checked_options(options))
        if options:
            raise InvalidPayload(f"options require answer_form choice, not {kind}")
        return cls(kind)

    @property
    def is_closed(self) -> bool:
        """True if equal keys are the only way in which two verdicts can agree."""
        return self.kind != "text"

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a verdict."""
        match self.kind:
            case "choice":
                return {"type": "string", "enum": list(self.options)}
            case "number":
                return {"type": "number"}
            case "boolean":
                return {"type": "boolean"}
            case "schema":
                return dict(self.json_schema or {})
            case _:
                return {"type": "string"}

    def read(self, value: Any) -> Any:
        """Return the verdict in a model's answer `value`, in the form in which it is stored.

        Numbers as text, booleans as words, and options in another case are accepted.

        Raises:
            ValueError: `value` has not this form; the message says what it must be.
        """
        match self.kind:
            case "choice":
                return self._read_choice(value)
            case "number":
                return _read_number(value)
            case "boolean":
                word = value.strip().casefold() if isinstance(value, str) else value
                verdict = WORDS.get(word, value) if isinstance(word, str) else word
                if not isinstance(verdict, bool):
                    raise ValueError("answer must be true or false")  # noqa: TRY004 - `read` promises ValueError
                return verdict
            case "schema":
                return self._read_json(value)
            case _:
                if not isinstance(value, str) or is_blank(value):
                    raise ValueError("answer must be text")
                return value.strip()

    def _read_choice(self, value: Any) -> str:
        if isinstance(value, str):
            wanted = value.strip()
            if wanted in self.options:
                return wanted
            near = [each for each in self.options if _fold(each) == _fold(wanted)]
            if len(near) == 1:
                return near[0]
        raise ValueError("answer must be one of the options, word for word")

    def _read_json(self, value: Any) -> Any:
        fault = _json_fault(value)
        if isinstance(value, str) and is_blank(value):
            fault = "is blank"
        if not fault and len(json.dumps(value, ensure_ascii=False)) > MAX_JSON_CHARS:
            fault = f"has more than {MAX_JSON_CHARS:,} characters"
        if fault:
            raise ValueError(f"answer {fault}")
        error = next(iter(_validator(self.schema).iter_errors(value)), None)
        if error is not None:
            raise ValueError(f"answer does not fit its schema: {error.message:.200}")
        return value

    def key(self, verdict: Any) -> str:
        """Return a text that is equal for equal verdicts, and only for them.

        Numbers compare by value (1.0 and 1e0 are 1), JSON without regard to the order of keys. Plain prose
        compares without regard to case, spaces, emphasis and the final period; any other text, such as
        code, character by character.
        """
        if self.kind == "number":
            return _number_key(verdict)
        if self.kind in ("schema", "boolean"):
            return _canonical(verdict)
        return str(verdict) if self.kind == "choice" else text_key(str(verdict))

    def text(self, verdict: Any) -> str:
        """Return the verdict as text for people and prompts."""
        return verdict if isinstance(verdict, str) else json.dumps(verdict, ensure_ascii=False)


TEXT = AnswerForm()


def text_key(text: str) -> str:
    """Return the key of a verdict in text form."""
    exact = unicodedata.normalize("NFC", text.strip())
    plain = exact.replace("\u2019", "'").replace("\u2018", "'").replace("\u00a0", " ")
    plain = re.sub(
        r"^(\*\*|__|\*|_|`|\"|\u201c)(.*?)(\*\*|__|\*|_|`|\"|\u201d)([.\u3002]?)$", r"\2\4", plain
    )
    # Words and numbers: anything else may be code or a formula, where each character counts.
    if re.fullmatch(r"[^\W_]+(?:[ ,;'\u2010-\u2014.-]{1,3}[^\W_]+)*[.\u3002]?", plain):
        return " ".join(plain.casefold().split()).rstrip(".\u3002")
    return exact


def is_blank(text: str) -> bool:
    """Return True if nothing of `text` is visible: only spaces, control and zero-width characters."""
    for char in text:  # noqa: SIM110 - mostly, the first one decides: a generator takes longer
        if char.isprintable() and not char.isspace():
            return False
    return True


def _fold(text: str) -> str:
    """Return what texts have in common that look alike: not case, width, invisible marks, final period."""
    plain = "".join(
        unicodedata.normalize("NFKC", char) if unicodedata.east_asian_width(char) in "FH" else char
        for char in unicodedata.normalize("NFC", text)
        if unicodedata.category(char) != "Cf"
    )
    folded = " ".join(plain.casefold().split())
    return folded.rstrip(".") or folded


def _read_number(value: Any) -> int | float:
    if isinstance(value, bool):
        raise ValueError("answer must be a number")  # noqa: TRY004 - `read` promises ValueError
    if isinstance(value, int) and abs(value) >= 10**MAX_NUMBER_CHARS:
        raise ValueError("answer must be a number")
    text = value.strip().replace("\u2212", "-") if isinstance(value, str) else repr(value)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    try:
        number = Decimal(text) if len(text) <= MAX_NUMBER_CHARS else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or number.adjusted() > 300:
        raise ValueError("answer must be a number") from None
    is_whole = number == number.to_integral_value()
    return int(number) if is_whole and number.adjusted() < MAX_NUMBER_CHARS else float(number)


def _number_key(number: Any) -> str:
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    shortest = text.rstrip("0")  # not `normalize`, which rounds to 28 digits
    if not shortest:
        return "0"
    return f"{'-' * sign}{shortest}E{int(exponent) + len(text) - len(shortest)}"


def _canonical(value: Any) -> str:
    """Return JSON in which equal numbers are written alike, and names are sorted."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        parts = (f"{json.dumps(name)}:{_canonical(value[name])}" for name in sorted(value))
        return "{" + ",".join(parts) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return _number_key(value)


def _checked_options(options: object) -> tuple[str, ...]:
    low, high = OPTIONS_RANGE
    if not isinstance(options, list | tuple) or not low <= len(options) <= high:
        raise InvalidPayload(
            f"options must be a list of {low} to {high} texts, got {options!r:.100}"
        )
    for option in options:
        if (
            not isinstance(option, str)
            or is_blank(option)
            or len(option.strip()) > MAX_OPTION_CHARS
        ):
            raise InvalidPayload(
                f"options must be texts of 1 to {MAX_OPTION_CHARS} characters, got {option!r:.100}"
            )
    stripped = tuple(option.strip() for option in options)
    seen: set[str] = set()
    for option in stripped:
        if _fold(option) in seen:
            raise InvalidPayload(f"options: {option!r:.100} occurs twice")
        seen.add(_fold(option))
    return stripped


def _checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    from jsonschema import (  # noqa: PLC0415 - slow to import, and only schemas need it
        Draft202012Validator,
        SchemaError,
    )

    schema = {name: part for name, part in schema.items() if name != "$schema"}  # generators add it
    if fault := _json_fault(schema):
        raise InvalidPayload(f"answer_form {fault}")
    length = len(json.dumps(schema))
    if length > MAX_SCHEMA_CHARS:
        raise InvalidPayload(
            f"answer_form has {length} characters, at most {MAX_SCHEMA_CHARS} are allowed"
        )
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidPayload(
            f"answer_form is not a JSON schema: {error.json_path:.100}: {error.message:.200}"
        ) from None
    if schema.get("type") is None and not {"enum", "const", "anyOf", "oneOf", "allOf"} & set(
        schema
    ):
        raise InvalidPayload(
            "answer_form: a JSON schema needs a type",
            hint='for example {"type": "object", "properties": {"city": {"type": "string"}}}',
        )
    found = {name for _, each in _subschemas(schema) for name in each} & UNSUPPORTED_KEYWORDS
    if found:
        raise InvalidPayload(f"answer_form: the keyword {min(found)} is not supported")
    _check_size(schema)
    return schema


def _json_fault(value: Any, levels: int = MAX_NESTING) -> str:
    """Return why `value` is not JSON that can be compared; an empty string if it is."""
    if levels == 0:
        return f"has more than {MAX_NESTING} levels of nesting"
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            return "has a name that is not text"
        parts = value.values()
    elif isinstance(value, list):
        parts = value
    elif isinstance(value, float) and not math.isfinite(value):
        return "contains a number that is not finite"
    elif isinstance(value, int) and abs(value) >= 10**MAX_NUMBER_CHARS:
        return "contains a huge number"
    elif value is not None and not isinstance(value, str | int | float):
        return f"contains a {type(value).__name__}, which is not JSON"
    return next((fault for part in parts if (fault := _json_fault(part, levels - 1))), "")


def _subschemas(value: Any, depth: int = 1) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield a schema and those within it, each with its depth. Names of properties are not keywords."""
    if isinstance(value, list):
        for each in value:
            yield from _subschemas(each, depth + 1)
    elif isinstance(value, Mapping):
        yield depth, value
        for name, part in value.items():
            if name in _SCHEMAS_BY_NAME and isinstance(part, Mapping):
                yield from _subschemas([*part.values()], depth + 1)
            elif name not in _DATA:
                yield from _subschemas(part, depth + 1)


def _check_size(schema: Mapping[str, Any]) -> None:
    """Raise InvalidPayload if checking a verdict might not end, or take long.

    A reference that leads back to itself never ends; references that name each other multiply.
    """
    definitions = {
        f"#/{group}/{name}": part
        for group in ("$defs", "definitions")
        for name, part in schema.get(group, {}).items()
        if re.fullmatch(r"[A-Za-z0-9_.-]+", name)  # others are escaped in a $ref
    }
    sizes: dict[str, tuple[int, int] | None] = {}

    def size(part: Any) -> tuple[int, int]:
        """Return the number of schemas in `part`, and its depth."""
        count = deepest = 0
        for depth, each in _subschemas(part):
            below = 0
            if (reference := each.get("$ref")) is not None:
                if reference not in definitions:
                    raise InvalidPayload(
                        f"answer_form: $ref is {reference!r:.100}, must be #/$defs/NAME with a NAME of $defs"
                    )
                if reference not in sizes:
                    sizes[reference] = None
                    sizes[reference] = size(definitions[reference])
                if (known := sizes[reference]) is None:
                    raise InvalidPayload(
                        f"answer_form: $ref {reference!r:.100} leads back to itself"
                    )
                count, below = count + known[0], known[1]
            count, deepest = count + 1, max(deepest, depth + below)
        return count, deepest

    total, depth = size(schema)
    if total > MAX_SUBSCHEMAS or depth > MAX_NESTING:
        raise InvalidPayload(
            f"answer_form contains {total} schemas in {depth} levels, references included: at most "
            f"{MAX_SUBSCHEMAS} in {MAX_NESTING} are allowed"
        )


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - slow to import, and only schemas need it
    from referencing import Registry  # noqa: PLC0415 - likewise

    return Draft202012Validator(schema, registry=Registry())  # an empty one: nothing is downloaded
