"""Load the Lua scripts of `lua/` by name and bind the names in their headers to Redis' numbered slots.

A script's header declares its keys, its arguments, for batches the fields of each item, and which included
functions are rare in it. The loader writes these bindings, the constants of `keys.py` and the included
functions on one line, in place of the header's first line, so that line numbers in Lua errors stay
correct. Used by `connection.py`; must not know jobs.

All files are read when this module is imported: a process keeps the scripts that belong to its code,
whatever an upgrade does to the files later.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

from aragora_q.redis.keys import LUA_CONSTANTS

BATCH_LIMIT = 100
"""Maximum number of items in a call: a script blocks the server while it runs."""

BATCH_BYTES = 4 * 1024 * 1024
"""Approximate maximum of data in a call: a slow link must transfer it before the call times out."""


def _sources(folder: str) -> dict[str, str]:
    """Return the Lua files of a folder by name. Not by pathlib, which would take longer than reading them."""
    found = {}
    for name in os.listdir(folder):  # noqa: PTH208 - see above
        if name.endswith(".lua"):
            with open(f"{folder}/{name}", encoding="utf-8") as file:  # noqa: PTH123 - likewise
                found[name.removesuffix(".lua")] = file.read()
    return found


_FOLDER = f"{os.path.dirname(__file__)}/lua"  # noqa: PTH120 - likewise
_SCRIPTS, _INCLUDES = _sources(_FOLDER), _sources(f"{_FOLDER}/include")
"""The sources of `lua/` and of `lua/include`, by name. Every script includes `job` implicitly."""

_WORD = re.compile(r"\w+")
_CONSTANTS = {
    name: f"'{value}'" if isinstance(value, str) else str(value)
    for name, value in LUA_CONSTANTS.items()
}
_CONSTANT = re.compile(rf"\b(?:{'|'.join(_CONSTANTS)})\b")

Value = str | bytes | int | float
T = TypeVar("T")


def batched(
    items: Iterable[T], limit: int = BATCH_LIMIT, *, weigh: Callable[[T], int] | None = None
) -> Iterator[list[T]]:
    """Split `items` into lists that one call may carry.

    A list has at most `limit` items and, if `weigh` returns an item's size in bytes, about BATCH_BYTES.
    """
    batch: list[T] = []
    batch_bytes = 0
    for item in items:
        item_bytes = weigh(item) if weigh else 0
        if batch and batch_bytes + item_bytes > BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(item)
        batch_bytes += item_bytes
        if len(batch) >= limit:  # before the next item is made
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class Script:
    """One script: `text` as sent to the server, and the names that its header declares."""

    name: str
    text: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    item_fields: tuple[str, ...]
    is_repeatable: bool
    """True: sent a second time, it does and answers the same. Others are idempotent, but answer differently."""

    @cached_property
    def sha(self) -> str:
        """The script's name for EVALSHA."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def is_read_only(self) -> bool:
        """True if it writes nothing: a user who may only read may run it."""
        return "no-writes" in self.text.partition("\n")[0]

    def named_keys(self, keys: Mapping[str, str]) -> list[str]:
        """Return the keys that the header names: the first ones of a call."""
        return [keys[name] for name in self.keys]

    def operands(
        self,
        args: Mapping[str, Value],
        items: Iterable[tuple[str | None, Sequence[Value]]] = (),
        also_keys: Sequence[str] = (),
    ) -> tuple[int, list[Value]]:
        """Return the number of a call's keys, and its operands after the named keys: other keys, arguments.

        An item is the key of its job's hash (None if the script takes no key per item) and its fields
        in the header's order. `also_keys` are declared to the server, but have no name in the script.

        Raises:
            KeyError: the header declares an argument that the caller did not pass.
        """
        other_keys: list[Value] = []
        arguments: list[Value] = [args[name] for name in self.args]
        for key, fields in items:
            if key is not None:
                other_keys.append(key)
            arguments.extend(fields)
        other_keys.extend(also_keys)
        return len(self.keys) + len(other_keys), other_keys + arguments


