"""`aragora-q spend`: what paid calls took, by any of their names; exact, bounded, and unknown is not 0."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from support import paid_calls
from support.paid_calls import ok

from aragora_q.redis.keys import GateKeys

KEYS = GateKeys("aragora:queue:")
pytestmark = pytest.mark.usefixtures("within_a_day")


def day(age=0):
    """So many days ago, in UTC."""
    return str(datetime.now(UTC).date() - timedelta(days=age))


def row(*names, calls=1, usd=0, unpriced=0, estimated=0):
    """A row of spending as scripts write it."""
    return {json.dumps(names): f"{calls} 0 100 20 10 {usd} {unpriced} {estimated}"}


@pytest.fixture
def book(on_queue):
    """As `paid_calls.book`, on the queue."""
    return lambda *calls: on_queue(lambda harness: paid_calls.book(harness.queue, *calls))


def test_by_day_with_a_total(run_cli, book, redis_client):
    """Without options: the last seven days, one row each, the oldest first, and their sum."""
    book(({}, {}, ok(0.25)), ({}, {}, ok(0.5)))
    redis_client.hset(
        KEYS.spend(day(6)),
        mapping=row("debates", "", "", "gpt", "openai", "openai:gpt", usd=1_000_001),
    )
    redis_client.hset(
        KEYS.spend(day(7)),
        mapping=row("debates", "", "", "gpt", "openai", "openai:gpt", usd=9_000_000),
    )
    ended = run_cli("spend")
    assert ended.code == 0, ended.err
    head, first, today, total = (line.split() for line in ended.lines)
    assert head[:2] == ["DAY", "CALLS"]
    assert first[0] == day(6)
    assert (today[0], today[1], "$0.75" in today) == (day(), "2", True)
    assert (total[0], total[1], total[6]) == ("total", "3", "$1.75")


def test_by_any_names_and_filters(run_cli, book):
    """--by is repeatable and takes lists; filters are exact; the most expensive row comes first."""
    acme, other = {"tenant": "acme", "group": "g1"}, {"tenant": "other"}
    gpt = {"agent": "gpt", "model": "openai:gpt", "provider": "openai", "account": "openai@1"}
    book((acme, {}, ok(0.1)), (acme, gpt, ok(0.2)), (other, gpt, ok(0.4)), ({}, {}, ok(0.05)))
    by_tenant = run_cli("spend", "--by", "tenant", "--json").objects
    assert [(each["tenant"], each["usd"]) for each in by_tenant] == [
        ("other", 0.4),
        ("acme", 0.3),
        (None, 0.05),
    ]
    both = run_cli("spend", "--by", "model,agent", "--by", "group", "--tenant", "acme", "--json")
    assert [(each["model"], each["agent"], each["group"]) for each in both.objects] == [
        ("openai:gpt", "gpt", "g1"),
        ("anthropic:opus", "claude", "g1"),
    ]
    for option, value, usd in (
        ("--group", "g1", 0.3), ("--agent", "gpt", 0.6), ("--provider", "openai", 0.6),
        ("--model", "anthropic:opus", 0.15), ("--queue", "debates", 0.75),
    ):  # fmt: skip
        assert run_cli("spend", option, value, "--json").object["usd"] == usd
    assert run_cli("spend", "--queue", "another", "--json").objects == []


def test_unknown_is_not_zero(run_cli, book):
    """A call without a price is counted as unpriced; where no call has one, the sum is not known."""
    free = {"agent": "demo", "provider": "demo", "model": "demo", "account": "demo"}
    new = {"agent": "new", "model": "new:model", "max_cost_usd": None}
    book(({}, new, ok(None)), ({}, {}, ok(0.25)), ({}, free, ok(0.0)))
    unpriced, priced, demo = run_cli("spend", "--by", "agent", "--json").objects
    rows = {each["agent"]: each for each in (unpriced, priced, demo)}
    assert (rows["new"]["usd"], rows["new"]["unpriced_calls"]) == (None, 1)
    assert (rows["claude"]["usd"], rows["demo"]["usd"]) == (0.25, 0)
    table = {line.split()[0]: line.split() for line in run_cli("spend", "--by", "agent").lines}
    assert (table["new"][6], table["new"][8]) == ("unknown", "1")
    assert (table["demo"][6], table["demo"][8]) == ("$0", "0")
    assert (table["total"][6], table["total"][8]) == ("$0.25", "1")
    shown = list(csv.DictReader(io.StringIO(run_cli("spend", "--by", "agent", "--csv").out)))
    assert {each["agent"]: each["usd"] for each in shown} == {
        "new": "", "claude": "0.250000", "demo": "0.000000",
    }  # fmt: skip


def test_what_is_estimated_is_shown_as_such(run_cli, book):
    """A call whose price is not known after it was sent counts with its reservation."""
    book(({}, {}, {"outcome": "timeout"}), ({}, {}, ok(0.5)))
    shown = run_cli("spend", "--json").object
    assert (shown["usd"], shown["estimated_usd"], shown["faults"]) == (1.5, 1.0, 1)


def test_amounts_are_exact(run_cli, redis_client):
    """Micro-dollars, as text in CSV and as the nearest number in JSON, for amounts that floats round."""
    redis_client.hset(
        KEYS.spend(day()),
        mapping=row("q", "", "", "a", "p", "m", usd=100_000_000_100_001)
        | row("q", "", "", "b", "p", "m", usd=200_000),
    )
    assert run_cli("spend", "--json").object["usd"] == 100_000_000.300001
    [shown] = csv.DictReader(io.StringIO(run_cli("spend", "--csv").out))
    assert shown["usd"] == "100000000.300001"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", '=HYPERLINK("http://x")'])
def test_csv_has_no_formulas(run_cli, redis_client, text):
    """Models come from jobs: a spreadsheet must not run them, nor a terminal."""
    hostile = f"{text}\x1b]52;c;eA==\x07\n"
    redis_client.hset(KEYS.spend(day()), mapping=row("q", "", "", "a", "p", hostile, usd=5))
    ended = run_cli("spend", "--by", "model", "--csv")
    [shown] = csv.DictReader(io.StringIO(ended.out))
    assert shown["model"].startswith("'")
    assert "\x1b" not in ended.out
    assert "\x1b" not in run_cli("spend", "--by", "model").out


def test_what_is_kept_as_other(run_cli, redis_client):
    """It is a row without names; where a filter would need its names, it is left out and mentioned."""
    redis_client.hset(
        KEYS.spend(day()),
        mapping={"other": "7 0 1 1 1 70 0 0", **row("q", "acme", "", "a", "p", "other", usd=5)},
    )
    first, second = run_cli("spend", "--by", "day,model", "--json").objects
    assert (first["day"], first["model"], first["is_other"]) == (day(), None, True)
    assert (second["model"], second["is_other"]) == ("other", False)
    only = run_cli("spend", "--tenant", "acme", "--json")
    assert only.object["calls"] == 1
    assert "7 calls in rows `other`" in only.err


def test_times_are_days_in_utc(run_cli, redis_client):
    """--since takes the day of its time, --until only days that begin before it, whatever the local zone."""
    for date in ("2026-03-01", "2026-03-02", "2026-03-03"):
        redis_client.hset(KEYS.spend(date), mapping=row("q", "", "", "a", "p", "m", usd=1))

    def days(*args):
        return [each["day"] for each in run_cli("spend", "--json", *args).objects]

    assert days("--since", "2026-03-02", "--until", "2026-03-03") == ["2026-03-02"]
    assert days("--since", "2026-03-02T23:00", "--until", "2026-03-03T00:01") == [
        "2026-03-02",
        "2026-03-03",
    ]
    assert days("--since", "2026-03-02T23:30-02:00", "--until", "2026-03-04") == ["2026-03-03"]
    assert days("--until", "2026-03-04") == ["2026-03-01", "2026-03-02", "2026-03-03"]
    for args in (("--since", "1h", "--until", "2h"), ("--since", "3d", "--until", "3d")):
        refused = run_cli("spend", *args)
        assert (refused.code, "no days match" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--by", "cost"), 2, "'cost' must be one of day, queue, tenant"),
        (("--by", "day,day"), 2, "day is given twice"),
        (("--by", ""), 2, "must be one of"),
        (("--csv", "--json"), 2, "cannot be combined with --json"),
        (("--since", "yesterday"), 2, "invalid time 'yesterday'"),
        (("--tenant", "a b"), 65, "tenant"),
    ],
)
def test_wrong_uses(run_cli, args, code, text):
    """One line with the value and what is allowed."""
    refused = run_cli("spend", *args)
    assert (refused.code, text in refused.err) == (code, True), refused.err


def test_nothing_spent(run_cli):
    """An empty answer says for which days, on stderr; JSON is empty, CSV has its head."""
    shown = run_cli("spend", "--agent", "x")
    assert (shown.code, shown.out) == (0, "")
    assert shown.err.startswith("no paid calls of agent x from 20")
    assert run_cli("spend", "--json").out == ""
    assert run_cli("spend", "--csv").out.startswith("day,calls,faults,")


def test_damaged_rows_are_named(run_cli, redis_client):
    """All other rows are shown; the exit code is that of corrupted data."""
    good = row("q", "", "", "a", "p", "m", usd=1)
    redis_client.hset(
        KEYS.spend(day()),
        mapping={**good, "x": "1 2", json.dumps(["a"] * 6): "1", "[1]": "0 0 0 0 0 0 0 0"},
    )
    redis_client.set(KEYS.spend(day(1)), "x")
    ended = run_cli("spend", "--json")
    assert (ended.code, ended.object["calls"]) == (65, 1)
    assert len(ended.err.splitlines()) == 4


def test_rows_and_round_trips_are_bounded(run_cli, redis_client, monkeypatch):
    """400 days are read in a few round trips; what exceeds the rows of a report is `other`."""
    from aragora_q.gates import spending

    monkeypatch.setattr(spending, "MAX_ROWS", 50)
    monkeypatch.setattr(spending, "BATCH_ROWS", 100)
    for age in range(3):
        rows = [row("q", f"t{age}-{n}", "", "a", "p", "m", usd=1) for n in range(40)]
        for each in rows:
            redis_client.hset(KEYS.spend(day(age)), mapping=each)
    redis_client.config_resetstat()
    ended = run_cli("spend", "--since", "9000d", "--by", "tenant", "--json")
    assert sum(each["calls"] for each in ended.objects) == 120
    assert len(ended.objects) == 51
    [other] = [each for each in ended.objects if each["is_other"]]
    assert other["calls"] == 70
    calls = {name: each["calls"] for name, each in redis_client.info("commandstats").items()}
    assert calls["cmdstat_hgetall"] == 3
    assert calls["cmdstat_hlen"] == 401
