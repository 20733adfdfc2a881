"""Fallbacks: agents that answer in place of one whose provider takes no calls."""

from dataclasses import replace

import pytest
from support.gates import Gates
from support.llm_stub import refusal
from support.memory_session import MemorySession
from support.scripted_agents import failing, said, saying

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import (
    Closed,
    Completed,
    Failed,
    Granted,
    Held,
    OverBudget,
    Retry,
    WaitTurn,
)
from aragora_q.contracts import Gates as GatesContract
from aragora_q.errors import AgentUnavailable, ConfigError, HoldJob, PermanentError, RetryLater
from aragora_q.executors import debate
from aragora_q.executors.debate import quote
from aragora_q.executors.debate.estimate import quote_debate
from aragora_q.executors.debate.fallbacks import check_fallbacks, fallbacks_by_seat
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.requests import Propose, Vote
from aragora_q.history import CallHistory
from aragora_q.job import create_debate_job

RATE_LIMIT = Closed(90.0, "acme@1: the provider's rate limit")
FOREVER = Closed(None, "acme@1: the account's credit is used up")
HOLDS = OverBudget("day/all", "hold", "budget day/all: $5.00 of $5.00 spent")
WITH_FALLBACK = {"agents": {"bob": {"model": "demo", "fallback": ["sub"]}, "sub": "demo"}}


class Doors(GatesContract):
    """Gates that grant what `answers`, by agent, does not say otherwise."""

    def __init__(self, **answers):
        self.answers = answers
        self.granted = []
        self.peak_usd = 0.0
        """The most that was spent and reserved at a time."""
        self._usd = {}

    async def acquire(self, job, call):
        answer = self.answers.get(call.agent, Granted())
        if isinstance(answer, Granted):
            self.granted.append(call)
            self._usd[call.id] = call.max_cost_usd or 0.0
            self.peak_usd = max(self.peak_usd, sum(self._usd.values()))
        return answer

    async def settle(self, job, call, settlement):
        if settlement.cost_usd is not None:
            self._usd[call.id] = settlement.cost_usd

    async def call_history(self):
        return CallHistory()


@pytest.fixture
def seats(seat_scripted_agents):
    """The agents ann, bob and cyd, and sub, who is bob's fallback; each keeps to its name."""
    found = seat_scripted_agents(**{name: saying(name) for name in ("ann", "bob", "cyd", "sub")})
    found["bob"].account = "acme@1"
    return found


@pytest.fixture
def hold(run_debate):
    """Runs a debate of ann, bob and cyd, as `run_debate`."""

    async def run(gates=None, settings=WITH_FALLBACK, agents=("ann", "bob", "cyd"), **fields):
        return await run_debate(agents=list(agents), settings=settings, gates=gates, **fields)

    return run


async def test_a_fallback_answers_while_the_gate_is_closed(seats, hold):
    """The result says who answered, how often and why; the seat keeps its name, the model has the voice."""
    outcome, _, result = await hold(Doors(bob=RATE_LIMIT), rounds=1, debate="always")
    assert isinstance(outcome, Completed)
    assert (result["degraded"], result["participants"]) == (True, ["ann", "bob", "cyd"])
    row = result["seats"][1]
    why = "acme@1: the provider's rate limit"
    assert row["fallbacks"] == [{"agent": "sub", "calls": 4, "why": why}]
    assert row["answered_by"] == ["scripted:sub"]
    assert f"sub answered for bob (4 calls: {why})" in result["error"]
    assert [seat["fallbacks"] for seat in result["seats"][::2]] == [[], []]
    vote = result["votes"][1]
    assert (vote["agent"], vote["model"]) == ("bob", "scripted:sub")
    assert result["by_model"]["models"] == 3
    assert not seats["bob"].asked
    assert result["token_usage"]["sub.requests"] == 4


async def test_a_debate_without_incident_is_not_degraded(seats, hold):
    """A fallback that is not needed is not asked."""
    _, _, result = await hold(Doors())
    assert (result["degraded"], result["error"]) == (False, None)
    assert not seats["sub"].asked


