"""Gates to providers: cooldown, probe, breaker, limits; and jobs that are put off while one is closed."""

import json
import time

import pytest
from support.schedules import now_ms

from aragora_q.base import Job
from aragora_q.config.tables import ProviderConfig
from aragora_q.context import Call, Settlement
from aragora_q.contracts import AskedAgent, Closed, Granted, Retry, WaitTurn
from aragora_q.redis.keys import GateKeys

ACCOUNT = "stub@1"
JOB = Job({}, id="j")
ONE, SHUT = AskedAgent("one"), AskedAgent("shut")


class Fleet:
    """Two workers that share the gates of a server; `account` is the hash of the only account."""

    def __init__(self, harness):
        self.harness = harness
        self.redis = harness.redis
        self.keys = GateKeys(harness.config.key_prefix, cluster=harness.queue.connection.is_cluster)
        self.account = self.keys.account(ACCOUNT)
        self.one, self.two = harness.queue.gates("w1"), harness.queue.gates("w2")

    async def limit(self, **limits):
        """Declare limits of the provider."""
        await self.one.close()
        queue = self.harness.other_client(providers={"stub": ProviderConfig(**limits)})
        self.one = queue.gates("w1")
        await self.one.refresh()

    async def close(self):
        await self.one.close()
        await self.two.close()

    async def ask(self, key, gates=None, tokens=10):
        answer = await (gates or self.one).acquire(JOB, call(key, tokens))
        # If it waits, it keeps its turn until it asks again, however slow this machine is.
        seen = f"{self.keys.gates_prefix}waiters:{ACCOUNT}:seen"
        self.redis.zadd(seen, {f"{self.harness.config.queue}/{key}": "inf"}, xx=True)
        return answer

    async def grant(self, *keys, **options):
        for key in keys:
            assert await self.ask(key, **options) == Granted(), key

    async def settle(self, key, outcome, gates=None, tokens=10, reserved=10, **fields):
        settlement = Settlement(outcome, output_tokens=tokens, **fields)
        await (gates or self.one).settle(JOB, call(key, reserved), settlement)

    async def report(self, key, outcome, **fields):
        """Send a call that ends so."""
        await self.grant(key)
        await self.settle(key, outcome, **fields)

    async def state(self):
        """State of the account: ms until it opens, why, limit, calls under way, calls that wait."""
        [row] = await self.one._connection.run("gate_states", [(None, (ACCOUNT,))])
        ms, why, _, limit, under_way, waiting, _ = row
        return ms, why.decode(), limit, under_way, waiting

    async def override(self, name, value):
        return await self.one._connection.run(
            "gate_override", kind="pause", name=name, value=value, by="", reason="", detail=""
        )

    def closed_seconds(self):
        """For how long the account was closed when it was closed last."""
        closed_at, until = self.redis.hmget(self.account, "closed_at", "until")
        return (int(until) - int(closed_at)) / 1000

    def end_pause(self):
        """Let the account open now. A call in the millisecond of the closure would count as an older one."""
        self.redis.hset(self.account, "until", 1)
        time.sleep(0.002)

    def let_pass(self, ms=10_000_000):
        """Let so much time pass for the account."""
        for name, value in self.redis.hgetall(self.account).items():
            if name in ("until", "closed_at", "probe_until", "shrunk_at", "refused_at"):
                self.redis.hset(self.account, name, int(value) - ms)


def call(key, tokens=10):
    return Call(key, "one", "stub", ACCOUNT, "m", 0, tokens, None)


@pytest.fixture
async def fleet(harness):
    fleet = Fleet(harness)
    yield fleet
    await fleet.close()


