"""How a debate's answer is chosen: ballots, groups of equal answers, judge, chair, or none."""

import pytest
from support.memory_session import result_of
from support.scripted_agents import THREE, failing, label_of, said, saying

from aragora_q.contracts import Failed
from aragora_q.errors import PermanentError
from aragora_q.executors.debate import labels
from aragora_q.executors.debate.requests import Discuss, Propose, Review, Synthesize, Vote

TWINS = ("Canberra, since 1908", "It's Canberra, not Sydney", "The capital is Canberra")


def mute_on(kind, verdict="rum"):
    """An agent whose replies to requests of that type are prose."""
    good = saying(verdict)

    def reply(task):
        return said("Honestly, who knows?") if isinstance(task, kind) else good(task)

    return reply


async def test_answers_in_other_words_are_one_where_the_voters_say_so(
    seat_scripted_agents, run_debate
):
    """Three seats that mean the same agree fully, each with its own words, without rounds or with them."""
    for rounds in (0, 2):
        seat_scripted_agents(
            **{name: saying(text, same=TWINS) for name, text in zip(THREE, TWINS, strict=True)}
        )
        _, _, result = await run_debate(agents=THREE, rounds=rounds, consensus="unanimous")
        assert (result["consensus_reached"], result["confidence"]) == (True, 1.0)
        assert result["verdict"] in TWINS
        [group] = result["groups"]
        assert group["seats"] == [0, 1, 2]


async def test_twins_do_not_split_the_vote(seat_scripted_agents, run_debate):
    """Two against two for a minority that is one answer: the twins' group has the majority of three."""
    replies = [saying(text, same=TWINS[:2]) for text in TWINS[:2]]
    seat_scripted_agents(ann=replies[0], bob=replies[1], cyd=saying("Sydney"))
    _, _, result = await run_debate(agents=THREE, rounds=0)
    assert (result["consensus_reached"], result["confidence"]) == (True, 0.6667)
    assert result["verdict"] in TWINS
    [dissent] = result["dissent"]
    assert (dissent["verdict"], dissent["seats"], dissent["voters"]) == ("Sydney", [2], [2])
    assert dissent["reasons"] == "Because of Sydney."


async def test_an_unusable_ballot_abstains_after_one_repair(seat_scripted_agents, run_debate):
    """It backs no answer but counts as a seat, and the result says who abstained and why."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=mute_on((Vote, Review)), cyd=saying("milk", choice="tea")
    )
    _, _, result = await run_debate(agents=THREE, rounds=1)
    assert (result["consensus_reached"], result["abstentions"]) == (True, 1)
    assert result["confidence"] == pytest.approx(2 / 3, abs=1e-3)
    assert result["votes"][1]["group"] is None
    assert "bob abstained (the reply was not a JSON object)" in result["error"]
    asked = [manner for task, manner in zip(agents["bob"].asked, agents["bob"].manners, strict=True)
             if isinstance(task, Vote)]  # fmt: skip
    assert [bool(manner.repair) for manner in asked] == [False, True]


async def test_a_debate_in_which_no_seat_could_vote_fails_with_its_answers(
    seat_scripted_agents, run_debate
):
    """It is not *completed*: the error says so, and the answers that were paid for are there."""
    seat_scripted_agents(**{name: mute_on(Vote, verdict=name) for name in THREE})
    outcome, session, _ = await run_debate(agents=THREE, rounds=0)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(
        "PermanentError: no seat could vote: ann abstained (the reply was"
    )
    partial = result_of(outcome)
    assert (partial["final_answer"], partial["decided_by"], partial["abstentions"]) == (
        None,
        None,
        3,
    )
    assert sorted(row["verdict"] for row in partial["dissent"]) == THREE
    session.requeue()
    agents = seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    _, _, result = await run_debate(agents=THREE, rounds=0, session=session)
    assert [type(task) for task in agents["ann"].asked] == [Vote]  # it continues at the vote
    assert (result["verdict"], result["consensus_reached"]) == ("ann", True)


async def test_a_debate_whose_voters_drop_out_fails_with_its_answers(
    seat_scripted_agents, run_debate
):
    """All are refused or rejected at the vote: what was paid for is in the partial result."""
    seat_scripted_agents(
        ann=failing(PermanentError("404"), Vote, then=saying("ann")),
        bob=failing(PermanentError("401"), Vote, then=saying("bob")),
        cyd=saying("cyd"),
    )
    outcome, _, _ = await run_debate(agents=THREE, rounds=0)
    assert outcome.error == (
        "PermanentError: 1 of 3 agents are left, but a debate needs 2: ann: 404; bob: 401"
    )
    partial = result_of(outcome)
    assert sorted(row["verdict"] for row in partial["dissent"]) == ["ann", "bob", "cyd"]
    assert (partial["verdict"], partial["token_usage"]["requests"]) == (None, 4 + 2)


async def test_a_requeued_debate_continues_at_the_vote(seat_scripted_agents, run_debate):
    """Prose instead of reviews and ballots: reviews stay abstentions, as paid revisions followed them."""
    fields = {"agents": THREE, "rounds": 1, "debate": "always"}
    seat_scripted_agents(**{name: mute_on((Review, Vote), verdict=name) for name in THREE})
    outcome, session, _ = await run_debate(**fields)
    assert isinstance(outcome, Failed)
    session.requeue()
    agents = seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    _, _, result = await run_debate(**fields, session=session)
    assert {type(task) for agent in agents.values() for task in agent.asked} == {Vote}
    assert (result["verdict"], result["consensus_reached"]) == ("ann", True)


async def test_the_vote_is_among_different_answers_only(seat_scripted_agents, run_debate):
    """Two seats with equal answers do not split the vote; the answer is listed once."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("TEA", choice="tea"), cyd=saying("milk")
    )
    _, _, result = await run_debate(agents=THREE, rounds=0)
    shown = [answer.verdict for answer in agents["ann"].asked[-1].answers.values()]
    assert sorted(shown) == ["milk", "tea"]
    assert result["confidence"] == pytest.approx(2 / 3, abs=1e-3)
    assert [vote["self"] for vote in result["votes"]] == [True, True, True]