async def test_a_seat_that_drops_out_degrades_the_result(seat_scripted_agents, hold):
    """Fewer agents have debated than were asked for. A fallback does not change that."""
    seat_scripted_agents(
        ann=saying("a"), bob=failing(PermanentError("404"), Propose), cyd=saying("c"), sub=saying("s")
    )  # fmt: skip
    _, _, result = await hold(Doors(), rounds=0)
    assert result["degraded"]
    assert "bob dropped out" in result["error"]
    assert "sub" not in result["token_usage"]


async def test_the_agent_itself_is_asked_again_when_its_gate_is_open(seats, hold):
    """Each request asks it first."""
    gates = Doors(bob=RATE_LIMIT)
    reply = seats["sub"].reply

    async def opening(*args):
        gates.answers.clear()
        return await reply(*args)

    seats["sub"].reply = opening
    _, _, result = await hold(gates, rounds=0)
    assert [len(seats[name].asked) for name in ("bob", "sub")] == [1, 1]
    assert isinstance(seats["bob"].asked[0], Vote)
    assert result["votes"][1]["model"] == "scripted:bob"
    assert result["seats"][1]["fallbacks"][0]["calls"] == 1
    assert "another model" not in result["error"]


@pytest.mark.parametrize("error", [
    HoldJob("acme@1: the account's credit is used up: 402", cause="provider", by="acme@1"),
    RetryLater("429: slow down", delay_seconds=3600),
    RetryLater("529: overloaded", delay_seconds=0),
], ids=["credit", "rate limit", "overload"])  # fmt: skip
async def test_what_the_provider_answers_counts_as_its_gate(seat_scripted_agents, hold, error):
    """The call that learns of it asks the fallback at once: its gate is closed from then on."""
    seats = seat_scripted_agents(
        ann=saying("a"), bob=failing(error, (Propose, Vote)), cyd=saying("c"), sub=saying("s")
    )
    seats["bob"].account = "acme@1"
    outcome, session, result = await hold(Doors(), rounds=0)
    assert isinstance(outcome, Completed)
    why = str(error) if isinstance(error, HoldJob) else f"acme@1: {error}"
    assert result["seats"][1]["fallbacks"] == [{"agent": "sub", "calls": 2, "why": why}]
    entry = session.kept["call/propose.1.0"]
    assert (entry["agent"], entry["closed"]) == ("sub", why)
    assert "fault/propose.1.0" in session.kept


@pytest.mark.parametrize(("answer", "outcome"), [
    (WaitTurn(90.0, "as many calls as allowed are under way"), Retry),
    (HOLDS, Held),
    (OverBudget("day/all", "fail", "full"), Failed),
    (Closed(90.0, "the flex tier has no capacity", is_waited_out=True), Retry),
    (Closed(86_400.0, "the flex tier has no capacity", is_waited_out=True), Retry),
], ids=["turn", "budget", "failing budget", "flex", "flex for a day"])  # fmt: skip
async def test_only_a_closed_gate_asks_the_fallback(seats, hold, answer, outcome):
    """Not a turn that does not come, a budget, or a flex tier that has no capacity, however long that lasts."""
    found, _, _ = await hold(Doors(bob=answer), rounds=0)
    assert isinstance(found, outcome)
    assert not seats["sub"].asked


async def test_a_debate_whose_turn_does_not_come_waits_once(seats, hold):
    """Not each seat after the other: the first call asks for room for all of them."""
    asked = []

    class Full(Doors):
        async def acquire(self, job, call):
            asked.append(call.agent)
            return WaitTurn(90.0, "budget day is reserved by other calls")

    outcome, _, _ = await hold(Full(), rounds=0)
    assert isinstance(outcome, Retry)
    assert len(asked) == 1


