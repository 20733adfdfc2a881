"""Every request to a provider is granted before it is sent, and booked afterwards, with what it took."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from support.llm_stub import (
    APIS,
    cut,
    cut_stream,
    ending,
    garbled,
    html,
    refusal,
    refusal_in_stream,
    reply_to,
    say,
    send_events,
)
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, failing, saying

from aragora_q.contracts import (
    Closed,
    Completed,
    Failed,
    Gates,
    Granted,
    Held,
    OverBudget,
    Released,
    Retry,
)
from aragora_q.errors import AgentUnavailable, LeaseLost, PermanentError, RetryLater, WorkerUnable
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.requests import CallFault, Propose, Review, Topic, Vote
from aragora_q.history import CallHistory

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

PRICE = {
    "input_usd_per_million": 3.0,
    "output_usd_per_million": 15.0,
    "cached_input_usd_per_million": 0.3,
}
EACH_API = pytest.mark.parametrize("api", APIS)
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


class Recorder(Gates):
    """Gates that grant what `answers` do not say otherwise; `events` lists what they were asked."""

    def __init__(self, answers=()):
        self.events = []
        self.calls = {}
        self.settled = {}
        self._answers = list(answers)

    async def acquire(self, job, call):
        answer = self._answers.pop(0) if self._answers else Granted()
        if isinstance(answer, Granted):
            assert call.id not in self.calls
            self.calls[call.id] = call
            self.events.append(("acquire", call.id))
        return answer

    async def settle(self, job, call, settlement):
        self.events.append(("settle", call.id))
        known = self.settled.setdefault(call.id, settlement)
        assert replace(known, retry_after_seconds=None) == replace(
            settlement, retry_after_seconds=None
        )

    async def call_history(self):
        return CallHistory()

    async def learn(self, debate):
        assert debate.calls

    @property
    def outcomes(self):
        return Counter(settlement.outcome for settlement in self.settled.values())


def usd_of(taken, output, cached):
    """The price of a call by PRICE."""
    return ((taken - cached) * 3.0 + cached * 0.3 + output * 15.0) / 1e6


def larger(handler):
    """A reply with other token counts than usual."""
    reply = reply_to(handler)
    usage = reply["usage"]
    for name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"):
        if name in usage:
            usage[name] *= 7
    say(handler, reply)


def matrix(api):
    """Faults in the order of calls, and how each is booked."""
    return [
        (None, "ok"),
        (refusal(429, api, "rate_limit_error", "slow down", Retry_After="1"), "rate_limited"),
        (larger, "ok"),
        (refusal(503, api, "api_error", "maintenance"), "overloaded"),
        (refusal(529, api, "overloaded_error", "busy"), "overloaded"),
        (garbled, None),
        (refusal(500, api, "api_error", "oops"), "unavailable"),
        (ending("cut"), "cut"),
        (cut, "unavailable"),
        (html, "unavailable"),
        (cut_stream, "unavailable"),
        (refusal_in_stream(api, "overloaded_error", "busy"), "overloaded"),
        (larger, "ok"),
    ]


@EACH_API
@STREAMED
async def test_the_books_are_the_bill(new_stub, run_debate, api, stream):
    """Over all faults: each request is one call, refusals are free, a reply that broke off has an unknown
    price, and the rest costs what the provider bills.
    """
    faults = dict(enumerate(matrix(api), start=1))

    def fault(number, model):
        return faults.get(number, (None, "ok"))[0]

    stub, gates, session = new_stub(fault=fault), Recorder(), MemorySession()
    model = f"{api}:m"
    settings = {
        "agents": {name: stub.agent(api, stream=stream, structured="prompted") for name in THREE},
        "prices": {model: PRICE},
    }
    for _ in range(20):
        outcome, _, result = await run_debate(
            agents=THREE, rounds=1, debate="always", session=session, settings=settings, gates=gates
        )
        if not isinstance(outcome, Retry):
            break
    assert isinstance(outcome, Completed)
    billed = [each for each in stub.billed if each[1] is not None]
    cut_off = len(stub.billed) - len(billed)
    bill = sum(usd_of(*each) for each in billed)
    assert bill > 0
    assert result["cost_usd"] == pytest.approx(bill, rel=0.01)
    calls = result["token_usage"]["requests"]
    not_received = calls - len(stub.asked)  # sent on a connection that the provider had closed
    assert 0 <= not_received <= 2
    # Unknown, too: an HTML page, and an error after the beginning of a reply.
    assert cut_off <= result["unpriced_calls"] <= cut_off + 2 + not_received
    assert sum(row["calls"] for row in result["seats"]) == calls == len(gates.calls)
    assert set(gates.calls) == set(gates.settled)
    known = [each.cost_usd for each in gates.settled.values() if each.cost_usd is not None]
    assert sum(known) == pytest.approx(bill, rel=0.01)
    for call in gates.calls.values():
        cost = gates.settled[call.id].cost_usd
        assert cost is None or cost <= call.max_cost_usd
        assert call.account.startswith("127.0.0.1@")
    expected = Counter(outcome for _, outcome in faults.values() if outcome not in (None, "ok"))
    for outcome, count in expected.items():
        # A stream that breaks off may end in several ways.
        assert gates.outcomes[outcome] >= count - 2
    assert gates.outcomes["ok"] > 0


async def test_a_call_is_granted_sent_stored_and_settled_in_this_order(
    seat_scripted_agents, run_debate
):
    """So a crash at any point leaves a reservation, and what is in the journal can be settled again."""
    gates = Recorder()

    class Noting(MemorySession):
        async def checkpoint(self, job, name, value):
            await super().checkpoint(job, name, value)
            if name.startswith(("call/", "fault/")):
                gates.events.append(("store", value["id"]))

    agents = seat_scripted_agents(
        **{name: failing(PermanentError("404"), Vote) for name in ("ann",)},
        bob=saying("a"),
        cyd=saying("b"),
    )
    for agent in agents.values():
        reply = agent.reply

        async def sent(request, manner=None, max_output_tokens=None, reply=reply):
            gates.events.append(("send", gates.events[-1][1]))
            return await reply(request, manner, max_output_tokens)

        agent.reply = sent
    await run_debate(agents=THREE, rounds=0, session=Noting(), gates=gates)
    steps = {}
    for step, call_id in gates.events:
        steps.setdefault(call_id, []).append(step)
    assert len(steps) == 6
    assert all(each == ["acquire", "send", "store", "settle"] for each in steps.values())


async def test_the_first_calls_say_what_the_debate_needs(new_stub, run_debate):
    """As long as nothing is in the journal: the least that leads to a result. Later calls say nothing."""
    stub, gates = new_stub(), Recorder()
    await run_debate(
        agents=["ann", "bob"], rounds=1, debate="always", gates=gates,
        settings={"agents": {each: stub.agent("openai-chat") for each in ("ann", "bob")},
                  "prices": {"openai-chat:m": PRICE}},
    )  # fmt: skip
    first, second, *later = [call.least_usd for call in gates.calls.values()]
    assert first == second > 4 * 256 * PRICE["output_usd_per_million"] / 1e6
    assert later
    assert not any(later)


async def test_a_resume_settles_again_what_the_journal_holds(seat_scripted_agents, run_debate):
    """Whether the last attempt could settle is not known. Old calls are not settled again."""
    seat_scripted_agents(ann=saying("a"), bob=failing(RetryLater("429", delay_seconds=1), Vote))
    first = Recorder()
    _, session, _ = await run_debate(agents=["ann", "bob"], rounds=0, gates=first)
    assert first.outcomes == {"ok": 3, "rate_limited": 1}
    session.kept["call/propose.0.0"]["at"] -= 13 * 3600
    seat_scripted_agents(ann=saying("a"), bob=saying("b"))
    second = Recorder()
    second.settled = dict(first.settled)
    _, _, result = await run_debate(
        agents=["ann", "bob"], rounds=0, session=session, gates=second, attempts=2
    )
    again = [call_id for step, call_id in second.events if step == "settle"]
    old = session.kept["call/propose.0.0"]["id"]
    assert set(first.settled) - set(again) == {old}
    assert len(set(first.calls) | set(second.calls)) == result["token_usage"]["requests"] == 5


async def test_ids_of_calls_are_unique_over_attempts(seat_scripted_agents, run_debate):
    """Also if the fence is the same, and a try was not stored."""
    gates, session = Recorder(), MemorySession()
    for error in (RetryLater("429", delay_seconds=1), AgentUnavailable("down"), None):
        bob = saying("b") if error is None else failing(error, (Propose, Review, Vote))
        seat_scripted_agents(ann=saying("a"), bob=bob)
        outcome, _, _ = await run_debate(
            agents=["ann", "bob"], rounds=0, session=session, gates=gates
        )
    assert isinstance(outcome, Completed)
    assert len(gates.calls) == 6  # `acquire` refuses an id that it knows


async def test_a_zombie_settles_what_it_can_no_longer_store(seat_scripted_agents, run_debate):
    """The provider billed the call, even if another worker owns the job now."""

    class Lost(MemorySession):
        async def checkpoint(self, job, name, value):
            if name.startswith("call/"):
                raise LeaseLost("another worker owns the job")
            await super().checkpoint(job, name, value)

    seat_scripted_agents(ann=saying("a"), bob=saying("b"))
    gates = Recorder()
    outcome, _, _ = await run_debate(agents=["ann", "bob"], session=Lost(), gates=gates)
    assert outcome is None
    assert gates.outcomes == {"ok": 2}


async def test_a_call_that_is_cancelled_is_not_settled(seat_scripted_agents, run_debate):
    """What it will cost is not known: its reservation counts. One that is still waiting was not sent."""
    agents = seat_scripted_agents(ann=saying("a"), bob=saying("b"))
    sent = asyncio.Event()

    async def never(request, manner=None, max_output_tokens=None):
        sent.set()
        await asyncio.Event().wait()

    agents["ann"].reply = never

    class Waiting(Recorder):
        async def acquire(self, job, call):
            if call.agent == "bob":
                self.calls[call.id] = call
                await asyncio.Event().wait()
            return await super().acquire(job, call)

    gates = Waiting()
    running = asyncio.create_task(run_debate(agents=["ann", "bob"], gates=gates))
    await sent.wait()
    await asyncio.sleep(0)
    running.cancel()
    await running
    assert [gates.calls[call_id].agent for call_id in gates.settled] == ["bob"]
    assert gates.outcomes == {"not_sent": 1}


async def test_a_request_that_this_process_cannot_send_is_settled_as_not_sent(
    seat_scripted_agents, run_debate
):
    """It is the worker's fault: nothing is booked, and nothing is in the journal."""
    seat_scripted_agents(ann=saying("a"), bob=failing(WorkerUnable("too many open files"), Propose))
    gates = Recorder()
    outcome, session, _ = await run_debate(agents=["ann", "bob"], gates=gates)
    assert isinstance(outcome, Released)
    assert gates.outcomes == {"ok": 1, "not_sent": 1}
    assert not any(name.startswith("fault/") for name in session.kept)


