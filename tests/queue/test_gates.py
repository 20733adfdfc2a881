"""acquire and settle of paid calls: nothing is granted over a limit, and what is booked is what was billed."""

import asyncio
import datetime as dt
import json

import pytest
from support.gates import ACCOUNT, Gates, micros, new_call
from support.queue_harness import QueueHarness

from aragora_q.base import Job
from aragora_q.context import Settlement, current_attempt
from aragora_q.contracts import Closed, Granted, OverBudget, WaitTurn
from aragora_q.errors import CommandRefused, PermanentError, RedisUnreachable
from aragora_q.gates.accounts import Accounts, Resumed
from aragora_q.money import MICROS
from aragora_q.redis import scripts
from aragora_q.retry import RetryPolicy
from aragora_q.worker.attempt import Attempt
from aragora_q.worker.debate_worker import GATES_REFRESH_SECONDS

TOTAL = {"limit_usd": 10, "window": "total"}


@pytest.fixture
async def new_gates(backend):
    """Makes gates on each backend; a worker's client has the given budgets."""
    made = []

    def make(budgets=None, **settings):
        made.append(Gates.on(backend, budgets=budgets, **settings))
        return made[-1]

    yield make
    for gates in made:
        await gates.close()


def is_over(answer, budget, on_full="hold", *, can_ever_fit=True):
    assert isinstance(answer, OverBudget), answer
    assert (answer.budget, answer.on_full, answer.can_ever_fit) == (budget, on_full, can_ever_fit)
    return True


async def test_a_call_is_reserved_and_booked_in_every_budget_that_applies(new_gates):
    """Reserved at its highest price, then spent at its price, in all scopes, and in the ledger once."""
    gates = new_gates({
        "everything": TOTAL,
        "mine": {**TOTAL, "scope": "queue:debates"},
        "tenants": {**TOTAL, "scope": "tenant"},
        "models": {**TOTAL, "scope": "agent:other"},
    })  # fmt: skip
    job, call = Job(payload={}, id="j", tenant="t", group="g"), new_call(usd=2.0)
    assert await gates.acquire(call, job) == Granted()
    refs = {"everything:total", "mine/queue:debates:total", "tenants/tenant:t:total"}
    assert gates.counters() == {ref: {"reserved": micros(2)} for ref in refs}
    assert gates.permits() == gates.reservations() == {gates.call_id(call)}
    answer = await gates.settle(
        call, 0.5, job=job, input_tokens=30, output_tokens=10, cached_tokens=20
    )
    assert answer == "settled"
    assert gates.counters() == {ref: {"spent": micros(0.5)} for ref in refs}
    assert gates.spend() == {
        ("debates", "t", "g", "a", "acme", "m"): {
            "calls": 1, "faults": 0, "input_tokens": 30, "output_tokens": 10, "cached_tokens": 20,
            "usd": micros(0.5), "unpriced_calls": 0, "estimated": 0,
        }
    }  # fmt: skip
    assert gates.permits() == gates.reservations() == set()


async def test_asked_and_settled_again_nothing_changes(new_gates):
    """A lost reply is no second reservation and no second booking, whatever the repetition says."""
    gates, call = new_gates({"all": TOTAL}), new_call(usd=6.0)
    for _ in range(3):
        assert await gates.acquire(call) == Granted()
    assert gates.counter("all") == {"reserved": micros(6)}
    assert await gates.settle(call, 4.0) == "settled"
    assert await gates.settle(call, 4.0) == "repeated"
    assert await gates.settle(call, 9.0, outcome="timeout") == "repeated"
    assert gates.counter("all") == {"spent": micros(4)}
    assert gates.total("calls") == 1


async def test_a_settled_id_gets_no_second_call(new_gates):
    """An id names one request: acquired after its settlement, it would be billed and never booked."""
    gates, call = new_gates({"all": TOTAL}), new_call()
    await gates.acquire(call)
    await gates.settle(call, 0.1)
    with pytest.raises(PermanentError, match="settled before"):
        await gates.acquire(call)


async def test_an_acquire_that_arrives_after_its_end_reserves_nothing(new_gates):
    """The client gave up and settled `not_sent` while the request was still on its way."""
    gates, call = new_gates({"all": TOTAL}), new_call()
    assert await gates.settle(call, outcome="not_sent") == "unknown"
    with pytest.raises(PermanentError):
        await gates.acquire(call)
    assert (gates.counters(), gates.spend(), gates.reservations()) == ({}, {}, set())