@cache
def load(name: str) -> Script:
    """Return the script `lua/<name>.lua`, ready to be sent."""
    source = _SCRIPTS[name]
    keys = _declared(source, "keys")
    args = _declared(source, "args")
    item = re.search(r"^-- each (\w+): (.*)$", source, re.MULTILINE)
    item_fields = tuple(item[2].split()) if item else ()
    shebang, _, body = source.split("\n", 2)
    bindings = f"{_binding(keys, 'KEYS')} {_binding(args, 'ARGV')}"
    includes, rare = ("job", *_declared(source, "include")), _declared(source, "rare")
    definitions, body = _definitions(body, includes, rare, bindings)
    code = f"{' '.join([bindings, *definitions])}\n{body}"
    if item:
        count, values = _items(len(keys), len(args), len(item_fields), keyed=item[1] == "job")
        code = f"local items={count} {code.replace('item(n)', values)}"
    text = f"{shebang}\n{code}"
    is_repeatable = "no-writes" in shebang or "\n-- repeatable" in source
    return Script(name, text, keys, args, item_fields, is_repeatable)


def body(name: str) -> str:
    """Return the source of `lua/<name>.lua`, without what it includes."""
    return _SCRIPTS[name]


def included() -> list[str]:
    """Return the sources of the files that scripts include."""
    return list(_INCLUDES.values())


def _declared(source: str, label: str) -> tuple[str, ...]:
    line = re.search(rf"^-- {label}:(.*)$", source, re.MULTILINE)
    return tuple(line[1].split()) if line else ()


def _binding(names: tuple[str, ...], table: str) -> str:
    return f"local {','.join(names)}=unpack({table},1,{len(names)})" if names else ""


def _items(key_count: int, arg_count: int, width: int, *, keyed: bool) -> tuple[str, str]:
    """Return what stands for `items`, the number of items, and for `item(n)`, the n-th one's key and fields."""
    key = f"KEYS[{key_count}+n]," if keyed else ""
    start = f"{arg_count - width}+n*{width}"
    return f"(#ARGV-{arg_count})/{width}", f"{key}unpack(ARGV,{start}+1,{start}+{width})"


class _Definition:
    """A function or variable of an include."""

    def __init__(self, source: str) -> None:
        head = source.partition("\n")[0]
        self.is_rare = head.endswith("-- rare")
        self.name = _WORD.findall(head)[2 if head.startswith("local function") else 1]
        code = _CONSTANT.sub(lambda found: _CONSTANTS[found[0]], _code(source))
        self.line = " ".join(code.split())
        """Its code on one line, with the values of constants for their names."""

    @cached_property
    def words(self) -> set[str]:
        return set(_WORD.findall(self.line))


def _definitions(
    body: str, includes: tuple[str, ...], rare_here: tuple[str, ...], bindings: str
) -> tuple[list[str], str]:
    """Return the constants and included functions that `body` uses, and `body` as it calls them.

    Redis creates every function of a script again in each call, and a function costs more for each name
    from outside that it uses. So included functions contain the values of constants, not their names; and
    one function, `rarely`, defines all that are marked `-- rare` or are rare in this script, with what only
    they use, for example the time, when the first of them is called. It returns the one that is named.
    """
    words = set(_WORD.findall(_code(body)))
    bound = [f"local {name}={_CONSTANTS[name]}" for name in _CONSTANTS if name in words]
    common, rare, entrances = [], [], []
    rare_words: set[str] = set()
    available = [_Definition(source) for name in includes for source in _split(_INCLUDES[name])]
    for definition in reversed(available):
        is_rare = definition.is_rare or definition.name in rare_here
        if definition.name in words and not is_rare:
            common.append(definition.line)
            words |= definition.words
        elif definition.name in words | rare_words:
            rare.append(definition.line)
            rare_words |= definition.words
            if definition.name in words:
                entrances.append(definition.name)
    if not entrances:
        return bound + common[::-1], body
    calls = re.compile(rf"(?<![\w.])({'|'.join(entrances)})(?=\()")
    names = ",".join(f"{name}={name}" for name in entrances)
    lines = [calls.sub(r"rarely'\1'", line) for line in common[::-1]]
    inner = f"{bindings} {' '.join(rare[::-1])} rare={{{names}}}"
    rarely = f"local rare function rarely(name) if not rare then {inner} end return rare[name] end"
    return [*bound, "local rarely", *lines, rarely], calls.sub(r"rarely'\1'", body)


def _split(source: str) -> list[str]:
    """Return the definitions of an include."""
    return re.split(r"^(?=local )", source, flags=re.MULTILINE)[1:]


def _code(source: str) -> str:
    """Return Lua code without its comments."""
    return re.sub(r"--.*", "", source)
