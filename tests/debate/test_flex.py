"""The service tier of a job: who is asked in it, its price, and the flex tier, which may have no capacity."""

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from support.gates import new_call
from support.llm_stub import refusal, reply_to, say
from support.schedules import now_ms
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q import create_debate_job
from aragora_q.base import MAX_HOLD_BY_BYTES, Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.context import Settlement
from aragora_q.contracts import AskedAgent, Closed, Completed, Granted, Retry
from aragora_q.errors import GateClosed, InvalidPayload
from aragora_q.executors import debate
from aragora_q.executors.debate import overloads
from aragora_q.executors.debate.agents import AgentRegistry, agent_price, config_of
from aragora_q.executors.debate.llm import faults
from aragora_q.executors.debate.prices import price_of
from aragora_q.executors.debate.providers import account_of
from aragora_q.job import DebateJobPayload
from aragora_q.redis.keys import GateKeys

# A model keeps its connections for as long as its process runs.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MODEL, CLAUDE = "openai:gpt-5", "anthropic:claude-opus-5-5"
FORM = {"answer_form": "boolean", "debate": "never"}
"""One call per seat."""


@pytest.fixture
def openai(new_stub, monkeypatch):
    """OpenAI on loopback, which says that it serves in the default tier; `is_shut`: flex has no capacity."""

    def fault(number, _):
        tier = stub.asked[number - 1]["body"].get("service_tier")
        if tier == "flex" and stub.is_shut:
            return refusal(
                429, "openai", "resource_unavailable", "Resource unavailable", Retry_After="60"
            )
        return lambda handler: say(handler, {**reply_to(handler), "service_tier": "default"})

    stub = new_stub(fault=fault)
    stub.is_shut = False
    monkeypatch.setenv("OPENAI_BASE_URL", f"{stub.address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-stub")
    return stub


def tiers(stub):
    return [call["body"].get("service_tier") for call in stub.asked]


# Who is asked in which tier.


@pytest.mark.parametrize(
    ("entry", "asked", "tier"),
    [
        (MODEL, "flex", "flex"),
        ("openai-chat:gpt-5", "priority", "priority"),
        ("google:gemini-3", "flex", "flex"),
        ("google-cloud:gemini-3", "flex", "flex"),
        ("bedrock:nova", "flex", "flex"),
        (CLAUDE, "flex", None),
        (CLAUDE, "priority", None),
        (CLAUDE, "default", "default"),
        ("mistral:large", "flex", None),
        ("demo", "flex", None),
        (MODEL, None, None),
        ({"model": MODEL, "service_tier": "priority"}, "flex", "priority"),
        ({"model": "mistral:large", "service_tier": "flex"}, None, "flex"),
        ({"model": CLAUDE, "service_tier": "priority"}, None, None),
        ({"model": MODEL, "base_url": "http://house/v1"}, "flex", None),
        ({"model": MODEL, "base_url": "http://house/v1", "service_tier": "flex"}, None, "flex"),
    ],
)
def test_a_job_names_the_tier_of_agents_that_name_none(entry, asked, tier):
    """If their provider has it: a server at another address has only the one that its configuration names."""
    config = QueueConfig(agents={"mine": entry})
    assert config_of("mine", config, asked).service_tier == tier


@pytest.mark.parametrize("tier", ["cheap", "Flex", "", 3, ["flex"]])
def test_another_tier_is_refused(tier):
    """With the field, the value and the rule."""
    with pytest.raises(
        InvalidPayload, match="service_tier is .* must be one of auto, default, flex"
    ):
        create_debate_job("Tea?", ["demo", "demo"], service_tier=tier)


def test_the_payload_names_a_tier_only_if_the_job_does():
    """So the id of a job that names none does not change."""
    plain, flex = (
        create_debate_job("Tea?", ["a", "b"], service_tier=each).payload for each in (None, "flex")
    )
    assert "service_tier" not in plain
    assert DebateJobPayload.from_dict(flex).service_tier == "flex"