async def test_all_budgets_or_none(new_gates):
    """A call that does not fit one budget is reserved in no other."""
    gates = new_gates({"a": TOTAL, "b": {**TOTAL, "limit_usd": 1}})
    assert is_over(await gates.acquire(new_call(usd=2.0)), "b", can_ever_fit=False)
    assert gates.counters() == {}
    assert gates.permits() == set()


async def test_reservations_of_others_are_waited_for(new_gates):
    """What others only reserved may come back: wait; what they spent does not: over, until the window turns."""
    gates = new_gates({"all": TOTAL})
    first, second = new_call("1", 6.0), new_call("2", 6.0)
    assert await gates.acquire(first) == Granted()
    assert isinstance(await gates.acquire(second), WaitTurn)
    await gates.settle(first, 3.0)
    assert await gates.acquire(second) == Granted()
    await gates.settle(second, 6.0)
    assert is_over(await gates.acquire(new_call("3", 2.0)), "all")
    assert await gates.acquire(new_call("4", 1.0)) == Granted()
    assert gates.counter("all") == {"spent": micros(9), "reserved": micros(1)}


@pytest.mark.parametrize("on_full", ["hold", "fail", "warn"])
async def test_what_a_full_budget_does(new_gates, on_full):
    """It holds, fails, or only counts."""
    gates = new_gates({"all": {**TOTAL, "limit_usd": 1, "on_full": on_full}})
    await gates.acquire(new_call("1"))
    await gates.settle(new_call("1"), 1.0)
    answer = await gates.acquire(new_call("2"))
    assert answer == Granted() if on_full == "warn" else is_over(answer, "all", on_full)


async def test_an_unpriced_call_fits_no_budget_in_dollars(new_gates):
    """Unknown is not 0: refused where a budget holds or fails, counted where it warns or there is none."""
    gates = new_gates({"all": TOTAL})
    refused = await gates.acquire(new_call(usd=None))
    assert is_over(refused, "all", can_ever_fit=False)
    assert f"no price is known for {new_call().model}: add it to [prices]" in refused.why
    await gates.override("budget", "all", {**TOTAL, "on_full": "warn"})
    assert await gates.acquire(new_call(usd=None)) == Granted()
    await gates.settle(new_call(usd=None))
    assert (gates.total("unpriced_calls"), gates.total("usd")) == (1, 0)
    job_limit = new_call("2", None, job_max_cost_usd=1.0)
    assert is_over(await gates.acquire(job_limit), "max_cost_usd", "job", can_ever_fit=False)


async def test_a_value_has_a_budget_each(new_gates):
    """A scope without a value: each tenant has the whole limit; a job without a tenant has none."""
    gates = new_gates({"each": {**TOTAL, "limit_usd": 1, "scope": "tenant"}})
    for n, tenant in enumerate(("t1", "t2", None, None)):
        job = Job(payload={}, id=f"j{n}", tenant=tenant)
        assert await gates.acquire(new_call(str(n)), job) == Granted()
        await gates.settle(new_call(str(n)), 1.0, job=job)
    job = Job(payload={}, id="j9", tenant="t2")
    assert is_over(await gates.acquire(new_call("9"), job), "each/tenant:t2")


async def test_a_call_leaves_the_line_of_its_process_while_redis_is_away(new_gates):
    """It is cancelled, and its settlement fails: no later settlement wakes it instead of one that waits."""
    client, call = new_gates().client, new_call()

    async def unreachable(*args, **kwargs):
        raise RedisUnreachable("away")

    client._connection.run = unreachable
    await client.wait(call, 0.001)
    with pytest.raises(RedisUnreachable):
        await client.settle(Job(payload={}, id="j1"), call, Settlement("not_sent"))
    assert client._line == {}


async def test_a_budget_may_be_named_like_a_limit_of_jobs(new_gates):
    """A refusal speaks of the budget, in dollars, and never of tokens."""
    gates, call = new_gates({"max_tokens": TOTAL}), new_call("spent", 8.0)
    await gates.acquire(call)
    await gates.settle(call, 8.0)
    refused = await gates.acquire(new_call("refused", 3.0))
    assert refused.why.startswith("budget max_tokens: $8.00 of $10.00 spent")


