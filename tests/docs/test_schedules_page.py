"""The tables of docs/schedules.md: what it says of daylight saving time is what schedules do."""

import re
from datetime import datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from support.paths import ROOT

from aragora_q.cron import CronTimes

ZONE = "Europe/Berlin"
ROWS = re.findall(
    r"^\| `([^`]+)` \| (\d\d:.*?) \| (\d\d:.*?) \|$",
    (ROOT / "docs/schedules.md").read_text(),
    re.MULTILINE,
)


def _times(cron, day):
    """The times of a cron expression from midnight to before five, as clocks show them."""
    zone = ZoneInfo(ZONE)
    first, last = (datetime(*day, hour, tzinfo=zone).timestamp() * 1000 for hour in (0, 5))
    found = takewhile(lambda at: at < last, CronTimes(cron, ZONE).after(int(first) - 1))
    return [f"{datetime.fromtimestamp(at / 1000, zone):%H:%M}" for at in found]


@pytest.mark.parametrize(("cron", "forward", "back"), ROWS)
def test_times_over_the_change_of_clocks_are_those_of_the_page(cron, forward, back):
    """Each row, on both days."""
    assert _times(cron, (2026, 3, 29)) == re.findall(r"\d\d:\d\d", forward)
    assert _times(cron, (2026, 10, 25)) == re.findall(r"\d\d:\d\d", back)


def test_the_table_is_found():
    """Rows that this module cannot read would not be checked."""
    assert len(ROWS) >= 7
