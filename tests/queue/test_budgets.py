"""Budgets: what applies of what workers declare and operators set, and how held jobs are freed."""

import json
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from aragora_q import held_jobs
from aragora_q.base import Job
from aragora_q.config.tables import BudgetConfig
from aragora_q.context import Call, Settlement
from aragora_q.contracts import Granted, Held, OverBudget, WaitTurn
from aragora_q.gates.book import Book
from aragora_q.gates.policy import holder_name
from aragora_q.held_jobs import HeldJobs
from aragora_q.maintenance import reap_pass

DAY = {"limit_usd": 10.0, "window": "day"}
ACCOUNT = "stub@00000000"


@pytest.fixture
async def gates(harness):
    """The gates of a worker that declares nothing."""
    made = harness.queue.gates("w1")
    yield made
    await made.close()


@pytest.fixture
async def book(harness):
    """The book of the gates."""
    connection = harness.queue.connection.for_gates()
    yield Book(connection)
    await connection.close()


@pytest.fixture
async def declare(harness):
    """Declares budgets and providers as a worker with this configuration does; returns its gates."""
    made = []

    async def as_worker(worker_id, **settings):
        made.append(harness.other_client(**settings).gates(worker_id))
        await made[-1].refresh()
        return made[-1]

    yield as_worker
    for each in made:
        await each.close()


def _call(usd=1.0, **fields):
    """A call that costs `usd` at most."""
    values = {
        "id": secrets.token_hex(8), "agent": "a", "provider": "stub", "account": ACCOUNT, "model": "m",
        "max_input_tokens": 10, "max_output_tokens": 10, "max_cost_usd": usd, **fields,
    }  # fmt: skip
    return Call(**values)


async def _spend(gates, usd, **labels):
    """Make a call that costs `usd`."""
    job, call = Job({}, **labels), _call(usd)
    assert await gates.acquire(job, call) == Granted()
    await gates.settle(job, call, Settlement("ok", cost_usd=usd))


async def _applying(book):
    return {each.name: (each.limit_usd, each.scope) for each in await book.budgets()}


async def _spending(book, name):
    _, spendings = await book.spending(name)
    return {each.scope: (each.spent_usd, each.reserved_usd) async for each in spendings}


async def test_the_lowest_declared_limit_counts(book, declare):
    """Of live workers; what a worker declared ends with it, and the book names who declares."""
    first = await declare("w1", budgets={"day": DAY})
    second = await declare("w2", budgets={"day": {**DAY, "limit_usd": 4}, "other": DAY})
    assert await _applying(book) == {"day": (4, "all"), "other": (10, "all")}
    assert (await book.budget("day")).declared_by == ("debates/w1", "debates/w2")
    await second.close()
    assert await _applying(book) == {"day": (10, "all")}
    await first.close()
    assert await _applying(book) == {}


async def test_an_override_replaces_what_workers_declare(book, declare, gates):
    """At once, in both directions, with who set it, when and why, until it is reset."""
    await declare("w1", budgets={"day": DAY})
    await _spend(gates, 3)
    lower = BudgetConfig(**{**DAY, "limit_usd": 2})
    await book.set_budget("day", lower, by="me@here", reason="careful")
    found = await book.budget("day")
    assert (found.limit_usd, found.override.by, found.override.reason) == (2, "me@here", "careful")
    assert abs(found.override.at - datetime.now(UTC).timestamp() * 1000) < 60_000
    refused = await gates.acquire(Job({}), _call(0.1))
    assert isinstance(refused, OverBudget)
    assert "$3.00 of $2.00 spent" in refused.why
    assert await book.reset_budget("day")
    assert not await book.reset_budget("day")
    assert await gates.acquire(Job({}), _call(0.1)) == Granted()
    assert (await book.budget("day")).override is None


async def test_each_value_of_a_scope_has_its_own_budget(book, declare, gates, monkeypatch):
    """The book lists those with spending, in pages, and nothing of other budgets."""
    monkeypatch.setattr("aragora_q.gates.book.PAGE", 5)
    await declare(
        "w1", budgets={"t": {**DAY, "scope": "tenant"}, "t2": {**DAY, "scope": "tenant:b"}}
    )
    for n in range(0, 28, 2):
        await _spend(gates, 0.5, tenant=f"t{n:03}")
    await _spend(gates, 1, tenant="b")
    await gates.acquire(Job({}, tenant="b"), _call(2))
    await _spend(gates, 1)
    found = await _spending(book, "t")
    assert len(found) == 15
    assert list(found) == sorted(found)
    assert (found["tenant:t000"], found["tenant:b"]) == ((0.5, 0), (1, 2))
    assert await _spending(book, "t2") == {"tenant:b": (1, 2)}
    assert await _spending(book, "none") == {}