async def test_an_agent_is_built_once_per_tier(openai):
    """Agents whose provider does not have the job's tier are those of other jobs."""
    registry = AgentRegistry(QueueConfig(agents={"gpt": MODEL, "house": openai.agent("openai")}))
    plain, flex, again = [await registry.agent("gpt", 0, tier) for tier in (None, "flex", "flex")]
    assert flex is again is not plain
    assert flex.account == f"{plain.account}/flex"
    assert await registry.agent("gpt", 0, "priority") is not flex
    assert (await registry.agent("gpt", 0, "priority")).account == plain.account
    assert await registry.agent("house", 0, "flex") is await registry.agent("house", 0)
    await registry.close()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_each_seat_says_its_tier_and_how_long_it_took(openai, run_debate, stream):
    """Asked for, and served as the provider says; seats at another address are asked as configured."""
    agents = {"gpt": {"model": MODEL, "stream": stream}, "house": openai.agent("openai")}
    _, _, result = await run_debate(
        agents=["gpt", "house"], settings={"agents": agents}, service_tier="flex", **FORM
    )
    assert sorted(tiers(openai), key=str) == [None, "flex"]
    gpt, house = result["seats"]
    assert (gpt["service_tier"], gpt["served_in"]) == ("flex", ["default"])
    assert gpt["settings"]["service_tier"] == "flex"
    assert (house["service_tier"], house["settings"]) == (None, {})
    assert 0 < gpt["median_seconds"] <= gpt["seconds"] < 60
    assert result["record"]["settings"]["service_tier"] == "flex"


# Time.


def test_flex_has_time_unless_the_configuration_sets_it():
    """Silence 900 s and 1,800 s in all, also if the job asks for it; what is set counts."""
    config = QueueConfig(
        agents={"set": {"model": MODEL, "timeout_seconds": 7, "call_timeout_seconds": 8}}
    )
    times = {
        (name, tier): (made.silence_seconds, made.call_seconds)
        for name in (MODEL, "set")
        for tier in (None, "priority", "flex")
        for made in [config_of(name, config, tier)]
    }
    assert times[MODEL, "flex"] == (900, 1_800)
    assert times[MODEL, None] == times[MODEL, "priority"] == (120, 900)
    assert times["set", "flex"] == times["set", None] == (7, 8)
    own = AgentConfig(model=MODEL, service_tier="flex")
    assert (own.silence_seconds, own.call_seconds) == (900, 1_800)


async def test_a_flex_call_is_sent_with_that_time(openai):
    """In the request, and in the reservation of its price."""
    from aragora_q.executors.debate.llm import models

    registry = AgentRegistry(QueueConfig())
    agent = await registry.agent(MODEL, 0, "flex")
    sent = models.settings(agent._config, agent._model, is_ours=True, streams=True)
    assert sent["timeout"].read == 900
    assert agent.call_timeout_seconds == 1_800
    await registry.close()


# Prices.


def test_the_tier_of_the_job_has_its_price():
    """Of the list; a price of the configuration holds for every tier."""
    config = QueueConfig()
    plain, flex, priority = (
        agent_price(MODEL, config, tier) for tier in (None, "flex", "priority")
    )
    assert flex.worst_usd(1_000, 1_000) == pytest.approx(plain.worst_usd(1_000, 1_000) / 2)
    assert priority.worst_usd(1_000, 1_000) > plain.worst_usd(1_000, 1_000)
    entry = {"input_usd_per_million": 3, "output_usd_per_million": 15}
    priced = QueueConfig(agents={"gpt": MODEL}, prices={"gpt": entry})
    assert agent_price("gpt", priced, "flex") == agent_price("gpt", priced)


def test_a_limit_that_only_flex_fits_is_taken():
    """What is checked at enqueue is what the worker reserves."""
    payload = create_debate_job("Tea?", [MODEL] * 2, max_cost_usd=1.0, **FORM).payload
    needed = sum(usd for _, _, usd in debate.least_costs(payload, QueueConfig()))
    payload["max_cost_usd"] = needed * 0.75
    with pytest.raises(InvalidPayload, match="needs at least"):
        debate.check_payload_budget(payload, QueueConfig())
    debate.check_payload_budget({**payload, "service_tier": "flex"}, QueueConfig())