async def test_a_gate_that_is_tried_for_a_minute_asks_the_fallback(seats, hold):
    """Whether its provider answers again is not known yet."""
    gates = Doors(bob=WaitTurn(90.0, "another call tries", is_closed=True))
    _, _, result = await hold(gates, rounds=0)
    assert result["seats"][1]["fallbacks"][0]["agent"] == "sub"


@pytest.mark.parametrize("error", [AgentUnavailable("down"), RetryLater("429", delay_seconds=1)])
async def test_a_fault_that_may_pass_soon_does_not_ask_the_fallback(
    seat_scripted_agents, hold, error
):
    """Of the model, or of a provider that takes calls again after a second."""
    seats = seat_scripted_agents(
        ann=saying("a"), bob=failing(error, Propose), cyd=saying("c"), sub=saying("s")
    )
    outcome, _, _ = await hold(Doors(), rounds=0)
    assert isinstance(outcome, Retry)
    assert not seats["sub"].asked


async def test_fallbacks_are_asked_in_order_and_theirs_do_not_count(seat_scripted_agents, hold):
    """The first one that takes calls answers."""
    seat_scripted_agents(**{name: saying(name) for name in ("ann", "bob", "cyd", "one", "two")})
    agents = {"bob": {"model": "demo", "fallback": "one, two"}, "one": "demo",
              "two": {"model": "demo", "fallback": "ann"}, "ann": "demo"}  # fmt: skip
    gates = Doors(bob=RATE_LIMIT, one=FOREVER)
    _, _, result = await hold(gates, {"agents": agents}, rounds=0)
    assert [each["agent"] for each in result["seats"][1]["fallbacks"]] == ["two"]
    gates.answers["two"] = RATE_LIMIT
    outcome, _, _ = await hold(gates, {"agents": agents}, rounds=0)
    assert isinstance(outcome, Retry)


@pytest.mark.parametrize(("bob", "sub", "delay"), [
    (RATE_LIMIT, Closed(20.0, "other@1: overloaded"), 20),
    (Closed(20.0, "acme@1: overloaded"), RATE_LIMIT, 20),
    (FOREVER, RATE_LIMIT, 90),
    (RATE_LIMIT, FOREVER, 90),
    (RATE_LIMIT, HOLDS, 90),
    (FOREVER, FOREVER, None),
    (FOREVER, HOLDS, None),
])  # fmt: skip
async def test_if_all_are_closed_the_shortest_wait_counts(seats, hold, bob, sub, delay):
    """A job is held only if none of them opens by itself, by the account of the agent itself."""
    seats["bob"].account, seats["sub"].account = "one", "two"
    outcome, _, _ = await hold(Doors(bob=bob, sub=sub), rounds=0)
    if delay is None:
        assert isinstance(outcome, Held)
        assert (outcome.cause, outcome.by) == ("provider", "one")
    else:
        assert isinstance(outcome, Retry)
        assert not outcome.charged
        assert delay <= outcome.delay_seconds <= delay * 1.2


@pytest.mark.parametrize("error", [PermanentError("404"), AgentUnavailable("down")])
async def test_a_fallback_that_fails_leaves_the_job_waiting(seat_scripted_agents, hold, error):
    """As without a fallback, no seat drops out, and no attempt is charged."""
    seat_scripted_agents(
        ann=saying("a"), bob=saying("b"), cyd=saying("c"), sub=failing(error, Propose)
    )
    outcome, session, _ = await hold(Doors(bob=RATE_LIMIT), rounds=0, attempts=3)
    assert isinstance(outcome, Retry)
    assert not outcome.charged
    outcome, _, result = await hold(Doors(), rounds=0, session=session, attempts=3)
    assert isinstance(outcome, Completed)
    assert not result["degraded"]


async def test_repairs_stay_with_the_agent_that_answered(seat_scripted_agents, hold):
    """Also if the gate of the agent itself opens meanwhile."""
    gates = Doors(bob=RATE_LIMIT)
    replies = iter([said(""), saying("s")(Propose(None))])

    def sub(request):
        gates.answers.clear()
        return next(replies)

    seats = seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"), sub=sub)
    _, _, result = await hold(gates, rounds=0)
    assert [len(seats[name].asked) for name in ("bob", "sub")] == [1, 2]
    assert seats["sub"].manners[1].repair
    assert result["seats"][1]["fallbacks"][0]["calls"] == 2
    assert [each["verdict"] for each in result["first_votes"]] == ["a", "s", "c"]