async def test_a_closed_gate_postpones_without_limit(seat_scripted_agents, run_debate):
    """A closed gate does not count as an overload: no seat drops out, however often it happens."""
    session = MemorySession()
    seat_scripted_agents(ann=saying("a"), bob=saying("b"))
    for _ in range(60):
        gates = Recorder([Closed(90.0, "x: the provider's rate limit")] * 2)
        outcome, _, _ = await run_debate(agents=["ann", "bob"], session=session, gates=gates)
        assert isinstance(outcome, Retry)
        assert (outcome.charged, outcome.delay_seconds >= 90) == (False, True)
    outcome, _, result = await run_debate(agents=["ann", "bob"], session=session, gates=Recorder())
    assert isinstance(outcome, Completed)
    assert result["participants"] == ["ann", "bob"]


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_budget_that_fails_jobs_fails_the_job(seat_scripted_agents, run_debate, attempts):
    """Not only a seat: three others could go on."""
    full = OverBudget("day/all", "fail", "budget day/all: $5.00 of $5.00 are spent")
    seat_scripted_agents(**{name: saying(name) for name in THREE})
    outcome, _, _ = await run_debate(
        agents=THREE, rounds=0, gates=Recorder([full]), attempts=attempts
    )
    assert isinstance(outcome, Failed)
    assert "$5.00 of $5.00 are spent" in outcome.error
    assert sorted(row["verdict"] for row in result_of(outcome)["dissent"]) == ["bob", "cyd"]