def test_a_reply_is_billed_in_the_tier_that_served_it(usage):
    """In the tier that was asked for if the provider says none."""
    prices = {
        tier: price_of(AgentConfig(model=MODEL, service_tier=tier), None)
        for tier in (None, "flex", "auto")
    }
    plain, flex = (prices[tier].cost_usd(1_000, 1_000) for tier in (None, "flex"))
    assert prices["flex"].reply_usd(usage, "gpt-5", None, None) == pytest.approx(flex)
    assert prices["flex"].reply_usd(
        usage, "gpt-5", None, {"finish_reason": "stop"}
    ) == pytest.approx(flex)
    assert prices["flex"].reply_usd(
        usage, "gpt-5", None, {"service_tier": "default"}
    ) == pytest.approx(plain)
    assert prices["auto"].reply_usd(
        usage, "gpt-5", None, {"service_tier": "default"}
    ) == pytest.approx(plain)


def test_where_the_provider_chooses_the_dearest_tier_is_reserved():
    """With `auto`; where the list has no price of a tier, the standard one, or if it is dearer, none."""
    auto, priority = (
        price_of(AgentConfig(model=MODEL, service_tier=tier), None) for tier in ("auto", "priority")
    )
    assert auto.worst_usd(1_000, 1_000) == priority.worst_usd(1_000, 1_000)
    plain, flex, priority = (
        price_of(AgentConfig(model="google:gemini-2.5-pro", service_tier=tier), None)
        for tier in (None, "flex", "priority")
    )
    assert flex.worst_usd(1_000, 1_000) == plain.worst_usd(1_000, 1_000)
    assert priority is None
    claude = QueueConfig(agents={"claude": {"model": CLAUDE, "service_tier": "priority"}})
    assert agent_price("claude", claude) == agent_price(CLAUDE, QueueConfig())


@pytest.fixture
def usage():
    from pydantic_ai.usage import RequestUsage

    return RequestUsage(input_tokens=1_000, output_tokens=1_000)


# No capacity.


def http_error(status, text):
    return ModelHTTPError(status, "m", {"error": {"message": text}})


@pytest.mark.parametrize(
    ("status", "text", "outcome"),
    [
        (429, "Resource unavailable", "no_capacity"),
        (429, "resource_unavailable", "no_capacity"),
        (429, "Resource exhausted, please try again later.", "no_capacity"),
        (503, "The model is overloaded.", "no_capacity"),
        (529, "busy", "no_capacity"),
        (498, "capacity_exceeded", "no_capacity"),
        (429, "Rate limit reached for gpt-5 on tokens per min", "rate_limited"),
        (429, "insufficient_quota", "credit_exhausted"),
        (500, "oops", "unavailable"),
        (400, "Invalid service_tier argument", "rejected"),
    ],
)
def test_what_providers_say_of_capacity(status, text, outcome):
    """Only in the flex tier, and not a rate limit of the account: that counts as such."""
    error = http_error(status, text)
    fault = faults.fault_of(error, "openai@1/flex", is_flex=True)
    assert fault.outcome == outcome
    assert isinstance(fault.error, GateClosed) == (outcome == "no_capacity")
    if outcome == "no_capacity":
        assert (fault.cost_usd, fault.error.delay_seconds) == (0.0, 5.0)
        assert faults.fault_of(error, "openai@1").outcome != "no_capacity"


def test_only_a_named_time_counts_for_capacity():
    """Providers send the reset times of rate limits with every reply: they are not the reason."""
    headers = {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "9"}
    error = http_error(429, "Resource unavailable")
    for more, seconds in (({}, None), ({"retry-after": "7"}, 7.0)):
        error.headers = {**headers, **more}
        error.retry_after = seconds
        fault = faults.fault_of(error, "openai@1/flex", is_flex=True)
        assert fault.retry_after_seconds == seconds


async def test_a_job_waits_however_long_flex_has_no_capacity(openai, run_debate, monkeypatch):
    """Uncharged, as for a gate, and without an entry of its journal for each time; then it completes."""
    openai.is_shut = True
    monkeypatch.setattr(overloads, "MAX_OVERLOADS", 1)  # no debate waits more often for an overload
    session, fields = None, {"agents": [MODEL] * 2, "service_tier": "flex", **FORM}
    for _ in range(3):
        outcome, session, _ = await run_debate(session=session, max_attempts=1, **fields)
        assert isinstance(outcome, Retry)
        assert (outcome.charged, outcome.is_gated) == (False, True)
        assert "Resource unavailable" in outcome.error
    assert not [name for name in session.kept if name.startswith("fault/")]
    openai.is_shut = False
    outcome, session, result = await run_debate(session=session, max_attempts=1, **fields)
    assert isinstance(outcome, Completed)
    assert [seat["calls"] for seat in result["seats"]] == [1, 1]