@pytest.mark.parametrize(
    ("scope", "needed"),
    [("all", 3.0), ("tenant", 3.0), ("provider", 2.0), ("agent:a", 2.0)],
)
async def test_a_job_needs_its_least_of_a_budget_for_whole_jobs(gates, book, scope, needed):
    """Not only the call that was refused. An agent or a provider may have a small part in it. If it needs
    more than the limit, it is refused for good before its first call.
    """
    await book.set_budget("day", BudgetConfig(**DAY, scope=scope), by="me")
    await _spend(gates, 9.0, tenant="acme")
    job = Job({}, tenant="acme")
    answer = await gates.acquire(job, _call(2.0, least_usd=3.0))
    assert isinstance(answer, OverBudget)
    assert (answer.usd, answer.can_ever_fit) == (needed, True)
    answer = await gates.acquire(job, _call(0.5, least_usd=30.0))
    if needed == 2.0:
        assert answer == Granted()
    else:
        assert not answer.can_ever_fit
        assert "and the job needs at least $30" in answer.why


@pytest.mark.parametrize(
    ("scope", "on_full", "is_held"),
    [
        ("all", "hold", True),
        ("tenant", "hold", True),
        ("provider", "hold", False),
        ("agent:a", "hold", False),
        ("all", "fail", False),
        ("all", "warn", False),
    ],
)
async def test_a_job_is_held_before_it_begins_if_its_quote_does_not_fit(
    gates, book, scope, on_full, is_held
):
    """By budgets that hold, of scopes that see all of it: the hold needs the quote. Once it has begun, or if it
    fits, only calls count.
    """
    await book.set_budget("day", BudgetConfig(**DAY, scope=scope, on_full=on_full), by="me")
    await _spend(gates, 6.0, tenant="acme")
    job, call = Job({}, tenant="acme"), _call(1.0, least_usd=2.0, expected_usd=4.5)
    answer = await gates.acquire(job, call)
    if is_held:
        assert isinstance(answer, OverBudget)
        assert (answer.usd, answer.can_ever_fit) == (4.5, True)
        assert answer.why.endswith(
            "$6.00 of $10.00 spent, $0 reserved, and the job needs about $4.50"
        )
    else:
        assert answer == Granted()
    assert await gates.acquire(job, _call(1.0, expected_usd=4.0)) == Granted()
    assert await gates.acquire(job, _call(1.0)) == Granted()


async def test_a_free_call_begins_no_job_that_does_not_fit(gates, book):
    """A debate whose first seat costs nothing is held before it begins, too. A free job needs no room."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _spend(gates, 10.0)
    answer = await gates.acquire(Job({}), _call(0.0, least_usd=2.0, expected_usd=4.5))
    assert isinstance(answer, OverBudget)
    assert (answer.usd, answer.can_ever_fit) == (4.5, True)
    assert await gates.acquire(Job({}), _call(0.0, expected_usd=0.0)) == Granted()
    assert await gates.acquire(Job({}), _call(0.0)) == Granted()


async def test_a_budget_of_which_little_is_used_takes_a_job_of_any_quote(harness, gates, book):
    """Small jobs that always come do not keep it out of each window. One that was held is freed then, too."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _spend(gates, 0.9)
    await _hold(harness, 9.0)
    assert await _free(harness, gates) == ["j000"]
    assert await gates.acquire(Job({}), _call(1.0, expected_usd=50.0)) == Granted()
    await _spend(gates, 0.5)
    answer = await gates.acquire(Job({}), _call(1.0, expected_usd=50.0))
    assert isinstance(answer, OverBudget)
    assert (answer.usd, answer.can_ever_fit) == (9.0, True)
    assert "and the job needs about $50.00" in answer.why
    call = _call(9.5, expected_usd=50.0)
    assert (await gates.acquire(Job({}), call)).usd == 9.5


