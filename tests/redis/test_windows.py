"""The windows of budgets: what scripts compute of a time is what Python's calendar says, in UTC."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aragora_q.redis import scripts

KINDS = ("hour", "day", "month", "total")


@pytest.fixture(scope="module")
def source():
    """The functions of the calendar, as scripts include them, in a script that takes times in ms."""
    include = (Path(scripts.__file__).parent / "lua/include/gates.lua").read_text()
    calendar = include[include.index("local function days_of_month") :]
    calendar = calendar[: calendar.index("-- The budgets that apply")]
    return f"""{calendar}
        local out = {{}}
        for n, ms in ipairs(ARGV) do
          for _, kind in ipairs({{'hour', 'day', 'month', 'total'}}) do
            local name, ends_at = window_of(kind, tonumber(ms))
            out[#out + 1] = {{name, string.format('%d', ends_at or -1)}}
          end
        end
        return cjson.encode(out)"""


def _ms(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _expected(moment):
    """Name and end of each window that a time is in."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    month = day.replace(day=1)
    return [
        [f"{hour:%Y-%m-%dT%H}", str(_ms(hour + timedelta(hours=1)))],
        [f"{day:%Y-%m-%d}", str(_ms(day + timedelta(days=1)))],
        [f"{month:%Y-%m}", str(_ms((month + timedelta(days=31)).replace(day=1)))],
        ["total", "-1"],
    ]


def _windows(client, source, moments):
    rows = json.loads(client.eval(source, 0, *map(_ms, moments)))
    return [rows[n : n + len(KINDS)] for n in range(0, len(rows), len(KINDS))]


def test_windows_at_the_borders_of_months(redis_client, source):
    """The first and the last millisecond of every month from 1970 to 2400, leap years included."""
    firsts = [
        datetime(year, month, 1, tzinfo=UTC) for year in range(1970, 2401) for month in range(1, 13)
    ]
    moments = [first + timedelta(milliseconds=ms) for first in firsts[1:] for ms in (-1, 0)]
    for start in range(0, len(moments), 1000):
        some = moments[start : start + 1000]
        assert _windows(redis_client, source, some) == [_expected(each) for each in some]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, _ms(datetime(2500, 1, 1, tzinfo=UTC))), min_size=1, max_size=50))
@example(
    [_ms(datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)), _ms(datetime(2100, 2, 28, tzinfo=UTC))]
)
def test_windows_at_any_time(redis_client, source, times):
    """Hours, days and months end where UTC says; there is no summer time."""
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms) for ms in times]
    assert _windows(redis_client, source, moments) == [_expected(each) for each in moments]
