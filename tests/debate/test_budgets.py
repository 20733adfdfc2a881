"""Limits of time, tokens and cost lead to the vote, or end the debate."""

import asyncio
import json
import math
import random
from dataclasses import replace

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, failing, said, saying

from aragora_q.contracts import Completed, Failed
from aragora_q.errors import AgentUnavailable, JobLimitReached, LeaseLost
from aragora_q.executors.debate import quote
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.prompts import prompt_for
from aragora_q.executors.debate.requests import (
    PLAIN,
    CallFault,
    Discuss,
    Propose,
    Review,
    Revise,
    Vote,
)
from aragora_q.job import DebateJobPayload
from aragora_q.worker.paid_calls import PaidCalls


def counting(agents, *, chars=1_040, thinks=False, spoiled=0.0, chance=None):
    """Make agents count as providers do: tokens are bytes / 4 of real prompts, and output ends at its limit.

    `thinks`: all of the limit is used. `spoiled`: share of replies that are unusable.
    """
    for agent in agents.values():
        agent.max_output_tokens, agent.larger_output_tokens = 8_000, 32_000
        agent.price = Price(3.0, 15.0, 3.0, "test")
        agent.reply = Counted(
            agent.reply, agent, chars, thinks, spoiled, chance or random.Random(1)
        )
    return agents


