"""The product's text avoids the words that CONTRIBUTING.md lists under "Words we use, words we do not"."""

import io
import re
import tokenize

import pytest
from support.docs import pages
from support.paths import ROOT

HEADING = "## Words we use, words we do not"
STRINGS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None)}


def _contributing():
    """CONTRIBUTING.md without the section of words, and that section."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    before, heading, rest = text.partition(f"\n{HEADING}\n")
    if not heading:
        pytest.fail(f"CONTRIBUTING.md has no section {HEADING!r}")
    section, _, after = rest.partition("\n## ")
    return before + "\n" * (section.count("\n") + 2) + after, section


def _unwanted_words():
    """The words in backticks in the first column of the section's table."""
    _, section = _contributing()
    cells = re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
    words = [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    assert words, f"no words in backticks in the table under {HEADING!r}"
    return words


def _python(path):
    """Lines with their text, for each comment and string literal."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in STRINGS:
            yield token.start[0], token.string


def _lua(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield number, line.partition("--")[2]


def _whole(path):
    yield 1, path.read_text(encoding="utf-8")


def _texts():
    """Name, first line and text of everything that a user or contributor reads."""
    yield "CONTRIBUTING.md", 1, _contributing()[0]
    for read, paths in (
        (_python, (ROOT / "aragora_q").rglob("*.py")),
        (_lua, (ROOT / "aragora_q").rglob("*.lua")),
        (_whole, (ROOT / page for page in pages() if page != "CONTRIBUTING.md")),
        (_whole, (path for path in (ROOT / "systemd").rglob("*") if path.is_file())),
        (_whole, (ROOT / "deploy").rglob("*.y*ml")),
    ):
        for path in sorted(paths):
            for line, text in read(path):
                yield path.relative_to(ROOT), line, text


def _found(pattern, text):
    """Line (counted from 0) and words of each match."""
    for match in pattern.finditer(text):
        yield text.count("\n", 0, match.start()), " ".join(match[0].split())


def _pattern(words):
    phrases = "|".join(r"\s+".join(map(re.escape, word.split())) for word in words)
    return re.compile(rf"(?<![\w-])(?:{phrases})(?![\w-])", re.IGNORECASE)


def test_unwanted_words_are_not_used():
    """Each use is reported with file and line."""
    pattern = _pattern(_unwanted_words())
    uses = [
        f"{name}:{first + line}: {word}"
        for name, first, text in _texts()
        for line, word in _found(pattern, text)
    ]
    assert not uses, f"{len(uses)} unwanted words:\n" + "\n".join(uses)


def test_words_are_found_across_lines_but_not_inside_other_words():
    """Otherwise the check would miss phrases, or report `retold`."""
    text = "It was retold.\nNo one is told for\never."
    assert list(_found(_pattern(["told", "for ever"]), text)) == [(1, "told"), (1, "for ever")]
