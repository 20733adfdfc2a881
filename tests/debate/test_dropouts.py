"""Agents that fail during a debate: who is dropped, what is retried, when the debate fails."""

from dataclasses import replace

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, failing, said, saying

from aragora_q.contracts import MAX_PUT_OFF_SECONDS, Completed, Failed, Retry
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
from aragora_q.executors.debate.requests import Propose, Review, Revise, Vote
from aragora_q.streams.session import MAX_DEFERRALS


async def test_one_dead_provider_drops_its_agent_only(seat_scripted_agents, run_debate):
    """A permanent error drops one seat; the others finish, and the result names the seat and the reason."""
    seat_scripted_agents(
        ann=saying("tea"),
        bob=failing(PermanentError("no such model"), Review),
        cyd=saying("milk", choice="tea"),
    )
    outcome, _, result = await run_debate(agents=THREE, rounds=1)
    assert isinstance(outcome, Completed)
    assert result["participants"] == ["ann", "cyd"]
    assert result["error"] == "bob dropped out (round 1, review): no such model"
    assert (result["confidence"], result["consensus_reached"]) == (0.6667, True)
    assert result["seats"][1]["dropped"] == "round 1, review: no such model"


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
    ("seats", "failing_seats", "completes"),
    [(1, 0, True), (1, 1, False), (2, 1, False), (5, 2, True), (5, 3, False)],
)
async def test_the_quorum_is_half_and_at_least_two(
    seat_scripted_agents, run_debate, seats, failing_seats, completes
):
    """max(2, ceil(N/2)) seats must be left; of one agent, that one."""
    names = [f"s{n}" for n in range(seats)]
    replies = {
        name: failing(PermanentError("gone"), Propose) if n < failing_seats else saying(name)
        for n, name in enumerate(names)
    }
    seat_scripted_agents(**replies)
    outcome, _, _ = await run_debate(agents=names, rounds=0)
    assert isinstance(outcome, Completed if completes else Failed)


async def test_agents_that_join_later_and_fail_do_not_end_the_debate(
    seat_scripted_agents, run_debate
):
    """Three of `escalate` fail: the two that disagreed go on, and their seats count as dropped."""
    gone = failing(PermanentError("gone"), Propose)
    seat_scripted_agents(ann=saying(1), bob=saying(2, revised=1), eve=gone, fay=gone, gil=gone)
    _, _, result = await run_debate(
        agents=["ann", "bob"], escalate=["eve", "fay", "gil"], answer_form="number", rounds=1
    )
    assert (result["verdict"], result["participants"]) == (1, ["ann", "bob"])
    assert (result["confidence"], result["consensus_reached"]) == (0.4, False)


async def test_a_rate_limit_postpones_and_keeps_what_was_paid(seat_scripted_agents, run_debate):
    """One 429: the other calls finish, then the job waits, uncharged, for the time that the provider asked."""
    limited = RetryLater("429", delay_seconds=7)
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=failing(limited, Review), cyd=saying("milk", choice="tea")
    )
    outcome, session, _ = await run_debate(agents=THREE, rounds=1)
    assert isinstance(outcome, Retry)
    assert not outcome.charged
    assert 7 <= outcome.delay_seconds <= 7 * 1.2
    agents |= seat_scripted_agents(
        ann=saying("tea"), bob=saying("rum"), cyd=saying("milk", choice="tea")
    )
    _, _, result = await run_debate(agents=THREE, rounds=1, session=session)
    assert [type(task) for task in agents["ann"].asked] == [Revise, Vote]
    assert [type(task) for task in agents["bob"].asked] == [Review, Revise, Vote]
    assert result["token_usage"]["requests"] == 12 + 1


async def test_a_transient_fault_is_a_charged_retry(seat_scripted_agents, run_debate):
    """An overloaded provider: retried with backoff like any failure."""
    seat_scripted_agents(
        ann=saying("a"), bob=failing(AgentUnavailable("529"), Vote), cyd=saying("c")
    )
    outcome, _, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Retry)
    assert outcome.charged


async def test_the_last_attempt_finishes_without_failing_seats(seat_scripted_agents, run_debate):
    """A result of two seats that says so is better than none."""
    error = AgentUnavailable("still down")
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


@pytest.mark.parametrize("call", [Propose, Vote])
async def test_a_job_comes_back_before_a_long_time_that_a_provider_names(
    seat_scripted_agents, run_debate, call
):
    """Its gate says then how long it is closed: an operator may have opened it, or the job is held."""
    limited = failing(RetryLater("429", delay_seconds=7 * 3600), call)
    seat_scripted_agents(ann=saying("tea"), bob=limited, cyd=saying("tea"))
    outcome, _, _ = await run_debate(agents=THREE, rounds=0)
    assert (outcome.charged, outcome.delay_seconds) == (False, MAX_PUT_OFF_SECONDS)


