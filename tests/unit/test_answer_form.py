"""The form of an answer: what is refused when a job is made, what replies are read as, which are equal."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aragora_q.answer_form import (
    MAX_JSON_CHARS,
    MAX_NESTING,
    MAX_SUBSCHEMAS,
    AnswerForm,
    text_key,
)
from aragora_q.errors import InvalidPayload

fuzz = settings(max_examples=100, derandomize=True, database=None)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def nested(levels, wrap, inner):
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def read(form, value):
    """The verdict in a reply, and an empty text; or None and the fault."""
    try:
        return form.read(value), ""
    except ValueError as error:
        return None, str(error)


def references(**definitions):
    """A schema that begins at definition `a`."""
    return {"type": "object", "$ref": "#/$defs/a", "$defs": definitions}


def to(name):
    return {"$ref": f"#/$defs/{name}"}


DOUBLING = {f"a{n}": {"allOf": [to(f"a{n + 1}")] * 2} for n in range(60)} | {"a60": {}}
CHAIN = {f"a{n}": {"items": to(f"a{n + 1}")} for n in range(60)} | {"a60": {}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "a JSON schema needs a type"),
        ({"type": "txt"}, "is not a JSON schema: $.type: 'txt'"),
        ({"type": "object", "properties": 3}, "is not a JSON schema: $.properties: 3"),
        ({"type": "object", "$ref": "#"}, "$ref is '#', must be #/$defs/NAME"),
        ({"type": "object", "$ref": "#/$defs/none"}, "$ref is '#/$defs/none', must be"),
        ({"type": "object", "$ref": "#/title", "title": "x"}, "$ref is '#/title', must be"),
        ({"type": "object", "$ref": "http://h/s"}, "$ref is 'http://h/s', must be"),
        ({"type": "object", "$ref": "file:///etc/passwd"}, "$ref is 'file:///etc/passwd', must be"),
        ({"type": "object", "$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}}, "must be #/$defs/NAME"),
        ({"type": "object", "$ref": "#/$defs/a/b", "$defs": {"a/b": {}}}, "must be #/$defs/NAME"),
        (references(a=to("a")), "'#/$defs/a' leads back to itself"),
        (references(a=to("b"), b={"anyOf": [{}, to("a")]}), "leads back to itself"),
        (references(a={"properties": {"next": to("a")}}), "leads back to itself"),
        (references(a=to("a0"), **DOUBLING), "references included: at most"),
        (references(a=to("a0"), **CHAIN), "references included: at most"),
        ({"type": "object", "allOf": [{}] * 300}, "contains 301 schemas in 3 levels"),
        ({"type": "string", "pattern": "(a+)+$"}, "the keyword pattern is not supported"),
        (
            {"type": "object", "properties": {"x": {"patternProperties": {"a": {}}}}},
            "patternProperties",
        ),
        ({"type": "array", "uniqueItems": True}, "the keyword uniqueItems is not supported"),
        ({"type": "object", "foo": {"properties": 3, "pattern": ""}}, "the keyword pattern"),
        ({"type": "string", "enum": [str(n) for n in range(9_999)]}, "characters, at most 10000"),
        ({"type": "number", "minimum": float("nan")}, "contains a number that is not finite"),
        ({"type": "number", "maximum": 10**4_000}, "contains a huge number"),
        ({"type": "string", "x": {1}}, "contains a set, which is not JSON"),
        ({"type": "string", 1: 2}, "has a name that is not text"),
        (
            {"type": "array", **nested(5_000, lambda inner: {"items": inner}, {})},
            "levels of nesting",
        ),
        ({"enum": [nested(5_000, lambda inner: [inner], [])]}, "levels of nesting"),
    ],
)  # fmt: skip
def test_a_hostile_schema_is_refused_at_once(schema, message):
    """Before a job exists: loops, remote documents, patterns, explosions, depth; one line says why."""
    started_at = time.monotonic()
    with pytest.raises(InvalidPayload) as caught:
        AnswerForm.parse(schema)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - started_at < 10


def test_the_name_of_the_dialect_at_the_top_is_ignored():
    """Generators of schemas write it; it is not sent to models, which reject what they do not know."""
    form = AnswerForm.parse(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "null"}
    )
    assert form.schema == {"type": "null"}
    with pytest.raises(InvalidPayload, match="keyword .schema is not supported"):
        AnswerForm.parse(
            {"type": "array", "items": {"$schema": "http://127.0.0.1/", "type": "null"}}
        )


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (CITY, {"city": "Bern"}, {"city": 3}),
        (references(a=to("b"), b={"required": ["x"]}), {"x": 1}, {}),
        ({**CITY, "properties": {"pattern": {"type": "string"}, "city": {}}}, {"city": 1}, {}),
        ({"enum": [{"$ref": "http://h"}, {"pattern": "x"}]}, {"pattern": "x"}, "x"),
        ({"type": "array", "prefixItems": [{}], "items": False}, [1], [1, 2]),
        ({"type": "object", "definitions": {"e.1": True}, "$ref": "#/definitions/e.1"}, {}, []),
        ({"type": ["number", "array"]}, 1.5, float("inf")),
        ({"type": ["number", "array"]}, [1], [float("nan")]),
        ({"type": ["number", "array"]}, 10**49, 10**400),
        ({"type": "number", "multipleOf": 5e-324}, 0, "x"),
        ({"type": "array"}, [], nested(MAX_NESTING, lambda inner: [inner], [])),
        ({"type": "array"}, [], nested(50_000, lambda inner: [inner], [])),
        ({"type": "string"}, "x" * 3_000, "x" * MAX_JSON_CHARS),
    ],
)
def test_json_fits_its_schema_or_is_a_value_error(schema, good, bad):
    """Of a verdict that does not fit, as of one that cannot be compared or stored."""
    form = AnswerForm.parse(schema)
    assert form.is_closed
    assert form.read(good) == good
    assert form.key(form.read(good)) == form.key(json.loads(json.dumps(good)))
    with pytest.raises(ValueError, match=r"^answer "):
        form.read(bad)


def test_the_largest_check_ends():
    """The longest verdict against the schema with the most parts takes seconds, not hours."""
    part = {"allOf": [{"minimum": 0}] * (MAX_SUBSCHEMAS - 2)}
    form = AnswerForm.parse({"type": "array", "items": part})
    started_at = time.monotonic()
    form.read([0] * (MAX_JSON_CHARS // 3))
    assert time.monotonic() - started_at < 30


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
keywords = st.sampled_from([
    "type", "enum", "const", "properties", "items", "allOf", "anyOf", "oneOf", "not", "if", "then", "$ref",
    "$defs", "minimum", "multipleOf", "maxLength", "required", "contains", "additionalProperties", "format",
    "dependentSchemas", "dependentRequired", "propertyNames", "prefixItems", "minContains", "$anchor",
])  # fmt: skip
parts = st.sampled_from(["object", "array", "number", "string", "#/$defs/a", "#"]) | json_values
schemas = st.recursive(
    st.dictionaries(keywords, parts, max_size=3),
    lambda inner: st.dictionaries(
        keywords,
        inner | st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
        max_size=4,
    ),
    max_leaves=6,
)


@fuzz
@given(schema=schemas, value=json_values)
def test_any_schema_and_any_value(schema, value):
    """A schema is refused as a payload, or any value is read or a ValueError; nothing else is raised."""
    try:
        form = AnswerForm.parse({"type": ["object", "array", "number"], **schema})
    except InvalidPayload:
        return
    verdict, fault = read(form, value)
    assert fault == "" or fault.startswith("answer ")
    if not fault:
        assert form.key(verdict) == form.key(json.loads(json.dumps(verdict)))
        assert form.text(verdict)


@fuzz
@given(form=st.sampled_from([
    AnswerForm(), AnswerForm("number"), AnswerForm("boolean"), AnswerForm("choice", ("Yes", "No")),
]), value=json_values | st.text(alphabet="0123456789eE.,-_+ nafis\u2212\u0663", max_size=8))  # fmt: skip
def test_any_reply(form, value):
    """In every form, any JSON is a verdict with a key, and stays it when read again, or a ValueError."""
    verdict, fault = read(form, value)
    assert fault == "" or fault.startswith("answer ")
    if not fault:
        assert form.key(form.read(verdict)) == form.key(verdict)
        json.dumps(verdict, allow_nan=False)


@fuzz
@given(
    first=st.decimals(allow_nan=False, allow_infinity=False, min_value=-1_000, max_value=1_000, places=3),
    second=st.integers(-3, 3),
    spelling=st.sampled_from(["{:f}", "{:E}", " {:f}0", "{:.6e}"]),
)  # fmt: skip
def test_numbers_are_equal_by_value(first, second, spelling):
    """However they are written; other numbers are not equal."""
    form = AnswerForm("number")
    key = form.key(form.read(str(first)))
    assert form.key(form.read(spelling.format(first))) == key
    assert form.key(form.read(float(first))) == key
    assert (form.key(form.read(str(first + second))) == key) == (second == 0)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("1,000", 1000), ("1,234,567.5", 1234567.5), ("\u22123", -3), ("4.00", 4), (4.0, 4), ("-0", 0),
        (" .5 ", 0.5), (".5_", 0.5), ("1_000", 1000),
        ("1e3", 1000), ("1e400", None), ("1,00", None), ("nan", None), ("Infinity", None), ("sNaN", None),
        (True, None), ("9" * 51, None), (10**4_000, None), (-(10**60), None), ("1e999999999999", None),
        ([1], None),
        ("about 3", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_what_is_a_number(value, verdict):
    """Numbers as JSON or text; anything else is refused, and never by another error."""
    form = AnswerForm("number")
    if verdict is not None:
        read = form.read(value)
        assert (read, type(read)) == (verdict, type(verdict))
        return
    with pytest.raises(ValueError, match="answer must be a number"):
        form.read(value)


@pytest.mark.parametrize("form", [AnswerForm("number"), AnswerForm.parse({"type": "integer"})])
def test_large_integers_are_not_rounded(form):
    """Two verdicts that differ in the thirtieth digit differ."""
    first, second = form.read(10**29), form.read(10**29 + 1)
    assert form.key(first) != form.key(second)
    if form.kind == "number":
        assert form.read(str(10**29 + 1)) == second
        assert form.key(form.read("1e29")) == form.key(first)
    assert form.key(10**29) == form.key(1e29 if int(1e29) == 10**29 else 10**29)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Don't", "Don\u2019t"), ("Caf\u00e9", "Cafe\u0301"), ("**Canberra**", "Canberra"),
        ("_Canberra_.", "canberra"),
        ("`Canberra`", "Canberra"), ("\u201cTea\u201d", "tea"), ("Tea  and\u00a0coffee.", "tea and coffee"),
        (" Tea ", "tea"), ("\u6771\u4eac\u3002", "\u6771\u4eac"),
    ],
)  # fmt: skip
def test_prose_that_differs_in_typography_is_equal(first, second):
    """Quotes, composition of accents, emphasis, case, spaces, the final period."""
    assert text_key(first) == text_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("3!", "3"), ("def f(a): return A", "def f(A): return a"), ("if x:\n  y\nz", "if x:\n  y\n  z"),
        ("x = 1", "X = 1"), ("a_b", "A_B"), ("-3", "3"), ("3.5", "35"), ("$5", "5"), ("5%", "5"), ("C++", "C"),
        ("C#", "C"), ("tea", "not tea"), ("~/A", "~/a"), ("1 < 2", "1 > 2"), ("{a}", "{A}"),
    ],
)  # fmt: skip
def test_text_whose_every_character_counts_is_not_equal(first, second):
    """Code, formulas and signs: no normalization makes them equal."""
    assert text_key(first) != text_key(second)


@fuzz
@given(text=st.text(max_size=20), other=st.text(max_size=20))
def test_a_key_of_text_is_stable(text, other):
    """The key of a key is itself, so that keys of stored verdicts compare; it never loses a letter."""
    assert text_key(text_key(text)) == text_key(text)
    if text_key(text) == text_key(other):
        letters = ["".join(filter(str.isalnum, text_key(each))) for each in (text, other)]
        assert letters[0] == letters[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, "answer_form choice requires options"),
        ("ab", "options must be a list of 2 to 50 texts, got 'ab'"),
        (["a"], "options must be a list of 2 to 50"),
        ([str(n) for n in range(51)], "options must be a list of 2 to 50"),
        (["a", 3], "options must be texts of 1 to 300 characters, got 3"),
        (["a", " "], "options must be texts of 1 to 300 characters, got ' '"),
        (["a", "x" * 301], "options must be texts of 1 to 300"),
        (["Tea", "tea."], "options: 'tea.' occurs twice"),
        (["Caf\u00e9", "cafe\u0301"], "occurs twice"),
    ],
)
def test_options_must_be_different_texts(options, message):
    """Two that a reply could not tell apart are refused."""
    with pytest.raises(InvalidPayload) as caught:
        AnswerForm.parse("choice", options)
    assert message in str(caught.value)


def test_a_choice_is_read_as_its_option():
    """In another case or with a period, as long as one option is meant; anything else is refused."""
    form = AnswerForm.parse("choice", [" Green tea ", "Coffee"])
    assert form.read("green  TEA.") == "Green tea"
    for reply in ("tea", "", 1, None, "Green tea or coffee", ["Coffee"]):
        with pytest.raises(ValueError, match="one of the options"):
            form.read(reply)
    assert form.schema["enum"] == ["Green tea", "Coffee"]


def test_a_boolean_is_read_from_words():
    """True, false, and the words for them; not numbers."""
    form = AnswerForm.parse("boolean")
    assert [form.read(value) for value in (True, "Yes", " no", "FALSE")] == [
        True,
        True,
        False,
        False,
    ]
    for reply in (1, 0, "maybe", None, [], {}):
        with pytest.raises(ValueError, match="true or false"):
            form.read(reply)


@pytest.mark.parametrize("kind", ["text", "number", "boolean", CITY])
def test_options_belong_to_choices(kind):
    """Options with another form are a mistake, not ignored."""
    with pytest.raises(InvalidPayload, match="options require answer_form choice"):
        AnswerForm.parse(kind, ["a", "b"])


@pytest.mark.parametrize("kind", ["txt", None, 3, [], ["text"], True])
def test_an_unknown_form_is_named(kind):
    """With the forms that there are."""
    with pytest.raises(
        InvalidPayload, match="must be one of text, choice, number, boolean or a JSON schema"
    ):
        AnswerForm.parse(kind)


def test_an_object_that_looks_like_a_number_does_not_equal_it():
    """Keys of JSON are equal for equal values only, whatever the names and texts in them."""
    form = AnswerForm.parse({"enum": [1, True, "1", None, [1], {"1": 1}]})
    values = [
        1, True, "1", "1E0", "true", None, "null", [], [1], ["1"], [[1], 1], {}, {"number": "1E0"},
        {"": "1E0"}, {"1": 1}, {"1": "1"}, {"1": True}, {'1":1,"2': 1}, {"1": 1, "2": 1}, ["1,1"], [1, 1],
    ]  # fmt: skip
    assert len({form.key(value) for value in values}) == len(values)
    assert form.key(1) == form.key(1.0)
    assert form.key({"a": 1, "b": 2.0}) == form.key({"b": 2, "a": 1.0})


@pytest.mark.parametrize(
    "second", ["tea", "TEA.", "T\u200fea", "\u202eTea", "\uff34ea", "Te\u200ba", " Tea "]
)
def test_options_that_look_alike_are_the_same(second):
    """Case, width, invisible marks and the final period do not make another option, nor another reply."""
    with pytest.raises(InvalidPayload, match="occurs twice"):
        AnswerForm.parse("choice", ["Tea", second])
    assert AnswerForm.parse("choice", ["Tea", "Milk"]).read(second) == "Tea"
    assert AnswerForm.parse("choice", [second, "Milk"]).read("Tea") == second.strip()


def test_options_that_differ_in_what_is_seen_are_different():
    """Powers, fractions and signs count."""
    options = ["x²", "x2", "½", "1/2", "...", "?", "C", "C++", "-1", "1"]
    form = AnswerForm.parse("choice", options)
    assert [form.read(each) for each in options] == options


@pytest.mark.parametrize("blank", ["", " ", "\u200b", "\n"])
@pytest.mark.parametrize(
    "form", [("choice", ("...", "?")), ({"type": "string"}, None), ("text", None)], ids=repr
)
def test_a_blank_is_no_verdict(form, blank):
    """In no form that takes texts."""
    with pytest.raises(ValueError, match="answer"):
        AnswerForm.parse(*form).read(blank)


@pytest.mark.parametrize("blank", ["\u200b", "\u202e\u200f", "\x00"])
def test_an_invisible_option_is_refused(blank):
    """No reader could choose it."""
    with pytest.raises(InvalidPayload, match="options must be texts"):
        AnswerForm.parse("choice", ["tea", blank])