async def test_the_keeper_may_forget_calls_while_an_attempt_ends(new_gates):
    """Its thread drops a call whose time is over at any moment."""
    gates = new_gates()
    under_way = gates.client._under_way

    class Id(str):
        __slots__ = ()

        def startswith(self, prefix):
            under_way.pop(f"{prefix}overdue", None)
            return super().startswith(prefix)

    job = Job(payload={}, id="j1", fence=1)
    ids = [f"debates/j1/1/{name}" for name in ("a", "overdue", "b")]
    under_way.update({Id(each): None for each in ids}, other=None)
    gates.client.end(job)
    assert list(under_way) == ["other"]


async def test_a_job_and_its_zombie_share_the_jobs_limits(new_gates):
    """Tokens and dollars of all attempts count together, reserved and spent."""
    gates = new_gates()
    limits = {"job_max_tokens": 250, "job_max_cost_usd": 2.5}
    zombie, successor = new_call("j1/1/a", **limits), new_call("j1/2/a", **limits)
    other = gates.worker("w2")
    assert await gates.acquire(zombie) == Granted()
    assert await gates.acquire(successor, client=other) == Granted()
    assert is_over(await gates.acquire(new_call("j1/2/b", **limits)), "max_cost_usd", "job")
    cheap = new_call("j1/2/b", 0.5, **limits)
    assert is_over(await gates.acquire(cheap), "max_tokens", "job")
    await gates.settle(zombie, 0.2, input_tokens=10, output_tokens=5)
    assert await gates.acquire(cheap, client=other) == Granted()
    assert gates.jobs()["debates/j1"] == {
        "spent": micros(0.2), "spent_tokens": 15, "reserved": micros(1.5), "reserved_tokens": 200,
    }  # fmt: skip


async def test_a_job_with_the_id_of_a_deleted_one_has_its_limits_to_itself(new_gates):
    """What the earlier job spent does not count; what this one spent before a restart does."""
    gates = new_gates()
    for life, created_at in enumerate((1_700_000_000.001, 1_700_000_000.002)):
        job = Job(payload={}, id="nightly", created_at=created_at)
        call, next_call = (new_call(f"nightly/{life}/{n}", job_max_tokens=150) for n in range(2))
        assert await gates.acquire(call, job) == Granted()
        await gates.settle(call, 0.1, job=job, input_tokens=60, output_tokens=40)
        assert is_over(await gates.acquire(next_call, job), "max_tokens", "job")


async def test_tokens_of_an_answer_are_counted_whatever_it_cost(new_gates):
    """A job's tokens are those that its provider counted, also if the price of the model is not known."""
    gates = new_gates()
    for number in range(3):
        call = new_call(f"j1/1/{number}", None, job_max_tokens=120)
        assert await gates.acquire(call) == Granted()
        await gates.settle(call, input_tokens=5, output_tokens=2)
    assert gates.jobs()["debates/j1"] == {"spent_tokens": 21}


async def test_a_call_that_is_never_settled_is_estimated_at_the_end_of_its_time(new_gates):
    """Its reservation counts as spent, shown as estimated; the settlement replaces that when it comes."""
    gates = new_gates({"all": TOTAL})
    limits = {"job_max_tokens": 1_000}
    call = new_call("lost", 3.0, **limits)
    await gates.acquire(call)
    gates.pass_time_limit(call)
    await gates.client.refresh()
    assert gates.counter("all") == {"spent": micros(3), "estimated": micros(3)}
    assert (gates.total("usd"), gates.total("estimated"), gates.total("calls")) == (
        micros(3), micros(3), 1,
    )  # fmt: skip
    assert gates.jobs()["debates/j1"]["spent_tokens"] == 100
    assert gates.permits() == gates.reservations() == set()
    assert await gates.acquire(call) == Granted(), "a lost reply, very late"
    assert await gates.settle(call, 1.0, input_tokens=7) == "late"
    assert await gates.settle(call, 1.0) == "repeated"
    assert gates.counter("all") == {"spent": micros(1)}
    assert (gates.total("usd"), gates.total("estimated"), gates.total("calls")) == (micros(1), 0, 1)
    assert gates.jobs()["debates/j1"]["spent_tokens"] == 7


async def test_the_next_call_books_those_whose_time_is_over(new_gates):
    """No maintenance is needed: a reservation that has ended is in nobody's way."""
    gates = new_gates({"all": TOTAL})
    lost = new_call("lost", 6.0)
    await gates.acquire(lost)
    gates.pass_time_limit(lost)
    assert is_over(await gates.acquire(new_call("2", 6.0)), "all")
    assert gates.counter("all") == {"spent": micros(6), "estimated": micros(6)}


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_call_that_was_not_sent_costs_nothing(new_gates, is_late):
    """It is no call in the ledger either, even if it had been estimated."""
    gates, call = new_gates({"all": TOTAL}), new_call()
    await gates.acquire(call)
    if is_late:
        gates.pass_time_limit(call)
        await gates.client.refresh()
    await gates.settle(call, 0.5, outcome="not_sent")
    assert gates.counters() == {"all:total": {}}
    assert not any(any(row.values()) for row in gates.spend().values())


