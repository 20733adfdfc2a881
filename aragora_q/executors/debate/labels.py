"""The marks of a debate: its nonce, the labels of answers, and the orders in which readers see them.

Used by the protocol. Labels and orders follow from the nonce, so a resumed debate is the same debate.
Pure except `draw_nonce`.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterator
from itertools import count as count_from

from aragora_q.executors.debate.consensus import stable_hash

NONCE_BYTES = 4
NOT_ALPHANUMERIC = bytes(code for code in range(128) if not chr(code).isalnum())
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""Letters of labels: consonants, so that labels are not words."""
FIRST_LETTERS = "FGHJKLMNPQRSTVWXZ"
"""Without those of the usual options of a question. There are more than a debate has seats."""
LABEL_CHARS = 4
DRAWS_PER_LENGTH = 100
"""Labels become longer if this many of a length occur in the material."""


def draw_nonce(*material: str) -> str:
    """Return a random nonce that no text in `material` contains: question, options and schema."""
    while True:
        nonce = secrets.token_hex(NONCE_BYTES)
        if not any(contains(text, nonce) for text in material):
            return nonce


def contains(text: str, nonce: str) -> bool:
    """Return True if `text` contains `nonce`, in any case, or with other characters between its own."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    bare = plain.casefold().encode("ascii", "ignore").translate(None, NOT_ALPHANUMERIC)
    return nonce.encode() in bare


def labels(nonce: str, scope: str, count: int, material: str) -> list[str]:
    """Return `count` labels with different first letters, none of which occurs in `material`.

    `scope` says who uses them, such as `rounds`, `vote.1` or `judge`; each scope has other labels.
    """
    taken = unicodedata.normalize("NFKC", material).upper()
    firsts = sorted(FIRST_LETTERS, key=lambda letter: stable_hash(nonce, scope, letter))
    return [
        next(label for label in _candidates(first, nonce, scope) if label not in taken)
        for first in firsts[:count]
    ]


def order(nonce: str, phase: str, reader: int, count: int) -> list[int]:
    """Return the order in which `reader` sees `count` answers in `phase`.

    The orders of `count` readers are a Latin square: each answer stands at each place once. If the
    answers are the readers' own and their number is odd, each place has the reader's own answer once,
    too; else, on average over all debates.
    """
    if not count:
        return []
    drawn = sorted(range(count), key=lambda answer: stable_hash(nonce, phase, answer))
    # Drawn separately, so that no seat sees its own answer at the same place in all debates.
    shift = drawn[reader % count] + int(stable_hash(nonce, phase, "shift"), 16)
    return sorted(range(count), key=lambda answer: (drawn[answer] + shift) % count)


def _candidates(first: str, nonce: str, scope: str) -> Iterator[str]:
    others = LETTERS.replace(first, "")
    for draw in count_from():
        seed = stable_hash(nonce, scope, first, draw)
        by_hash = {stable_hash(seed, letter): letter for letter in others}
        drawn = [by_hash[key] for key in sorted(by_hash)]
        yield first + "".join(drawn[: LABEL_CHARS - 1 + draw // DRAWS_PER_LENGTH])