async def test_the_jobs_own_limit_leads_to_a_decision(seat_scripted_agents, run_debate):
    """Refused before a vote, the debate says so; refused at the first call, there is no answer."""
    spent = OverBudget("max_cost_usd", "job", "max_cost_usd: $0.10 of $0.10 are spent")
    seat_scripted_agents(**{name: saying(name) for name in THREE})
    gates = Recorder([Granted()] * 3 + [spent] * 3)
    outcome, _, _ = await run_debate(agents=THREE, rounds=0, gates=gates)
    assert isinstance(outcome, Failed)
    assert "ann abstained (max_cost_usd: $0.10 of $0.10 are spent)" in outcome.error


@EACH_API
async def test_credit_that_is_used_up_holds_the_job(new_stub, run_debate, api):
    """As those held before they start: no seat is lost, and the finished calls are kept."""
    broke = refusal(402, api, "billing_error", "Your credit balance is too low")
    stub = new_stub(fault=lambda number, model: broke if model == "poor" else None)
    gates = Recorder()
    outcome, session, _ = await run_debate(
        agents=["rich", "poor"], rounds=0, gates=gates,
        settings={"agents": {name: stub.agent(api, name) for name in ("rich", "poor")}},
    )  # fmt: skip
    assert isinstance(outcome, Held)
    assert (outcome.cause, outcome.by) == ("provider", next(iter(gates.calls.values())).account)
    assert "credit" in outcome.reason
    assert gates.outcomes == {"ok": 1, "credit_exhausted": 1}
    assert session.kept["fault/propose.1.0"]["usd"] == 0


