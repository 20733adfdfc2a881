"""The gates against a ledger: both agree after every step, in every order of acquires, settlements and crashes.

Hypothesis chooses the order, the same in every run (derandomize); `--money-examples` says how many histories.
Times are set in Redis as if they had passed: time limits by their score, windows by renaming present counters.
"""

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.gates import Gates, micros, new_call
from support.queue_harness import QueueHarness
from support.wait import stay_in_one_day

from aragora_q.base import Job
from aragora_q.contracts import Granted, OverBudget, WaitTurn
from aragora_q.errors import PermanentError
from aragora_q.money import MICROS

pytestmark = pytest.mark.slow

BUDGETS = {
    "a": {"limit_usd": 8.0, "window": "month"},
    "b": {"limit_usd": 5.0, "window": "total", "scope": "tenant", "on_full": "fail"},
    "c": {"limit_usd": 3.0, "window": "total", "scope": "agent:x", "on_full": "warn"},
}
JOB_USD, JOB_TOKENS = 1.5, 200
TOKENS = 100
"""What a call of `new_call` takes at most."""

PRICES = (0.0, 0.000001, 0.2, 0.7, 1.3, 2.9, 6.0, None)
TENANTS, AGENTS, JOBS = (None, "t1", "t 2"), ("x", "y"), ("j1", "j2")
NOTHING = dict.fromkeys(("spent", "reserved", "estimated", "overrun"), 0)

seen = Counter()
"""What came up in all runs together."""


@dataclass
class Paid:
    """A call as the ledger knows it; `usd` is what is reserved, in micro-dollars."""

    call: object
    job: Job
    usd: int | None
    keys: list = field(default_factory=list)
    state: str = "new"
    is_overdue: bool = False
    billed: int = 0
    tokens: int = TOKENS

    @property
    def has_job_limits(self):
        return self.call.job_max_tokens is not None

    @property
    def row(self):
        job, call = self.job, self.call
        return ("debates", job.tenant or "", "", call.agent, call.provider, call.model)


