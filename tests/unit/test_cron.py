"""Times of cron expressions: Debian's rules, also while clocks change.

`as_debian` is what man 8 cron says, minute by minute: with `*` in minute or hour, a job is due whenever the
clock shows a time that matches. Others are due once at each such time: the first of two, and right after the
change if the clock skips it.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q import cron
from aragora_q.cron import CronTimes

CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "America/St_Johns": ("2026-03-08T05:30", "2026-11-01T04:30"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "America/Santiago": ("2026-04-05T03:00", "2026-09-06T04:00"),
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),
    "Asia/Kathmandu": ("2026-03-08T00:00",),
    "UTC": ("2026-03-01T00:00",),
}
"""Times in UTC at which clocks change, by zone; in two zones they never do."""

MINUTE_MS = 60_000


def ms(text, zone="UTC"):
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def texts(times, zone):
    return [
        datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for at in times
    ]


def times_between(expression, zone, start, end):
    found = []
    for at in CronTimes(expression, zone).after(start):
        if at > end:
            return found
        found.append(at)
    raise AssertionError("not without end")


def numbers(field, low, high):
    """The values of a field of a cron expression."""
    found = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        bounds = (low, high) if span == "*" else (int(first), int(last or first))
        found |= set(range(bounds[0], bounds[1] + 1, int(step or 1)))
    return found


def as_debian(expression, zone, start, end):
    """The times that a job with this minute and hour is due on any day, after `start` and up to `end`."""
    minute, hour = expression.split()[:2]
    minutes, hours, local = numbers(minute, 0, 59), numbers(hour, 0, 23), ZoneInfo(zone)
    due = set()
    if minute.startswith("*") or hour.startswith("*"):
        for at in range(start - start % MINUTE_MS, end + 1, MINUTE_MS):
            shown = datetime.fromtimestamp(at / 1000, local)
            if shown.minute in minutes and shown.hour in hours:
                due.add(at)
    else:
        day = datetime.fromtimestamp(start / 1000, local).replace(tzinfo=None)
        day = day.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        for n in range(3 * 24 * 60):
            shown = day + timedelta(minutes=n)
            if shown.minute in minutes and shown.hour in hours:
                while (
                    shown.replace(tzinfo=local)
                    .astimezone(UTC)
                    .astimezone(local)
                    .replace(tzinfo=None)
                    != shown
                ):
                    shown += timedelta(minutes=1)
                due.add(round(shown.replace(tzinfo=local).timestamp() * 1000))
    return sorted(at for at in due if start < at <= end)


@st.composite
def fields(draw, high, some=None):
    values = st.integers(0, high) if some is None else st.sampled_from(some)
    kind = draw(st.sampled_from(["*", "/", "1", "-", ","]))
    match kind:
        case "*":
            return "*"
        case "/":
            return f"*/{draw(st.sampled_from([2, 3, 5, 7, 15, 20]))}"
        case "1":
            return str(draw(values))
        case "-":
            first, last = sorted((draw(values), draw(values)))
            return f"{first}-{last}"
        case _:
            return ",".join(str(draw(values)) for _ in range(3))


@st.composite
def around_changes(draw):
    """A zone, and eight hours in which its clock changes, or is about to, or has just changed."""
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change = ms(draw(st.sampled_from(CHANGES[zone])))
    start = change + draw(st.integers(-5 * 60, 90)) * MINUTE_MS + draw(st.integers(0, 59_999))
    return zone, start, start + 8 * 60 * MINUTE_MS


@given(fields(59), fields(23, some=[0, 1, 2, 3, 4, 23]), around_changes())
def test_times_are_those_of_debians_cron(minute, hour, window):
    """For any minute and hour, in any zone, from any moment on."""
    expression = f"{minute} {hour} * * *"
    assert times_between(expression, *window) == as_debian(expression, *window)


@given(fields(59), fields(23, some=[0, 1, 2, 3, 4, 23]), around_changes())
def test_the_newest_of_many_is_that_of_all(minute, hour, window):
    """However few of them are counted."""
    expression, (zone, start, end) = f"{minute} {hour} * * *", window
    times = as_debian(expression, *window)
    due = CronTimes(expression, zone).due(start, end)
    assert due == ((times[-1], len(times)) if times else None)
    counted, cron.MAX_COUNTED = cron.MAX_COUNTED, 1
    try:
        due = CronTimes(expression, zone).due(start, end)
    finally:
        cron.MAX_COUNTED = counted
    assert due == ((times[-1], 1) if times else None)


@pytest.mark.parametrize(
    ("zone", "expression", "start", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]),
        ("Europe/Berlin", "0,30 2 * * *", "2026-03-28T12:00", ["03-29 03:00 +0200", "03-30 02:00 +0200"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("Europe/Berlin", "*/30 2 * * *", "2026-10-25T01:00",
         ["10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100"]),
        ("Europe/Berlin", "0 * * * *", "2026-03-29T01:30", ["03-29 03:00 +0200", "03-29 04:00 +0200"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00",
         ["10-04 02:30 +1100", "10-05 02:15 +1100"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00",
         ["04-05 01:45 +1100", "04-06 01:45 +1030"]),
        ("Australia/Lord_Howe", "*/15 1 * * *", "2026-04-05T01:20",
         ["04-05 01:30 +1100", "04-05 01:45 +1100", "04-05 01:30 +1030", "04-05 01:45 +1030"]),
        ("Australia/Lord_Howe", "*/30 2 * * *", "2026-04-05T00:00",
         ["04-05 02:00 +1030", "04-05 02:30 +1030"]),
        ("UTC", "0 6 * * MON", "2026-11-29T00:00", ["11-30 06:00 +0000", "12-07 06:00 +0000"]),
        ("UTC", "0 0 29 2 *", "2026-11-29T00:00", ["02-29 00:00 +0000"]),
        ("UTC", "0 0 13 * FRI", "2026-11-01T00:00", ["11-06 00:00 +0000", "11-13 00:00 +0000"]),
        ("UTC", "0 0 L * *", "2027-02-01T00:00", ["02-28 00:00 +0000", "03-31 00:00 +0000"]),
    ],
)  # fmt: skip
def test_times_of_an_expression(zone, expression, start, expected):
    """What an operator who knows cron expects."""
    after = CronTimes(expression, zone).after(ms(start, zone))
    assert texts([next(after) for _ in expected], zone) == expected


def test_the_second_of_two_times_is_not_due_again():
    """From the repeated hour on, a fixed time is due the next day, not in the past."""
    at = ms("2026-10-25T01:15")  # 02:15 in Berlin, for the second time
    assert texts([CronTimes("30 2 * * *", "Europe/Berlin").next_after(at)], "Europe/Berlin") == [
        "10-26 02:30 +0100"
    ]


def test_a_year_of_minutes_is_looked_at_in_little_time():
    """Not each of 525,600 times is looked at."""
    steps = 0

    class Counted(CronTimes):
        def after(self, at):
            nonlocal steps
            for time in super().after(at):
                steps += 1
                yield time

    start = ms("2026-01-01T00:00")
    end = start + 365 * 86_400_000 + 30_000
    assert Counted("* * * * *", "Europe/Berlin").due(start, end) == (end - 30_000, cron.MAX_COUNTED)
    assert steps < cron.MAX_COUNTED + 50


@pytest.mark.parametrize(
    ("expression", "zone", "words"),
    [
        ("0 6 * *", "UTC", "wrong number of fields"),
        ("0 0 6 * * *", "UTC", "wrong number of fields"),
        ("60 6 * * *", "UTC", "bad minute"),
        ("0 6 * * FUNDAY", "UTC", "bad day-of-week"),
        ("0 0 31 2 *", "UTC", "bad day"),
        ("@daily", "UTC", "wrong number of fields"),
        ("", "UTC", "wrong number of fields"),
        ("9" * 5_000 + " 6 * * *", "UTC", "longer than 1,000 characters"),
        ("0 6 * * *", "Europe/Atlantis", "not known on this host"),
        ("0 6 * * *", "../../etc/passwd", "not known on this host"),
        ("0 6 * * *", "", "not known on this host"),
    ],
)
def test_what_is_none_is_refused(expression, zone, words):
    """The error says which part, and how it should be."""
    with pytest.raises(ValueError, match=words):
        CronTimes(expression, zone).check()


def test_lists_of_all_values_are_short_enough():
    """The longest expression that has each value once, as another program may write it."""
    ranges = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    lists = (",".join(map(str, range(first, last + 1))) for first, last in ranges)
    CronTimes(" ".join(lists)).check()


def test_a_time_is_shown_in_its_zone():
    """As ISO 8601, with the offset of that moment."""
    assert CronTimes("0 6 * * *", "Europe/Berlin").shown(ms("2026-11-29T05:00")) == (
        "2026-11-29T06:00:00+01:00"
    )