async def test_a_repair_goes_to_the_next_agent_if_the_gate_closes(seat_scripted_agents, hold):
    """The credit may be used up between two tries of a request."""
    gates = Doors()

    def bob(request):
        gates.answers["bob"] = FOREVER
        return said("")

    seats = seat_scripted_agents(ann=saying("a"), bob=bob, cyd=saying("c"), sub=saying("s"))
    outcome, _, result = await hold(gates, rounds=0)
    assert isinstance(outcome, Completed)
    assert len(seats["bob"].asked) == 1
    assert [each["verdict"] for each in result["first_votes"]] == ["a", "s", "c"]


async def test_a_larger_reply_is_not_asked_of_an_agent_that_has_none(seat_scripted_agents, hold):
    """The job waits for the fallback whose reply was cut."""
    gates = Doors(bob=RATE_LIMIT)

    def sub(request):
        gates.answers = {"sub": RATE_LIMIT}
        return replace(saying("s")(request), is_cut=True)

    seats = seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"), sub=sub)
    seats["bob"].larger_output_tokens = seats["bob"].max_output_tokens
    outcome, _, _ = await hold(gates, rounds=0)
    assert isinstance(outcome, Retry)
    assert not seats["bob"].asked


@pytest.mark.parametrize("resume", ["continue", "strict"])
async def test_a_resumed_debate_keeps_what_fallbacks_answered(seats, hold, resume):
    """No reply is paid for twice, although another agent would be asked now."""
    gates = Doors(bob=RATE_LIMIT)
    session = MemorySession()

    async def crash(job, name, value):
        if name.startswith("call/vote"):
            raise HoldJob("stop")
        session.kept[name] = value

    session.checkpoint, keep = crash, session.checkpoint
    await hold(gates, rounds=0, session=session, resume=resume)
    session.checkpoint = keep
    assert session.kept["call/propose.1.0"]["agent"] == "sub"
    for agent in seats.values():
        agent.asked.clear()
    _, _, result = await hold(Doors(), rounds=0, session=session, resume=resume)
    asked = {name: [type(each) for each in agent.asked] for name, agent in seats.items()}
    assert asked == {"ann": [Vote], "bob": [Vote], "cyd": [Vote], "sub": []}
    assert result["seats"][1]["fallbacks"][0]["calls"] == 1
    assert result["degraded"]


@pytest.mark.parametrize(("resume", "asked"), [("continue", 0), ("strict", 1)])
async def test_replies_of_a_former_fallback(seats, hold, resume, asked):
    """Without the fallback in the configuration, they count, unless the resume is strict."""
    sessions = [MemorySession(), MemorySession()]
    _, _, result = await hold(Doors(bob=RATE_LIMIT), rounds=0, session=sessions[0], resume=resume)
    assert result["degraded"]
    sessions[1].kept = {
        name: each for name, each in sessions[0].kept.items() if not name.startswith("call/vote")
    }
    _, _, result = await hold(Doors(), {}, rounds=0, session=sessions[1], resume=resume)
    proposals = [each for each in seats["bob"].asked if isinstance(each, Propose)]
    assert len(proposals) == asked
    assert result["degraded"]


async def test_weights_are_those_of_the_seats_agent(seats, hold):
    """Also if a fallback answers."""
    _, _, result = await hold(
        Doors(bob=RATE_LIMIT), rounds=0, consensus="weighted", weights={"bob": 5.0}
    )
    assert result["votes"][1]["weight"] == 5.0
    assert result["verdict"] == "sub"


