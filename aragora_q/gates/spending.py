"""What paid calls took, as operators read it: by day, agent, model and so on; of a queue today; of a group.

Used by the command line and the exporter. Reads only, with plain commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from aragora_q import codec
from aragora_q.money import MICROS, ROW_NAMES
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import MAX_SPEND_ROWS, SPEND_DAYS

BATCH_ROWS = 2 * MAX_SPEND_ROWS
"""Rows that are read in one round trip: some MB."""

_OTHER_TYPE = re.compile("WRONGTYPE")

MAX_ROWS = 10_000
"""Rows of a report; what would be another one is added to the row `other` of its day."""


@dataclass(slots=True)
class Spent:
    """What calls took. Fields in the order of `gates.lua`."""

    calls: int = 0
    faults: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    micro_usd: int = 0
    unpriced_calls: int = 0
    """Calls whose price is not known: they are not in `micro_usd`."""
    estimated_micro_usd: int = 0
    """The part of `micro_usd` that was reserved for calls whose end is not known."""

    def add(self, other: Spent) -> None:
        """Add `other` to this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def usd(self) -> float | None:
        """US dollars; None: not known, because no call has a price. Exact to the micro-dollar."""
        return None if self.unpriced_calls and not self.micro_usd else self.micro_usd / MICROS


MAX_FAULTS = 10

Key = tuple[str | None, ...]
"""Values of what a report is by. `""`: the job had none; None: the row `other`."""


@dataclass
class Report:
    """Spending by some of SPENT_BY."""

    rows: dict[Key, Spent] = field(default_factory=dict)
    left_out: Spent = field(default_factory=Spent)
    """What a filter could not judge, because it is kept in the row `other` of a day."""
    faults: list[str] = field(default_factory=list)
    """What could not be read, at most MAX_FAULTS."""

    def note_fault(self, fault: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    @property
    def total(self) -> Spent:
        """The sum of all rows."""
        total = Spent()
        for row in self.rows.values():
            total.add(row)
        return total


class Spending:
    """Reads spending over a connection to the gates.

    All methods raise RedisUnreachable, TryAgain or AccessDenied if Redis does not answer.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keys = connection.gate_keys

    async def now(self) -> datetime:
        """Return the time of the server of the gates, in UTC."""
        seconds, _ = await self._connection.execute("TIME")
        return datetime.fromtimestamp(int(seconds), UTC)

    async def report(
        self, first: date, last: date, by: Sequence[str], only: Mapping[str, str]
    ) -> Report:
        """Return the spending of the days from `first` to `last`, `by` some of SPENT_BY.

        `only` are values that ROW_NAMES must have. Days of which nothing is kept any more are not read. Takes
        a round trip, and one for each BATCH_ROWS; memory is bounded by BATCH_ROWS and MAX_ROWS.
        """
        days = [
            (last - timedelta(days=n)).isoformat()
            for n in range(min((last - first).days, SPEND_DAYS) + 1)
        ]
        report, batch, batch_rows = Report(), list[str](), 0
        sizes = await self._read(("HLEN", self._keys.spend(day)) for day in days)
        for day, size in zip(days, sizes, strict=True):
            if size is None:
                report.note_fault(f"{self._keys.spend(day)} is not a hash")
            elif size:
                if batch and batch_rows + size > BATCH_ROWS:
                    await self._add_days(report, batch, by, only)
                    batch, batch_rows = [], 0
                batch.append(day)
                batch_rows += size
        if batch:
            await self._add_days(report, batch, by, only)
        return report

    async def of_queue(self, queue: str, day: date) -> Spent:
        """Return what the jobs of a queue spent in a day. ValueError: the data is corrupted."""
        return await self._sum(self._keys.spend_of_queue(day.isoformat(), queue))

    async def of_group(self, queue: str, group: str) -> Spent:
        """Return what the jobs of a group spent. ValueError: the data is corrupted."""
        return await self._sum(self._keys.spend_of_group(queue, group))

    async def of_groups(self, queue: str, groups: Sequence[str]) -> dict[str, Spent]:
        """Return what the jobs of groups spent, by group, in one round trip; without what is corrupted."""
        found = await self._read(("GET", self._keys.spend_of_group(queue, name)) for name in groups)
        spent = {}
        for name, stored in zip(groups, found, strict=True):
            with suppress(ValueError):
                spent[name] = Spent() if stored is None else _spent(stored)
        return spent

    async def _sum(self, key: str) -> Spent:
        stored = await self._connection.execute("GET", key)
        return Spent() if stored is None else _spent(stored)

    async def _add_days(
        self, report: Report, days: Sequence[str], by: Sequence[str], only: Mapping[str, str]
    ) -> None:
        rows = await self._read(("HGETALL", self._keys.spend(day)) for day in days)
        for day, row in zip(days, rows, strict=True):
            for name, numbers in replies.pairs(row):
                try:
                    self._add(report, day, _names(name), _spent(numbers), by, only)
                except ValueError:
                    shown = replies.text(name)
                    report.note_fault(f"row {shown!r:.200} of {self._keys.spend(day)}")

    def _add(
        self,
        report: Report,
        day: str,
        names: Mapping[str, str] | None,
        spent: Spent,
        by: Sequence[str],
        only: Mapping[str, str],
    ) -> None:
        other: Key = tuple(day if each == "day" else None for each in by)
        if names is None:
            if only:
                report.left_out.add(spent)
                return
            key = other
        elif any(names[name] != value for name, value in only.items()):
            return
        else:
            key = tuple(day if each == "day" else names[each] for each in by)
        if key not in report.rows and len(report.rows) >= MAX_ROWS:
            key = other
        report.rows.setdefault(key, Spent()).add(spent)

    async def _read(self, commands: Iterable[Sequence[str]]) -> list[Any]:
        """Run reads in one round trip; None for a key of another type."""
        return await self._connection.read_all(commands, absent=_OTHER_TYPE)


def _names(raw: bytes) -> dict[str, str] | None:
    """Return what a row names; None for the row `other`. Raises ValueError."""
    if raw == b"other":
        return None
    names = codec.decode(raw)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a list of names")
    return dict(zip(ROW_NAMES, names, strict=True))


def _spent(raw: bytes) -> Spent:
    """Return the numbers of a row. Raises ValueError."""
    numbers = [int(number) for number in raw.split()]
    if len(numbers) != len(fields(Spent)):
        raise ValueError(f"{replies.text(raw)!r:.100} are not {len(fields(Spent))} whole numbers")
    return Spent(*numbers)
