"""How a debate's answer is chosen: ballots, judge, or none."""

import pytest
from support.scripted_agents import THREE, failing, saying

from aragora_q.errors import PermanentError
from aragora_q.executors.debate.requests import Propose, Reply, Review, Vote


async def test_an_unusable_ballot_abstains(seat_scripted_agents, run_debate):
    """It supports no answer but counts as a seat: one of two votes of three seats is not a majority."""

    def mute(task):
        return Reply(None, 10, 5) if isinstance(task, (Vote, Review)) else saying("rum")(task)

    seat_scripted_agents(ann=saying("tea"), bob=mute, cyd=saying("milk"))
    _, _, result = await run_debate(agents=THREE, rounds=1)
    assert (result["consensus_reached"], result["error"]) == (False, None)
    assert result["confidence"] == pytest.approx(1 / 3, abs=1e-3)


async def test_the_vote_is_among_different_answers_only(seat_scripted_agents, run_debate):
    """Two seats with equal answers do not split the vote; the answer is listed once."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("TEA"), cyd=saying("milk"))
    _, _, result = await run_debate(agents=THREE, rounds=0)
    assert sorted(agents["ann"].asked[-1].answers.values()) == ["milk", "tea"]
    assert result["confidence"] == pytest.approx(2 / 3, abs=1e-3)


async def test_a_judge_is_asked_in_both_orders(seat_scripted_agents, run_debate):
    """A judge who chooses the same answer in both orders overrules the seats."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk", choice="tea"), eve=saying("?", choice="milk")
    )
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus="judge", judge="eve")
    assert (result["final_answer"], result["consensus_reached"]) == ("milk", True)
    assert result["confidence"] == 0.0
    assert result["participants"] == ["ann", "bob"]
    first, second = agents["eve"].asked
    assert list(first.answers) == list(reversed(second.answers))
    assert first.as_judge


async def test_a_dead_judge_leaves_the_decision_to_the_agents(seat_scripted_agents, run_debate):
    """The result says so."""
    seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk", choice="tea"),
        eve=failing(PermanentError("no such model"), Vote),
    )  # fmt: skip
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus="judge", judge="eve")
    assert (result["final_answer"], result["confidence"]) == ("tea", 1.0)
    assert result["error"] == "judge eve failed, so the agents' votes decide: no such model"


async def test_mode_none_gives_all_answers_and_claims_nothing(seat_scripted_agents, run_debate):
    """No vote is taken; every answer has its agent's name."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    _, _, result = await run_debate(agents=THREE, rounds=0, consensus="none")
    assert result["final_answer"] == "ann: tea\n\nbob: milk\n\ncyd: rum"
    assert (result["consensus_reached"], result["confidence"]) == (False, 0.0)
    assert [type(task) for task in agents["ann"].asked] == [Propose]