@pytest.mark.parametrize("consensus", ["judge", "synthesis"])
async def test_a_judge_or_chair_may_have_a_fallback(seat_scripted_agents, hold, consensus):
    """The row of the judge says so, and a synthesis names who wrote it."""
    seat_scripted_agents(**{name: saying(name) for name in ("ann", "bob", "cyd", "jim", "kim")})
    others = dict.fromkeys(("ann", "bob", "cyd"), "demo:curious")
    agents = {"jim": {"model": "demo:bold", "fallback": "kim"}, "kim": "demo:careful", **others}
    outcome, _, result = await hold(
        Doors(jim=RATE_LIMIT), {"agents": agents}, rounds=0, consensus=consensus, judge="jim"
    )
    assert isinstance(outcome, Completed)
    assert result["degraded"]
    row = result["seats"][-1]
    assert (row["agent"], [each["agent"] for each in row["fallbacks"]]) == ("jim", ["kim"])
    assert result["written_by"] == ("kim" if consensus == "synthesis" else None)


def fallbacks(agents, judge, **tables):
    payload = create_debate_job("Tea?", agents, consensus="judge", judge=judge).payload
    config = QueueConfig(agents=tables)
    return fallbacks_by_seat(debate.DebateJobPayload.from_dict(payload), config)


def test_no_model_judges_its_own_answer():
    """A judge's fallback is not what may answer for a seat, nor the other way around; by name or model."""
    tables = {
        "gpt": {"model": "openai:m", "fallback": ["claude", "twin", "other"]},
        "claude": {
            "model": "anthropic:m",
            "fallback": ["gpt", "same", "elsewhere", "other", "free"],
        },
        "twin": "anthropic:m",
        "same": "openai:m",
        "elsewhere": {"model": "openai:m", "base_url": "http://127.0.0.1:1/v1"},
        "other": "groq:m",
        "free": "mistral:m",
    }
    found = fallbacks(["gpt", "demo"], "claude", **tables)
    assert found == [("other",), (), ("elsewhere", "free")]


def test_a_fallback_may_be_another_seats_agent():
    """As in the example of the documentation; without a judge nothing is left out."""
    payload = create_debate_job("Tea?", ["claude", "gpt"]).payload
    config = QueueConfig(agents={"gpt": {"model": "openai:m", "fallback": "claude"}})
    found = fallbacks_by_seat(debate.DebateJobPayload.from_dict(payload), config)
    assert found == [(), ("claude",)]


@pytest.mark.parametrize(("fallback", "message"), [
    ("gpt", "agents.gpt.fallback: an agent cannot replace itself"),
    ("claud", "agents.gpt.fallback: unknown agent 'claud'"),
])  # fmt: skip
def test_a_fallback_must_be_another_agent(fallback, message):
    """A worker does not start, and `enqueue` refuses: the configuration is at fault."""
    config = QueueConfig(agents={"gpt": {"model": "demo", "fallback": fallback}})
    with pytest.raises(ConfigError, match=message):
        check_fallbacks(config)
    with pytest.raises(ConfigError, match=message):
        debate.create(config)
    with pytest.raises(ConfigError, match=message):
        debate.check_payload_agents({"question": "?", "agents": ["gpt", "demo"]}, config)


@pytest.mark.parametrize(
    "fallback", ["", ["a", "a"], "a,", [1], True, 3, [f"a{n}" for n in range(17)]]
)
def test_bad_lists_of_fallbacks(fallback):
    """Each is one line that names the setting."""
    with pytest.raises(ConfigError, match="agents.gpt.fallback"):
        QueueConfig(agents={"gpt": {"model": "demo", "fallback": fallback}})


def test_the_names_of_fallbacks_as_text_or_list():
    """Separated by commas, as in other settings."""
    agents = {
        "a": {"model": "demo", "fallback": "b"},
        "b": {"model": "demo", "fallback": "a, demo:bold"},
        "c": {"model": "demo", "fallback": ["a", "b"]},
    }
    found = {name: each.fallback for name, each in QueueConfig(agents=agents).agents.items()}
    assert found == {"a": ("b",), "b": ("a", "demo:bold"), "c": ("a", "b")}


