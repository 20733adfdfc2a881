"""Format text, durations, counts and prices for people, and fit text into columns of a terminal.

Used by the command line and by the report of a debate. Pure; must not know where the text goes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

DAY_SECONDS = 86_400
EMOJI_STYLE = "\ufe0f"
"""Makes the symbol before it two columns wide."""

JOINERS = "\u200c\u200d\u200e\u200f\n\t"
"""Controls that scripts and emoji need, and that are harmless in a file that no terminal shows."""

NOT_PLAIN = re.compile(r"[^ -~]")
"""What has to be looked at before it is shown."""

WIDE = frozenset("WF")
"""East Asian widths of characters that take two columns."""

YES_NO: Mapping[bool | None, str] = {True: "yes", False: "no", None: ""}
"""What a cell says; blank if that is not known."""


def safe_text(text: str, keep: str = "") -> str:
    """Return `text` with characters escaped that could control a terminal or hide text.

    These are control characters (and so escape sequences), and bidirectional and invisible formatting;
    those in `keep` are not escaped.
    """
    if text.isprintable():
        return text

    def shown(match: re.Match[str]) -> str:
        char = match[0]
        return char if char in keep or _is_harmless(char) else _escaped(char)

    return NOT_PLAIN.sub(shown, text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x1_0000 else f"\\U{ord(char):08x}"


def shortened(text: str, max_length: int) -> str:
    """Return `text`, not escaped, on one line of at most `max_length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def truncate(text: str, max_length: int) -> str:
    """Return `text`, escaped, on one line of at most `max_length` characters."""
    return shortened(safe_text(" ".join(text.split())), max_length)


def columns(text: str) -> int:
    """Return the number of columns that escaped `text` takes on a terminal."""
    return len(text) if text.isascii() else sum(_widths(text))


def _widths(text: str) -> Iterator[int]:
    before = 2
    for char in text:
        if unicodedata.category(char) in ("Mn", "Me"):
            yield int(char == EMOJI_STYLE and before == 1)
            continue
        before = 2 if unicodedata.east_asian_width(char) in WIDE else 1
        yield before


def padded(text: str, width: int) -> str:
    """Return escaped `text` with blanks after it, so that it takes `width` columns."""
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int) -> list[str]:
    """Return `text`, escaped, as one or more lines of at most `width` columns, at least 2.

    Lines of `text` and their indent are kept. Lines break between words, and next to characters of two
    columns, as Chinese and Japanese do; longer words break anywhere.
    """
    return [
        line
        for row in text.splitlines() or [""]
        for line in _wrapped_row(safe_text(row.expandtabs(4)).rstrip(), width)
    ]


def _wrapped_row(row: str, width: int) -> Iterator[str]:
    if columns(row) <= width:
        yield row
        return
    line, used = "", 0
    for word in _words(row):
        size = columns(word)
        if used and used + size > width:
            yield line
            line = word.lstrip(" ")
            used = columns(line)
        else:
            line, used = line + word, used + size
        if used > width:
            *full, line = _pieces(line, width)
            yield from full
            used = columns(line)
    yield line


def _words(row: str) -> Iterator[str]:
    """Yield words, each with the blanks before it; a wide character is a word."""
    for word in re.findall(r" *[^ ]+", row):
        start = 0
        for n, char in enumerate("" if word.isascii() else word):
            if n > start and unicodedata.east_asian_width(char) in WIDE:
                yield word[start:n]
                start = n
        yield word[start:]


def _pieces(text: str, width: int) -> Iterator[str]:
    start, used = 0, 0
    for n, size in enumerate(_widths(text)):
        if used + size > width:
            yield text[start:n]
            start, used = n, 0
        used += size
    yield text[start:]


def duration(seconds: float) -> str:
    """Format a duration: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (2 * DAY_SECONDS, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / DAY_SECONDS:.0f} d"


def ago(moment: float, now: float) -> str:
    """Format a time relative to `now`, both in Unix seconds of one clock: `3 min ago`, `in 5 h`."""
    age = now - moment
    return f"{duration(age)} ago" if age >= 0 else f"in {duration(-age)}"


def count(number: int, singular: str, plural: str = "") -> str:
    """Format a count: `1 job`, `1,024 jobs`. `plural` is needed if it is not made with an s."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def any_of(words: Iterable[str]) -> str:
    """Format alternatives: `pending, retrying or held`. There must be one."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def points(difference: float, sign: str = "+") -> str:
    """Return a difference of shares in percentage points: `+4`, `-10`, `+0.3`, `0`; blank `sign`: `4`."""
    value = 100 * difference + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:{sign if value else ''}{'.0f' if abs(value) >= 1 else '.1g'}}"


def p_value(p: float, name: str = "") -> str:
    """Format the p-value of a test: `0.012`, `< 0.001`; with a `name`: `p = 0.012`, `p < 0.001`."""
    if p < 0.001:
        return f"{name} < 0.001".lstrip()
    return f"{name} = {p:.3f}" if name else f"{p:.3f}"


def dollars(usd: float) -> str:
    """Format a price: `$12.40`, `$0.50`, `$0.0123`, `< $0.0001`, `$0`."""
    if usd == 0:
        return "$0"
    if 0 < usd < 0.0001:
        return "< $0.0001"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}".removesuffix("00")


def dollars_or_unknown(usd: float | None) -> str:
    """Format a price that may not be known."""
    return "unknown" if usd is None else dollars(usd)


def price(cost_usd: float | None, unpriced_calls: int, quote_usd: float | None = None) -> str:
    """Format the price of a debate: `$0.42 (quoted $0.40), price of 2 calls not known`.

    Blank if nothing is known of it. `quote_usd` is what it was expected to be; None or 0: not shown.
    """
    quoted = f"quoted {dollars(quote_usd)}" if quote_usd else ""
    unpriced = f"price of {count(unpriced_calls, 'call')} not known" if unpriced_calls else ""
    if cost_usd is not None:
        quoted = f"{dollars(cost_usd)} ({quoted})" if quoted else dollars(cost_usd)
    return ", ".join(filter(None, (quoted, unpriced)))