@EACH_API
async def test_a_request_in_another_way_is_another_call(new_stub, run_debate, api):
    """A provider that takes no schema is asked in words: both requests are granted and booked."""
    rejected = refusal(400, api, "invalid_request_error", "schema is not supported")
    stub = new_stub(fault=lambda number, model: rejected if number == 1 else None)
    gates = Recorder()
    _, _, result = await run_debate(
        agents=["a", "b"], rounds=0, gates=gates,
        settings={"agents": {"a": stub.agent(api, "a"), "b": stub.agent(api, "b")}},
    )  # fmt: skip
    assert len(gates.calls) == len(stub.asked) == result["token_usage"]["requests"]
    assert gates.outcomes["rejected"] == 1


@EACH_API
async def test_the_tokens_of_a_stream_that_broke_off_are_kept(new_stub, run_debate, api):
    """As far as events named them; its price stays unknown."""
    stub = new_stub(fault=lambda number, model: cut_stream if number == 1 else None)
    settings = {
        "agents": {name: stub.agent(api, "m") for name in ("a", "b")}, "prices": {f"{api}:m": PRICE}
    }  # fmt: skip
    _, session, _ = await run_debate(agents=["a", "b"], rounds=0, settings=settings)
    [fault] = [entry for name, entry in session.kept.items() if name.startswith("fault/")]
    assert (fault["usd"], fault["outcome"]) == (None, "unavailable")
    if api == "anthropic":
        assert (fault["in"], fault["out"], fault["cached"]) == (30, 1, 20)


