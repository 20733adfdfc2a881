"""Text fits into columns of a terminal, and prices say what they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q import formats

texts = st.text(
    st.one_of(st.characters(), st.sampled_from("a b  \n日本語é́❤\ufe0f👩\u200d💻\x1b")), max_size=200
)


@given(texts, st.integers(2, 60))
def test_wrapped_lines_fit_and_lose_nothing(text, width):
    """No line is wider than asked for, and all characters but blanks are there, in order."""
    lines = formats.wrapped(text, width)
    assert all(formats.columns(line) <= max(width, 10) for line in lines)
    rows = (formats.safe_text(row.expandtabs(4)) for row in text.splitlines())
    assert "".join("".join(lines).split()) == "".join("".join(rows).split())


@pytest.mark.parametrize(
    ("text", "columns"),
    [("Tea", 3), ("日本", 4), ("e\u0301", 1), ("☕", 2), ("❤\ufe0f", 2), ("", 0), ("ﾃｨ", 2)],
)
def test_columns_are_those_of_a_terminal(text, columns):
    """Wide characters and emoji take two, combining marks none."""
    assert formats.columns(text) == columns
    assert formats.columns(formats.padded(text, 6)) == 6


def test_lines_keep_their_indent_and_break_between_words():
    """Code stays readable; Chinese and Japanese break between characters."""
    assert formats.wrapped("    if a:\n        b", 20) == ["    if a:", "        b"]
    assert formats.wrapped("tea or coffee", 8) == ["tea or", "coffee"]
    assert formats.wrapped("茶かコーヒーか", 6) == ["茶かコ", "ーヒー", "か"]


def test_megabytes_are_wrapped_in_time():
    """One line of 500,000 characters, with and without blanks, wide or not: linear, not quadratic."""
    for text in ("x" * 500_000, "日" * 100_000, "é " * 100_000):
        assert len(formats.wrapped(text, 80)) > 1_000


@pytest.mark.parametrize(
    ("usd", "unpriced", "text"),
    [
        (0.0123, 0, "$0.0123"),
        (12.4, 0, "$12.40"),
        (0.5, 0, "$0.50"),
        (0.00003, 0, "< $0.0001"),
        (0, 0, "$0"),
        (0.0123, 1, "$0.0123, price of 1 call not known"),
        (None, 2, "price of 2 calls not known"),
        (None, 0, ""),
    ],
)
def test_a_price_says_what_it_does_not_cover(usd, unpriced, text):
    """Calls without a known price are not counted as free."""
    assert formats.price(usd, unpriced) == text


@pytest.mark.parametrize(
    ("usd", "unpriced", "quote", "text"),
    [
        (0.42, 0, 0.4, "$0.42 (quoted $0.40)"),
        (0.42, 2, 0.4, "$0.42 (quoted $0.40), price of 2 calls not known"),
        (None, 0, 0.4, "quoted $0.40"),
        (0.42, 0, None, "$0.42"),
        (0.0, 0, 0.0, "$0"),
    ],
)
def test_a_price_stands_next_to_its_quote(usd, unpriced, quote, text):
    """Unless there is no quote, or nothing to pay."""
    assert formats.price(usd, unpriced, quote) == text


def test_alternatives_read_as_a_list():
    """One stands alone; the last one of several follows `or`."""
    assert formats.any_of(["held"]) == "held"
    assert formats.any_of(["pending", "retrying", "held"]) == "pending, retrying or held"