async def test_a_rate_limit_closes_the_account_for_all_workers(fleet):
    """For the provider's time and at most half a second more; no other account is closed."""
    await fleet.report("1", "rate_limited", retry_after_seconds=30)
    assert 30 < fleet.closed_seconds() <= 30.6
    for gates in (fleet.one, fleet.two):
        answer = await fleet.ask("2", gates)
        assert isinstance(answer, Closed)
        assert 15 < answer.seconds <= 30.6
        assert ACCOUNT in answer.why
        assert list(gates.closed_agents()) == [ONE]
    other = Call("3", "two", "stub", "stub@2", "m", 0, 10, None)
    assert await fleet.two.acquire(JOB, other) == Granted()


async def test_other_workers_learn_of_a_closed_account_without_a_call(fleet):
    """A refresh reads the accounts that the process has used, and also that one has opened."""
    await fleet.grant("1", gates=fleet.two)
    await fleet.report("2", "overloaded", retry_after_seconds=30)
    await fleet.two.refresh()
    assert 15 < fleet.two.closed_agents()[ONE] <= 30.6
    await fleet.override("stub", "")
    await fleet.two.refresh()
    assert fleet.two.closed_agents() == {}


@pytest.mark.parametrize(
    ("seconds", "low", "high"),
    [(None, 5, 5.6), (0.0, 1, 1.2), (-5.0, 5, 5.6), (float("nan"), 5, 5.6)],
)
async def test_a_time_that_cannot_be_is_replaced(fleet, seconds, low, high):
    """A provider that names no usable time is not asked again at once."""
    await fleet.report("1", "rate_limited", retry_after_seconds=seconds)
    assert low < fleet.closed_seconds() <= high


async def test_a_time_beyond_all_bounds_is_bounded(fleet):
    """The account opens again within about a month; its jobs are held until then, so none is put off."""
    await fleet.report("1", "rate_limited", retry_after_seconds=float("inf"))
    answer = await fleet.ask("2")
    assert 29 * 86400 < answer.seconds < 31 * 86400
    assert fleet.one.closed_agents() == {}


async def test_one_probe_goes_first(fleet):
    """When the time is over, one call is granted; the others wait until it was answered."""
    await fleet.report("1", "rate_limited", retry_after_seconds=30)
    fleet.let_pass()
    await fleet.grant("probe")
    assert isinstance(await fleet.ask("2", fleet.two), WaitTurn)
    await fleet.grant("probe")  # asked again, because the reply was lost
    await fleet.settle("probe", "ok")
    await fleet.grant("2", gates=fleet.two)
    await fleet.grant("3", "4", "5")
    assert isinstance(await fleet.ask("6"), WaitTurn), "each answer allows one more"
    await fleet.settle("2", "ok")
    await fleet.grant("6", "7")


async def test_a_probe_without_an_answer_is_exclusive_for_30_seconds(fleet):
    """Its worker may be dead: then another call is the probe."""
    await fleet.report("1", "rate_limited", retry_after_seconds=30)
    fleet.let_pass()
    before = now_ms(fleet.redis)
    await fleet.grant("probe")
    began_at = int(fleet.redis.hget(fleet.account, "probe_until")) - 30_000
    assert before <= began_at <= now_ms(fleet.redis)
    fleet.let_pass(15_000)
    assert isinstance(await fleet.ask("2"), WaitTurn)
    fleet.let_pass(15_000)
    await fleet.grant("2")


@pytest.mark.parametrize("outcome", ["not_sent", "rejected"])
async def test_a_probe_that_shows_nothing_makes_room_for_another(fleet, outcome):
    """A call that was not sent, or is wrong in itself, neither opens nor closes the account."""
    await fleet.report("1", "rate_limited", retry_after_seconds=30)
    fleet.let_pass()
    await fleet.grant("probe")
    await fleet.settle("probe", outcome)
    await fleet.grant("2")
    assert isinstance(await fleet.ask("3"), WaitTurn)