def priced(agents, **usd):
    """Give each agent a price per million tokens of output, and one that any call takes at most."""
    for name, agent in agents.items():
        agent.price = Price(0.0, usd.get(name, 1.0), 0.0, "test")
        reply = agent.reply

        async def billed(*args, reply=reply, price=agent.price):
            answer = await reply(*args)
            object.__setattr__(
                answer, "cost_usd", price.cost_usd(answer.input_tokens, answer.output_tokens)
            )
            return answer

        agent.reply = billed


async def test_a_call_is_reserved_at_the_price_of_the_agent_that_is_asked(seats, hold):
    """With its own account and limits."""
    priced(seats, sub=9.0)
    seats["sub"].account = "other@1"
    gates = Doors(bob=RATE_LIMIT)
    await hold(gates, rounds=0)
    by_agent = {call.agent: call for call in gates.granted}
    assert by_agent["sub"].max_cost_usd == pytest.approx(by_agent["ann"].max_cost_usd * 9)
    assert (by_agent["sub"].account, by_agent["sub"].is_fallback) == ("other@1", True)
    assert not by_agent["ann"].is_fallback


@pytest.mark.parametrize(("usd", "outcome"), [(1.0, Completed), (3.0, Completed), (20.0, Retry)])
async def test_the_limits_of_a_job_hold_for_fallbacks(seats, hold, usd, outcome):
    """A dearer one gets a smaller output limit; if it does not fit with that, it is not asked."""
    priced(seats, sub=usd)
    gates = Doors(bob=RATE_LIMIT)
    found, _, _ = await hold(gates, rounds=0, max_cost_usd=0.006)
    assert isinstance(found, outcome)
    assert gates.peak_usd <= 0.006
    limits = {call.max_output_tokens for call in gates.granted if call.is_fallback}
    if outcome is Retry:
        assert not limits
    else:
        assert (min(limits) < 1_000) == (usd > 1)
        assert min(limits) >= 256


def test_an_upper_bound_counts_the_dearest():
    """The least counts the agent itself."""
    job = create_debate_job("Tea?", ["a", "b"], rounds=1)
    payload = debate.DebateJobPayload.from_dict(job.payload)
    cheap, dear = (quote.Terms(price=Price(usd, usd, usd, "test")) for usd in (1.0, 10.0))
    own, both = quote.highest(payload, [cheap, cheap]), quote.highest(payload, [cheap, dear])
    assert quote.highest(payload, [cheap, cheap], [{}, {"c": cheap, "d": dear}]) == both
    assert quote.highest(payload, [cheap, cheap], [{}, {}]) == own
    highest = quote.highest(payload, [dear] * 2)
    assert quote.highest(payload, [dear] * 2, [{"c": cheap}, {}]) == highest
    assert quote.highest(payload, [cheap] * 2, [{}, {"c": quote.Terms()}]).usd is None


def test_what_is_possible_counts_the_dearest():
    """What is expected, and what is needed at least, count the agent itself."""
    payload = debate.DebateJobPayload("Tea?", ["a", "b"])
    cheap, dear = (quote.Terms(price=Price(usd, usd, usd, "test")) for usd in (1.0, 10.0))
    own = quote_debate(payload, [cheap, cheap], CallHistory())
    both = quote_debate(payload, [cheap, dear], CallHistory())
    made = quote_debate(payload, [cheap] * 2, CallHistory(), [{}, {"c": cheap, "d": dear}])
    assert (made.least, made.expected, made.most) == (own.least, own.expected, both.most)
    unknown = quote_debate(payload, [cheap] * 2, CallHistory(), [{"c": quote.Terms()}, {}])
    assert (unknown.expected, unknown.most.usd) == (own.expected, None)
    limited = debate.DebateJobPayload("Tea?", ["a", "b"], max_cost_usd=5.0)
    unknown = quote_debate(limited, [cheap] * 2, CallHistory(), [{"c": quote.Terms()}, {}])
    assert unknown.most == own.most, "a fallback without a price is not asked then"