async def test_verdicts_of_a_closed_form_are_votes(seat_scripted_agents, run_debate):
    """No ballot is bought: the votes are recorded as implied. Numbers compare by value."""
    agents = seat_scripted_agents(ann=saying(1), bob=saying(1.0), cyd=saying("2"))
    _, _, result = await run_debate(agents=THREE, answer_form="number", debate="never")
    assert [type(task) for task in agents["ann"].asked] == [Propose]
    assert (result["verdict"], result["consensus_reached"]) == (1, True)
    assert [(vote["implied"], vote["group"] is None) for vote in result["votes"]] == [
        (True, False)
    ] * 3


@pytest.mark.parametrize("ruling", ["milk", "tea"])
async def test_a_judge_is_asked_in_both_orders(seat_scripted_agents, run_debate, ruling):
    """A judge who chooses the same answer in both orders decides; consensus is that of the votes."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk", choice="tea"), eve=saying("?", choice=ruling)
    )
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus="judge", judge="eve")
    assert (result["verdict"], result["decided_by"]) == (ruling, "judge")
    assert (result["consensus_reached"], result["confidence"]) == (
        ruling == "tea",
        float(ruling == "tea"),
    )
    assert result["participants"] == ["ann", "bob"]
    first, second = agents["eve"].asked
    assert list(first.answers) == list(reversed(second.answers))
    assert first.as_judge
    assert result["seats"][2]["calls"] == 2


async def test_a_judge_that_depends_on_the_order_does_not_decide(seat_scripted_agents, run_debate):
    """It picks the first answer in both orders: the votes decide, and the result says so."""

    def first(task):
        return said({"choice": next(iter(task.answers)), "confidence": 90})

    seat_scripted_agents(ann=saying("tea"), bob=saying("milk", choice="tea"), eve=first)
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus="judge", judge="eve")
    assert (result["verdict"], result["decided_by"], result["confidence"]) == ("tea", "votes", 1.0)
    assert (
        "eve did not decide, so the votes do (its choice depended on the order" in result["error"]
    )


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("judge", "eve did not decide, so the votes do (no such model)"),
        ("synthesis", "eve did not write, so the best-liked answer stays (no such model)"),
    ],
)
async def test_a_dead_judge_leaves_the_decision_to_the_agents(
    seat_scripted_agents, run_debate, mode, problem
):
    """The result says so, also of a chair."""
    seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk", choice="tea"),
        eve=failing(PermanentError("no such model"), Vote | Synthesize),
    )  # fmt: skip
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus=mode, judge="eve")
    assert (result["verdict"], result["confidence"]) == ("tea", 1.0)
    assert result["error"] == problem


async def test_a_judge_is_not_asked_about_one_answer(seat_scripted_agents, run_debate):
    """Nothing is left to judge: no call."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("Tea."), eve=saying("?"))
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=0, consensus="judge", judge="eve")
    assert not agents["eve"].asked
    assert (result["verdict"], result["decided_by"]) == ("tea", "votes")