async def test_a_call_whose_usage_is_unknown_counts_with_its_reservation(new_gates):
    """What may have been billed is estimated; what the provider refused is not billed."""
    gates = new_gates({"all": TOTAL})
    for call_id, outcome in (("1", "timeout"), ("2", "ok"), ("3", "rejected")):
        await gates.acquire(new_call(call_id))
        await gates.settle(new_call(call_id), outcome=outcome)
    assert gates.counter("all") == {"spent": micros(2), "estimated": micros(2)}
    assert (gates.total("calls"), gates.total("faults"), gates.total("unpriced_calls")) == (3, 2, 0)


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_bill_above_its_reservation_is_booked_and_counted(new_gates, is_late):
    """It is an overrun, and the next call does not fit."""
    gates, call = new_gates({"all": TOTAL}), new_call(usd=9.0)
    await gates.acquire(call)
    if is_late:
        gates.pass_time_limit(call)
        await gates.client.refresh()
    await gates.settle(call, 11.0)
    assert gates.counter("all") == {"spent": micros(11), "overrun": micros(2)}
    assert is_over(await gates.acquire(new_call("2", 0.001)), "all")


@pytest.mark.parametrize("usd", [2.0, None])
async def test_a_call_that_a_failover_forgot_is_booked_once_in_full(new_gates, usd):
    """Also in the job's counters; at its highest price, if its price is not known."""
    gates, call = new_gates({"all": TOTAL}), new_call(usd=3.0, job_max_tokens=1_000)
    await gates.client.refresh()
    assert await gates.settle(call, usd, input_tokens=5) == "unknown"
    assert await gates.settle(call, usd, input_tokens=5) == "repeated"
    booked = {"spent": micros(3), "estimated": micros(3)}
    if usd:
        booked = {"spent": micros(2), "overrun": micros(2)}
    assert gates.counter("all") == booked
    assert gates.jobs()["debates/j1"]["spent_tokens"] == (5 if usd else 100)
    assert (gates.total("calls"), gates.total("usd")) == (1, booked["spent"])


async def test_a_late_settlement_goes_to_the_windows_of_its_acquire(new_gates):
    """Spending belongs to the window in which it was granted, whatever the budgets are now."""
    gates, call = new_gates({"all": {**TOTAL, "window": "hour"}}), new_call()
    await gates.acquire(call)
    [window] = gates.counters()
    earlier = window[:-2] + f"{(int(window[-2:]) + 1) % 24:02}"
    record = gates.record(call)
    counters = [key.replace(window, earlier) for key in record["counters"]]
    gates.redis.hset(counters[0], "reserved", micros(1))
    gates.redis.set(
        f"{gates.prefix}call:{gates.call_id(call)}",
        json.dumps({**record, "counters": counters, "day": "2020-01-01"}),
    )
    await gates.override("budget", "all", TOTAL)
    await gates.settle(call, 0.25)
    assert gates.counters()[earlier] == {"spent": micros(0.25)}
    days = [f"{gates.prefix}spend:2020-01-01", f"{gates.prefix}spend:2020-01-01:debates"]
    assert sorted(gates.keys_of("spend:")) == days


async def test_a_call_is_booked_however_long_no_worker_ran(new_gates):
    """After a long weekend its reservation ends, though the counters of its window are gone."""
    budgets = {"hourly": {**TOTAL, "window": "hour"}, "all": TOTAL}
    gates, call = new_gates(budgets), new_call()
    await gates.acquire(call)
    assert gates.redis.pttl(f"{gates.prefix}call:{gates.call_id(call)}") > 300 * 86_400_000
    [hourly] = gates.keys_of("spent:hourly")
    gates.redis.delete(hourly)
    record = gates.record(call)
    for field in ("at", "expires_at"):
        record[field] -= 4 * 86_400_000
    gates.redis.set(f"{gates.prefix}call:{gates.call_id(call)}", json.dumps(record))
    gates.pass_time_limit(call)
    await gates.client.refresh()
    assert gates.counters() == {"all:total": {"spent": micros(1), "estimated": micros(1)}}
    assert gates.reservations() == set()


