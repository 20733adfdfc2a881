"""Limits of time, tokens and cost lead to the vote, or end the debate."""

from dataclasses import replace

from support.scripted_agents import THREE, failing, saying

from aragora_q.contracts import Failed
from aragora_q.errors import AgentUnavailable, PermanentError
from aragora_q.executors.debate.requests import Propose, Vote


async def test_a_spent_budget_goes_to_the_vote(seat_scripted_agents, run_debate):
    """Calls of 15 tokens: a round and a vote cost 135, so 200 allow one round, 100 none."""
    for budget, rounds in ((100, 0), (200, 1), (10_000, 4)):
        seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"))
        _, _, result = await run_debate(agents=THREE, rounds=4, max_tokens=budget)
        assert result["rounds_used"] == rounds
        used = result["token_usage"]["input_tokens"] + result["token_usage"]["output_tokens"]
        assert used <= budget


async def test_a_cost_budget_counts_what_calls_cost(seat_scripted_agents, run_debate):
    """Calls of a cent: a round and a vote cost 9, so 13 cents allow one round after the proposals."""

    def at_a_cent(text):
        def reply(task):
            return replace(saying(text)(task), cost_usd=0.01)

        return reply

    seat_scripted_agents(ann=at_a_cent("a"), bob=at_a_cent("b"), cyd=at_a_cent("c"))
    _, _, result = await run_debate(agents=THREE, rounds=4, max_cost_usd=0.13)
    assert (result["rounds_used"], result["token_usage"]["requests"]) == (1, 12)


async def test_at_four_fifths_of_the_time_the_debate_goes_to_the_vote(
    seat_scripted_agents, run_debate
):
    """Time is counted from the start of the first attempt: later attempts get no new time."""
    seat_scripted_agents(ann=saying("a"), bob=saying("b"), cyd=saying("c"))
    _, session, _ = await run_debate(agents=THREE, rounds=0)  # another journal, of that start
    session.kept = {"life/started": {"at": session.kept["life/started"]["at"] - 85}}
    _, _, result = await run_debate(
        agents=THREE, rounds=4, timeout_seconds=100, session=session, attempts=2
    )
    assert result["rounds_used"] == 0
    session.kept = {"life/started": {"at": session.kept["life/started"]["at"] - 20}}
    outcome, _, _ = await run_debate(
        agents=THREE, rounds=4, timeout_seconds=100, session=session, attempts=2
    )
    assert isinstance(outcome, Failed)
    assert "no decision within timeout_seconds (100" in outcome.error


async def test_a_debate_out_of_time_fails_permanently(run_debate, monkeypatch):
    """It is not retried: the next attempt would have no time left, either."""
    import asyncio

    from aragora_q.executors.debate import demo

    async def hang(self, task):
        await asyncio.Event().wait()

    monkeypatch.setattr(demo.DemoAgent, "reply", hang)
    outcome, _, _ = await run_debate(agents=["demo"] * 2, timeout_seconds=0.5)
    assert isinstance(outcome, Failed)
    assert "no decision within timeout_seconds (0.5)" in outcome.error


async def test_a_round_that_was_begun_goes_on_whatever_the_clock_says(
    seat_scripted_agents, run_debate
):
    """Otherwise a resumed debate could vote on other answers than the ballots in the journal."""
    seat_scripted_agents(
        ann=saying("a"), bob=failing(AgentUnavailable("529"), Vote), cyd=saying("c")
    )
    _, session, _ = await run_debate(agents=THREE, rounds=1, timeout_seconds=100)
    session.kept["life/started"]["at"] -= 85
    agents = seat_scripted_agents(ann=saying("x"), bob=saying("b"), cyd=saying("x"))
    _, _, result = await run_debate(agents=THREE, rounds=1, timeout_seconds=100, session=session)
    assert [[type(task) for task in agent.asked] for agent in agents.values()] == [[], [Vote], []]
    assert result["rounds_used"] == 1


async def test_a_requeue_resets_the_clock_and_the_dropped_seats(seat_scripted_agents, run_debate):
    """After the causes are fixed, all seats take part again, and paid calls are not repeated."""
    seat_scripted_agents(
        ann=saying("a"), bob=saying("b"), cyd=failing(PermanentError("no key"), Propose)
    )
    _, session, first = await run_debate(agents=THREE, rounds=0, timeout_seconds=100)
    assert first["participants"] == ["ann", "bob"]
    session.kept["life/started"]["at"] -= 1000
    lasting = {n: kept for n, kept in session.kept.items() if not n.startswith("life/")}
    session.kept = lasting  # as requeue.lua leaves it
    agents = seat_scripted_agents(ann=saying("x"), bob=saying("y"), cyd=saying("c"))
    _, _, second = await run_debate(agents=THREE, rounds=0, timeout_seconds=100, session=session)
    assert second["participants"] == ["ann", "bob", "cyd"]
    assert [type(task) for task in agents["ann"].asked] == []