class Counted:
    """The replies of an agent, with the tokens of its prompts and texts."""

    def __init__(self, *parts):
        self._reply, self._agent, self._chars, self._thinks, self._spoiled, self._chance = parts
        self.limits = []

    async def __call__(self, request, manner=PLAIN, max_output_tokens=None):
        agent = self._agent
        limit = agent.larger_output_tokens if manner.larger else agent.max_output_tokens
        limit = min(limit, max_output_tokens or limit)
        self.limits.append(limit)
        reply = await self._reply(request, manner)
        value = json.loads(reply.text)
        if "reasons" in value:
            value["reasons"] = "because " * (self._chars // 8)
        text = "no" if self._chance.random() < self._spoiled else json.dumps(value)
        prompt = prompt_for(request)
        asked = [prompt.instructions, prompt.text, json.dumps(prompt.form.schema), manner.repair]
        output = limit if self._thinks else min(limit, len(text) // 4)
        tokens = sum(len(part.encode()) for part in asked) // 4, output
        return replace(
            reply, text=text[: output * 4], is_cut=len(text) > output * 4, input_tokens=tokens[0],
            output_tokens=tokens[1], cost_usd=agent.price.cost_usd(*tokens),
        )  # fmt: skip


def least_of(names, **fields):
    """What a debate of these agents needs at least."""
    payload = DebateJobPayload("Tea or coffee?", names, **fields)
    return quote.floor(payload, quote.terms_of(payload.all_agents, None))


def tokens_of(result):
    return result["token_usage"]["input_tokens"] + result["token_usage"]["output_tokens"]


MODES = [
    {}, {"debate": "always"}, {"answer_form": "number"}, {"consensus": "none"},
    {"consensus": "judge", "judge": "judge"}, {"consensus": "synthesis", "judge": "judge"},
    {"answer_form": "number", "consensus": "judge", "judge": "judge"},
]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
async def test_no_limit_is_exceeded_and_a_sufficient_one_gives_a_result(
    seat_scripted_agents, run_debate, seed
):
    """Whatever the seats, rounds, forms, and the behavior of models: those that think use all that they may,
    others are cut, or reply with something unusable, and are asked again.
    """
    chance = random.Random(seed)
    seats = chance.choice((2, 3, 3, 5, 8, 16) if seed % 8 == 0 else (2, 3, 4))
    names = [f"s{n}" for n in range(seats)]
    fields = {**chance.choice(MODES), "rounds": chance.choice((0, 1, 3)), "debate": "always"}
    joining = chance.choice((0, 0, 1)) if fields["rounds"] and seats > 2 else 0
    if joining:
        fields["escalate"] = names[:joining]
    verdicts = chance.choice((seats, 2))
    is_number = fields.get("answer_form") == "number"
    agents = seat_scripted_agents(
        **{
            name: saying(n % verdicts if is_number else f"verdict {n % verdicts}")
            for n, name in enumerate([*names, "judge"])
        }
    )
    spoiled = chance.choice((0, 0, 0.3))
    counting(
        agents, chars=chance.choice((80, 1_040, 9_000)) if not is_number else 80,
        thinks=chance.random() < 0.3, spoiled=spoiled, chance=chance,
    )  # fmt: skip
    least = least_of(names[joining:], **fields)
    for factor in (1.0, 1.1, 2.5, 6.0, 40.0):
        limits = {"max_tokens": int(least.amount.tokens * factor)}
        if chance.random() < 0.5:
            limits = {"max_cost_usd": least.usd * factor}
        outcome, _, result = await run_debate(agents=names[joining:], **fields, **limits)
        if not spoiled:
            assert isinstance(outcome, Completed), outcome
        taken = result or result_of(outcome)
        assert tokens_of(taken) <= limits.get("max_tokens", math.inf), (factor, limits)
        assert taken["cost_usd"] <= limits.get("max_cost_usd", math.inf), (factor, limits)


@pytest.mark.parametrize(
    ("seats", "max_tokens", "is_enough"),
    [
        (3, 5_000, False), (3, 10_000, True), (3, 40_000, True), (8, 20_000, False), (8, 25_000, True),
        (8, 120_000, True),
        (16, 500, False), (16, 40_000, False), (16, 150_000, True), (16, 400_000, True),
    ],
)  # fmt: skip
async def test_answers_of_200_words_under_usual_limits(
    seat_scripted_agents, run_debate, seats, max_tokens, is_enough
):
    """The limit ends the debate, which says so; one that is too small for any result is refused."""
    names = [f"s{n}" for n in range(seats)]
    counting(seat_scripted_agents(**{name: saying(f"verdict {name}") for name in names}))
    outcome, session, result = await run_debate(
        agents=names, rounds=20, debate="always", max_tokens=max_tokens
    )
    if is_enough:
        assert result["ended_by"] == "max_tokens"
        assert tokens_of(result) <= max_tokens
    else:
        least = least_of(names, rounds=20).amount.tokens
        assert outcome.error == (
            f"InvalidPayload: max_tokens is {max_tokens}, but this debate needs at least {least} tokens"
        )
        assert not session.kept.keys() - {"begun", "life/begun"}


async def test_a_limit_lets_rounds_begin_that_fit(seat_scripted_agents, run_debate):
    """More budget, more rounds; each phase has the output limit that its share allows."""
    rounds, limits = [], []
    for max_tokens in (12_000, 30_000, 60_000, 500_000):
        agents = counting(seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c")))
        _, _, result = await run_debate(
            agents=THREE, rounds=3, debate="always", max_tokens=max_tokens
        )
        rounds.append(result["rounds_used"])
        limits.append(agents["ann"].reply.limits[0])
        assert tokens_of(result) <= max_tokens
    assert rounds == sorted(rounds)
    assert (rounds[0], rounds[-1]) == (0, 3)
    assert limits == sorted(limits)
    assert (limits[0] < 2_000, limits[-1]) == (True, 8_000)


async def test_a_vote_on_long_answers_shows_less_of_them_rather_than_exceed_the_limit(
    seat_scripted_agents, run_debate
):
    """The result says how much the voters saw. The answer itself is whole."""
    counting(seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c")), chars=3_000)
    _, _, result = await run_debate(agents=THREE, rounds=0, max_tokens=12_000)
    assert tokens_of(result) <= 12_000
    assert "voters saw at most 500 bytes of each answer" in result["error"]
    assert len(result["final_answer"]) > 2_900


async def test_a_reply_that_a_limit_cut_is_not_asked_for_again(seat_scripted_agents, run_debate):
    """It is kept and marked as cut. Cut by the agent's own limit, it is asked for with a larger one."""
    for max_tokens, calls in ((9_000, 4), (900_000, 6)):
        agents = counting(seat_scripted_agents(ann=saying("a"), bob=saying("b")), chars=38_000)
        _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, max_tokens=max_tokens)
        assert result["token_usage"]["requests"] == calls
        assert [row["cut"] for row in result["seats"]] == [1, 1]
        assert [request for agent in agents.values() for request in agent.asked]


async def test_a_repeated_call_leaves_what_the_vote_needs(seat_scripted_agents, run_debate):
    """Proposals that the agents' own limits cut are asked for again only if the vote still fits."""
    agents = counting(seat_scripted_agents(ann=saying("a"), bob=saying("b")), chars=4_000)
    for agent in agents.values():
        agent.max_output_tokens, agent.larger_output_tokens = 300, 1_200
    least = least_of(["ann", "bob"])
    limit = least.amount.tokens + least.calls * (300 - quote.MIN_OUTPUT_TOKENS)
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, max_tokens=limit)
    assert (result["abstentions"], result["token_usage"]["requests"]) == (0, 4)
    assert [row["cut"] for row in result["seats"]] == [1, 1]


@pytest.mark.parametrize("limit", ["max_tokens", "max_cost_usd"])
async def test_a_call_that_the_gates_refuse_ends_the_debate_with_what_it_has(
    seat_scripted_agents, run_debate, monkeypatch, limit
):
    """Another attempt may have spent, too. The refusal is remembered: the resumed debate is the same."""

    async def refuse(self, call):
        if "revise" in call.id:
            raise JobLimitReached("spent", limit=limit)

    monkeypatch.setattr(PaidCalls, "acquire", refuse)
    counting(
        seat_scripted_agents(ann=saying("a"), bob=saying("b", best="a"), cyd=saying("c", best="a"))
    )
    session = MemorySession()
    amount = {"max_tokens": 1_000_000, "max_cost_usd": 100}[limit]
    _, _, result = await run_debate(agents=THREE, rounds=3, session=session, **{limit: amount})
    assert (result["rounds_used"], result["ended_by"]) == (1, limit.removesuffix("_usd"))
    assert result["verdict"] in ("a", "b", "c")
    assert {note["limit"] for n, note in session.kept.items() if n.startswith("given_up/")} == {
        limit.removesuffix("_usd")
    }
    monkeypatch.undo()
    again = counting(seat_scripted_agents(**{name: saying("x") for name in THREE}))
    _, _, resumed = await run_debate(
        agents=THREE, rounds=3, session=MemorySession(session.kept), **{limit: amount}
    )
    assert not any(agent.asked for agent in again.values())
    for each in (result, resumed):
        del each["duration_seconds"]
    assert resumed == result


async def test_what_failed_calls_took_counts(seat_scripted_agents, run_debate):
    """Faults that were billed leave less for the calls that are made instead."""

    def fail(agent):
        async def reply(request, manner=PLAIN, max_output_tokens=None):
            fault = AgentUnavailable("the connection was cut")
            raise CallFault(
                fault, "unavailable", input_tokens=300, output_tokens=max_output_tokens or 8_000,
                cost_usd=0.0,
            )  # fmt: skip

        agent.reply = reply

    session = MemorySession()
    limit = 14_000
    for attempts in (1, 2):
        agents = counting(seat_scripted_agents(**{name: saying(name) for name in THREE}))
        fail(agents["bob"])
        await run_debate(
            agents=THREE, rounds=2, max_tokens=limit, session=session, attempts=attempts
        )
    counting(seat_scripted_agents(**{name: saying(name) for name in THREE}))
    outcome, _, result = await run_debate(
        agents=THREE, rounds=2, max_tokens=limit, session=session, attempts=3
    )
    assert tokens_of(result or result_of(outcome)) <= limit


@pytest.mark.parametrize(
    ("name", "limit", "unknown"),
    [
        ("max_cost_usd", 10.0, {"cost_usd": None}),
        ("max_tokens", 100_000, {"input_tokens": 0, "output_tokens": 0}),
    ],
)
async def test_a_limit_says_which_calls_it_did_not_limit(
    seat_scripted_agents, run_debate, name, limit, unknown
):
    """Price or tokens of a reply may not be known: the result says that the limit does not hold."""
    for given, error in (
        ({}, None),
        ({name: limit}, f"{name} did not limit 6 calls: what they took is not known"),
    ):
        agents = seat_scripted_agents(**{
            each: lambda task, each=each: replace(saying(each)(task), **unknown) for each in THREE
        })  # fmt: skip
        for agent in agents.values():
            agent.price = Price(1.0, 1.0, 1.0, "test")
        _, _, result = await run_debate(agents=THREE, rounds=0, **given)
        assert result["error"] == error


def in_the_past(session, seconds):
    """Makes the debate in the session's journal have run for so many seconds."""
    for name, entry in session.kept.items():
        if name.startswith("call/"):
            entry["running"] += seconds


async def stopped_before_the_vote(seat_scripted_agents, run_debate, seconds, **fields):
    """A session whose debate was interrupted at the vote, after it had run for so many seconds."""
    seat_scripted_agents(
        ann=saying("a"), bob=failing(AgentUnavailable("down"), (Vote, Review)), cyd=saying("c")
    )
    _, session, _ = await run_debate(agents=THREE, **fields)
    in_the_past(session, seconds)
    return session


async def test_at_four_fifths_of_the_time_the_debate_goes_to_the_vote(
    seat_scripted_agents, run_debate
):
    """Running time of all attempts counts; time between them does not."""
    fields = {"rounds": 4, "timeout_seconds": 100, "debate": "always"}
    session = await stopped_before_the_vote(seat_scripted_agents, run_debate, 85, **fields)
    session.kept = {n: each for n, each in session.kept.items() if "r1." not in n}
    session.kept["begun"]["at"] -= 1_000_000
    seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"))
    _, _, result = await run_debate(agents=THREE, session=session, attempts=2, **fields)
    assert (result["rounds_used"], result["ended_by"]) == (0, "timeout")
    assert 85 <= result["duration_seconds"] < 95


async def test_a_round_that_was_begun_goes_on_whatever_the_clock_says(
    seat_scripted_agents, run_debate
):
    """Otherwise a resumed debate could vote on other answers than the ballots in the journal."""
    fields = {"rounds": 1, "timeout_seconds": 100}
    session = await stopped_before_the_vote(seat_scripted_agents, run_debate, 85, **fields)
    agents = seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"))
    _, _, result = await run_debate(agents=THREE, session=session, **fields)
    assert [type(task) for task in agents["bob"].asked] == [Review, Revise, Vote]
    assert result["ended_by"] == "unchanged"


TIME = {"timeout_seconds": 1_000}


@pytest.fixture
def until_time_is_up(clock):
    """Never returns; when all others of the phase have finished, so has the time for calls of `TIME`."""

    async def wait():
        for _ in range(100):
            await asyncio.sleep(0)
        clock.ahead_seconds = 960
        await asyncio.Event().wait()

    return wait


@pytest.fixture
def wait_forever(until_time_is_up):
    """Makes an agent reply as it is told, except to requests of a type: those replies never come."""

    def make(agent, reply, on):
        async def replying(request, manner=None, max_output_tokens=None):
            if isinstance(request, on):
                await until_time_is_up()
            return reply(request)

        agent.reply = replying

    return make


async def test_when_time_is_up_the_ballots_that_are_there_decide(
    seat_scripted_agents, run_debate, wait_forever
):
    """One ballot of three is missing: it is an abstention, and what was paid for is not lost."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk"), cyd=saying("rum", choice="tea")
    )
    wait_forever(agents["bob"], saying("milk"), Vote)
    outcome, session, result = await run_debate(agents=THREE, rounds=1, **TIME)
    assert isinstance(outcome, Completed)
    assert (result["verdict"], result["confidence"]) == ("tea", 0.6667)
    assert (result["abstentions"], result["consensus_reached"]) == (1, True)
    assert "bob abstained (no time was left to ask)" in result["error"]
    again = seat_scripted_agents(**{name: saying("x") for name in THREE})
    _, _, resumed = await run_debate(agents=THREE, rounds=1, session=session, **TIME)
    assert not any(agent.asked for agent in again.values())
    for each in (result, resumed):
        del each["duration_seconds"]
    assert resumed == result


@pytest.mark.parametrize(
    ("kind", "fields", "verdict"),
    [
        (Discuss, {"answer_form": "number"}, 1),  # verdicts are votes
        (Revise, {}, 1),  # reviews name the best answer
    ],
)
async def test_when_time_is_up_in_a_round_the_last_complete_step_decides(
    seat_scripted_agents, run_debate, wait_forever, kind, fields, verdict
):
    """Closed forms by the verdicts, text by the reviews: as implied votes."""
    made = {"ann": saying(1, best=1), "bob": saying(2, best=1), "cyd": saying(1, best=1)}
    if not fields:
        made = {"ann": saying("1"), "bob": saying("2", best="1"), "cyd": saying("3", best="1")}
    agents = seat_scripted_agents(**made)
    wait_forever(agents["bob"], made["bob"], kind)
    _, _, result = await run_debate(agents=THREE, rounds=3, **TIME, **fields)
    assert (str(result["verdict"]), result["ended_by"]) == (str(verdict), "timeout")
    assert result["consensus_reached"]
    assert all(vote["implied"] for vote in result["votes"])


async def test_without_any_vote_a_debate_out_of_time_fails_with_its_answers(
    seat_scripted_agents, run_debate, wait_forever
):
    """It is not retried: the next attempt would have no time left, either. After a requeue it goes on."""
    agents = seat_scripted_agents(**{name: saying(name) for name in THREE})
    for name, agent in agents.items():
        wait_forever(agent, saying(name), Vote)
    fields = {"rounds": 0, **TIME}
    outcome, session, _ = await run_debate(agents=THREE, **fields)
    assert isinstance(outcome, Failed)
    assert "no seat could vote: ann abstained (no time was left to ask)" in outcome.error
    partial = result_of(outcome)
    assert partial["ended_by"] == "rounds"
    assert sorted(row["verdict"] for row in partial["dissent"]) == THREE
    session.requeue()
    agents = seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    _, _, result = await run_debate(agents=THREE, session=session, **fields)
    assert [type(task) for task in agents["cyd"].asked] == [Vote]
    assert result["verdict"] == "ann"


async def test_mode_none_without_an_answer_in_time_fails(
    seat_scripted_agents, run_debate, wait_forever
):
    """A completed debate has an answer."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"))
    for agent in agents.values():
        wait_forever(agent, saying("x"), Propose)
    outcome, _, _ = await run_debate(agents=["ann", "bob"], consensus="none", **TIME)
    assert isinstance(outcome, Failed)
    assert "no seat has answered" in outcome.error