async def test_permits_end_a_lease_after_their_last_renewal(new_gates):
    """The place among the account's calls is free again; the reservation stays."""
    gates = new_gates({"all": TOTAL}, providers={"acme": {"max_concurrent": 1}})
    first, second = new_call("1"), new_call("2")
    assert await gates.acquire(first) == Granted()
    renewer = gates.client.permit_renewer()
    assert isinstance(await gates.acquire(second), WaitTurn)
    permits = f"{gates.prefix}permits:{ACCOUNT}"
    gates.redis.zadd(permits, {gates.call_id(first): 2e12})
    before = gates.redis.zscore(permits, gates.call_id(first))
    await renewer.renew()
    await renewer.close()
    assert gates.redis.zscore(permits, gates.call_id(first)) != before, "renewed"
    gates.redis.zadd(permits, {gates.call_id(first): 1})
    assert await gates.acquire(second) == Granted()
    assert gates.counter("all") == {"reserved": micros(2)}


async def test_a_call_that_was_never_settled_is_renewed_until_its_time_is_over(new_gates):
    """Its task was cancelled: it must not keep a place for as long as its process lives."""
    gates, call = new_gates(), new_call(timeout_seconds=0.001)
    await gates.acquire(call)
    await asyncio.sleep(0.01)
    renewer = gates.client.permit_renewer()
    permits = f"{gates.prefix}permits:{ACCOUNT}"
    gates.redis.zadd(permits, {gates.call_id(call): 1})
    await renewer.renew()
    await renewer.close()
    assert gates.redis.zscore(permits, gates.call_id(call)) == 1


async def test_the_permit_of_a_call_that_was_cancelled_ends_with_its_lease(new_gates):
    """Its job has ended, and so has its connection: the next job need not wait for the end of its time."""
    gates, call, other = new_gates(), new_call("j1/0/a"), new_call("j11/0/a")
    job = Job(payload={}, id="j1", raw_payload=b"{}")

    async def execute(job):
        await current_attempt().acquire(call)
        raise asyncio.CancelledError

    await gates.acquire(other)
    await Attempt(job, execute, RetryPolicy(), None, 1000, gates=gates.client).run()
    permits = f"{gates.prefix}permits:{ACCOUNT}"
    gates.redis.zadd(permits, {gates.call_id(call): 1, gates.call_id(other): 1})
    renewer = gates.client.permit_renewer()
    await renewer.renew()
    await renewer.close()
    assert gates.redis.zscore(permits, gates.call_id(call)) == 1
    assert gates.redis.zscore(permits, gates.call_id(other)) > 1
    assert gates.reservations() == {gates.call_id(call), gates.call_id(other)}, (
        "what it cost is unknown"
    )


async def test_a_limit_below_what_is_spent_stops_grants(new_gates):
    """Lowered, it refuses; reset, the declared limit counts again; what is spent stays."""
    gates = new_gates({"all": TOTAL})
    await gates.acquire(new_call("1", 5.0))
    await gates.settle(new_call("1", 5.0), 5.0)
    await gates.override("budget", "all", {**TOTAL, "limit_usd": 3})
    assert is_over(await gates.acquire(new_call("2")), "all")
    await gates.override("budget", "all")
    assert await gates.acquire(new_call("2")) == Granted()
    assert gates.counter("all") == {"spent": micros(5), "reserved": micros(1)}


async def test_the_lowest_declaration_counts_while_its_worker_lives(new_gates):
    """And the strictest: a budget warns only if all say so. One that is silent for long counts no more."""
    gates = new_gates({"all": TOTAL}, claim_idle_ms=60_000)
    low = gates.worker("w2", {"all": {**TOTAL, "limit_usd": 2, "on_full": "warn"}})
    await low.refresh()
    assert is_over(await gates.acquire(new_call(usd=3.0)), "all", can_ever_fit=False)
    gates.redis.zadd(f"{gates.prefix}declarers", {"debates/w2": 1})
    await gates.client.refresh()
    assert await gates.acquire(new_call(usd=3.0)) == Granted()
    assert isinstance(await gates.acquire(new_call("2", 8.0), client=low), OverBudget), "again"
    await low.close()
    assert isinstance(await gates.acquire(new_call("2", 7.0)), Granted)