@pytest.mark.parametrize("named", [0, 1, 90])
async def test_an_overload_waits_with_growing_delays_and_drops_the_seat_only_after_its_bound(
    seat_scripted_agents, run_debate, monkeypatch, named
):
    """5, 10, 20, 40, 60, 60 … seconds, uncharged, also on the last attempt; then the seat drops.

    If the provider names a time, it is the first of them.
    """
    from aragora_q.executors.debate.journal import Journal

    clock = [0.0]
    monkeypatch.setattr(Journal, "now", lambda self: clock[0])
    session, delays = None, []
    for _ in range(200):
        seat_scripted_agents(
            ann=saying("tea"),
            bob=failing(RetryLater("529 overloaded", delay_seconds=named), Vote),
            cyd=saying("milk", choice="tea"),
        )
        outcome, session, result = await run_debate(
            agents=THREE, rounds=0, attempts=3, session=session
        )
        if result is not None:
            break
        assert not outcome.charged
        assert outcome.delay_seconds >= named
        delays.append(session.kept["life/overloads"]["count"])
        clock[0] += outcome.delay_seconds
    assert delays == list(range(1, len(delays) + 1))
    assert 1_800 < clock[0] < 1_950
    assert len(delays) < 50  # so many delays the queue allows for one job
    assert result["error"] == "bob dropped out (vote): 529 overloaded"
    assert result["confidence"] == 0.6667


async def test_a_requeued_seat_does_not_vote_on_what_it_did_not_see(
    seat_scripted_agents, run_debate
):
    """cyd drops at the proposals; the debate fails at the vote. After a requeue cyd stays out, the paid
    ballots stand, and only the missing ones are asked for.
    """
    seat_scripted_agents(
        ann=saying("tea"),
        bob=failing(PermanentError("401"), Vote),
        cyd=failing(PermanentError("401"), Propose),
    )
    outcome, session, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Failed)  # one of two votes is left
    session.requeue()
    agents = seat_scripted_agents(
        ann=saying("x"), bob=saying("milk", choice="tea"), cyd=saying("y")
    )
    _, _, result = await run_debate(agents=THREE, rounds=0, session=session)
    assert [len(agent.asked) for agent in agents.values()] == [0, 1, 0]
    assert result["participants"] == ["ann", "bob"]
    assert "cyd dropped out (propose): 401" in result["error"]


async def test_a_requeued_seat_returns_to_the_phase_in_which_the_debate_ended(
    seat_scripted_agents, run_debate
):
    """Too few seats at the proposals: after a requeue all are asked again, and stay in if it resumes."""
    gone = failing(PermanentError("401"), Propose)
    seat_scripted_agents(ann=saying("tea"), bob=gone, cyd=gone)
    outcome, session, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Failed)
    session.requeue()
    seat_scripted_agents(
        ann=saying("tea"),
        bob=saying("tea"),
        cyd=failing(AgentUnavailable("down"), Vote, saying("x")),
    )
    outcome, _, _ = await run_debate(agents=THREE, rounds=0, session=session)
    assert isinstance(outcome, Retry)
    seat_scripted_agents(**{name: saying("tea") for name in THREE})
    _, _, result = await run_debate(agents=THREE, rounds=0, session=session, attempts=2)
    assert (result["participants"], result["error"]) == (THREE, None)


async def test_a_refusal_drops_the_seat_even_if_there_is_text(seat_scripted_agents, run_debate):
    """What a model says while it refuses is not an answer; the tokens count."""
    refusal = said("I cannot help with that.", refused=PermanentError("refused by the model"))
    agents = seat_scripted_agents(ann=saying("tea"), bob=lambda _: refusal, cyd=saying("tea"))
    _, session, result = await run_debate(agents=THREE)
    assert len(agents["bob"].asked) == 1
    assert result["error"] == "bob dropped out (propose): refused by the model"
    assert (result["confidence"], result["token_usage"]["requests"]) == (0.6667, 3)
    again = seat_scripted_agents(**{name: saying("x") for name in THREE})
    await run_debate(agents=THREE, session=session)
    assert not any(agent.asked for agent in again.values())


async def test_a_provider_that_always_asks_for_a_second_costs_its_seat_not_the_debate(
    seat_scripted_agents, run_debate
):
    """Fewer delays than a job may have uncharged, of 1, 2, 4 … 60 seconds: then the seat drops out."""
    session, delays, result = MemorySession(), [], None
    while result is None:
        seat_scripted_agents(
            ann=saying("tea"),
            bob=failing(RetryLater("429", delay_seconds=1), Propose),
            cyd=saying("tea"),
        )
        outcome, _, result = await run_debate(agents=THREE, attempts=3, session=session)
        if result is None:
            assert not outcome.charged
            delays.append(session.kept["life/overloads"]["count"])
    assert len(delays) < MAX_DEFERRALS
    assert result["error"] == "bob dropped out (propose): 429"