def test_an_approval_counts_the_dearest():
    """Also a fallback without a known price."""
    agents = {"a": {"model": "openai-chat:x", "base_url": "http://127.0.0.1:1/v1", "fallback": "b"},
              "b": {"model": "openai-chat:y", "base_url": "http://127.0.0.1:1/v1"}}  # fmt: skip
    price = {"input_usd_per_million": 1.0, "output_usd_per_million": 1.0}
    payload = create_debate_job("Tea?", ["a", "demo"], rounds=0).payload

    def approval(**prices):
        return debate.approval_above(1.0, payload, QueueConfig(agents=agents, prices=prices))

    dear = {name: usd * 100 for name, usd in price.items()}
    assert approval(a=price, b=price) is None
    assert approval(a=price, b=dear).usd > 1.0
    assert "the price of a fallback is not known" in approval(a=price).reason


# -- with providers and gates


@pytest.fixture
async def gates(backend):
    """The gates of a prefix on a server."""
    gates = Gates.on(backend)
    yield gates
    await gates.close()


def two_accounts(first, second, **fields):
    """Agents of two providers; the second is the first one's fallback."""
    return {"agents": {"gpt": first.agent("openai-chat", "gpt", fallback="claude", provider="one"),
                       "claude": second.agent("openai-chat", "claude", provider="two", **fields)}}  # fmt: skip


REFUSALS = {
    "rate limit": refusal(429, "openai-chat", "rate_limit_error", "slow down", Retry_After="3600"),
    "credit": refusal(402, "openai-chat", "insufficient_quota", "You exceeded your current quota"),
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["rate limit", "credit", "paused"])
async def test_one_request_is_refused_and_the_fallback_answers_all(
    new_stub, run_debate, gates, kind
):
    """Its gate stays closed for all jobs; no job waits, until the fallback is closed, too."""
    refused = []

    def fault(number, model):
        refused.append(model)
        return REFUSALS[kind]

    first, second = new_stub(fault=fault), new_stub()
    settings = two_accounts(first, second)
    worker = gates.worker("w9", **settings)
    if kind == "paused":
        await gates.override("pause", "one", {"by": "op", "reason": ""})
    payload = create_debate_job("Tea?", ["gpt", "claude", "claude"], rounds=0).payload
    for fence in (1, 2):
        job = Job({}, id="job", fence=fence, raw_payload=codec.encode(payload))
        outcome, _, result = await run_debate(job=job, settings=settings, gates=worker)
        assert isinstance(outcome, Completed)
        assert result["degraded"]
        assert result["seats"][0]["answered_by"] == ["claude"]
        assert result["by_model"]["models"] == 1
    assert len(refused) == (0 if kind == "paused" else 1)
    assert worker.closed_agents() == {}
    await gates.override("pause", "two", {"by": "op", "reason": ""})
    job = Job({}, id="other", raw_payload=codec.encode(payload))
    outcome, _, _ = await run_debate(job=job, settings=settings, gates=worker)
    assert isinstance(outcome, Retry)
    assert 25 < outcome.delay_seconds < 40
    assert {each.name for each in worker.closed_agents()} == {"gpt", "claude"}
    await gates.override("pause", "two")
    await worker.refresh()
    assert worker.closed_agents() == {}


def test_nothing_of_the_configuration_but_the_agent_changes_its_settings():
    """With a new fallback, the agent stays the same: `resume: strict` keeps its replies."""
    pytest.importorskip("pydantic_ai")
    from aragora_q.executors.debate.llm import ModelAgent

    address = {"model": "openai-chat:m", "base_url": "http://127.0.0.1:1/v1"}
    agents = QueueConfig(agents={"a": address, "b": {**address, "fallback": "a"}}).agents
    one, two = (ModelAgent(name, each, "k") for name, each in agents.items())
    assert (one.settings, one.own_settings) == (two.settings, two.own_settings)