async def test_workers_of_two_queues_with_one_id_declare_both(new_gates):
    """Ids are unique in a queue only: one that starts or stops ends nothing that another one declared."""
    gates = new_gates({"all": {**TOTAL, "limit_usd": 1}})
    await gates.client.refresh()
    other = gates.worker("w1", {"all": TOTAL}, queue="other")
    assert is_over(await gates.acquire(new_call(usd=3.0), client=other), "all", can_ever_fit=False)
    await other.close()
    free = gates.worker("w2", {})
    assert is_over(await gates.acquire(new_call(usd=3.0), client=free), "all", can_ever_fit=False)


@pytest.mark.parametrize("lease_ms", [200, 60_000])
async def test_a_declaration_outlasts_several_refreshes(new_gates, lease_ms):
    """Also if a lease is shorter than the time between two: its budgets would not count in between."""
    gates = new_gates({"all": TOTAL}, claim_idle_ms=lease_ms)
    await gates.client.refresh()
    seconds, microseconds = gates.redis.time()
    until = gates.redis.zscore(f"{gates.prefix}declarers", "debates/w1") / 1000
    assert until - seconds - microseconds / MICROS > 3 * GATES_REFRESH_SECONDS


@pytest.mark.parametrize("damage", ["gone", "JSON", "type", "empty"])
async def test_a_damaged_policy_grants_nothing_over_a_limit(new_gates, damage):
    """It is computed again, also for a worker that declares nothing."""
    gates = new_gates({"all": {**TOTAL, "limit_usd": 1}})
    await gates.client.refresh()
    policy = f"{gates.prefix}policy"
    gates.redis.delete(policy)
    match damage:
        case "JSON":
            gates.redis.set(policy, "{")
        case "empty":
            gates.redis.set(policy, "{}")
        case "type":
            gates.redis.rpush(policy, "x")
    bystander = gates.worker("w2")
    answer = await gates.acquire(new_call(usd=2.0), client=bystander)
    assert is_over(answer, "all", can_ever_fit=False)


@pytest.mark.parametrize("damage", ["type", "number"])
async def test_a_damaged_counter_grants_nothing(new_gates, damage):
    """The error names the key; calls under way are booked everywhere else."""
    gates = new_gates({"all": TOTAL, "other": TOTAL})
    call = new_call()
    await gates.acquire(call)
    [key] = gates.keys_of("spent:all")
    gates.redis.delete(key)
    gates.redis.hset(key, mapping=dict.fromkeys(("spent", "reserved"), "much")) if (
        damage == "number"
    ) else gates.redis.rpush(key, "x")
    with pytest.raises(CommandRefused, match=r"another program wrote to .*spent:all.*: delete it"):
        await gates.acquire(new_call("2"))
    assert await gates.settle(call, 0.5) == "settled"
    assert await gates.settle(call, 0.5) == "repeated"
    assert (gates.total("usd"), gates.total("calls")) == (micros(0.5), 1)
    gates.redis.delete(key)
    assert gates.counters() == {"other:total": {"spent": micros(0.5)}}


@pytest.mark.parametrize("name", ["permits", "reservations", "spend", "call"])
async def test_damage_elsewhere_books_a_call_at_most_once(new_gates, name):
    """A key of another type stops no booking halfway, or the next one would book again."""
    gates, call = new_gates({"all": TOTAL}), new_call()
    await gates.acquire(call)
    day = dt.datetime.now(dt.UTC).date().isoformat()
    key = gates.prefix + {
        "permits": f"permits:{ACCOUNT}", "reservations": "reservations", "spend": f"spend:{day}",
        "call": f"call:{gates.call_id(call)}",
    }[name]  # fmt: skip
    gates.redis.delete(key)
    gates.redis.set(key, "{}") if name == "call" else gates.redis.rpush(key, "x")
    assert await gates.settle(call, 0.5) == ("unknown" if name == "call" else "settled")
    assert await gates.settle(call, 0.5) == "repeated"
    assert gates.counter("all")["spent"] == micros(0.5)
    assert gates.total("usd") == micros(0.5)


HOSTILE = ['x"y', "a b", "l1\nl2", "\\", "{}", '{"state":"settled"}', "é\u2028", "*", "a:seen", "0"]


async def test_hostile_names_are_names(new_gates):
    """Spaces, quotes, newlines, JSON: in the call id, agent, model, tenant and account."""
    gates = new_gates({"each": {**TOTAL, "scope": "tenant"}, "agents": {**TOTAL, "scope": "agent"}})
    for name in HOSTILE:
        job = Job(payload={}, id="j1")
        object.__setattr__(job, "tenant", name)
        call = new_call(name, agent=name, model=name, account=f"{name}@1", provider=name)
        assert await gates.acquire(call, job) == Granted()
        assert await gates.settle(call, 0.25, job=job) == "settled"
        assert gates.counter(f"each/tenant:{name}") == {"spent": micros(0.25)}
        assert gates.spend()["debates", name, "", name, name, name]["calls"] == 1
    assert len(gates.counters()) == 2 * len(HOSTILE)


