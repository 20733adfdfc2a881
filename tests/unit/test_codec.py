"""JSON as stored in Redis: compact, strict, and decoded without surprises."""

import json
import math
import re
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aragora_q import codec

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_values_survive_encoding(value):
    """Every JSON value survives, and Python's own codec reads the same."""
    encoded = codec.encode(value)
    assert codec.decode(encoded) == value
    assert json.loads(encoded) == value
    assert b"\n" not in encoded


def test_encoding_is_compact_utf8():
    """No spaces, and no escapes that are not needed: payloads are most of the data in Redis."""
    assert codec.encode({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_names_of_non_numbers_are_text(name):
    """Text such as "NaN" stays text, next to any other value."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert codec.decode(codec.encode({name: name, "at": moment}))[name] == name


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_numbers_are_refused(number):
    """JSON has neither NaN nor infinity; a value with one is refused, not changed, and the error says so."""
    for value in (number, [number], {"a": {"b": number}}, {"NaN": [1, number]}):
        with pytest.raises(ValueError, match="contains NaN or infinity"):
            codec.encode(value)


def _circle():
    circle = []
    circle.append(circle)
    return circle


def _deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {"a": object()}, "\ud800", {"\ud800": 1}, _circle(), _deep()],
    ids=["object", "nested object", "surrogate", "surrogate key", "circle", "depth"],
)
def test_values_that_are_not_json_are_a_value_error(value):
    """One kind of error for all of them, so that callers can name the job."""
    with pytest.raises(ValueError):
        codec.encode(value)


@given(st.binary(max_size=50))
@example(b"\xff\xfea\0")
@example(b"\xef\xbb\xbf\xef\xbb\xbfa")
@example("\ud800".encode(errors="surrogatepass"))
def test_text_is_utf8_or_refused_without_a_byte_of_it(data):
    """Bytes of a file are what Python decodes, or a ValueError that is safe to print."""
    try:
        assert codec.text(data) == data.decode("utf-8-sig")
    except ValueError as error:
        assert re.fullmatch(r"not UTF-8( but UTF-(16|32)| \(line \d+\))", str(error))  # noqa: PT017


MALFORMED = {
    "empty": b"",
    "cut": b"{",
    "single quotes": b"{'a': 1}",
    "NaN": b'{"a": NaN}',
    "infinity": b"Infinity",
    "no UTF-8": b'"\xff"',
    "surrogate": b'"\\ud800"',
    "comma": b"[1,]",
    "two": b"{} {}",
    "depth": b"[" * 100_000,
    "word": b"nul",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_invalid_json_is_a_value_error(data):
    """Malformed bytes, also hostile ones, raise one kind of error."""
    with pytest.raises(ValueError):
        codec.decode(data)


@given(st.binary())
def test_any_bytes_decode_or_raise_value_error(data):
    """No input does anything else than decode or raise ValueError."""
    try:
        codec.decode(data)
    except ValueError:
        return


bounded = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@bounded
@given(data=st.binary(max_size=200))
@example(data=b'{"a":NaN}')
@example(data=b"\xff{}")
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 5_000)
@example(data=b'{"a":1}{"b":2}')
def test_json_from_anywhere(data):
    """Bytes either decode or raise ValueError: no other exception, no recursion limit."""
    try:
        value = codec.decode(data)
    except ValueError:
        return
    assert codec.decode(codec.encode(value)) == value
