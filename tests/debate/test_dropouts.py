"""Agents that fail during a debate: who is dropped, what is retried, when the debate fails."""

import pytest
from support.scripted_agents import THREE, failing, saying

from aragora_q.contracts import Completed, Failed, Retry
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
from aragora_q.executors.debate.requests import Propose, Review, Revise, Vote


async def test_one_dead_provider_drops_its_agent_only(seat_scripted_agents, run_debate):
    """A permanent error drops one seat; the others finish, and the result names the seat and the reason."""
    seat_scripted_agents(
        ann=saying("tea"), bob=failing(PermanentError("no such model"), Review), cyd=saying("tea!")
    )
    outcome, _, result = await run_debate(agents=THREE, rounds=1)
    assert isinstance(outcome, Completed)
    assert result["participants"] == ["ann", "cyd"]
    assert result["error"] == "bob dropped out (round 1, review): no such model"
    assert (result["confidence"], result["consensus_reached"]) == (1.0, True)


async def test_a_debate_without_quorum_fails_and_names_the_causes(seat_scripted_agents, run_debate):
    """Two of three seats dropped: a dead letter at once, with both reasons."""
    seat_scripted_agents(
        ann=saying("tea"),
        bob=failing(PermanentError("bad key"), Propose),
        cyd=failing(PermanentError("no quota"), Propose),
    )
    outcome, session, _ = await run_debate(agents=THREE)
    assert isinstance(outcome, Failed)
    assert (
        "1 of 3 agents are left, but a debate needs 2: bob: bad key; cyd: no quota" in outcome.error
    )
    assert not [name for name in session.kept if "dropped" in name]  # a requeue may find them well


@pytest.mark.parametrize(
    ("seats", "failing_seats", "completes"), [(2, 1, False), (5, 2, True), (5, 3, False)]
)
async def test_the_quorum_is_half_and_at_least_two(
    seat_scripted_agents, run_debate, seats, failing_seats, completes
):
    """max(2, ceil(N/2)) seats must be left."""
    names = [f"s{n}" for n in range(seats)]
    replies = {
        name: failing(PermanentError("gone"), Propose) if n < failing_seats else saying(name)
        for n, name in enumerate(names)
    }
    seat_scripted_agents(**replies)
    outcome, _, _ = await run_debate(agents=names, rounds=0)
    assert isinstance(outcome, Completed if completes else Failed)


async def test_a_rate_limit_postpones_and_keeps_what_was_paid(seat_scripted_agents, run_debate):
    """One 429: the other calls finish, then the job waits, uncharged, for the time that the provider asked."""
    limited = RetryLater("429", delay_seconds=7)
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=failing(limited, Review), cyd=saying("milk", choice="tea")
    )
    outcome, session, _ = await run_debate(agents=THREE, rounds=1)
    assert isinstance(outcome, Retry)
    assert (outcome.charged, outcome.delay_seconds) == (False, 7)
    agents |= seat_scripted_agents(
        ann=saying("tea"), bob=saying("rum"), cyd=saying("milk", choice="tea")
    )
    _, _, result = await run_debate(agents=THREE, rounds=1, session=session)
    assert [type(task) for task in agents["ann"].asked] == [Revise, Vote]
    assert [type(task) for task in agents["bob"].asked] == [Review, Revise, Vote]
    assert result["token_usage"]["requests"] == 12


async def test_a_transient_fault_is_a_charged_retry(seat_scripted_agents, run_debate):
    """An overloaded provider: retried with backoff like any failure."""
    seat_scripted_agents(
        ann=saying("a"), bob=failing(AgentUnavailable("529"), Vote), cyd=saying("c")
    )
    outcome, _, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Retry)
    assert outcome.charged


@pytest.mark.parametrize(
    "error", [AgentUnavailable("still down"), RetryLater("still limited", delay_seconds=9)]
)
async def test_the_last_attempt_finishes_without_failing_seats(
    seat_scripted_agents, run_debate, error
):
    """A result of two seats that says so is better than none."""
    seat_scripted_agents(
        ann=saying("tea"), bob=failing(error, Revise), cyd=saying("milk", choice="tea")
    )
    outcome, session, result = await run_debate(agents=THREE, rounds=1, attempts=3)
    assert isinstance(outcome, Completed)
    assert result["participants"] == ["ann", "cyd"]
    assert result["error"] == f"bob dropped out (round 1, revise): {error}"
    again = seat_scripted_agents(ann=saying("x"), bob=saying("x"), cyd=saying("x"))
    _, _, resumed = await run_debate(agents=THREE, rounds=1, attempts=1, session=session)
    assert not any(agent.asked for agent in again.values())  # the drop-out is journalled, too
    for each in (result, resumed):
        del each["duration_seconds"]
    assert resumed == result


async def test_no_quorum_for_transient_reasons_stays_retryable(seat_scripted_agents, run_debate):
    """All seats are rate-limited on the last attempt: the job is retried later, and does not fail."""
    limited = failing(RetryLater("429", delay_seconds=5), Propose)
    seat_scripted_agents(ann=limited, bob=limited, cyd=limited)
    outcome, _, _ = await run_debate(agents=THREE, attempts=3)
    assert isinstance(outcome, Retry)
    assert not outcome.charged