async def test_reviews_that_came_in_time_are_the_votes_of_their_writers_only(
    seat_scripted_agents, run_debate, wait_forever
):
    """One of three says that all answers come to the same, then time is up: no unanimous vote."""
    agents = seat_scripted_agents(
        ann=saying("a", same=("a", "b", "c")), bob=saying("b"), cyd=saying("c")
    )
    for name in ("bob", "cyd"):
        wait_forever(agents[name], saying(name[0]), Review)
    _, _, result = await run_debate(agents=THREE, consensus="unanimous", **TIME)
    assert (result["consensus_reached"], result["confidence"]) == (False, 0.3333)
    assert [vote["group"] for vote in result["votes"]] == [0, None, None]


async def test_a_reply_that_was_being_stored_as_time_ran_out_counts_and_is_kept(
    seat_scripted_agents, run_debate, until_time_is_up
):
    """What was paid for is in the result and in the journal, and the debate resumes as it was decided."""

    class Slow(MemorySession):
        async def checkpoint(self, job, name, value):
            if name.startswith("call/vote") and name not in asked:
                asked.append(name)
                await until_time_is_up()
            await super().checkpoint(job, name, value)

    asked = []
    seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    fields = {"agents": THREE, "rounds": 0, "session": Slow(), **TIME}
    for _ in range(2):
        outcome, session, result = await run_debate(**fields)
        assert isinstance(outcome, Completed)
        assert (result["verdict"], result["confidence"]) == ("ann", 1.0)
        assert result["token_usage"]["requests"] == 6
    assert len(asked) == 3
    assert set(asked) <= set(session.kept)