async def test_a_job_does_not_begin_in_what_others_reserve(gates, book):
    """It waits: they may take less. Once they have spent it, the job is held."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    other, call = _call(4.0), _call(1.0, expected_usd=7.0)
    assert await gates.acquire(Job({}), other) == Granted()
    assert isinstance(await gates.acquire(Job({}), call), WaitTurn)
    await gates.settle(Job({}), other, Settlement("ok", cost_usd=3.5))
    assert isinstance(await gates.acquire(Job({}), call), OverBudget)


async def test_a_call_above_the_limit_is_refused_for_good(gates, book):
    """Whatever is spent; the reason names the limit, not what is left of it."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    answer = await gates.acquire(Job({}), _call(20.0))
    assert isinstance(answer, OverBudget)
    assert not answer.can_ever_fit
    assert answer.why == "budget day: the limit is $10.00, and a call may cost $20.00"


def _end_of(window, now):
    """The end of the window that a time is in, in ms."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    ends = {
        "hour": hour + timedelta(hours=1),
        "day": day + timedelta(days=1),
        "month": (day.replace(day=1) + timedelta(days=32)).replace(day=1),
        "total": None,
    }
    return ends[window] and ends[window].timestamp() * 1000


@pytest.mark.parametrize("window", ["hour", "day", "month", "total"])
async def test_a_window_ends_where_utc_says(book, window):
    """The book shows the end of the current window."""
    await book.set_budget("x", BudgetConfig(limit_usd=1, window=window), by="me")
    before = datetime.now(UTC)
    ends_at, _ = await book.spending("x")
    # One may end, and the next begin, during the call.
    assert ends_at in {_end_of(window, before), _end_of(window, datetime.now(UTC))}


async def test_a_lost_policy_is_made_again(harness, book, declare):
    """Another program deletes or damages what applies: workers declare it again, without end or error."""
    gates = await declare("w1", budgets={"day": DAY})
    for damage in (b"", b"x", b"[]", b"{}"):
        harness.redis.set(harness.queue.connection.gate_keys.named["policy"], damage)
        assert await gates.acquire(Job({}), _call()) == Granted()
        assert await _applying(book) == {"day": (10, "all")}


async def test_damaged_overrides_and_declarations_do_not_count(harness, book, declare):
    """What is not a budget is left out; the others apply."""
    keys = harness.queue.connection.gate_keys.named
    for n, text in enumerate(("", "x", "[]", "{}", '{"rule":3}', '{"rule":{"limit":1}}')):
        harness.redis.hset(keys["overrides"], f"budget:b{n}", text)
        harness.redis.hset(keys["overrides"], "pause:stub", text)
        harness.redis.hset(keys["declared"], f"d{n}", json.dumps({"budgets": {"x": n, "y": {}}}))
        gates = await declare("w1", budgets={"b0": DAY})
        assert await gates.acquire(Job({}), _call()) == Granted()
    assert await _applying(book) == {"b0": (10, "all")}


# -- held jobs


async def _hold(harness, *needs, by="day", cause="budget", until=None, prefix="j"):
    """Hold jobs that need these amounts, in this order; return their ids."""
    session = await harness.worker(f"holder-{prefix}")
    ids = []
    for usd in needs:
        ids.append(f"{prefix}{len(ids):03}")
        await harness.enqueue(ids[-1])
        job = await harness.start_one(session)
        outcome = Held(cause, "full", by, until_seconds=until, usd=usd)
        assert await harness.report(session, job, outcome) == "held"
        harness.redis.zadd(harness.keys.held, {ids[-1]: len(ids)})
        harness.redis.hset(harness.keys.job(ids[-1]), "held_at", len(ids))
    return ids


async def _free(harness, gates, held=None):
    """Run one pass; return the ids of the jobs that are not held after it."""
    await (held or HeldJobs(harness.queue, gates)).unhold_pass()
    everything = sorted(
        key.removeprefix(harness.keys.job_prefix)
        for key in harness.redis.scan_iter(f"{harness.keys.job_prefix}j*", count=1000)
        if key.count(":") == harness.keys.job_prefix.count(":")
    )
    return [each for each in everything if await harness.queue.get_status(each) != "held"]


async def _refuse(harness, usd):
    """Start the job that waits, and hold it again."""
    session = await harness.worker(f"refuser-{secrets.token_hex(8)}")
    job = await harness.start_one(session)
    assert await harness.report(session, job, Held("budget", "full", "day", usd=usd)) == "held"


async def test_jobs_are_freed_that_fit_in_half_of_what_is_left(harness, book, gates):
    """In the order of their holds; a larger one is passed over, and none is freed while nothing is left."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _spend(gates, 10)
    await _hold(harness, 1, 4, 1.5, 1)
    assert await _free(harness, gates) == []
    await book.set_budget("day", BudgetConfig(limit_usd=15, window="day"), by="me")
    assert await _free(harness, gates) == ["j000", "j002"]