async def test_amounts_from_nothing_to_huge(new_gates):
    """Free calls need no room; the largest amounts are exact; parts of a micro-dollar round up."""
    gates = new_gates({"all": {**TOTAL, "limit_usd": 100_000_000}})
    for call_id, usd, booked in (("free", 0.0, 0), ("tiny", 1e-9, 1), ("part", 0.1 + 0.2, 300_000)):
        call = new_call(call_id, usd)
        assert await gates.acquire(call) == Granted()
        await gates.settle(call, usd)
        assert gates.record(call)["usd"] == booked
    huge = new_call("huge", 99_999_999.123457, max_input_tokens=10**12)
    assert await gates.acquire(huge) == Granted()
    assert gates.counter("all") == {"spent": 300_001, "reserved": 99_999_999_123_457}
    await gates.settle(huge, 99_999_999.123457)
    assert gates.counter("all") == {"spent": 99_999_999_423_458}
    assert is_over(await gates.acquire(new_call("one", 1.0)), "all")


@pytest.mark.parametrize(
    "fields",
    [{"usd": -1.0}, {"usd": float("nan")}, {"usd": float("inf")}, {"usd": 1e9}, {"max_output_tokens": -5},
     {"max_input_tokens": 1.5}, {"max_input_tokens": 10**13}, {"timeout_seconds": 0.0},
     {"job_max_cost_usd": -1.0}, {"timeout_seconds": float("nan")}],
)  # fmt: skip
def test_an_amount_that_no_sum_can_hold_is_refused(fields):
    """A negative amount would make room: it never reaches a counter."""
    with pytest.raises(ValueError, match="must be"):
        new_call(**fields)


@pytest.mark.parametrize("fields", [{"cost_usd": -0.1}, {"cost_usd": 1e300}, {"input_tokens": -1}])
def test_a_settlement_of_such_an_amount_is_refused(fields):
    """The call is estimated instead, when its time is over."""
    with pytest.raises(ValueError, match="must be"):
        Settlement("ok", **fields)


async def test_what_is_left_behind_ends_by_itself(new_gates):
    """After all calls: every key has a time to live, but for those that name what exists."""
    gates = new_gates({"all": TOTAL, "day": {**TOTAL, "window": "day", "scope": "tenant"}})
    job = Job(payload={}, id="j1", tenant="t")
    for n in range(4):
        call = new_call(str(n), job_max_tokens=1_000)
        await gates.acquire(call, job)
        if n == 1:
            gates.pass_time_limit(call)
        else:
            await gates.settle(call, 0.1, job=job)
    await gates.settle(new_call("unknown", 1.0), 0.1, job=job)
    await gates.client.refresh()
    lasting = {
        key.removeprefix(gates.prefix) for key in gates.keys_of("") if gates.redis.ttl(key) == -1
    }
    assert lasting <= {"policy", "declared", "declarers", "accounts", f"account:{ACCOUNT}"}
    await gates.client.close()
    assert gates.keys_of("decl") == gates.keys_of("policy") == []


EVERY_WINDOW = """
local out = {}
for n = 2, #ARGV do
  for _, kind in ipairs({'hour', 'day', 'month'}) do
    local name, ends_at = window_of(kind, tonumber(ARGV[n]))
    out[#out + 1] = name .. ' ' .. text(ends_at)
  end
end
return out
"""


async def test_windows_are_those_of_the_calendar(new_gates):
    """Names and ends of windows, through leap years and years' ends."""
    gates = new_gates()
    definitions = scripts.load("gate_acquire").text.split("\n")[1]
    days = [
        "1970-01-01",
        "1999-12-31",
        "2000-02-29",
        "2024-02-29",
        "2026-12-31",
        "2027-01-01",
        "2100-03-01",
    ]
    times = [
        dt.datetime.fromisoformat(f"{day}T{hour}:59:59+00:00")
        for day in days
        for hour in ("00", "23")
    ]
    ms = [int(time.timestamp()) * 1000 for time in times]
    policy = f"{gates.prefix}policy"
    got = gates.redis.eval(definitions + EVERY_WINDOW, 3, policy, policy, policy, "", *ms)
    expected = []
    for time in times:
        hour = time.replace(minute=0, second=0)
        month = hour.replace(hour=0, day=1)
        windows = {
            "%Y-%m-%dT%H": hour + dt.timedelta(hours=1),
            "%Y-%m-%d": hour.replace(hour=0) + dt.timedelta(days=1),
            "%Y-%m": (month + dt.timedelta(days=32)).replace(day=1),
        }
        expected += [
            f"{time:{name}} {int(end.timestamp()) * 1000}" for name, end in windows.items()
        ]
    assert got == expected


