"""`aragora-q budget`: list, show, set and reset, with exit codes and JSON."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from aragora_q.base import Job
from aragora_q.context import Call, Settlement
from aragora_q.contracts import Granted

pytestmark = pytest.mark.usefixtures("within_a_day")


@pytest.fixture
def declared(on_queue):
    """A worker declares a budget for all calls and one for each tenant, and tenants spend."""

    async def declare(harness):
        config = {
            "month": {"limit_usd": 400, "window": "month"},
            "tenants": {"limit_usd": 5, "window": "day", "scope": "tenant", "on_full": "fail"},
        }
        gates = harness.other_client(budgets=config).gates("w1")
        await gates.refresh()
        for n in range(12):
            job = Job({}, tenant=f"t{n:02}")
            call = Call(f"c{n}", "a", "stub", "stub@0", "m", 10, 10, 0.5)
            assert await gates.acquire(job, call) == Granted()
            if n:
                await gates.settle(job, call, Settlement("ok", cost_usd=0.25))
        # Not closed as a worker does, which would end the declaration.
        await gates._connection.close()

    on_queue(declare)


def test_list(declared, run_cli):
    """One row per value of a scope, the first ten; the sums of all calls in the row of the other budget."""
    shown = run_cli("budget", "list")
    head, month, first, second, *others = shown.lines
    assert head.split() == [
        "BUDGET", "SCOPE", "LIMIT", "SPENT", "RESERVED", "USED", "ENDS", "(UTC)", "ORIGIN",
    ]  # fmt: skip
    assert month.split()[:6] == ["month", "all", "$400.00/month", "$2.75", "$0.50", "1%"]
    assert first.split()[:6] == ["tenants", "tenant:t00", "$5.00/day", "$0", "$0.50", "10%"]
    assert second.split()[:6] == ["tenants", "tenant:t01", "$5.00/day", "$0.25", "$0", "5%"]
    assert others[-1].split() == ["tenants", "…"]
    assert len(others) == 9
    assert month.endswith("1 worker")
    assert run_cli("budget", "list", "-q").lines == ["month", "tenants"]


def test_json(declared, run_cli):
    """Every budget is an object with all values, amounts in US dollars, times in Unix ms."""
    month, tenants = run_cli("budget", "list", "--json").objects
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    assert month.pop("window_ends_at") == next_month.timestamp() * 1000
    assert tenants["window_ends_at"] == (today + timedelta(days=1)).timestamp() * 1000
    assert month == {
        "name": "month", "scope": "all", "window": "month", "limit_usd": 400.0, "on_full": "hold",
        "override": None, "declared_by": ["debates/w1"],
        "spending": [
            {"scope": "all", "spent_usd": 2.75, "reserved_usd": 0.5, "estimated_usd": 0.0, "overrun_usd": 0.0}
        ],
    }  # fmt: skip
    assert [each["scope"] for each in tenants["spending"]] == [f"tenant:t{n:02}" for n in range(12)]
    assert run_cli("budget", "show", "month", "--json").object["spending"] == month["spending"]


def test_what_another_program_wrote_over_a_budget_is_shown_as_far_as_it_can_be_read(
    declared, run_cli, on_queue
):
    """Its limit applies; a time or a name of another kind is none."""
    rule = {"kind": "all", "value": "", "window": "day", "limit": 2_000_000, "on_full": "hold"}
    text = json.dumps({"rule": rule, "by": None, "at": "noon", "reason": 7})

    async def damage(harness):
        gates = harness.queue.connection.for_gates()
        await gates.execute("HSET", gates.gate_keys.named["overrides"], "budget:month", text)
        await gates.close()

    on_queue(damage)
    run_cli("budget", "set", "other", "1/day")  # computes what applies again
    shown = run_cli("budget", "show", "month", "--json").object
    assert (shown["limit_usd"], shown["override"]) == (2.0, {"by": "", "at": 0, "reason": "7"})


def test_show_names_who_set_it_and_why(declared, run_cli):
    """And every value of the scope."""
    run_cli("budget", "set", "tenants", "2", "--reason", "less of it\x1b[2J")
    shown = run_cli("budget", "show", "tenants")
    assert len(shown.lines) == 1 + 12 + 1 + 3
    assert shown.lines[-3] == "when full: fail"
    assert "@" in shown.lines[-2]
    assert shown.lines[-2].endswith("ago: less of it\\u001b[2J")
    assert shown.lines[-1] == "declared by debates/w1"


def test_set_and_reset(declared, run_cli):
    """What is not given stays as it is; reset lets the declared budget apply again."""
    changed = run_cli("budget", "set", "tenants", "$7.50")
    assert (
        changed.out == "tenants set to $7.50/day, scope tenant, when full: fail (was $5.00/day)\n"
    )
    again = run_cli(
        "budget", "set", "tenants", "8/hour", "--on-full", "warn", "--scope", "all", "--json"
    )
    assert {k: again.object[k] for k in ("window", "scope", "on_full", "limit_usd")} == {
        "window": "hour", "scope": "all", "on_full": "warn", "limit_usd": 8.0,
    }  # fmt: skip
    assert again.object["override"]["reason"] == ""
    reset = run_cli("budget", "reset", "tenants")
    assert (reset.code, reset.out) == (0, "tenants reset (was $8.00/hour): $5.00/day applies\n")
    assert run_cli("budget", "reset", "tenants").out == "tenants was not set: $5.00/day applies\n"


def test_a_new_budget(run_cli):
    """It needs a window; it applies without any worker, and is gone after its reset."""
    assert "no budget applies" in run_cli("budget", "list").err
    refused = run_cli("budget", "set", "day", "5")
    assert (refused.code, "give its window, such as 50/day" in refused.err) == (2, True)
    assert run_cli("budget", "set", "day", "5/day", "--scope", "tenant:acme").code == 0
    shown = run_cli("budget", "show", "day").lines[1].split()
    assert shown[:6] == ["day", "tenant:acme", "$5.00/day", "$0", "$0", "0%"]
    gone = run_cli("budget", "reset", "day", "--json")
    assert gone.object == {"name": "day", "reset": True, "budget": None}
    for command in ("show", "reset"):
        unknown = run_cli("budget", command, "day")
        assert (unknown.code, unknown.out) == (3, "")
        assert "no budget day" in unknown.err


def test_a_budget_that_only_this_configuration_has(run_cli, tmp_path):
    """Says why it does not apply: no worker runs with it now, as between the bursts of a cron job."""
    config = tmp_path / "own.toml"
    config.write_text('[budgets.day]\nlimit_usd = 5\nwindow = "day"\n')
    why = "in your configuration; it applies while a worker runs with it"
    assert f"day: {why}" in run_cli("budget", "list", "--config", config).err
    shown = run_cli("budget", "show", "day", "--config", config)
    assert (shown.code, f"hint: {why}" in shown.err) == (3, True)


def test_show_says_what_of_the_spending_is_uncertain(run_cli, on_queue):
    """An overrun has a separate line; a budget without one has no such line."""

    async def overrun(harness):
        gates = harness.queue.gates("w1")
        call = Call("c1", "a", "stub", "stub@0", "m", 10, 10, 0.5)
        assert await gates.acquire(Job({}), call) == Granted()
        await gates.settle(Job({}), call, Settlement("ok", cost_usd=0.75))
        await gates.close()

    run_cli("budget", "set", "day", "5/day")
    assert "overrun" not in run_cli("budget", "show", "day").out
    on_queue(overrun)
    assert "overrun: $0.25 of what is spent" in run_cli("budget", "show", "day").out


def test_a_misspelled_name_has_a_hint(declared, run_cli):
    """The nearest name of a budget that applies."""
    refused = run_cli("budget", "show", "mont")
    assert (refused.code, "did you mean 'month'?" in refused.err) == (3, True)


@pytest.mark.parametrize(
    ("args", "rule"),
    [
        (("x", "0.0000001/day"), "is not US dollars with at most 6 decimals, such as 50, 0.25"),
        (("x", "50EUR/day"), "AMOUNT: '50EUR/day' is not US dollars"),
        (("x", "1e99/day"), "AMOUNT: '1e99/day' is not US dollars"),
        (("x", "nan/day"), "AMOUNT: 'nan/day' is not US dollars"),
        (("x", ""), "AMOUNT: '' is not US dollars"),
        (("x", "٣/day"), "is not US dollars"),
        (("x", "--", "-1"), "AMOUNT: '-1' is not US dollars"),
        (("x", "-1/day"), "No such option: -1"),
        (("x", "0/day"), "AMOUNT: 0.0 must be greater than or equal to 0.000001"),
        (
            ("x", "999999999999/day"),
            "AMOUNT: 999999999999.0 must be less than or equal to 100000000",
        ),
        (("x", "5/week"), "AMOUNT: 'week' must be 'hour', 'day', 'month' or 'total'"),
        (("x", "5/day", "--scope", "teant"), "--scope: 'teant' must be all, or one of queue"),
        (("x", "5/day", "--scope", "all:x"), "--scope: 'all:x' must be all"),
        (("x", "5/day", "--scope", "tenant:"), "--scope: 'tenant:' must be all"),
        (("x", "5/day", "--on-full", "stop"), "--on-full: 'stop' must be 'hold', 'fail' or 'warn'"),
        (("a/b", "5/day"), "NAME: 'a/b': a name must be 1 to 48 letters"),
        (("x", "5/day", "--reason", "x" * 501), "--reason: must have at most 500 characters"),
    ],
)
def test_bad_values_are_refused(run_cli, args, rule):
    """In one line with value and rule, exit code 2; nothing is set."""
    refused = run_cli("budget", "set", *args)
    assert (refused.code, refused.out) == (2, "")
    assert rule in refused.err.splitlines()[0]
    assert run_cli("budget", "list", "-q").out == ""


def test_bad_keys_in_redis_are_no_traceback(run_cli, redis_client):
    """Another program has written where budgets are kept."""
    run_cli("budget", "set", "x", "5/day")
    for key in ("policy", "overrides", "declared"):
        redis_client.hset("aragora:queue:{gates}:overrides", "budget:y", "[]")
        redis_client.delete(f"aragora:queue:{{gates}}:{key}")
        redis_client.lpush(f"aragora:queue:{{gates}}:{key}", "x")
        refused = run_cli("budget", "list")
        assert (refused.code, "Traceback" in refused.err) == (76, False)
        assert "WRONGTYPE" in refused.err
        redis_client.delete(f"aragora:queue:{{gates}}:{key}")


def test_a_debate_that_no_window_has_room_for_is_refused(run_cli, tmp_path, monkeypatch):
    """With 65, one line; in JSON lines, the line; nothing is enqueued."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aragora-q.toml").write_text(
        '[budgets.day]\nlimit_usd = 0.001\nwindow = "day"\n'
        "[prices.claude]\ninput_usd_per_million = 3\noutput_usd_per_million = 15\n"
    )
    refused = run_cli("enqueue", "Tea?", "-a", "claude", "-a", "claude")
    assert refused.code == 65
    assert "more than budgets.day.limit_usd, $0.001" in refused.err
    line = '{"question": "Tea?", "agents": ["claude", "claude"]}'
    lines = run_cli("enqueue", "-", stdin=line)
    assert lines.code == 3
    assert "more than budgets.day.limit_usd" in lines.out