@pytest.mark.parametrize("spent", [0.0, 0.9])
async def test_a_large_job_comes_first_in_a_new_window(harness, book, gates, spent):
    """Where little is used, the first job is freed that fits what is left; the next one must fit half of it.

    Small jobs that always come do not keep it out.
    """
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _spend(gates, spent)
    await _hold(harness, 11, 9, 8, 1)
    assert await _free(harness, gates) == ["j001"]


async def test_without_windows_a_large_job_waits_for_the_calls_under_way(harness, book, gates):
    """The first job may have all that is left when nothing is reserved, since no window will turn."""
    await book.set_budget("day", BudgetConfig(limit_usd=10, window="total"), by="me")
    await _spend(gates, 4)
    call = _call(1)
    await gates.acquire(Job({}), call)
    await _hold(harness, 7, 5, 5)
    held = HeldJobs(harness.queue, gates)
    assert await _free(harness, gates, held) == []
    await gates.settle(Job({}), call, Settlement("not_sent"))
    assert await _free(harness, gates, held) == ["j001"]


@pytest.mark.parametrize("spent", [0.5, 5.0])
async def test_a_job_that_does_not_fit_tries_after_others_have_spent(
    harness, book, gates, monkeypatch, spent
):
    """What it needs may have been expected before they ended. It tries once each time: nothing circulates."""
    monkeypatch.setattr(held_jobs, "TRY_SECONDS", 0.0)
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _spend(gates, spent)
    await _hold(harness, 10)
    held = HeldJobs(harness.queue, gates)
    for _ in range(2):
        assert await _free(harness, gates, held) == ["j000"]
        await _refuse(harness, 10)
        assert await _free(harness, gates, held) == []
        await _spend(gates, 0.1)
    await _spend(gates, 9.8 - spent)
    assert await _free(harness, gates, held) == []


async def test_more_jobs_try_each_time_that_none_is_held_again(harness, book, gates, monkeypatch):
    """What they need was expected too high for all: none waits for the others. After a refusal, one tries."""
    monkeypatch.setattr(held_jobs, "TRY_SECONDS", 0.0)
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _hold(harness, *[10] * 16)
    held, started, freed = HeldJobs(harness.queue, gates), 0, []
    session = await harness.worker("runner")
    for refused in (0, 0, 1, 0):
        await _spend(gates, 0.1)
        freed.append(len(await _free(harness, gates, held)) - started)
        started += len((await session.start(freed[-1] - refused)).jobs)
        if refused:
            await _refuse(harness, 10)
        await held.unhold_pass()
    assert freed == [1, 2, 4, 1]


async def test_freed_jobs_count_until_they_start(harness, book, gates):
    """Passes do not free more while what they freed still waits; when it has started, the books decide."""
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _hold(harness, *[1] * 12)
    held = HeldJobs(harness.queue, gates)
    assert len(await _free(harness, gates, held)) == 5
    assert len(await _free(harness, gates, held)) == 7  # half of what is left
    for _ in range(3):
        await held.unhold_pass()
    waiting = len(await _free(harness, gates, held))
    assert waiting == 9
    session = await harness.worker("runner")
    started = (await session.start(9)).jobs
    assert len(started) == 9
    assert len(await _free(harness, gates, held)) == 12


async def test_a_job_refused_again_keeps_its_place(harness, book, gates):
    """It is freed before those that were held after it."""
    await book.set_budget("day", BudgetConfig(limit_usd=1, window="day"), by="me")
    await _hold(harness, 0.5, 0.5)
    assert await _free(harness, gates) == ["j000"]
    session = await harness.worker("w2")
    job = await harness.start_one(session)
    await harness.report(session, job, Held("budget", "full", "day", usd=0.5))
    assert await _free(harness, gates) == ["j000"]


async def test_budgets_do_not_starve_each_other(harness, book, gates, monkeypatch):
    """A pass looks at a bounded number of jobs, and the next one goes on there."""
    monkeypatch.setattr(held_jobs, "MAX_HELD_PAGES", 1)
    monkeypatch.setattr(held_jobs, "HELD_PAGE", 10)
    for name in ("day", "full"):
        await book.set_budget(name, BudgetConfig(**DAY), by="me")
    await book.set_budget("full", BudgetConfig(limit_usd=0.001, window="day"), by="me")
    await _hold(harness, *[1] * 12, by="full")
    await _hold(harness, 1, 1, by="day", prefix="jz")
    harness.redis.zadd(harness.keys.held, {"jz000": 1000, "jz001": 1001})
    held = HeldJobs(harness.queue, gates)
    assert await _free(harness, gates, held) == []
    assert not held.is_at_end
    passes = 0
    # Jobs whose budget is unused are looked at in order, page by page.
    while "jz000" not in await _free(harness, gates, held):
        passes += 1
    assert passes <= 4