@pytest.mark.parametrize("usd", [1e-8, 4e-7])
async def test_costs_of_seats_add_up_however_small(seat_scripted_agents, run_debate, usd):
    """Small prices are not rounded to nothing: the total is the sum of the seats."""

    def cheap(task):
        return replace(saying("tea")(task), cost_usd=usd)

    seat_scripted_agents(ann=cheap, bob=cheap)
    _, _, result = await run_debate(agents=["ann", "bob"])
    assert result["cost_usd"] == pytest.approx(2 * usd, rel=1e-6)
    assert sum(row["cost_usd"] for row in result["seats"]) == pytest.approx(2 * usd, rel=1e-6)


@pytest.mark.parametrize("max_bytes", [12_000, 6_000, 4_500])
async def test_a_result_that_is_too_large_is_shortened_not_lost(
    seat_scripted_agents, run_debate, max_bytes
):
    """A paid debate does not fail because its texts are long; the error says what was left out."""

    def long(verdict):
        def reply(task):
            value = json.loads(saying(verdict, choice="a")(task).text)
            return said({**value, "reasons": "\x01é" * 400, "reason": "\x01é" * 150})

        return reply

    seat_scripted_agents(ann=long("a"), bob=long("b"), cyd=long("c"))
    outcome, _, _ = await run_debate(
        agents=THREE, rounds=0, settings={"max_result_bytes": max_bytes}
    )
    assert isinstance(outcome, Completed)
    assert len(outcome.result) <= max_bytes
    result = result_of(outcome)
    assert result["verdict"] == "a"
    assert "too large" in result["error"]
    assert [vote["group"] for vote in result["votes"]] == [result["votes"][0]["group"]] * 3