class Ledger:
    """What counters, jobs and rows must be."""

    def __init__(self):
        self.declared = {"w1": BUDGETS}
        self.overrides = {}
        self.counters = defaultdict(lambda: dict(NOTHING))
        self.jobs = defaultdict(Counter)
        self.rows = defaultdict(Counter)
        self.calls = {}

    def budgets(self):
        """The budgets that apply, by name: of two declarations the lower limit."""
        found = {}
        for budgets in self.declared.values():
            for name, budget in budgets.items():
                if name not in found or budget["limit_usd"] < found[name]["limit_usd"]:
                    found[name] = budget
        return found | self.overrides

    def applying(self, paid):
        """Reference, limit in micro-dollars, and what a full budget does; in the order of names."""
        values = {"tenant": paid.job.tenant, "agent": paid.call.agent}
        for name, budget in sorted(self.budgets().items()):
            kind, _, value = budget.get("scope", "all").partition(":")
            mine = values.get(kind)
            if kind == "all" or (mine and value in ("", mine)):
                ref = name if kind == "all" else f"{name}/{kind}:{mine}"
                yield (
                    f"{ref}|{budget['window']}",
                    micros(budget["limit_usd"]),
                    budget.get("on_full", "hold"),
                )

    def add(self, paid, name, by):
        for key in paid.keys:
            self.counters[key][name] += by
        if paid.has_job_limits:
            self.jobs[paid.job.id][name] += by

    def answer(self, paid):
        """What acquire must answer; a grant is reserved."""
        if paid.state != "new":
            return "used" if paid.state == "settled" else "granted"
        self.book_overdue()
        blocked = False
        for key, limit, on_full in self.applying(paid):
            counter = self.counters[key]
            if on_full == "warn" or paid.usd == 0:  # what is free needs no room
                continue
            if paid.usd is None or counter["spent"] + paid.usd > limit:
                return ("over", key.partition("|")[0])
            blocked = blocked or counter["spent"] + counter["reserved"] + paid.usd > limit
        if paid.has_job_limits:
            job = self.jobs[paid.job.id]
            if paid.usd is None or job["spent"] + job["reserved"] + paid.usd > micros(JOB_USD):
                return ("over", "max_cost_usd")
            if job["spent_tokens"] + job["reserved_tokens"] + TOKENS > JOB_TOKENS:
                return ("over", "max_tokens")
        if blocked:
            return "wait"
        paid.state, paid.keys = "granted", [key for key, *_ in self.applying(paid)]
        self.add(paid, "reserved", paid.usd or 0)
        if paid.has_job_limits:
            self.jobs[paid.job.id]["reserved_tokens"] += TOKENS
        return "granted"

    def release(self, paid):
        self.add(paid, "reserved", -(paid.usd or 0))
        if paid.has_job_limits:
            self.jobs[paid.job.id]["reserved_tokens"] -= TOKENS

    def book_overdue(self):
        for paid in self.calls.values():
            if paid.state == "granted" and paid.is_overdue:
                self.release(paid)
                self._book(paid, 1, 0, paid.usd or 0, paid.usd or 0, TOKENS, int(paid.usd is None))
                paid.state = "estimated"

    def settle(self, paid, usd, outcome):
        """What settle must answer. `usd` is in micro-dollars, None: unknown."""
        before = paid.state
        if before == "settled":
            return "repeated"
        is_sent = outcome != "not_sent"
        if not is_sent or (outcome == "rejected" and usd is None):
            usd = 0
        if before == "granted":
            self.release(paid)
        if before == "estimated":  # undone
            self._book(
                paid, -1, 0, -(paid.usd or 0), -(paid.usd or 0), -TOKENS, -int(paid.usd is None)
            )
        reserved = paid.usd
        if before == "new":
            paid.keys = [key for key, *_ in self.applying(paid)] if is_sent else []
            paid.usd = None
        booked = usd if usd is not None else reserved or 0
        estimated = 0 if usd is not None else booked
        tokens = paid.tokens if usd is not None else TOKENS
        if is_sent or before != "new":
            self._book(paid, int(is_sent), int(outcome == "rejected"), booked, estimated, tokens,
                       int(usd is None and reserved is None))  # fmt: skip
            self.add(paid, "overrun", max(0, (usd or 0) - (paid.usd or 0)))
        paid.state = "settled"
        return {"new": "unknown", "granted": "settled", "estimated": "late"}[before]

    def _book(self, paid, calls, faults, usd, estimated, tokens, unpriced):
        self.add(paid, "spent", usd)
        self.add(paid, "estimated", estimated)
        if paid.has_job_limits:
            self.jobs[paid.job.id]["spent_tokens"] += tokens
        self.rows[paid.row].update(
            calls=calls, faults=faults, usd=usd, estimated=estimated, unpriced_calls=unpriced
        )