async def test_a_chair_writes_one_answer_and_the_votes_decide(seat_scripted_agents, run_debate):
    """Mode `synthesis`: the text is the chair's and says so; verdict and consensus are those of the vote."""
    agents = seat_scripted_agents(
        ann=saying("tea"), bob=saying("milk", choice="tea"), cyd=saying("rum", choice="tea"),
        eve=saying("all in moderation"),
    )  # fmt: skip
    _, _, result = await run_debate(agents=THREE, rounds=0, consensus="synthesis", judge="eve")
    [request] = agents["eve"].asked
    assert isinstance(request, Synthesize)
    assert request.votes[request.winner] == 3
    assert label_of(request, "tea") == request.winner
    assert (result["final_answer"], result["written_by"]) == ("In short: all in moderation", "eve")
    assert (result["verdict"], result["decided_by"], result["confidence"]) == ("tea", "votes", 1.0)


async def test_one_model_in_two_seats_has_one_voice_in_the_count_by_model(
    seat_scripted_agents, run_debate
):
    """Two seats of one model outvote another model; with one voice per model, neither has a majority."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("tea"), cyd=saying("milk"))
    agents["bob"].model = agents["ann"].model
    _, _, result = await run_debate(agents=THREE, rounds=0)
    assert result["consensus_reached"]
    assert result["by_model"]["models"] == 2
    assert (result["by_model"]["consensus_reached"], result["by_model"]["confidence"]) == (
        False,
        0.5,
    )


async def test_every_voter_sees_its_own_labels(seat_scripted_agents, run_debate, monkeypatch):
    """A voter that always names the alphabetically first label cannot look like agreement."""
    # Of 3,000 nonces, one gives two voters the same label.
    monkeypatch.setattr(labels, "draw_nonce", lambda *material: "c0ffee11")
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    await run_debate(agents=THREE, rounds=0)
    seen = [set(agent.asked[-1].answers) for agent in agents.values()]
    assert not (seen[0] & seen[1]) | (seen[0] & seen[2]) | (seen[1] & seen[2])
    places = [
        [each.verdict for each in agent.asked[-1].answers.values()] for agent in agents.values()
    ]
    assert [set(place) for place in zip(*places, strict=True)] == [{"tea", "milk", "rum"}] * 3


async def test_mode_none_gives_all_answers_and_claims_nothing(seat_scripted_agents, run_debate):
    """No vote is taken; every answer has its agent's name."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    _, _, result = await run_debate(agents=THREE, rounds=0, consensus="none")
    assert result["final_answer"].startswith("ann: tea\n\nBecause of tea.\n\nbob: milk")
    assert (result["consensus_reached"], result["confidence"]) == (False, 0.0)
    assert (result["decided_by"], result["votes"]) == (None, [])
    assert [type(task) for task in agents["ann"].asked] == [Propose]


async def test_confidence_counts_all_seats_of_the_job(seat_scripted_agents, run_debate):
    """Four of eight seats drop out, the others agree: not *unanimous*, and agreement is one half."""
    names = [f"s{n}" for n in range(8)]
    gone = failing(PermanentError("gone"), Discuss, saying(1))
    fields = {"answer_form": "number", "rounds": 1, "consensus": "unanimous"}
    replies = {name: gone if n < 4 else saying(n, revised=7) for n, name in enumerate(names)}
    seat_scripted_agents(**replies)
    _, _, result = await run_debate(agents=names, **fields)
    assert (result["verdict"], result["consensus_reached"], result["confidence"]) == (7, False, 0.5)
    assert len(result["votes"]) == 8


async def test_one_review_of_three_is_no_consensus(seat_scripted_agents, run_debate):
    """Two seats cannot review; the third says that all answers come to the same: it speaks for itself only,
    and the debate goes on.
    """
    everything = ("a", "b", "c")
    agents = seat_scripted_agents(
        ann=saying("a", same=everything), bob=mute_on(Review, "b"), cyd=mute_on(Review, "c")
    )
    _, _, result = await run_debate(agents=THREE, rounds=1, consensus="unanimous")
    assert result["ended_by"] == "unchanged"
    assert any(isinstance(task, Vote) for task in agents["bob"].asked)


async def test_a_ballot_says_where_its_choice_was_shown(seat_scripted_agents, run_debate):
    """Place in the order shown and of its label in alphabetical order, and among how many; null if implied."""
    agents = seat_scripted_agents(**{name: saying(name, choice="bob") for name in THREE})
    _, _, result = await run_debate(agents=THREE, rounds=0)
    for row in result["votes"]:
        [ballot] = [each for each in agents[row["agent"]].asked if isinstance(each, Vote)]
        shown = list(ballot.answers)
        label = label_of(ballot, "bob")
        expected = (3, shown.index(label) + 1, sorted(shown).index(label) + 1)
        assert (row["answers"], row["place"], row["label"]) == expected
    assert {row["place"] for row in result["votes"]} == {1, 2, 3}
    seat_scripted_agents(**{name: saying("tea") for name in THREE})
    _, _, result = await run_debate(agents=THREE, rounds=0)
    for row in result["votes"]:
        assert row["implied"]
        assert {row["answers"], row["place"], row["label"]} == {None}