async def test_a_round_that_began_with_an_escalation_goes_on_after_a_kill(
    seat_scripted_agents, run_debate
):
    """The tokens of the agent that joined must not undo the decision to hold the round: its paid answer
    counts.
    """

    class KilledInTheRound(MemorySession):
        async def checkpoint(self, job, name, value):
            if name.startswith("call/r1.discuss"):
                raise LeaseLost("killed")
            await super().checkpoint(job, name, value)

    fields = {
        "agents": ["ann", "bob"], "escalate": ["cyd"], "answer_form": "number", "rounds": 1,
        "max_tokens": 15_000,
    }  # fmt: skip
    seat_scripted_agents(ann=saying(1), bob=saying(2), cyd=saying(2))
    _, killed, _ = await run_debate(session=KilledInTheRound(), **fields)
    assert "call/propose.2.0" in killed.kept
    _, _, result = await run_debate(session=MemorySession(killed.kept), **fields)
    assert (result["rounds_used"], result["verdict"]) == (1, 2)
    assert sum(row["calls"] for row in result["seats"]) == result["token_usage"]["requests"] == 6


async def test_waits_at_gates_do_not_count(seat_scripted_agents, run_debate, monkeypatch, clock):
    """A debate that waits longer than its time limit has all of its time left to run."""

    async def wait(self, call):
        with self._waits.waiting():
            clock.ahead_seconds += 600
            await asyncio.sleep(0)

    monkeypatch.setattr(PaidCalls, "acquire", wait)
    seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    _, _, result = await run_debate(agents=THREE, rounds=0, **TIME)
    assert (result["verdict"], result["confidence"], result["ended_by"]) == ("ann", 1.0, "rounds")
    assert result["duration_seconds"] < 600


async def test_the_time_of_attempts_that_failed_counts(seat_scripted_agents, run_debate):
    """An agent that fails after a while, attempt for attempt, does not stretch the time limit."""
    session = MemorySession()
    for attempts in (1, 2):
        made = seat_scripted_agents(ann=saying("tea"), bob=saying("tea"))

        async def fail(request, manner=None, max_output_tokens=None):
            await asyncio.sleep(0.1)
            raise AgentUnavailable("no reply")

        made["bob"].reply = fail
        await run_debate(agents=["ann", "bob"], session=session, attempts=attempts)
    seat_scripted_agents(ann=saying("tea"), bob=saying("tea"))
    _, _, result = await run_debate(agents=["ann", "bob"], session=session, attempts=3)
    assert result["duration_seconds"] >= 0.2