class MoneyMachine(RuleBasedStateMachine):
    """Two workers, a few jobs and tenants, and everything that can happen to a call."""

    redis_url = ""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        harness = QueueHarness(self.redis_url)
        harness.redis.flushdb()
        self.gates = Gates(harness, BUDGETS)
        self.workers = {"w1": self.gates.client, "w2": self.gates.worker("w2")}
        self.ledger = Ledger()
        self.turns = 0

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        self.run(self.gates.close())
        self.loop.close()

    @initialize(is_late=st.booleans(), has_room=st.booleans(), tenant=st.sampled_from(TENANTS))
    def declare(self, is_late, has_room, tenant):
        """Also what is rare: a call that has to wait, and one that is settled after its estimate."""
        self.run(self.gates.client.refresh())
        for usd in (4.9, 4.0):
            self.acquire(
                usd=usd,
                tenant=tenant,
                agent="x",
                job="j1",
                has_job_limits=False,
                worker="w1",
                times=2,
            )
        if has_room:
            self.set_a_budget(name="a", usd=20.0)
            self.set_a_budget(name="b", usd=20.0)
        if is_late:
            self.a_call_is_never_settled(number=0, books=True)
            self.settle(number=0, share=0.3, outcome="ok", worker="w2")

    def _pick(self, number, *states):
        calls = [paid for paid in self.ledger.calls.values() if paid.state in states]
        return calls[number % len(calls)]

    def _any(*states):
        return lambda self: any(paid.state in states for paid in self.ledger.calls.values())

    def _acquire(self, paid, worker):
        expected = self.ledger.answer(paid)
        try:
            answer = self.run(self.gates.acquire(paid.call, paid.job, self.workers[worker]))
        except PermanentError:
            assert expected == "used", expected
            return
        seen[expected if isinstance(expected, str) else expected[1].partition("/")[0]] += 1
        match answer:
            case Granted():
                assert expected == "granted", expected
            case WaitTurn():
                assert expected == "wait", expected
            case OverBudget(budget=budget):
                assert expected == ("over", budget)

    @rule(usd=st.sampled_from(PRICES), tenant=st.sampled_from(TENANTS), agent=st.sampled_from(AGENTS),
          job=st.sampled_from(JOBS), has_job_limits=st.booleans(), worker=st.sampled_from(("w1", "w2")),
          times=st.integers(1, 2))  # fmt: skip
    def acquire(self, usd, tenant, agent, job, has_job_limits, worker, times):
        """Once, or again because the reply was lost. What is refused asks again later."""
        call_id = f"c{len(self.ledger.calls)}"
        limits = (
            {"job_max_tokens": JOB_TOKENS, "job_max_cost_usd": JOB_USD} if has_job_limits else {}
        )
        call = new_call(call_id, usd, agent=agent, **limits)
        paid = Paid(
            call, Job(payload={}, id=job, tenant=tenant), None if usd is None else micros(usd)
        )
        self.ledger.calls[call_id] = paid
        for _ in range(times):
            self._acquire(paid, worker)

    @precondition(_any("new", "granted", "estimated", "settled"))
    @rule(number=st.integers(0, 1000), worker=st.sampled_from(("w1", "w2")))
    def acquire_again(self, number, worker):
        self._acquire(self._pick(number, "new", "granted", "estimated", "settled"), worker)

    def _settle(self, paid, share, outcome, worker):
        usd = None if share is None else round((paid.usd or 500_000) * share)
        if paid.state != "settled":
            paid.tokens = 10
            if outcome == "ok":
                paid.billed = usd if usd is not None else paid.usd or 0
        expected = self.ledger.settle(paid, usd, outcome)
        cost_usd, client = None if usd is None else usd / MICROS, self.workers[worker]
        work = self.gates.settle(paid.call, cost_usd, outcome, paid.job, client, input_tokens=10)
        got = self.run(work)
        assert got == expected
        seen[got] += 1

    @precondition(_any("granted", "estimated"))
    @rule(number=st.integers(0, 1000), share=st.sampled_from((0.0, 0.3, 1.0, 1.7, None)),
          outcome=st.sampled_from(("ok", "ok", "ok", "rejected", "not_sent")),
          worker=st.sampled_from(("w1", "w2")))  # fmt: skip
    def settle(self, number, share, outcome, worker):
        """By the worker that asked or by another; late, if it was estimated meanwhile."""
        paid = self._pick(number, "granted", "estimated")
        self._settle(paid, share, outcome, worker)

    @precondition(_any("settled"))
    @rule(
        number=st.integers(0, 1000),
        share=st.sampled_from((0.3, None)),
        outcome=st.sampled_from(("ok", "rejected", "not_sent")),
    )
    def settle_again(self, number, share, outcome):
        """The reply was lost, or the job was resumed: another result changes nothing either."""
        self._settle(self._pick(number, "settled"), share, outcome, "w2")

    @precondition(_any("granted"))
    @rule(number=st.integers(0, 1000), share=st.sampled_from((0.3, 1.0, None)))
    def a_failover_forgets_a_grant_that_was_used(self, number, share):
        """Everything that the acquire wrote is gone; the settlement comes."""
        paid = self._pick(number, "granted")
        gates, call_id = self.gates, self.gates.call_id(paid.call)
        for key in gates.record(paid.call)["counters"]:
            gates.redis.hincrby(key, "reserved", -(paid.usd or 0))
        if paid.has_job_limits:
            job = f"{gates.prefix}job:debates/{paid.job.id}"
            gates.redis.hincrby(job, "reserved", -(paid.usd or 0))
            gates.redis.hincrby(job, "reserved_tokens", -TOKENS)
        gates.redis.zrem(f"{gates.prefix}reservations", call_id)
        gates.redis.zrem(f"{gates.prefix}permits:{paid.call.account}", call_id)
        gates.redis.delete(f"{gates.prefix}call:{call_id}")
        self.ledger.release(paid)
        paid.state = "new"
        self._settle(paid, share, "ok", "w1")

    @precondition(_any("granted"))
    @rule(number=st.integers(0, 1000), books=st.booleans())
    def a_call_is_never_settled(self, number, books):
        """Its worker crashed or froze: its time passes, and someone books it."""
        paid = self._pick(number, "granted")
        paid.is_overdue = True
        self.gates.pass_time_limit(paid.call)
        if books:
            self.run(self.workers["w1"].refresh())
            self.ledger.book_overdue()

    @rule(name=st.sampled_from(sorted(BUDGETS)), usd=st.sampled_from((0.5, 2.0, 4.0, 20.0, None)))
    def set_a_budget(self, name, usd):
        """Raised, lowered below what is spent, or reset."""
        self.ledger.overrides.pop(name, None)
        if usd is not None:
            self.ledger.overrides[name] = {**BUDGETS[name], "limit_usd": usd}
        self.run(self.gates.override("budget", name, self.ledger.overrides.get(name)))

    @rule(usd=st.sampled_from((1.0, 6.0, None)))
    def another_worker_declares(self, usd):
        """A lower or higher limit; None: it ends."""
        budgets = {"a": {**BUDGETS["a"], "limit_usd": usd}} if usd else {}
        self.run(self.workers.pop("w2").close())
        self.workers["w2"] = self.gates.worker("w2", budgets)
        self.run(self.workers["w2"].refresh())
        self.ledger.declared["w2"] = budgets

    @rule()
    def the_month_turns(self):
        """What is settled later still belongs to the month of its acquire."""
        gates, renamed = self.gates, {}
        self.turns += 1
        for key in gates.keys_of("spent:a:20"):
            renamed[key] = f"{gates.prefix}spent:a:old{self.turns}"
            gates.redis.rename(key, renamed[key])
        for key in gates.keys_of("call:"):
            record = json.loads(gates.redis.get(key))
            record["counters"] = [renamed.get(name, name) for name in record["counters"]]
            gates.redis.set(key, json.dumps(record), keepttl=True)
        if renamed:
            old = f"a|old{self.turns}"
            self.ledger.counters[old] = self.ledger.counters.pop("a|month", dict(NOTHING))
            for paid in self.ledger.calls.values():
                paid.keys = [old if key == "a|month" else key for key in paid.keys]
            seen["turned"] += 1

    @invariant()
    def sums_agree(self):
        """Counters of budgets and jobs, the rows of spending, and what is reserved."""
        counters = Counter()
        for name, counter in self.gates.counters().items():
            ref, _, window = name.rpartition(":")
            window = "month" if window.startswith("20") else window
            counters.update({(f"{ref}|{window}", key): n for key, n in counter.items()})
        assert +counters == Counter({
            (key, name): n for key, counter in self.ledger.counters.items() for name, n in counter.items() if n
        })  # fmt: skip
        jobs = {
            f"debates/{job}": {n: v for n, v in values.items() if v}
            for job, values in self.ledger.jobs.items()
        }
        assert {job: v for job, v in self.gates.jobs().items() if v} == {
            job: v for job, v in jobs.items() if v
        }
        rows = {key: {n: v for n, v in row.items() if v and not n.endswith("_tokens")}
                for key, row in self.gates.spend().items()}  # fmt: skip
        assert {key: row for key, row in rows.items() if row} == {
            key: +row for key, row in self.ledger.rows.items() if +row
        }
        granted = {
            self.gates.call_id(p.call) for p in self.ledger.calls.values() if p.state == "granted"
        }
        assert self.gates.reservations() == self.gates.permits() == granted

    @invariant()
    def billed_is_at_most_settled_and_estimated(self):
        """And what is under way is at most reserved."""
        billed = sum(paid.billed for paid in self.ledger.calls.values())
        assert billed <= self.gates.total("usd")


def test_budgets_hold_in_every_history(request, redis_url):
    """Invariant M: no history brings spent + reserved above a budget that holds; every sum is the ledger's."""
    stay_in_one_day(50)  # else a month may end within a history
    MoneyMachine.redis_url = redis_url
    seen.clear()
    run_state_machine_as_test(
        MoneyMachine,
        settings=settings(
            max_examples=request.config.getoption("--money-examples"),
            stateful_step_count=40,
            derandomize=True,
            phases=(Phase.generate,),  # a history is short enough to read
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for event in (
        "granted",
        "wait",
        "a",
        "b",
        "settled",
        "repeated",
        "late",
        "unknown",
        "turned",
    ):
        assert seen[event] > 0, seen