async def test_a_call_costs_the_same_with_a_thousand_under_way(redis_url):
    """Acquire and settle in two budgets are at most 44 commands, however many calls are in flight."""
    budgets = {"all": {**TOTAL, "limit_usd": 1e6}, "each": {**TOTAL, "scope": "agent"}}
    gates = Gates(QueueHarness(redis_url), budgets)
    try:
        await asyncio.gather(*(gates.acquire(new_call(f"{n}", 0.001)) for n in range(1_000)))
        used = [await _commands_of_a_call(gates, f"one{n}") for n in range(2)]
        under_way = (new_call(f"{n}", 0.001) for n in range(1_000))
        settled = Settlement("ok", cost_usd=0.001)
        await asyncio.gather(*(gates.client.settle(gates.job, call, settled) for call in under_way))
        used.append(await _commands_of_a_call(gates, "last"))
    finally:
        await gates.close()
    assert used[1] == used[2] <= 44, used


async def _commands_of_a_call(gates, call_id):
    gates.redis.config_resetstat()
    await gates.acquire(new_call(call_id, 0.001))
    await gates.settle(new_call(call_id, 0.001), 0.001)
    return sum(row["calls"] for row in gates.redis.info("commandstats").values())


async def test_asking_what_would_refuse_a_call(new_gates):
    """A budget that holds or fails and in which nothing is left, then a closed account; it changes nothing."""
    gates = new_gates({
        "day": {"limit_usd": 1, "window": "total"},
        "warned": {"limit_usd": 0.1, "window": "total", "on_full": "warn"},
        "agents": {"limit_usd": 2, "window": "total", "scope": "agent", "on_full": "fail"},
    })  # fmt: skip
    client, job = gates.client, gates.job
    assert await client.ask(job, new_call(usd=0.3)) == Granted()
    assert gates.keys_of("account:") == gates.keys_of("call:") == []
    await gates.acquire(new_call("reserved", usd=1.0))
    assert await client.ask(job, new_call(usd=0.3)) == Granted()
    await gates.settle(new_call("reserved"), 1.0)
    answer = await client.ask(job, new_call(usd=0.3))
    assert is_over(answer, "day")
    assert (answer.usd, "$1.00 of $1.00 spent" in answer.why) == (0.3, True)
    assert (await client.ask(job, new_call(usd=None))).usd == 0
    assert (await client.ask(job, new_call(usd=7.0))).usd == 1, "more never fits"
    await gates.override("budget", "day", {"limit_usd": 9, "window": "total"})
    await gates.settle(new_call("unknown"), 3.0)
    assert is_over(await client.ask(job, new_call()), "agents/agent:a", "fail")
    assert await client.ask(job, new_call(agent="b")) == Granted()
    await gates.settle(new_call("late", agent="b"), 0.0, "overloaded", retry_after_seconds=30)
    answer = await client.ask(job, new_call(agent="b"))
    assert isinstance(answer, Closed)
    assert 15 < answer.seconds < 31


async def test_an_account_is_listed_although_no_call_to_it_was_granted(new_gates):
    """Executors that report what they did are seen by operators, who can open what they close."""
    gates = new_gates()
    call = new_call("reported", account="acme@9", agent="writer")
    await gates.settle(call, 0.0, "rate_limited", retry_after_seconds=30)
    connection = gates.harness.queue.connection.for_gates()
    try:
        [account] = await Accounts(connection).accounts()
        assert (account.name, account.provider, account.state) == ("acme@9", "acme", "closed")
        assert await Accounts(connection).agents(["acme@9"]) == {"acme@9": ["writer"]}
        await Accounts(connection).pause("acme", by="ann")
        assert await Accounts(connection).resume("acme@9") == Resumed(True, "acme@9", "acme")
        assert await Accounts(connection).resume("acme") == Resumed(True)
    finally:
        await connection.close()
    assert await gates.client.ask(gates.job, call) == Granted()
