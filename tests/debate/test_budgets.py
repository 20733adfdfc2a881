"""Limits of time, tokens and cost lead to the vote, or end the debate."""

import asyncio
import json
from dataclasses import replace

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, failing, said, saying

from aragora_q.contracts import Completed, Failed
from aragora_q.errors import AgentUnavailable, LeaseLost
from aragora_q.executors.debate.requests import Discuss, Propose, Review, Revise, Vote


async def test_a_spent_budget_goes_to_the_vote(seat_scripted_agents, run_debate):
    """Calls of 15 tokens: the round and the vote after it are expected to take at most 285."""
    for budget, rounds, ended_by in (
        (300, 0, "max_tokens"), (380, 1, "max_tokens"), (10_000, 4, "rounds"),
    ):  # fmt: skip
        seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"))
        _, _, result = await run_debate(agents=THREE, rounds=4, max_tokens=budget, debate="always")
        assert (result["rounds_used"], result["ended_by"]) == (rounds, ended_by)
        used = result["token_usage"]["input_tokens"] + result["token_usage"]["output_tokens"]
        assert used <= budget


@pytest.mark.parametrize(("seats", "joining"), [(3, 0), (8, 0), (16, 0), (16, 13)])
@pytest.mark.parametrize("form", [{}, {"answer_form": "number"}], ids=["text", "number"])
async def test_a_round_that_would_exceed_the_budget_does_not_begin(
    seat_scripted_agents, run_debate, seats, joining, form
):
    """Prompts grow with the number of seats: what a round takes is estimated from all answers, not from an
    average, and for those that join in it, too. Tokens are characters / 4 of real prompts.
    """
    from aragora_q.executors.debate.prompts import prompt_for

    def counted(n):
        def reply(task):
            answer = replace(saying(n if form else f"{n}")(task))
            prompt = prompt_for(task)
            text = json.loads(answer.text)
            if "reasons" in text:
                text["reasons"] = "because " * 130
            return replace(
                answer, text=json.dumps(text), output_tokens=260,
                input_tokens=(len(prompt.instructions) + len(prompt.text)) // 4,
            )  # fmt: skip

        return reply

    names = [f"s{n}" for n in range(seats)]
    for budget in (seats * 2_500, seats * seats * 1_500):
        seat_scripted_agents(**{name: counted(n) for n, name in enumerate(names)})
        _, _, result = await run_debate(
            agents=names[joining:], escalate=names[:joining], rounds=20, max_tokens=budget,
            debate="always", **form,
        )  # fmt: skip
        used = result["token_usage"]["input_tokens"] + result["token_usage"]["output_tokens"]
        vote_alone = seats * (seats * 280 + 700)  # always takes place
        assert result["ended_by"] == "max_tokens"
        assert used <= max(budget, vote_alone + seats * 700)


async def test_a_cost_budget_counts_what_calls_cost(seat_scripted_agents, run_debate):
    """Calls of a cent: a budget of 29 cents allows one round after the proposals."""

    def at_a_cent(text):
        def reply(task):
            return replace(saying(text)(task), cost_usd=0.01)

        return reply

    seat_scripted_agents(ann=at_a_cent("a"), bob=at_a_cent("b"), cyd=at_a_cent("c"))
    _, _, result = await run_debate(agents=THREE, rounds=4, max_cost_usd=0.29, debate="always")
    assert (result["rounds_used"], result["token_usage"]["requests"]) == (1, 12)
    assert (result["ended_by"], result["cost_usd"], result["unpriced_calls"]) == (
        "max_cost",
        0.12,
        0,
    )


@pytest.mark.parametrize(
    ("name", "limit", "tokens"), [("max_cost_usd", 0.000001, (10, 5)), ("max_tokens", 1, (0, 0))]
)
async def test_a_budget_says_which_calls_it_did_not_limit(
    seat_scripted_agents, run_debate, name, limit, tokens
):
    """Price or tokens of a call may not be known: the result says that the limit does not hold."""
    for given, error in (
        ({}, None),
        ({name: limit}, f"{name} did not limit 6 calls: what they took is not known"),
    ):
        seat_scripted_agents(**{
            each: lambda task, each=each: replace(
                saying(each)(task), input_tokens=tokens[0], output_tokens=tokens[1]
            )
            for each in THREE
        })  # fmt: skip
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


class Waiting:
    """Replies of a real agent, except for requests of a type: those never come."""

    def __init__(self, reply, on):
        self._reply = reply
        self._on = on

    async def reply(self, request, manner=None, max_output_tokens=None):
        if isinstance(request, self._on):
            await asyncio.Event().wait()
        return self._reply(request)