async def test_reap_sees_all_held_jobs(harness, book, monkeypatch):
    """Also one on a later page whose budget nothing has used, which is looked at in order."""
    monkeypatch.setattr(held_jobs, "MAX_HELD_PAGES", 1)
    monkeypatch.setattr(held_jobs, "HELD_PAGE", 2)
    await book.set_budget("full", BudgetConfig(limit_usd=0.001, window="day"), by="me")
    await book.set_budget("day", BudgetConfig(**DAY), by="me")
    await _hold(harness, 1, 1, 1, by="full")
    await _hold(harness, 1, prefix="jz")
    harness.redis.zadd(harness.keys.held, {"jz000": 1000})
    assert (await reap_pass(harness.queue, "reaper")).unheld == 1
    assert await harness.queue.get_status("jz000") == "retrying"


async def test_jobs_of_a_budget_that_is_gone_are_freed(harness, book, gates):
    """Also those of a budget that only warns now."""
    await book.set_budget("warns", BudgetConfig(**DAY, on_full="warn"), by="me")
    await _hold(harness, 5, None, by="gone")
    await _hold(harness, 500, by="warns", prefix="jw")
    assert await _free(harness, gates) == ["j000", "j001", "jw000"]


async def test_long_names_of_budgets_are_found(harness, book, gates):
    """A job keeps 64 bytes of what holds it; the names of tenants may differ in what is cut only."""
    name, tenant, others = "b" * 48, "t" * 48, ("t" * 47 + "s", "t" * 47 + "u")
    await book.set_budget(name, BudgetConfig(**DAY, scope="tenant"), by="me")
    for each in (tenant, *others):
        await _spend(gates, 10 if each == tenant else 1, tenant=each)
    refused = await gates.acquire(Job({}, tenant=tenant), _call())
    await _hold(harness, 1, by=refused.budget)
    assert harness.fields("j000")["hold_by"] == refused.budget
    assert refused.budget.startswith(name)
    assert await _free(harness, gates) == []
    await _hold(harness, 1, by=holder_name(f"{name}/tenant:{others[0]}"), prefix="jo")
    assert await _free(harness, gates) == ["jo000"]
    await book.set_budget(name, BudgetConfig(**DAY, scope=f"tenant:{tenant}"), by="me")
    assert await _free(harness, gates) == ["jo000"]
    await book.set_budget(name, BudgetConfig(**DAY, scope="tenant:other"), by="me")
    assert await _free(harness, gates) == ["j000", "jo000"]


async def test_a_hold_ends_when_its_time_is_over(harness, book, gates):
    """Whatever its budget says; not before."""
    await book.set_budget("day", BudgetConfig(limit_usd=0.01, window="day"), by="me")
    await _hold(harness, 1, 1, until=3600)
    harness.redis.hset(harness.keys.job("j001"), "hold_until", 1)
    assert await _free(harness, gates) == ["j001"]


async def test_jobs_of_a_provider_are_freed_when_it_is_open(harness, gates):
    """While it is closed none; where nothing has shown that it works again, one; else what it takes."""
    call = _call(0)
    await gates.acquire(Job({}), call)
    await gates.settle(Job({}), call, Settlement("credit_exhausted"))
    await _hold(harness, None, None, None, cause="provider", by=ACCOUNT)
    held = HeldJobs(harness.queue, gates)
    assert await _free(harness, gates, held) == []
    account = harness.queue.connection.gate_keys.account(ACCOUNT)
    harness.redis.hset(account, "until", 1)
    assert await _free(harness, gates, held) == ["j000"]
    assert await _free(harness, gates, held) == ["j000"]  # it has not started yet
    harness.redis.hdel(account, "until", "why")
    assert await _free(harness, gates, held) == ["j000", "j001", "j002"]


async def test_the_hold_of_a_person_is_not_freed(harness, gates):
    """Nor that of an executor."""
    await harness.enqueue("j0")
    await harness.queue.hold("j0")
    await _hold(harness, 1, cause="executor", prefix="je")
    assert await _free(harness, gates) == []