# The gate.


@pytest.mark.parametrize("provider", ["openai", "é" * 60, "a" * 200])
def test_the_gate_of_flex_is_named_after_the_account(provider):
    """A job that it holds keeps the name whole."""
    plain, flex = (account_of(provider, "https://x", "k", tier) for tier in ("priority", "flex"))
    assert flex == f"{plain}/flex"
    assert len(flex.encode()) <= MAX_HOLD_BY_BYTES


ACCOUNT = "openai@00000000"
FLEX = f"{ACCOUNT}/flex"
JOBS = {tier: Job({"service_tier": tier} if tier else {}, id=f"j-{tier}") for tier in ("", "flex")}


def call_of(tier, key="c"):
    account = FLEX if tier == "flex" else ACCOUNT
    return new_call(f"{key}-{tier}", agent="gpt", provider="openai", account=account)


def _state_key(harness):
    """The key of the state of the flex gate."""
    keys = GateKeys(harness.config.key_prefix, cluster=harness.queue.connection.is_cluster)
    return keys.account(FLEX)


def keep_closed(harness):
    """Let the flex gate, which is closed, stay so for longer than a slow machine takes for a test."""
    harness.redis.hset(_state_key(harness), "until", now_ms(harness.redis) + 200_000)


@pytest.fixture
async def gates(harness):
    """The gates of a worker; `gates.report(tier, outcome)` sends a call that ends so."""
    made = harness.queue.gates("w1")

    async def report(tier, outcome):
        assert await made.acquire(JOBS[tier], call_of(tier)) == Granted()
        await made.settle(JOBS[tier], call_of(tier), Settlement(outcome))

    made.report = report
    yield made
    await made.close()


async def test_no_capacity_closes_the_flex_gate_only(gates, harness):
    """For the usual pause; calls of the account in other tiers go on, and none of its limits shrink."""
    await gates.report("", "ok")
    before = now_ms(harness.redis)
    await gates.report("flex", "no_capacity")
    until = int(harness.redis.hget(_state_key(harness), "until"))
    assert before + 4_000 < until < now_ms(harness.redis) + 6_000
    keep_closed(harness)
    answer = await gates.acquire(JOBS["flex"], call_of("flex", "d"))
    assert isinstance(answer, Closed)
    assert "no capacity" in answer.why
    assert await gates.acquire(JOBS[""], call_of("", "d")) == Granted()
    states = await gates._connection.run("gate_states", [(None, (FLEX,))])
    assert states[0][3] == -1, "no limit of calls at once was learned"


async def test_only_jobs_of_the_closed_tier_are_put_off(gates, harness):
    """The same agent has another account there: jobs of the other tier start, whichever is closed."""
    await gates.report("", "ok")
    await gates.report("flex", "no_capacity")
    keep_closed(harness)
    await gates.refresh()
    assert list(gates.closed_agents()) == [AskedAgent("gpt", "flex")]
    await harness.enqueue_payload("plain", {"agents": ["gpt"]})
    for name, tier in {"null": None, "odd": 3, "flex": "flex"}.items():
        await harness.enqueue_payload(name, {"agents": ["gpt"], "service_tier": tier})
    session = await harness.worker()
    fetched = await session.start(9, closed_agents=gates.closed_agents())
    assert ({job.id for job in fetched.jobs}, fetched.put_off) == ({"plain", "null", "odd"}, 1)
    await harness.enqueue_payload("plain2", {"agents": ["gpt"]})
    await harness.enqueue_payload("flex2", {"agents": ["gpt"], "service_tier": "flex"})
    fetched = await session.start(9, closed_agents={AskedAgent("gpt"): 60.0})
    assert ([job.id for job in fetched.jobs], fetched.put_off) == (["flex2"], 1)