@pytest.mark.parametrize("outcome", ["rate_limited", "unavailable", "timeout"])
async def test_the_pause_doubles_with_each_probe_that_fails(fleet, outcome):
    """Up to five minutes; a success ends that."""
    await fleet.report("1", "rate_limited")
    seconds = []
    for n in range(8):
        fleet.let_pass()
        await fleet.report(f"probe {n}", outcome)
        seconds.append(fleet.closed_seconds())
    assert [round(each / 5) for each in seconds[:5]] == [2, 4, 8, 16, 32]
    assert seconds[-1] <= 301
    fleet.let_pass()
    await fleet.report("last", "ok")
    await fleet.report("3", "rate_limited")
    assert fleet.closed_seconds() < 6


async def test_a_late_answer_does_not_open_a_closed_account(fleet):
    """Its call was granted before the account was closed."""
    await fleet.grant("old", "1", "2")
    await fleet.settle("1", "rate_limited", retry_after_seconds=30)
    await fleet.settle("old", "ok")
    assert isinstance(await fleet.ask("3"), Closed)
    fleet.end_pause()
    await fleet.grant("probe")
    await fleet.settle("2", "ok")
    assert isinstance(await fleet.ask("3"), WaitTurn), "the probe is not answered yet"


@pytest.mark.parametrize("outcome", ["rate_limited", "overloaded", "timeout", "credit_exhausted"])
async def test_a_late_refusal_does_not_close_an_account_that_has_opened_since(fleet, outcome):
    """While the account is closed, a later refusal makes the time longer; afterwards it says nothing."""
    old = [f"old {n}" for n in range(8)]
    await fleet.grant("1", *old)
    await fleet.settle("1", "rate_limited", retry_after_seconds=30)
    await fleet.settle(old.pop(), "rate_limited", retry_after_seconds=90)
    assert (await fleet.ask("2")).seconds > 60
    fleet.end_pause()
    await fleet.grant("probe")
    await fleet.settle(old.pop(), outcome, retry_after_seconds=90)
    await fleet.settle("probe", "ok")
    for key in old:
        await fleet.settle(key, outcome, retry_after_seconds=90)
    await fleet.grant("2", "3")