def wait_forever(agent, reply, on):
    agent.reply = Waiting(reply, on).reply


async def test_when_time_is_up_the_ballots_that_are_there_decide(seat_scripted_agents, run_debate):
    """One ballot of three is missing: it is an abstention, and what was paid for is not lost."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk"), cyd=saying("rum", choice="tea")
    )
    wait_forever(agents["bob"], saying("milk"), Vote)
    outcome, session, result = await run_debate(agents=THREE, rounds=1, timeout_seconds=0.5)
    assert isinstance(outcome, Completed)
    assert (result["verdict"], result["confidence"]) == ("tea", 0.6667)
    assert (result["abstentions"], result["consensus_reached"]) == (1, True)
    assert "bob abstained (no time was left to ask)" in result["error"]
    again = seat_scripted_agents(**{name: saying("x") for name in THREE})
    _, _, resumed = await run_debate(agents=THREE, rounds=1, timeout_seconds=0.5, session=session)
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
    seat_scripted_agents, run_debate, kind, fields, verdict
):
    """Closed forms by the verdicts, text by the reviews: as implied votes."""
    made = {"ann": saying(1, best=1), "bob": saying(2, best=1), "cyd": saying(1, best=1)}
    if not fields:
        made = {"ann": saying("1"), "bob": saying("2", best="1"), "cyd": saying("3", best="1")}
    agents = seat_scripted_agents(**made)
    wait_forever(agents["bob"], made["bob"], kind)
    _, _, result = await run_debate(agents=THREE, rounds=3, timeout_seconds=0.5, **fields)
    assert (str(result["verdict"]), result["ended_by"]) == (str(verdict), "timeout")
    assert result["consensus_reached"]
    assert all(vote["implied"] for vote in result["votes"])


async def test_without_any_vote_a_debate_out_of_time_fails_with_its_answers(
    seat_scripted_agents, run_debate
):
    """It is not retried: the next attempt would have no time left, either. After a requeue it goes on."""
    agents = seat_scripted_agents(**{name: saying(name) for name in THREE})
    for name, agent in agents.items():
        wait_forever(agent, saying(name), Vote)
    fields = {"rounds": 0, "timeout_seconds": 0.4}
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


async def test_mode_none_without_an_answer_in_time_fails(seat_scripted_agents, run_debate):
    """A completed debate has an answer."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"))
    for agent in agents.values():
        wait_forever(agent, saying("x"), Propose)
    outcome, _, _ = await run_debate(agents=["ann", "bob"], consensus="none", timeout_seconds=0.1)
    assert isinstance(outcome, Failed)
    assert "no seat has answered" in outcome.error


async def test_reviews_that_came_in_time_are_the_votes_of_their_writers_only(
    seat_scripted_agents, run_debate
):
    """One of three says that all answers come to the same, then time is up: no unanimous vote."""
    agents = seat_scripted_agents(
        ann=saying("a", same=("a", "b", "c")), bob=saying("b"), cyd=saying("c")
    )
    for name in ("bob", "cyd"):
        wait_forever(agents[name], saying(name[0]), Review)
    _, _, result = await run_debate(agents=THREE, consensus="unanimous", timeout_seconds=0.5)
    assert (result["consensus_reached"], result["confidence"]) == (False, 0.3333)
    assert [vote["group"] for vote in result["votes"]] == [0, None, None]


async def test_a_reply_that_was_being_stored_as_time_ran_out_counts_and_is_kept(
    seat_scripted_agents, run_debate
):
    """What was paid for is in the result and in the journal, and the debate resumes as it was decided."""

    class Slow(MemorySession):
        async def checkpoint(self, job, name, value):
            if name.startswith("call/vote") and name not in asked:
                asked.append(name)
                await asyncio.sleep(60)
            await super().checkpoint(job, name, value)

    asked = []
    seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    fields = {"agents": THREE, "rounds": 0, "timeout_seconds": 0.7, "session": Slow()}
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
        "max_tokens": 150,
    }  # fmt: skip
    seat_scripted_agents(ann=saying(1), bob=saying(2), cyd=saying(2))
    _, killed, _ = await run_debate(session=KilledInTheRound(), **fields)
    assert "call/propose.2.0" in killed.kept
    _, _, result = await run_debate(session=MemorySession(killed.kept), **fields)
    assert (result["rounds_used"], result["verdict"]) == (1, 2)
    assert sum(row["calls"] for row in result["seats"]) == result["token_usage"]["requests"] == 6


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
