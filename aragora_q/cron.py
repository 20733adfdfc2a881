"""Times at which a schedule is due, by a cron expression in a time zone.

The only importer of cronsim, which follows Debian's cron over changes of daylight saving time: a fixed time
that the clock skips is due right after the change, and one that comes twice is due once; with `*` or `*/n`
minutes or hours, times follow the clock. Knows neither schedules nor Redis. Times are Unix ms.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

FIELDS = 5
MAX_CHARS = 1_000
"""Of an expression: five lists of all values have fewer."""
DAY_SECONDS = 86_400

MAX_COUNTED = 1_000
"""Times that `due` counts at most."""


@dataclass(frozen=True)
class CronTimes:
    """The times of a cron expression with five fields in a time zone.

    Example:
        >>> from aragora_q.cron import CronTimes
        >>> CronTimes("0 6 * * MON", "Europe/Berlin").next_after(1_764_547_200_000)
        1764565200000
    """

    expression: str
    time_zone: str = "UTC"

    def check(self) -> None:
        """Raise ValueError if the expression, or the time zone, is not known here, or if no time matches."""
        _ = self._zone
        self.next_after(0)

    @cached_property
    def _zone(self) -> tzinfo:
        if self.time_zone == "UTC":  # needs no time zone data
            return UTC
        try:
            return ZoneInfo(self.time_zone)
        except (OSError, ValueError, LookupError):
            raise ValueError(
                f"time zone {self.time_zone!r:.60} is not known on this host: name one such as Europe/Berlin, "
                "or install the package tzdata"
            ) from None

    def next_after(self, at: int) -> int:
        """Return the first time after `at`. Raises ValueError as `check` does."""
        return next(self.after(at))

    def after(self, at: int) -> Iterator[int]:
        """Yield the times after `at`, the first one first, without end. Raises ValueError as `check` does."""
        from cronsim import CronSimError  # noqa: PLC0415 - most configurations have no schedule

        if len(self.expression) > MAX_CHARS:
            raise self._invalid(f"longer than {MAX_CHARS:,} characters")
        fields = self.expression.split()
        if len(fields) != FIELDS:
            raise self._invalid("wrong number of fields")
        follows_clock = fields[0].startswith("*") or fields[1].startswith("*")
        try:
            for time in self._by_clock(at // 1000) if follows_clock else self._at_fixed_times(at):
                if time * 1000 > at:  # the first of two equal times may be past
                    at = time * 1000
                    yield at
        except CronSimError as error:
            raise self._invalid(str(error).lower()) from None
        raise ValueError(f"{self.expression!r:.60} matches no time")

    def shown(self, at: int) -> str:
        """Return a time as ISO 8601 in the time zone, such as 2026-11-29T06:00:00+01:00."""
        return datetime.fromtimestamp(at // 1000, self._zone).isoformat()

    def due(self, after: int, now: int) -> tuple[int, int] | None:
        """Return the newest time after `after` and up to `now`, and how many there are, at most MAX_COUNTED.

        None if there is none. Takes milliseconds, however long ago `after` is.
        """
        times = [*islice(takewhile(lambda time: time <= now, self.after(after)), MAX_COUNTED)]
        if len(times) < MAX_COUNTED:
            return (times[-1], len(times)) if times else None
        seconds = range(times[-1] // 1000, now // 1000)
        newest = bisect_left(seconds, True, key=lambda at: self.next_after(at * 1000) > now)
        return (seconds.start + newest) * 1000, MAX_COUNTED

    def _at_fixed_times(self, at: int) -> Iterator[int]:
        from cronsim import CronSim  # noqa: PLC0415

        for time in CronSim(self.expression, datetime.fromtimestamp(at / 1000, self._zone)):
            yield int(time.timestamp())

    def _by_clock(self, at: int) -> Iterator[int]:
        """Yield the times, in Unix s, at which the clock shows what the expression says.

        cronsim itself loses some where the clock changes by half an hour, so it is not to know of changes.
        """
        from cronsim import CronSim  # noqa: PLC0415

        offset = self._offset(at)
        while True:
            for shown in CronSim(self.expression, datetime.fromtimestamp(at + offset, UTC)):
                time = int(shown.timestamp()) - offset
                if (change := self._change(at, time, offset)) is not None:
                    at, offset = change - 1, self._offset(change)
                    break
                yield time
                at = time
            else:
                return

    def _change(self, after: int, until: int, offset: int) -> int | None:
        """Return the first time up to `until` at which the offset from UTC is not `offset`, or None."""
        for day in (*range(after + DAY_SECONDS, until, DAY_SECONDS), until):
            if self._offset(day) != offset:
                seconds = range(max(after, day - DAY_SECONDS) + 1, day)
                changed = bisect_left(seconds, True, key=lambda at: self._offset(at) != offset)
                return seconds.start + changed
        return None

    def _offset(self, at: int) -> int:
        """Return how many seconds the zone is ahead of UTC."""
        ahead = datetime.fromtimestamp(at, self._zone).utcoffset()
        return int(ahead.total_seconds()) if ahead else 0

    def _invalid(self, why: str) -> ValueError:
        return ValueError(
            f"{self.expression!r:.60} is not a cron expression: {why}; it has minute, hour, day of month, "
            "month and day of week, as in 0 6 * * MON"
        )