async def test_a_clock_that_was_set_back_closes_nothing(fleet):
    """What is kept of an account from later times counts no more: a probe goes first, then calls as before."""
    await fleet.limit(max_concurrent=1, requests_per_minute=6)
    await fleet.grant("lost")
    hour = 3_600_000
    await fleet.settle("lost", "overloaded", retry_after_seconds=30)
    assert (await fleet.state())[0] > 0
    fleet.let_pass(-hour)
    fleet.redis.hincrby(fleet.account, "requests_at", hour)
    for key, member in (("accounts", ACCOUNT), (f"permits:{ACCOUNT}", "debates/crashed")):
        fleet.redis.zadd(
            f"{fleet.keys.gates_prefix}{key}", {member: time.time() * 1000 // 1 + hour}
        )
    assert (await fleet.state())[0] == 0
    await fleet.grant("probe")
    await fleet.settle("probe", "ok")
    assert (await fleet.state())[1] == ""


async def test_five_faults_in_a_row_over_the_fleet_close_an_account(fleet):
    """A success in between starts the count again; a call that is wrong in itself is not a fault."""
    for n in range(4):
        await fleet.report(f"a{n}", "unavailable")
    await fleet.report("ok", "cut")
    for n in range(4):
        await fleet.report(f"b{n}", "timeout")
    await fleet.report("wrong", "rejected")
    await fleet.grant("two", gates=fleet.two)
    await fleet.settle("two", "unavailable", gates=fleet.two)
    assert 5 < fleet.closed_seconds() <= 5.6
    fleet.redis.hincrby(fleet.account, "until", 60_000)  # it may be over by now
    assert isinstance(await fleet.ask("c"), Closed)


async def test_used_up_credit_closes_an_account_until_an_operator_opens_it(fleet):
    """What calls from before report afterwards does not close it again."""
    await fleet.grant("old")
    await fleet.report("1", "credit_exhausted")
    assert (await fleet.ask("2")).seconds is None
    assert fleet.one.closed_agents() == {}, "its jobs are started, so that they are held"
    await fleet.settle("old", "ok")
    assert (await fleet.ask("2")).seconds is None
    assert await fleet.override("stub", "") == b"reset"
    await fleet.grant("2")


@pytest.mark.parametrize("name", ["stub", ACCOUNT])
async def test_an_operator_pauses_a_provider_or_one_account(fleet, name):
    """For 15 minutes jobs are put off, half a minute at a time; then they are held until `resume`."""
    await fleet.report("1", "ok")
    assert await fleet.override(name, json.dumps({"reason": "bill"})) == b"set"
    answer = await fleet.ask("2", fleet.two)
    assert 25 < answer.seconds <= 30
    assert "paused" in answer.why
    assert (await fleet.state())[:2] == (30_000, "paused")
    field, overrides = f"pause:{name}", fleet.keys.named["overrides"]
    paused = json.loads(fleet.redis.hget(overrides, field))
    paused["at"] -= 16 * 60_000
    fleet.redis.hset(overrides, field, json.dumps(paused))
    assert await fleet.override(name, json.dumps({"reason": "again"})) == b"set"
    assert (await fleet.ask("2")).seconds is None
    assert (await fleet.state())[0] == -1
    assert await fleet.override(name, "") == b"reset"
    assert await fleet.override(name, "") == b"unchanged"
    await fleet.grant("2")


async def test_damaged_pauses_and_limits_do_not_count(fleet):
    """What another program wrote is left out; calls go on, a worker's limits apply, and a pause can be set."""
    named = fleet.keys.named
    for n, text in enumerate(("{}", "[]", '{"at":"noon"}', '{"at":null}')):
        fleet.redis.hset(named["overrides"], f"pause:{('stub', ACCOUNT)[n % 2]}", text)
        limits = {"stub": json.loads(text), "other": n}
        for name, value in (("a", limits), ("b", n), ("c", {"stub": {"max_concurrent": "many"}})):
            fleet.redis.hset(named["declared"], f"{name}{n}", json.dumps({"providers": value}))
        fleet.redis.hset(named["declared"], f"d{n}", json.dumps({"budgets": n}))
        await fleet.limit(max_concurrent=1)
        await fleet.grant(f"{n}")
        assert isinstance(await fleet.ask(f"more{n}"), WaitTurn)
        await fleet.settle(f"{n}", "ok")
        await fleet.settle(f"more{n}", "not_sent")
    assert await fleet.override("stub", json.dumps({"reason": "bill"})) == b"set"
    assert isinstance(await fleet.ask("more"), Closed)


async def test_calls_wait_in_the_order_in_which_they_first_asked(fleet):
    """A call that comes later does not take the place that a waiting one is due."""
    await fleet.limit(max_concurrent=2)
    await fleet.grant("1", "2")
    assert isinstance(await fleet.ask("first"), WaitTurn)
    assert isinstance(await fleet.ask("second"), WaitTurn)
    await fleet.settle("1", "ok")
    assert isinstance(await fleet.ask("third", fleet.two), WaitTurn)
    assert isinstance(await fleet.ask("second"), WaitTurn)
    await fleet.grant("first")
    await fleet.settle("2", "ok")
    await fleet.grant("second")


async def test_a_call_that_gives_up_leaves_the_line(fleet):
    """The next one has its place at once."""
    await fleet.limit(max_concurrent=1)
    await fleet.grant("1")
    assert isinstance(await fleet.ask("first"), WaitTurn)
    assert isinstance(await fleet.ask("second"), WaitTurn)
    await fleet.settle("first", "not_sent")
    await fleet.settle("1", "ok")
    await fleet.grant("second")
    assert (await fleet.state())[3:] == (1, 0)


def is_left_of(seconds, wait, began):
    """Whether a call is to wait for what is left of a time, less a burst. It began after `began`."""
    passed = time.monotonic() - began
    return seconds - 0.25 - passed - 0.01 <= wait.seconds <= seconds - 0.25


async def test_requests_per_minute(fleet):
    """Calls are granted one interval apart, after a quarter of a second's worth at once; others line up."""
    await fleet.limit(requests_per_minute=4)
    began = time.monotonic()
    await fleet.grant("1")
    waits = [await fleet.ask(f"w{n}") for n in range(3)]
    assert all(isinstance(each, WaitTurn) for each in waits)
    for n, each in enumerate(waits, 1):
        assert is_left_of(15 * n, each, began)


async def test_tokens_per_minute_are_corrected_when_a_call_is_settled(fleet):
    """What a call reserved and did not take is free again; what it took beyond is taken from later calls."""
    await fleet.limit(tokens_per_minute=6_000)
    began = time.monotonic()
    await fleet.grant("1", tokens=5_000)
    assert is_left_of(50, await fleet.ask("2", tokens=100), began)
    await fleet.settle("1", "ok", tokens=2_000, reserved=5_000)
    assert is_left_of(20, await fleet.ask("2", tokens=100), began)
    fleet.redis.hset(fleet.account, "tokens_at", 0)
    began = time.monotonic()
    await fleet.grant("2", tokens=2_000)
    await fleet.settle("2", "ok", tokens=4_000, reserved=2_000)
    assert is_left_of(40, await fleet.ask("3"), began)


async def test_a_call_that_has_to_wait_for_more_than_a_minute_does_not_stay_in_line(fleet):
    """Its job makes room for others; a place in line that is not used would delay them."""
    await fleet.limit(tokens_per_minute=1_000)
    await fleet.grant("1", tokens=5_000)
    assert (await fleet.ask("2")).seconds > 60
    assert (await fleet.state())[4] == 0


async def test_the_number_of_calls_at_once_shrinks_and_grows(fleet):
    """By a fifth at a rate limit, not again within 15 s; back with answers, below what was refused before."""
    await fleet.report("ok", "ok")
    keys = [f"k{n}" for n in range(10)]
    await fleet.grant(*keys)
    await fleet.settle(keys.pop(), "rate_limited", retry_after_seconds=1)
    await fleet.settle(keys.pop(), "rate_limited", retry_after_seconds=1)
    assert (await fleet.state())[2] == 8
    for key in keys:
        await fleet.settle(key, "not_sent")
    fleet.end_pause()
    for n in range(60):  # answered one after the other: they do not show that more are possible
        await fleet.report(f"a{n}", "ok")
    assert (await fleet.state())[2] == 8
    await fleet.grant(*(f"b{n}" for n in range(8)))
    for n in range(60):
        await fleet.settle(f"b{n}", "ok")
        await fleet.grant(f"b{n + 8}")
    assert (await fleet.state())[2] == 9, "ten were refused"
    assert isinstance(await fleet.ask("more"), Granted)
    assert isinstance(await fleet.ask("most"), WaitTurn)


async def test_a_provider_that_refuses_from_the_beginning_is_not_limited_to_few_calls(fleet):
    """It was shut: the refusal does not depend on how many calls there were."""
    await fleet.limit(max_concurrent=50)
    await fleet.grant("1", "2", "3")
    await fleet.settle("1", "rate_limited", retry_after_seconds=1)
    assert (await fleet.state())[2] == -1


async def test_adaptive_can_be_switched_off(fleet):
    """Then only the cooldown follows a rate limit."""
    await fleet.limit(adaptive=False)
    await fleet.report("ok", "ok")
    await fleet.grant(*(f"k{n}" for n in range(10)))
    await fleet.settle("k0", "rate_limited", retry_after_seconds=1)
    assert (await fleet.state())[2] == -1


# Jobs of closed providers.


def due_times(harness):
    return [
        score for _, score in harness.redis.zrange(harness.keys.delayed, 0, -1, withscores=True)
    ]


async def test_jobs_of_a_closed_provider_are_put_off_and_others_start(harness):
    """Uncharged, with their status, and at most 100 in a call; afterwards they return one by one."""
    for n in range(130):
        await harness.enqueue_payload(f"closed-{n}", {"agents": ["open", "shut"], "n": n})
    await harness.enqueue_payload("other", {"agents": ["open"]})
    session = await harness.worker()
    began = time.time() * 1000
    fetched = await session.start(5, closed_agents={SHUT: 60.0})
    assert (fetched.jobs, fetched.put_off) == ([], 100)
    fetched = await session.start(5, closed_agents={SHUT: 60.0})
    assert ([job.id for job in fetched.jobs], fetched.put_off) == (["other"], 30)
    passed = time.time() * 1000 - began
    job = await harness.queue.get_job("closed-7")
    assert (job.status, job.attempts, job.payload["n"]) == ("pending", 0, 7)
    due = due_times(harness)
    assert len(due) == 130
    assert due[0] >= began + 60_000 - 50
    assert len(set(due)) > 120, "spread"
    assert due[-1] - due[0] < 2_000 + passed
    assert harness.counters()["put_off"] == 130
    harness.redis.zadd(harness.keys.delayed, {"closed-7": 0})
    assert (await harness.queue.promote()).promoted == 1
    assert (await harness.start_one(session)).attempts == 1


async def test_a_retry_that_is_put_off_stays_a_retry(harness):
    """Its attempts and its lane, too."""
    await harness.enqueue_payload("j", {"agents": ["shut"]}, priority=5)
    session = await harness.worker()
    job = await harness.start_one(session)
    await harness.report(session, job, Retry("no", 0))
    await harness.queue.promote()
    assert (await session.start(1, closed_agents={SHUT: 1.0})).put_off == 1
    assert (await harness.queue.get_status("j")) == "retrying"
    job = await harness.start_delayed(session)
    assert (job.attempts, job.priority) == (2, 5)


@pytest.mark.parametrize(
    ("payload", "put_off"),
    [
        ({"agents": ["a"], "escalate": ["shut"]}, 1),
        ({"agents": ["a"], "judge": "shut"}, 1),
        ({"agents": ["a"], "question": "shut?", "judge": None}, 0),
        ({"agents": "shut", "escalate": {"shut": 1}, "judge": ["shut"]}, 0),
        ({"agents": [["shut"], 3, None, "a shut"]}, 0),
    ],
)
async def test_a_job_is_put_off_if_one_of_its_agents_is_closed(harness, payload, put_off):
    """Whatever else the payload contains."""
    await harness.enqueue_payload("j", payload)
    session = await harness.worker()
    fetched = await session.start(1, closed_agents={SHUT: 1.0, AskedAgent('näh"e'): 2.0})
    assert (fetched.put_off, len(fetched.jobs)) == (put_off, 1 - put_off)


async def test_an_entry_that_is_not_json_is_started(harness):
    """Its attempt reports what is wrong with it."""
    harness.write_raw({"id": "raw", "payload": '["shut", '})
    session = await harness.worker()
    assert (await harness.start_one(session, closed_agents={SHUT: 1.0})).id == "raw"


async def test_an_entry_without_a_hash_keeps_its_lane_when_it_is_put_off(harness):
    """The entry alone is enough for a job."""
    harness.write_raw({"id": "bare", "payload": '{"agents": ["shut"]}'}, priority=1)
    session = await harness.worker()
    assert (await session.start(1, closed_agents={SHUT: 1.0})).put_off == 1
    harness.redis.zadd(harness.keys.delayed, {"bare": 0})
    await harness.queue.promote()
    assert [fields["id"] for _, fields in harness.entries(priority=1)] == ["bare"]
    assert (await harness.start_one(session)).id == "bare"


async def test_no_job_is_put_off_for_more_than_five_minutes(harness):
    """An operator may open the provider earlier."""
    await harness.enqueue_payload("j", {"agents": ["shut"]})
    session = await harness.worker()
    assert (await session.start(1, closed_agents={SHUT: 5000.0})).put_off == 1
    assert due_times(harness)[0] <= (time.time() + 301) * 1000
