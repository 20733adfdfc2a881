"""Times at which a schedule is due, by a cron expression in a time zone.

The only importer of cronsim, which follows Debian's cron over changes of daylight saving time: a fixed time
that the clock skips is due right after the change, and one that comes twice is due once; with `*` or `*/n`
minutes or hours, times follow the clock. Knows neither schedules nor Redis. Times are Unix ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from zoneinfo import ZoneInfo

FIELDS = 5


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
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - most configurations have no schedule

        if len(self.expression.split()) != FIELDS:
            raise self._invalid("wrong number of fields")
        try:
            start = datetime.fromtimestamp(at / 1000, self._zone)
            for time in CronSim(self.expression, start):
                yield int(time.timestamp()) * 1000
        except CronSimError as error:
            raise self._invalid(str(error).lower()) from None
        raise ValueError(f"{self.expression!r:.60} matches no time")

    def _invalid(self, why: str) -> ValueError:
        return ValueError(
            f"{self.expression!r:.60} is not a cron expression: {why}; it has minute, hour, day of month, "
            "month and day of week, as in 0 6 * * MON"
        )
