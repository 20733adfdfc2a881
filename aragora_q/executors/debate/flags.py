"""Recognize answers that address the voters or imitate the marks of a debate.

Used by the protocol, for the result: a flag is a hint to a person and changes no vote. Texts are compared
with the phrases of `flag_phrases.py`, read through common disguises: look-alike letters, invisible
characters, spacing, encodings. Pure.
"""

# ruff: noqa: RUF001 - letters that look alike are what it is about

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from urllib.parse import unquote

from aragora_q.executors.debate.flag_phrases import PHRASES, TAGS

HIDDEN = "contains hidden text"
ENCODED = "{why}, in encoded text"

_TAG_NAMES = ("question", "answer", "review")
MAX_ENCODED = 50
"""Encoded parts of a text that are decoded."""


def _unaccented(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    hidden = {ord(each) for each in set(decomposed) if unicodedata.category(each) in ("Mn", "Cf")}
    return decomposed.translate(dict.fromkeys(hidden)) if hidden else decomposed


@cache
def _rules(*, is_ascii: bool) -> tuple[list[str], list[tuple[str, set[str], re.Pattern[str]]]]:
    """Return the words, and the phrases, compiled: not at import, because most processes never need them.

    With `is_ascii`, only those that a text of ASCII may contain.
    """
    rules: list[tuple[str, set[str], re.Pattern[str]]] = []
    for why, phrases in PHRASES.items():
        for words, *patterns in phrases:
            found = {
                word for word in _unaccented(words).split("|") if word.isascii() or not is_ascii
            }
            found = {word for word in found if not any(w in word for w in found - {word})}
            if found:
                pattern = re.compile("|".join(map(_unaccented, patterns)), re.MULTILINE)
                rules.append((why, found, pattern))
    return sorted(set().union(*(words for _, words, _ in rules))), rules


_QUOTED_MENTION = re.compile(
    r"\b(?:such as|like|e\.g\.|for example|for instance|phrases?|slogans?|attacks?|injections?|"
    r"attackers? (?:may |might |can |could |often |then )?writes?|strings?|tokens?|tags?|markers?)[ :,]*"
    r"(?:[\"“„«][^\"“”»\n]{1,120}[\"”“»]|`[^`\n]{1,120}`|‘[^’\n]{1,120}’)"
    r"|`(?:<\|\w+\|>|</?\w+>|\[/?INST\])`"
    r"|\b(?-i:[B-DF-HJ-NP-TV-Z]{4})\b (?:also )?(?:says|contains|writes|includes|states|claims|adds) "
    r"[\"“][^\"”\n]{1,120}[\"”]"
    r"|\b(?:asks|tells|urges|orders|instructs|begs) (?:the |all |its |other )?"
    r"(?:readers?|voters?|reviewers?|judges?|models?|us|others|people)(?: and \w+)? to [^.\n]{1,80}",
    re.IGNORECASE,
)
"""Text that a sentence quotes as an example, or reports, as a review of such an answer does."""

_LOOK_ALIKES = str.maketrans(
    "аеорсухіјѕԁһкмтнѵꙇαεορτυκνιχɡıłøᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ‹›〈〉⟨⟩",
    "aeopcyxijsdhkmthviaeoptukvixgiloabcdefghijklmnoprstuvwyz<><><>",
)
_LEET = str.maketrans("013457@$", "oieastas")
_LEET_WORD = re.compile(r"\b(?=[\d@$]{0,20}[a-z])[a-z]{0,20}[0-9@$][\w@$]*")
_BLANKS = dict.fromkeys(map(ord, "\u115f\u1160\u3164\uffa0\u2800"), " ")
_TAG_LETTERS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_FLAG_EMOJI = re.compile("\U0001f3f4[\U000e0020-\U000e007f]+")
_HIDDEN = re.compile(
    "[\u202d\u202e\U000e0020-\U000e007e]|(?:[a-z][\u200b-\u200d\u2060\ufeff\u00ad]+){4}",
    re.IGNORECASE,
)

_ENCODED = {
    "base64": re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}"),
    "hex": re.compile(r"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[ ,:]?){10,}"),
}


def flags(text: str) -> list[str]:
    """Return why `text` looks as if it addressed its readers or imitated the debate's marks; else nothing."""
    own = _QUOTED_MENTION.sub(" ", text)
    found = dict.fromkeys(_matches(_views(own)))
    if _HIDDEN.search(_FLAG_EMOJI.sub("", text)):
        found.setdefault(HIDDEN)
    if not found:
        decoded = map(_plain, _decoded(own))
        found = dict.fromkeys(ENCODED.format(why=why) for why in _matches(decoded))
    return list(found)


def _matches(views: Iterable[str]) -> Iterator[str]:
    for view in views:
        words, rules = _rules(is_ascii=view.isascii())
        present = {word for word in words if word in view}
        for why, needed, pattern in rules if present else ():
            if not needed.isdisjoint(present) and pattern.search(view):
                yield why
        tags = view.replace("< /", "</")
        if any(tags.count(f"</{name}>") > tags.count(f"<{name}>") for name in _TAG_NAMES):
            yield TAGS  # it closes what it has not opened


def _views(text: str) -> set[str]:
    """Return `text` as a reader might see it: by line, as one line without markup, in plain letters."""
    by_line = _plain(text)
    flat = " ".join(re.sub(r"[*~`|#>\"]+", " ", by_line).split())
    spelled = re.sub(r"(?<=\b\w)[ ._-](?=\w\b)", "", text)
    joined = by_line if spelled == text else _plain(spelled)
    views = {by_line, flat, joined, _LEET_WORD.sub(lambda word: word[0].translate(_LEET), flat)}
    if not by_line.isascii():
        views |= {by_line.translate(_LOOK_ALIKES), flat.translate(_LOOK_ALIKES)}
    return views


def _plain(text: str) -> str:
    """Return `text` in lower case, without accents and invisible characters, with plain spaces."""
    visible = text if text.isascii() else _unaccented(text.translate(_BLANKS))
    return re.sub(r"[^\S\n]{2,}|[^\S\n ]", " ", visible.casefold())


def _decoded(text: str) -> Iterator[str]:
    """Yield what `text` or parts of it say in a simple encoding."""
    if not text.isascii():
        yield "".join(_TAG_LETTERS.get(ord(character), "") for character in text)
    yield codecs.encode(text, "rot13")
    yield text[::-1]
    unescaped = unquote(html.unescape(html.unescape(text)))
    unescaped = re.sub(
        r"\\(?:u|x00|x)([0-9a-fA-F]{2,4})", lambda code: chr(int(code[1], 16)), unescaped
    )
    if unescaped != text:
        yield unescaped
    for name, pattern in _ENCODED.items():
        for part in islice(pattern.finditer(text), MAX_ENCODED):
            if data := _bytes(name, part[0]):
                yield data


def _bytes(name: str, text: str) -> str:
    """Return the text that is encoded in `text`, or "" if it is none."""
    try:
        if name == "hex":
            data = bytes.fromhex(re.sub(r"0x|\\x|[ ,:]", "", text))
        else:
            plain = text.rstrip("=").replace("-", "+").replace("_", "/")
            data = base64.b64decode(plain + "=" * (-len(plain) % 4))
        decoded = data.decode()
    except (ValueError, binascii.Error):
        return ""
    return decoded if decoded.replace("\n", " ").isprintable() else ""