@STREAMED
async def test_a_reply_that_failed_after_it_was_paid_is_booked(new_stub, run_debate, stream):
    """A failed reply of Responses has token counts: what it took is known."""

    def failed(handler):
        reply = reply_to(handler)
        say(handler, {**reply, "status": "failed", "error": {"code": "x", "message": "y"}})

    stub = new_stub(fault=lambda number, model: failed if number == 1 else None)
    settings = {
        "agents": {name: stub.agent("openai", "m", stream=stream) for name in ("a", "b")},
        "prices": {"openai:m": PRICE},
    }
    _, session, _ = await run_debate(agents=["a", "b"], rounds=0, settings=settings)
    [fault] = [entry for name, entry in session.kept.items() if name.startswith("fault/")]
    assert (fault["in"], fault["out"]) == (30, 10)
    assert fault["usd"] == pytest.approx(usd_of(30, 10, 20))


async def test_a_reply_at_its_limit_is_paid_twice_at_most(new_stub, run_debate):
    """A model that thinks past its limit does so again: once with a larger limit, then the seat drops out.
    No attempt asks it again.
    """
    cut_off = ending("cut", "")
    stub = new_stub(fault=lambda number, model: cut_off if model == "thinker" else None)
    names = ["thinker", "b", "c"]
    settings = {"agents": {name: stub.agent("anthropic", name) for name in names}}
    _, _, result = await run_debate(agents=names, rounds=0, settings=settings)
    assert result["seats"][0]["calls"] == 2
    assert result["seats"][0]["dropped"]
    asked = [each["body"]["max_tokens"] for each in stub.asked if each["model"] == "thinker"]
    assert asked == [8_000, 32_000]


async def test_there_is_no_larger_limit_than_the_largest(new_stub, run_debate):
    """An agent with a limit that cannot be raised is not asked again with the same one."""
    cut_off = ending("cut", "")
    stub = new_stub(fault=lambda number, model: cut_off if model == "thinker" else None)
    names = ["thinker", "b", "c"]
    settings = {
        "agents": {name: stub.agent("anthropic", name, max_tokens=64_000) for name in names}
    }
    _, _, result = await run_debate(agents=names, rounds=0, settings=settings)
    assert result["seats"][0]["calls"] == 1


@EACH_API
async def test_a_clipped_reply_is_kept_and_not_asked_for_again(
    new_stub, run_debate, api, monkeypatch
):
    """The limit is the job's: a longer reply would not fit it."""
    from aragora_q.executors.debate import limits

    monkeypatch.setattr(
        limits.Limits,
        "max_output_tokens",
        property(lambda book: 77, lambda book, value: None),
        raising=False,
    )
    stub = new_stub(fault=lambda number, model: ending("cut") if number == 1 else None)
    names = ["a", "b"]
    gates = Recorder()
    _, session, result = await run_debate(
        agents=names, rounds=0, gates=gates,
        settings={"agents": {name: stub.agent(api, name, structured="prompted") for name in names}},
    )  # fmt: skip
    limits = {
        each["body"].get("max_tokens")
        or each["body"].get("max_completion_tokens")
        or each["body"].get("max_output_tokens")
        for each in stub.asked
    }
    assert limits == {77}
    assert {call.max_output_tokens for call in gates.calls.values()} == {77}
    clipped = [entry for entry in session.kept.values() if entry.get("clipped")]
    assert len(clipped) == 1
    assert len(result["seats"]) == 2
    assert len(stub.asked) == len(gates.calls)


async def test_a_fault_with_a_known_price_counts_in_result_and_progress(
    seat_scripted_agents, run_debate
):
    """Also in the partial result of a job that fails because of it."""
    paid = CallFault(
        PermanentError("filtered"), "refused", input_tokens=100, output_tokens=10, cost_usd=0.25
    )
    agents = seat_scripted_agents(ann=saying("a"), bob=failing(paid, Vote), cyd=failing(paid, Vote))
    for agent in agents.values():
        agent.price = Price(0.0, 0.0, 0.0, "tests")
    outcome, session, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Failed)
    partial = result_of(outcome)
    assert partial["cost_usd"] == 0.5
    assert [row["cost_usd"] for row in partial["seats"]] == [None, 0.25, 0.25]
    assert [row["unpriced_calls"] for row in partial["seats"]] == [2, 1, 1]
    assert partial["unpriced_calls"] == 4
    assert partial["token_usage"]["input_tokens"] == 4 * 10 + 2 * 100
    assert session.progress[-1]["cost_usd"] is None or session.progress[-1]["cost_usd"] >= 0.25


