"""The Lua scripts: loaded from `lua/` by name, their names bound to Redis' numbered slots.

A script's header declares its keys, its arguments and, for batches, the fields of each item. From it
the loader writes the bindings, on one line in place of the header's first, so that line numbers in
Lua errors stay true. Called by the queue through `connection.py`; knows nothing of jobs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pkgutil import get_data
from typing import TypeVar

BATCH_LIMIT = 100
"""Most items a call may carry: a script blocks the server while it runs."""

BATCH_BYTES = 4 * 1024 * 1024
"""About how much data a call may carry: a slow link must get it through before the call times out."""

INCLUDES = ("job", "outage_grace")
"""Every file of `lua/include`; a script includes the first without saying so."""

Value = str | bytes | int | float
T = TypeVar("T")


def batched(
    rows: Iterable[T], limit: int = BATCH_LIMIT, *, weigh: Callable[[T], int] | None = None
) -> Iterator[list[T]]:
    """`rows` in lists of at most `limit`: what one call may carry. `weigh` tells a row's bytes, if many."""
    batch: list[T] = []
    weight = 0
    for row in rows:
        bytes_more = weigh(row) if weigh else 0
        if batch and (len(batch) >= limit or weight + bytes_more > BATCH_BYTES):
            yield batch
            batch, weight = [], 0
        batch.append(row)
        weight += bytes_more
    if batch:
        yield batch


@dataclass(frozen=True)
class Script:
    """One script: `text` as the server gets it, and the names its header declares."""

    name: str
    text: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    item_fields: tuple[str, ...]

    @cached_property
    def sha(self) -> str:
        """What EVALSHA calls the script by."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def operands(
        self,
        keys: Mapping[str, str],
        args: Mapping[str, Value],
        items: Iterable[tuple[str | None, Sequence[Value]]] = (),
        also_keys: Sequence[str] = (),
    ) -> list[Value]:
        """The operands of EVALSHA, after the script: number of keys, keys, arguments.

        An item is the key of its job's hash (None where the script takes none) and its fields in
        the header's order. `also_keys` are declared to the server, without a name in the script.
        Raises KeyError for a name the header declares and the caller lacks.
        """
        bound_keys: list[Value] = [keys[name] for name in self.keys]
        arguments: list[Value] = [args[name] for name in self.args]
        for key, fields in items:
            if key is not None:
                bound_keys.append(key)
            arguments.extend(fields)
        bound_keys.extend(also_keys)
        return [len(bound_keys), *bound_keys, *arguments]


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, ready to run."""
    source = _read(f"{name}.lua")
    keys = _declared(source, "keys")
    args = _declared(source, "args")
    each = re.search(r"^-- each (\w+): (.*)$", source, re.MULTILINE)
    item_fields = tuple(each[2].split()) if each else ()
    prelude = [_binding(keys, "KEYS"), _binding(args, "ARGV")]
    if each:
        prelude.append(_item_reader(len(keys), len(args), len(item_fields), keyed=each[1] == "job"))
    shebang, _, body = source.split("\n", 2)
    prelude += _definitions(body, ("job", *_declared(source, "include")))
    text = f"{shebang}\n{' '.join(filter(None, prelude))}\n{body}"
    return Script(name, text, keys, args, item_fields)


def body(name: str) -> str:
    """The script `lua/<name>.lua` as it is written, without what it includes."""
    return _read(f"{name}.lua")


def included() -> list[str]:
    """The files that scripts include, as they are written."""
    return [_read(f"include/{name}.lua") for name in INCLUDES]


def _read(path: str) -> str:
    data = get_data("aragora_q.redis", f"lua/{path}")
    if data is None:
        raise FileNotFoundError(f"aragora_q/redis/lua/{path} is missing from the installed package")
    return data.decode()


def _declared(source: str, label: str) -> tuple[str, ...]:
    line = re.search(rf"^-- {label}:(.*)$", source, re.MULTILINE)
    return tuple(line[1].split()) if line else ()


def _binding(names: tuple[str, ...], table: str) -> str:
    if not names:
        return ""
    slots = ",".join(f"{table}[{n}]" for n in range(1, len(names) + 1))
    return f"local {','.join(names)}={slots}"


def _item_reader(key_count: int, arg_count: int, width: int, *, keyed: bool) -> str:
    """`items`, how many there are, and `item(n)`, which returns the n-th one's key and fields."""
    key = f"KEYS[{key_count}+n]," if keyed else ""
    first = f"{arg_count}+(n-1)*{width}"
    return (
        f"local items=(#ARGV-{arg_count})/{width} "
        f"local function item(n) return {key}unpack(ARGV,{first}+1,{first}+{width}) end"
    )


def _definitions(body: str, includes: tuple[str, ...]) -> list[str]:
    """What `body` uses of the included files, in their order, each on one line.

    The server makes every function anew in each call: those that nobody uses would cost a single
    enqueue a fifth of its time.
    """
    found: list[str] = []
    needed = _code(body)
    for include in reversed(includes):
        code = _code(_read(f"include/{include}.lua"))
        for definition in reversed(re.split(r"^(?=local )", code, flags=re.MULTILINE)):
            name = re.match(r"local (?:function )?(\w+)", definition)
            if name and re.search(rf"\b{name[1]}\b", needed):
                found.append(" ".join(definition.split()))
                needed += definition
    return found[::-1]


def _code(source: str) -> str:
    """Lua without its comments."""
    return re.sub(r"--.*", "", source)
