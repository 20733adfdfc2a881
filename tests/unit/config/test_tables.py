"""The tables of budgets, providers and agents: each mistake is one line with value, rule and origin."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aragora_q import codec
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from aragora_q.config.tables import BudgetConfig
from aragora_q.errors import ConfigError
from aragora_q.gates.policy import budget_rule, declaration
from aragora_q.money import MICROS, cost_micros

DAY = 'limit_usd = 5\nwindow = "day"\n'


def _error(tmp_path, text):
    """The message for a configuration file, with FILE for its path."""
    path = tmp_path / "given.toml"
    path.write_text(text)
    with override_file(path), pytest.raises(ConfigError) as caught:
        QueueConfig()
    assert caught.value.exit_code == 78
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('limit_usd = "50 EUR"', "limit_usd = '50 EUR' (FILE:1): must be a number"),
        ("limit_usd = -5", "limit_usd = -5 (FILE:1): must be greater than or equal to 0.000001"),
        ("limit_usd = 0", "limit_usd = 0 (FILE:1): must be greater than or equal to 0.000001"),
        ("limit_usd = 1e-9", "limit_usd = 1e-09 (FILE:1): must be greater than or equal to"),
        ("limit_usd = nan", "limit_usd = nan (FILE:1): must be a finite number"),
        ("limit_usd = inf", "limit_usd = inf (FILE:1): must be a finite number"),
        ("limit_usd = 1e99", "limit_usd = 1e+99 (FILE:1): must be less than or equal to 100000000"),
        (f"limit_usd = {'9' * 400}", "(FILE:1): must be"),
        ("limit_usd = true", "limit_usd = True (FILE:1): must not be true or false"),
        ("limit_usd = []", "limit_usd (FILE:1): must be a number"),
        ("limit = 5", "budgets.b.limit (FILE:1): unknown setting; did you mean 'limit_usd'?"),
        ("limit_eur = 5", "limit_eur (FILE:1): unknown setting; did you mean 'limit_usd'?"),
        ('window = "week"', "window = 'week' (FILE:1): must be 'hour', 'day', 'month' or 'total'"),
        ("window = 1", "window = 1 (FILE:1): must be 'hour', 'day', 'month' or 'total'"),
        ('scope = "teant"', "scope = 'teant' (FILE:1): must be all, or one of queue, tenant"),
        ('scope = "all:x"', "scope = 'all:x' (FILE:1): must be all, or one of"),
        ('scope = "tenant:"', "scope = 'tenant:' (FILE:1): must be all, or one of"),
        ('scope = "tenant:a b"', "scope = 'tenant:a b' (FILE:1): must be all, or one of"),
        ('on_full = "stop"', "on_full = 'stop' (FILE:1): must be 'hold', 'fail' or 'warn'"),
    ],
)
def test_a_wrong_budget(tmp_path, line, message):
    """Every key of a budget."""
    name = line.partition(" ")[0]
    others = "".join(each for each in DAY.splitlines(keepends=True) if not each.startswith(name))
    shown = _error(tmp_path, f"[budgets.b]\n{others}{line}\n")
    assert message in shown
    assert len(shown.splitlines()) == (2 if name == "limit" else 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[budgets."a b"]\n{DAY}', "budgets.a b (FILE:1): a name must be 1 to 48 letters"),
        (f'[budgets."a/b"]\n{DAY}', "budgets.a/b (FILE:1): a name must be 1 to 48 letters"),
        (f"[budgets.{'b' * 49}]\n{DAY}", "a name must be 1 to 48 letters, digits and ._@-"),
        ("[budgets.b]\nlimit_usd = 5", "budgets.b.window (FILE:1): field required"),
        ("budgets = 3", "budgets = 3 (FILE:1): must be a table"),
        ("[budgets]\nb = 3", "budgets.b = 3 (FILE:2): must be a table"),
        ("[[budgets]]\nlimit_usd = 5", "budgets (FILE:1): must be a table"),
        ("[budget.b]\nlimit_usd = 5", "FILE:1: unknown setting 'budget'; did you mean 'budgets'?"),
        (
            "".join(f"[budgets.b{n}]\n{DAY}" for n in range(101)),
            "budgets: must be at most 100, got 101",
        ),
        ('[providers."a b"]\nadaptive = true', "providers.a b (FILE:1): a name must be 1 to 200"),
        ("[providers.p]\nadaptive = 3", "adaptive = 3 (FILE:1): must be true or false"),
        ("[providers.p]\nmax_concurrent = 0", "(FILE:1): must be greater than or equal to 1"),
        (
            "[providers.p]\nmax_concurrent = 2.5",
            "max_concurrent = 2.5 (FILE:1): must be a whole number",
        ),
        ("[providers.p]\nmax_concurrent = true", "(FILE:1): must not be true or false"),
        ("[providers.p]\nmax_calls = 1", "providers.p.max_calls (FILE:1): unknown setting"),
        ("[providers.p]\nrequests_per_minute = -1", "(FILE:1): must be greater than 0"),
        ('[providers.p]\ntokens_per_minute = "many"', "(FILE:1): must be a number"),
        ("[agents.a]\nmodel = 'm'\ntemperature = true", "(FILE:1): must not be true or false"),
        ('queue = "gates"', "queue = 'gates' (FILE:1): must not be gates"),
    ],
)
def test_a_wrong_table(tmp_path, text, message):
    """Names, kinds of values and limits."""
    assert message in _error(tmp_path, text)


def test_tables_have_no_variables(monkeypatch):
    """A variable of this name would be ignored."""
    monkeypatch.setenv("ARAGORA_QUEUE_BUDGETS", "{}")
    with pytest.raises(ConfigError, match="ARAGORA_QUEUE_BUDGETS: unknown variable"):
        QueueConfig()


@example(8_744_217_569_428)  # a float of this size has an error of 0.001 micro-dollars
@example(8_744_217_569_430)
@given(st.integers(1, 10**14))
def test_amounts_are_whole_micro_dollars(micros):
    """An amount that has six decimals is exact; a limit rounds down and a cost up."""
    usd = micros / MICROS
    assert cost_micros(usd) == micros
    if usd <= 100_000_000:
        assert budget_rule(BudgetConfig(limit_usd=usd, window="day"))["limit"] == micros


@given(st.floats(0.000001, 100_000_000))
def test_limits_round_down_and_costs_up(usd):
    """By less than a micro-dollar."""
    limit = budget_rule(BudgetConfig(limit_usd=usd, window="day"))["limit"]
    assert limit <= cost_micros(usd) <= limit + 1
    assert abs(limit - usd * MICROS) <= 1


def test_nothing_is_declared_without_tables():
    """A worker whose configuration says nothing of money and providers costs nothing; order does not count."""
    assert declaration(QueueConfig()) == b""
    one = {"a": {"limit_usd": 1, "window": "day"}, "b": {"limit_usd": 2, "window": "day"}}
    other = dict(reversed(one.items()))
    assert declaration(QueueConfig(budgets=one)) == declaration(QueueConfig(budgets=other))
    assert set(codec.decode(declaration(QueueConfig(budgets=one)))["budgets"]) == {"a", "b"}