async def test_a_debate_in_which_every_call_failed_has_what_it_took(
    seat_scripted_agents, run_debate
):
    """Without any reply, too: the failed job says what was paid."""
    paid = CallFault(PermanentError("filtered"), "refused", input_tokens=100, cost_usd=0.25)
    seat_scripted_agents(ann=failing(paid, Propose), bob=failing(paid, Propose))
    outcome, _, _ = await run_debate(agents=["ann", "bob"])
    assert isinstance(outcome, Failed)
    assert result_of(outcome)["cost_usd"] == 0.5


async def test_people_see_what_each_seat_took(seat_scripted_agents, run_debate):
    """Of an ended debate and of one that runs: calls without a reply count, and unknown is not 0."""
    from aragora_q.base import Job, JobStatus
    from aragora_q.job_text import progress_text
    from aragora_q.report import plain
    from aragora_q.report.calls import read_calls
    from aragora_q.report.content import build_report
    from aragora_q.report.summary import outcome_of

    def at(usd):
        return lambda task: replace(saying("tea")(task), cost_usd=usd)

    unknown = CallFault(AgentUnavailable("cut"), "unavailable", input_tokens=7)
    refused = CallFault(PermanentError("404"), "rejected", cost_usd=0.0)
    seat_scripted_agents(ann=at(0.25), bob=failing(unknown, Propose), cyd=failing(refused, Propose))
    agents = {"agents": THREE, "question": "Tea?"}
    _, session, _ = await run_debate(**agents, rounds=0)
    running = Job(dict(agents), id="job", status=JobStatus.RETRYING)
    shown = plain.render(build_report(running, read_calls(session.kept, None)), 100)
    seats = [line.split() for line in shown.splitlines() if line.startswith(("1 ", "2 ", "total "))]
    assert [row[-1] for row in seats] == ["$0.25", "unknown", "unknown"]
    assert seats[-1][:3] == ["total", "3", "17"]
    assert "$0.25 + 1 unknown" in shown
    assert progress_text(session.progress[-1]).endswith(
        ("$0.25", "$0.25, price of 1 call not known")
    )

    seat_scripted_agents(ann=at(0.25), bob=at(0.5), cyd=failing(refused, Propose))
    _, _, result = await run_debate(**agents, rounds=0, session=session, attempts=2)
    job = Job(dict(agents), id="job", status=JobStatus.COMPLETED, result=result)
    rows = dict(outcome_of(job))
    assert rows["cost"] == "$0.75, price of 1 call not known"
    assert rows["seats"].splitlines() == [
        "seat 1, ann: 1 call, 10 in, 5 out, $0.25",
        "seat 2, bob: 2 calls, 17 in, 5 out, $0.50, price of 1 call not known",
        "seat 3, cyd: 2 calls, 0 in, 0 out, $0",
    ]


@pytest.mark.parametrize("usage", ["many", None, 7, {"input_tokens": "x", "prompt_tokens": -5}])
@STREAMED
async def test_odd_token_counts_of_a_broken_reply_are_none(new_stub, stream, usage):
    """Whatever a provider says it took: the fault is the reply's, and its price is unknown."""
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.tables import AgentConfig
    from aragora_q.executors.debate.llm import ModelAgent

    def odd(handler):
        reply = {**reply_to(handler), "choices": [], "usage": usage}
        handler.bill = lambda usage: None
        say(handler, reply) if not stream else send_events(handler, [reply])

    stub = new_stub(fault=lambda number, model: odd)
    settings = QueueConfig(prices={"tested": PRICE}, agents={"tested": "demo"})
    config = AgentConfig(**stub.agent("openai-chat", stream=stream))
    agent = ModelAgent("tested", config, "sk-test", settings)
    with pytest.raises(CallFault) as caught:
        await agent.reply(Propose(Topic("Tea?")))
    assert (caught.value.input_tokens, caught.value.cost_usd) == (0, None)
    await agent.close()
