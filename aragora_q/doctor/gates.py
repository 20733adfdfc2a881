"""Check the gates: what workers declare of budgets, providers and prices, and the counters of spending.

Used by `checks.py` and by the walk in `integrity.py`. Counters are compared by a script, many at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aragora_q.doctor.report import IntegrityReport
from aragora_q.gates.book import Book, Declaration
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import GateKeys
from aragora_q.redis.scripts import BATCH_LIMIT, batched

MAX_CALLS = 2_000
"""Calls under way with which counters are compared, at most: the script reads the records of all."""

NAMED_WORKERS = 3


def differences(declarations: list[Declaration]) -> Iterator[str]:
    """Yield one text for each budget, provider or price list that live workers declare differently."""
    for table in ("budgets", "providers"):
        named: dict[str, dict[str, list[str]]] = {}
        for each in declarations:
            for name, entry in getattr(each, table).items():
                named.setdefault(name, {}).setdefault(_entry(entry), []).extend(each.workers)
        for name, by_entry in sorted(named.items()):
            if len(by_entry) > 1:
                yield f"workers declare different {table}.{name}: {_sides(by_entry)}"
    prices: dict[str, list[str]] = {}
    for each in declarations:
        prices.setdefault(each.prices, []).extend(each.workers)
    if len(prices) > 1:
        sides = {f"digest {digest}" if digest else "none": prices[digest] for digest in prices}
        yield f"workers have different prices: {_sides(sides)}"


def _entry(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return ", ".join(f"{name} {value}" for name, value in sorted(entry.items()) if value != "")
    return str(entry)


def _sides(by_entry: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{entry} ({_workers(by_entry[entry])})" for entry in sorted(by_entry))


def _workers(names: list[str]) -> str:
    more = len(names) - NAMED_WORKERS
    return ", ".join(sorted(names)[:NAMED_WORKERS]) + (f" and {more} more" if more > 0 else "")


async def check_page(
    connection: Connection, cursor: str, report: IntegrityReport, *, repair: bool
) -> str:
    """Check the counters among the next keys of the gates; return the next cursor, "0" after the last page."""
    keys = connection.gate_keys
    next_cursor, names = await connection.execute(
        "SCAN", cursor, "MATCH", keys.pattern, "COUNT", 10 * BATCH_LIMIT
    )
    if cursor == "0" and await Book(connection).is_policy_lost():
        report.add("policy-lost", "policy")
        if repair:
            await connection.run("gate_check", max_calls=0, repair=1)
    for batch in batched(_counters(keys, map(replies.text, names), report)):
        results = await connection.run(
            "gate_check",
            [(None, (key,)) for key in batch],
            max_calls=MAX_CALLS,
            repair=int(repair),
        )
        for key, codes in zip(batch, results, strict=True):
            for code in codes.decode().split():
                if code == "busy":
                    report.uncompared_counters += 1
                else:
                    report.add(code, key.removeprefix(keys.gates_prefix))
    return replies.text(next_cursor)


def _counters(keys: GateKeys, names: Iterable[str], report: IntegrityReport) -> Iterator[str]:
    """Yield the keys of counters; note keys that do not belong to the gates."""
    for key in names:
        kind, _, name = key.removeprefix(keys.gates_prefix).partition(":")
        if kind in ("spent", "job") and name:
            yield key
        elif key not in keys.types and not (kind in keys.KINDS and name):
            report.foreign_keys.append(key)
