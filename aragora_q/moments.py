"""Durations and moments as people write them: `15m`, `36h`, `2026-11-28T02:00`; times as messages have them.

Used by the options of the command line, the filters of the console, receipts and messages of webhooks.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from aragora_q.errors import InvalidPayload

SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
END_OF_YEAR_9998 = 253_370_764_800.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(NamedTuple):
    """A time in Unix seconds, or so many seconds before now."""

    seconds: float
    is_age: bool

    def at(self, now: float) -> float:
        """Return it in Unix seconds, within the years 1970 to 9998: `datetime` can show it anywhere."""
        seconds = now - self.seconds if self.is_age else self.seconds
        return min(max(seconds, 0.0), END_OF_YEAR_9998)


def iso_time(seconds: float | None) -> str | None:
    """Return a time in Unix seconds as ISO 8601 in UTC, with milliseconds: `2026-11-28T02:00:00.000Z`."""
    if seconds is None:
        return None
    at = EPOCH + timedelta(milliseconds=round(seconds * 1000))
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_duration(text: str) -> float:
    """Return the seconds in `90s`, `15m`, `36h` or `7d`. Raises InvalidPayload."""
    seconds = _duration(text)
    if seconds is None:
        raise InvalidPayload(f"invalid duration {text!r:.100}: use 90s, 15m, 36h or 7d")
    return seconds


def parse_moment(text: str, zone: tzinfo | None = None) -> Moment:
    """Return the moment that a duration, a date or a time means. Raises InvalidPayload.

    A time that names no zone is in `zone`; None: local time.
    """
    if (seconds := _duration(text)) is not None:
        return Moment(seconds, is_age=True)
    try:
        time = datetime.fromisoformat(text)
        return Moment(time.replace(tzinfo=time.tzinfo or zone).timestamp(), is_age=False)
    except (ValueError, OverflowError, OSError):
        raise InvalidPayload(
            f"invalid time {text!r:.100}: use a time before now such as 90s, 15m, 36h or 7d, "
            "or a date such as 2026-11-28 or 2026-11-28T02:00"
        ) from None


def _duration(text: str) -> float | None:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text)
    return float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else None