async def test_a_drop_of_an_earlier_course_does_not_break_a_debate(
    seat_scripted_agents, run_debate
):
    """Notes of seats that never joined now, such as escalated ones before an upgrade, do not matter."""
    note = {"phase": "propose", "step": 1, "why": "401", "life": "x"}
    session = MemorySession({"dropped/2": note, "life/begun": {"id": "x", "at": 0.0}})
    seat_scripted_agents(ann=saying("tea"), bob=saying("tea"), cyd=saying("tea"))
    outcome, _, result = await run_debate(agents=["ann", "bob"], escalate=["cyd"], session=session)
    assert isinstance(outcome, Completed)
    assert result["participants"] == ["ann", "bob"]


async def test_a_debate_that_loses_its_quorum_fails_with_its_answers(
    seat_scripted_agents, run_debate
):
    """What was paid for, and what it cost, is in the failed job's partial result."""
    gone = failing(PermanentError("401"), Vote, saying("milk"))
    seat_scripted_agents(ann=saying("tea"), bob=gone, cyd=gone)
    outcome, _, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("PermanentError: 1 of 3 agents are left")
    partial = result_of(outcome)
    assert sorted(row["verdict"] for row in partial["dissent"]) == ["milk", "tea"]
    assert (partial["verdict"], partial["consensus_reached"], partial["decided_by"]) == (
        None, False, None,
    )  # fmt: skip
    assert (
        partial["token_usage"]["requests"] == sum(row["calls"] for row in partial["seats"]) == 4 + 2
    )


@pytest.mark.parametrize("error", [PermanentError("401"), AgentUnavailable("down")])
async def test_an_answer_is_kept_if_all_other_seats_fail_to_answer(
    seat_scripted_agents, run_debate, error
):
    """Also if their faults may be temporary and no attempt is left: the partial result has the answer."""
    gone = failing(error, Propose)
    seat_scripted_agents(ann=saying("tea"), bob=gone, cyd=gone)
    outcome, _, _ = await run_debate(agents=THREE, rounds=0, attempts=3)
    assert isinstance(outcome, Failed)
    partial = result_of(outcome)
    assert [row["verdict"] for row in partial["first_votes"]] == ["tea"]
    assert [row["verdict"] for row in partial["dissent"]] == ["tea"]
    # No round has ended, and no vote has begun.
    assert (partial["ended_by"], partial["abstentions"]) == (None, 0)
    assert "abstained" not in (partial["error"] or "")


@pytest.mark.parametrize(
    ("error", "attempts"), [(PermanentError("400"), 1), (AgentUnavailable("no reply"), 3)]
)
async def test_a_cut_answer_counts_if_it_cannot_be_asked_for_once_more(
    seat_scripted_agents, run_debate, error, attempts
):
    """A model may not take a larger limit; its seat stays, and a resumed debate does not ask again."""

    def cut_once(task):
        if isinstance(task, Propose) and agents["ann"].manners[-1].larger:
            raise error
        return replace(saying("tea")(task), is_cut=isinstance(task, Propose))

    agents = seat_scripted_agents(ann=cut_once, bob=saying("tea"), cyd=saying("milk"))
    outcome, session, result = await run_debate(agents=THREE, rounds=0, attempts=attempts)
    assert isinstance(outcome, Completed)
    assert result["participants"] == THREE
    assert result["error"] == "ann: a reply was cut at a limit"
    again = seat_scripted_agents(ann=saying("x"), bob=saying("x"), cyd=saying("x"))
    for note in ({}, {"life/time_up": {"at": 0.0}}):  # time may be up meanwhile
        session.requeue()
        session.kept |= note
        _, _, resumed = await run_debate(agents=THREE, rounds=0, session=session)
        for name in ("votes", "first_votes", "ended_by"):
            assert resumed[name] == result[name]
    assert not any(agent.asked for agent in again.values())


async def test_a_resumed_debate_has_the_same_transcript_without_a_seat_that_gave_no_answer(
    seat_scripted_agents, run_debate
):
    """Its replies were unusable, so it dropped out and is not asked again."""
    seat_scripted_agents(ann=lambda task: said(""), bob=saying("tea"), cyd=saying("tea"))
    _, session, result = await run_debate(agents=THREE, rounds=0, transcript=True)
    _, _, resumed = await run_debate(agents=THREE, rounds=0, transcript=True, session=session)
    assert resumed["transcript"] == result["transcript"]
    assert [row["agent"] for row in result["transcript"]] == ["bob", "cyd"]