@pytest.mark.parametrize(
    ("paused", "closed"),
    [("openai", {"", "flex"}), (ACCOUNT, {"", "flex"}), (FLEX, {"flex"})],
)
async def test_a_pause_of_the_account_is_one_of_its_flex_gate(gates, paused, closed):
    """And of the provider; that of the flex gate stops nothing else. To resume opens the same."""
    for tier in JOBS:
        await gates.report(tier, "credit_exhausted" if tier in closed else "ok")

    async def override(value):
        await gates._connection.run(
            "gate_override", kind="pause", name=paused, value=value, by="", reason="", detail=""
        )

    await override(b'{"by": "ann"}')
    for tier, job in JOBS.items():
        answer = await gates.acquire(job, call_of(tier, "d"))
        assert isinstance(answer, Closed) == (tier in closed)
    await override(b"")
    for tier in closed:
        assert await gates.acquire(JOBS[tier], call_of(tier, "e")) == Granted()


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [("no_capacity", None), ("no_capacity", 86_400), ("rate_limited", None)],
)
async def test_what_waits_for_capacity_asks_no_fallback(new_harness, outcome, seconds):
    """Its job is put off, also while a call tries the tier again. A rate limit there is as any other."""
    harness = new_harness(agents={"gpt": {"model": MODEL, "fallback": ["claude"]}})
    made, waits = harness.queue.gates("w1"), outcome == "no_capacity"
    try:
        assert await made.acquire(JOBS["flex"], call_of("flex")) == Granted()
        refused = Settlement(outcome, retry_after_seconds=seconds)
        await made.settle(JOBS["flex"], call_of("flex"), refused)
        keep_closed(harness)
        closed = await made.acquire(JOBS["flex"], call_of("flex", "d"))
        assert closed.is_waited_out == waits
        assert list(made.closed_agents()) == [AskedAgent("gpt", "flex")] * waits
        await made.refresh()
        assert list(made.closed_agents()) == [AskedAgent("gpt", "flex")] * waits
        harness.redis.hset(_state_key(harness), "until", 1)
        assert await made.acquire(JOBS["flex"], call_of("flex", "probe")) == Granted()
        waiting = await made.acquire(JOBS["flex"], call_of("flex", "e"))
        assert waiting.is_closed != waits
    finally:
        await made.close()


async def test_flex_without_capacity_stops_no_other_job_of_the_fleet(
    openai, new_harness, worker_pool
):
    """One worker finds out; no worker asks flex again until it opens; jobs of the default tier complete."""
    openai.is_shut = True
    harness = new_harness(**LONG_LEASE)

    async def enqueue(job_id, tier):
        job = create_debate_job(
            "Tea?", [MODEL] * 2, job_id=job_id, service_tier=tier, max_attempts=1, **FORM
        )
        await harness.queue.enqueue(job)

    registry = AgentRegistry(harness.config)
    flex = (await registry.agent(MODEL, 0, "flex")).account
    await registry.close()
    key = GateKeys(harness.config.key_prefix, cluster=harness.queue.connection.is_cluster).account(
        flex
    )
    await enqueue("cheap", "flex")
    workers = [worker_pool.start(harness, debate.create(harness.config), "w1")]
    await wait_until(lambda: harness.redis.hget(key, "why") == "no_capacity", what="the refusal")
    await wait_until(lambda: harness.redis.zcard(harness.keys.delayed), what="the wait")
    asked = tiers(openai).count("flex")
    workers.append(worker_pool.start(harness, debate.create(harness.config), "w2"))
    for n in range(3):
        await enqueue(f"cheap-{n}", "flex")
        await enqueue(f"plain-{n}", None)
    for n in range(3):
        await harness.wait_for_status(f"plain-{n}", JobStatus.COMPLETED)
    await wait_until(lambda: harness.redis.zcard(harness.keys.delayed) == 4, what="all to wait")
    assert asked <= 2, "the seats of one phase"
    assert tiers(openai).count("flex") == asked
    openai.is_shut = False
    harness.redis.hset(key, "until", 1)
    for worker in workers:
        await worker._gates.refresh()
    for job_id in harness.redis.zrange(harness.keys.delayed, 0, -1):
        harness.redis.zadd(harness.keys.delayed, {job_id: 0})
    for name in ("cheap", "cheap-0", "cheap-1", "cheap-2"):
        await harness.wait_for_status(name, JobStatus.COMPLETED)
    assert harness.counters().get("failed", 0) == 0
