"""The protocol of a debate: calls, rounds, when they end, and what the result contains."""

import json

import pytest
from support.scripted_agents import THREE, failing, label_of, said, saying

from aragora_q.contracts import Completed
from aragora_q.errors import AgentUnavailable
from aragora_q.executors.debate.prompt_version import prompt_version
from aragora_q.executors.debate.prompts import prompt_for
from aragora_q.executors.debate.requests import Discuss, Propose, Review, Revise, Vote
from aragora_q.job import CONSENSUS_MODES

MOVING = {"debate": "always"}


def calls(agents):
    """The requests of each agent, as names of their types."""
    return {name: [type(task).__name__ for task in agent.asked] for name, agent in agents.items()}


async def test_a_debate_takes_as_many_calls_as_its_rounds_need(seat_scripted_agents, run_debate):
    """`always`: N proposals, 2N calls per round, N ballots: 24 for three agents and three rounds."""
    seat_scripted_agents(ann=saying("tea"), bob=saying("coffee"), cyd=saying("milk", choice="tea"))
    _, _, result = await run_debate(agents=THREE, rounds=3, **MOVING)
    assert result["token_usage"]["requests"] == 24
    assert result["token_usage"]["ann.requests"] == 8
    assert result["token_usage"]["input_tokens"] == 240
    assert (result["verdict"], result["consensus_reached"]) == ("tea", True)
    assert result["final_answer"] == "tea\n\nBecause of tea."
    assert result["confidence"] == pytest.approx(2 / 3, abs=1e-3)
    assert (result["rounds_used"], result["participants"], result["error"]) == (3, THREE, None)
    assert result["ended_by"] == "rounds"


@pytest.mark.parametrize("fields", [{"rounds": 0}, {"debate": "never"}])
async def test_without_rounds_independent_answers_are_voted_on(
    seat_scripted_agents, run_debate, fields
):
    """Proposals, then ballots, nothing between."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("coffee"), cyd=saying("tea"))
    _, _, result = await run_debate(agents=THREE, **fields)
    assert calls(agents)["ann"] == ["Propose", "Vote"]
    assert (result["rounds_used"], result["verdict"]) == (0, "tea")


@pytest.mark.parametrize("consensus", CONSENSUS_MODES)
@pytest.mark.parametrize("debate", ["auto", "always"])
async def test_one_agent_is_asked_once(seat_scripted_agents, run_debate, consensus, debate):
    """Whatever the mode: one proposal, no rounds, no ballot, no judge; its answer is the verdict."""
    form = "text" if consensus == "synthesis" else "boolean"
    agents = seat_scripted_agents(ann=saying(True if form == "boolean" else "tea"), eve=saying("x"))
    judge = {"judge": "eve"} if consensus in ("judge", "synthesis") else {}
    _, _, result = await run_debate(
        agents=["ann"], rounds=3, consensus=consensus, answer_form=form, debate=debate, **judge
    )
    assert calls(agents) == {"ann": ["Propose"], "eve": []}
    assert (result["rounds_used"], result["ended_by"], result["error"]) == (0, "rounds", None)
    if consensus != "none":
        assert result["verdict"] == (True if form == "boolean" else "tea")
        assert (result["consensus_reached"], result["confidence"]) == (True, 1.0)
        assert [vote["implied"] for vote in result["votes"]] == [True]


async def test_equal_answers_end_the_debate_without_a_vote(seat_scripted_agents, run_debate):
    """Answers that differ in case, spaces and a final period are equal: no further call is made."""
    agents = seat_scripted_agents(ann=saying("Tea."), bob=saying("tea"), cyd=saying(" tea "))
    _, _, result = await run_debate(agents=THREE, rounds=3, consensus="unanimous")
    assert [len(agent.asked) for agent in agents.values()] == [1, 1, 1]
    assert (result["confidence"], result["consensus_reached"]) == (1.0, True)
    assert (result["ended_by"], result["rounds_used"]) == ("agreement", 0)
    assert all(vote["implied"] for vote in result["votes"])


async def test_a_round_that_changes_no_verdict_is_the_last_one(seat_scripted_agents, run_debate):
    """Text: review, revision, vote. A closed form: one call per seat, and the verdicts are the votes."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    _, _, result = await run_debate(agents=THREE, rounds=5)
    assert calls(agents)["bob"] == ["Propose", "Review", "Revise", "Vote"]
    assert (result["rounds_used"], result["ended_by"], result["changed"]) == (1, "unchanged", [])
    agents = seat_scripted_agents(ann=saying(True), bob=saying(False), cyd=saying(True))
    _, _, result = await run_debate(agents=THREE, rounds=5, answer_form="boolean")
    assert calls(agents)["bob"] == ["Propose", "Discuss"]
    assert (result["verdict"], result["ended_by"]) == (True, "unchanged")
    assert result["dissent"][0]["voters"] == [1]


async def test_a_seat_that_changes_its_verdict_keeps_the_debate_going(
    seat_scripted_agents, run_debate
):
    """Seats follow in turn: rounds go on until all verdicts agree; the result lists who changed."""
    agents = seat_scripted_agents(
        ann=saying("B"), bob=saying("A", revised="B"), cyd=saying("C", revised="B")
    )
    fields = {"answer_form": "choice", "options": ["A", "B", "C"]}
    _, _, result = await run_debate(agents=THREE, rounds=5, **fields)
    assert calls(agents)["ann"] == ["Propose", "Discuss"]
    assert (result["verdict"], result["confidence"], result["ended_by"]) == ("B", 1.0, "agreement")
    assert result["first_votes"] == [{"seat": n, "verdict": v} for n, v in enumerate("BAC")]
    assert result["changed"] == [
        {"seat": 1, "before": "A", "after": "B"},
        {"seat": 2, "before": "C", "after": "B"},
    ]


async def test_always_holds_all_rounds(seat_scripted_agents, run_debate):
    """Neither agreement nor an unchanged round ends them."""
    agents = seat_scripted_agents(ann=saying(3), bob=saying(3))
    _, _, result = await run_debate(
        agents=["ann", "bob"], rounds=3, answer_form="number", debate="always"
    )
    assert calls(agents)["ann"] == ["Propose", *["Discuss"] * 3]
    assert (result["rounds_used"], result["ended_by"]) == (3, "rounds")


async def test_reviewers_who_agree_to_stop_end_the_rounds(seat_scripted_agents, run_debate):
    """All name the same best answer and want to stop: their reviews are the vote."""
    agents = seat_scripted_agents(
        **{
            n: saying(t, best="tea", stop=True)
            for n, t in zip(THREE, ("tea", "milk", "rum"), strict=True)
        }
    )
    _, _, result = await run_debate(agents=THREE, rounds=5)
    assert calls(agents)["bob"] == ["Propose", "Review"]
    assert (result["rounds_used"], result["ended_by"]) == (1, "agreement")
    assert (result["verdict"], result["confidence"]) == ("tea", 1.0)
    assert [(vote["implied"], vote["self"]) for vote in result["votes"]] == [
        (True, True), (True, False), (True, False),
    ]  # fmt: skip


async def test_reviewers_who_agree_but_not_to_stop_do_not(seat_scripted_agents, run_debate):
    """One wish for another round is enough to revise."""
    agents = seat_scripted_agents(
        ann=saying("tea", best="tea", stop=True), bob=saying("milk", best="tea", stop=False)
    )
    await run_debate(agents=["ann", "bob"], rounds=5)
    assert "Revise" in calls(agents)["ann"]


async def test_further_agents_join_only_on_disagreement(seat_scripted_agents, run_debate):
    """`escalate`: not asked while the first ones agree; else they answer independently and take part."""
    fields = {"rounds": 2, "answer_form": "number", "escalate": ["eve"]}
    agents = seat_scripted_agents(ann=saying(1), bob=saying(1), eve=saying(2))
    _, _, result = await run_debate(agents=["ann", "bob"], **fields)
    assert not agents["eve"].asked
    assert [row["agent"] for row in result["seats"]] == ["ann", "bob"]
    assert result["confidence"] == 1.0
    agents = seat_scripted_agents(ann=saying(1), bob=saying(2), eve=saying(2))
    _, _, result = await run_debate(agents=["ann", "bob"], **fields)
    assert calls(agents)["eve"] == ["Propose", "Discuss"]
    assert (result["verdict"], result["confidence"]) == (2, 0.6667)
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), eve=saying("milk"))
    _, _, result = await run_debate(agents=["ann", "bob"], rounds=2, escalate=["eve"])
    assert calls(agents)["eve"] == ["Propose", "Vote"]
    assert len(agents["ann"].asked[2].answers) == 3  # the revision sees the new answer
    assert result["verdict"] == "milk"


async def test_readers_see_the_same_labels_in_balanced_orders(seat_scripted_agents, run_debate):
    """Reviews name answers by label; every answer stands at every place; agents' names are hidden."""
    names = [f"agent{n}" for n in range(8)]
    agents = seat_scripted_agents(**{name: saying(f"answer {n}") for n, name in enumerate(names)})
    _, _, result = await run_debate(agents=names, rounds=1)
    reviews = [agent.asked[1].answers for agent in agents.values()]
    assert all(dict(review) == dict(reviews[0]) for review in reviews)
    for place in zip(*reviews, strict=True):
        assert len(set(place)) == 8
    labels = result["record"]["labels"]
    assert {labels[n]: each.verdict for n, each in reviews[0].items()} == {
        n: f"answer {n}" for n in range(8)
    }
    for agent in agents.values():
        for task in agent.asked:
            assert "agent" not in prompt_for(task).text


async def test_a_prompt_does_not_grow_with_the_rounds(seat_scripted_agents, run_debate):
    """The tenth round's prompts are as long as the second's."""
    agents = seat_scripted_agents(ann=saying("tea"), bob=saying("coffee"), cyd=saying("milk"))
    await run_debate(agents=THREE, rounds=10, **MOVING)
    lengths = [
        len(prompt_for(task).text) for task in agents["ann"].asked if isinstance(task, Revise)
    ]
    assert len(lengths) == 10
    assert len(set(lengths[1:])) == 1


async def test_reviews_of_a_round_are_seen_in_the_next_one_only(seat_scripted_agents, run_debate):
    """In a closed form, seats review and answer in one call: no review of the same round is in it."""
    agents = seat_scripted_agents(ann=saying(1), bob=saying(2), cyd=saying(3))
    await run_debate(agents=THREE, rounds=2, answer_form="number", **MOVING)
    first, second = [task for task in agents["ann"].asked if isinstance(task, Discuss)]
    assert (list(first.reviews), len(second.reviews)) == ([], 2)


@pytest.mark.parametrize("text", ["ß" * 100_000, "字" * 100_000, "🙂" * 100_000])
async def test_an_answer_is_cut_by_characters_and_says_so(seat_scripted_agents, run_debate, text):
    """A very long answer is cut at the same length in every alphabet; the result says whose was."""

    def long(task):
        return (
            said({"answer": "tea", "reasons": text})
            if isinstance(task, Propose)
            else saying("tea")(task)
        )

    seat_scripted_agents(ann=long, bob=saying("coffee"), cyd=saying("coffee"))
    _, session, result = await run_debate(agents=THREE, rounds=0)
    [kept] = [v["value"] for k, v in session.kept.items() if k.startswith("call/propose.0")]
    assert (kept["reasons"], kept["cut"]) == (text[0] * 8_000, True)
    assert "ann: a reply was cut at a limit" in result["error"]
    _, session, _ = await run_debate(agents=THREE, rounds=0, max_answer_words=50)
    [kept] = [v["value"] for k, v in session.kept.items() if k.startswith("call/propose.0")]
    assert kept["reasons"] == text[0] * 2_000


async def test_the_largest_debate_fits_into_its_journal(seat_scripted_agents, run_debate):
    """16 seats, 20 rounds, each text at its limit in four bytes per character: less than 4 MiB."""
    long = "🙂" * 30_000

    def reply(task):
        answer = {"answer": f"{id(task)}", "reasons": long, "changed": True}
        points = {"points": long, "best": min(getattr(task, "answers", {"": 1})), "stop": False}
        return said({**answer, **points, "choice": points["best"]})

    names = [f"s{n}" for n in range(16)]
    seat_scripted_agents(**dict.fromkeys(names, reply))
    fields = {"rounds": 20, "max_answer_words": 5_000, "debate": "always"}
    outcome, session, result = await run_debate(agents=names, **fields)
    assert isinstance(outcome, Completed)
    size = sum(len(json.dumps(v, ensure_ascii=False).encode()) for v in session.kept.values())
    assert 1_500_000 < size < 4 << 20
    assert all(f"s{n}: 41 replies were cut" in result["error"] for n in range(16))


async def test_text_comes_back_byte_for_byte(seat_scripted_agents, run_debate):
    """Markup, code and other alphabets are not changed on their way through prompts and result."""
    text = 'Why does </div> break? <li>One</li> 1</2 sed s#a</b#c# "quotes" \\n Привет 你好 \u200b'
    agents = seat_scripted_agents(
        **{name: saying(f"{name}: {text}", choice=f"ann: {text}") for name in THREE}
    )
    _, _, result = await run_debate(agents=THREE, rounds=1)
    assert result["verdict"] == f"ann: {text}"
    for task in agents["bob"].asked[1:]:
        assert f"ann: {text}\n\nBecause of ann: {text}." in prompt_for(task).text


async def test_invalid_unicode_is_replaced(seat_scripted_agents, run_debate):
    """A model may send half a character; it is replaced wherever it occurs."""
    seat_scripted_agents(ann=saying("tea \ud800"), bob=saying("coffee"), cyd=saying("milk"))
    outcome, session, _ = await run_debate(agents=THREE, rounds=1)
    assert isinstance(outcome, Completed)
    for kept in session.kept.values():
        json.dumps(kept, ensure_ascii=False).encode()


async def test_one_agent_may_take_several_seats(run_debate):
    """Three seats named `demo` take part separately."""
    _, _, result = await run_debate(agents=["demo"] * 3, rounds=2)
    assert result["participants"] == ["demo"] * 3
    assert result["confidence"] == pytest.approx(2 / 3, abs=1e-3)
    assert result["final_answer"].startswith("[demo] ")


async def test_the_transcript_comes_where_asked_for(seat_scripted_agents, run_debate):
    """All messages in order, only if requested; one that is too large is omitted, and the result says so."""
    seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    _, _, result = await run_debate(agents=THREE, rounds=1, transcript=True)
    rows = [(row["phase"], row["round"], row["agent"]) for row in result["transcript"]]
    phases = [("propose", 0), ("review", 1), ("revise", 1), ("vote", 0)]
    assert rows == [(*phase, name) for phase in phases for name in THREE]
    assert "transcript" not in (await run_debate(agents=THREE, rounds=1))[2]
    small = {"max_result_bytes": 8_000}
    fields = {"rounds": 20, "transcript": True, "settings": small, **MOVING}
    _, _, result = await run_debate(agents=THREE, **fields)
    assert "transcript" not in result
    assert result["error"].startswith("transcript left out")


async def test_progress_shows_phase_round_agents_and_tokens(seat_scripted_agents, run_debate):
    """After every call: phase, tokens used so far, and each agent's last message."""
    seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=saying("rum"))
    _, session, _ = await run_debate(agents=THREE, rounds=1)
    assert len(session.progress) == 12
    first, last = session.progress[0], session.progress[-1]
    names = ("phase", "round", "rounds", "agents_done", "agent", "said", "agents")
    assert [first[name] for name in names] == ["propose", 0, 1, 1, "ann", "tea", 3]
    assert [last[name] for name in ("phase", "agents_done", "tokens", "calls")] == [
        "vote",
        3,
        180,
        12,
    ]


async def test_another_wording_never_mixes_with_an_old_journal(
    seat_scripted_agents, run_debate, monkeypatch
):
    """After a prompt has changed, calls with the old one are asked again; what they cost still counts."""
    from aragora_q.executors.debate import prompts

    class Prompted:
        def digest(self, request):
            return prompts.prompt_for(request).text

    def seat(**replies):
        agents = seat_scripted_agents(**replies)
        for agent in agents.values():
            agent.digest = Prompted().digest
        return agents

    seat(ann=saying("a"), bob=failing(AgentUnavailable("529"), Vote), cyd=saying("c"))
    _, session, _ = await run_debate(agents=THREE, rounds=0)
    before = prompt_version()
    monkeypatch.setattr(prompts, "PROPOSE", prompts.PROPOSE + " Be kind.")
    prompt_version.cache_clear()
    try:
        assert prompt_version() != before
        agents = seat(ann=saying("x"), bob=saying("y"), cyd=saying("x"))
        _, _, result = await run_debate(agents=THREE, rounds=0, session=session)
    finally:
        monkeypatch.undo()
        prompt_version.cache_clear()
    assert [len(agent.asked) for agent in agents.values()] == [2, 2, 2]
    assert (result["verdict"], result["token_usage"]["requests"]) == ("x", 5 + 1 + 6)


async def test_an_answer_with_the_marks_of_the_debate_is_not_usable(
    seat_scripted_agents, run_debate
):
    """An agent that copies the tags into its answer is asked once more, then drops out."""

    def copies(task):
        return said({"answer": f"</answer-{task.topic.nonce}>", "reasons": ""})

    agents = seat_scripted_agents(ann=saying("tea"), bob=copies, cyd=saying("milk", choice="tea"))
    _, _, result = await run_debate(agents=THREE, rounds=0)
    assert calls(agents)["bob"] == ["Propose", "Propose"]
    assert result["participants"] == ["ann", "cyd"]
    assert (
        "bob dropped out (propose): no usable answer: the reply contained the marks"
        in result["error"]
    )


async def test_a_multiple_choice_question_never_elects_an_option_that_voters_did_not_mean(
    seat_scripted_agents, run_debate
):
    """Voters that mean option B and write B vote for no label: unanimity for a wrong option cannot arise."""
    question = "Which planet? A) Mars B) Jupiter C) Venus"

    def says(option):
        def reply(task):
            if isinstance(task, Vote):
                return said({"choice": "B", "confidence": 99})
            return saying(option)(task)

        return reply

    seat_scripted_agents(ann=says("A) Mars"), bob=says("B) Jupiter"), cyd=says("C) Venus"))
    outcome, _, result = await run_debate(agents=THREE, rounds=0, question=question)
    assert result is None
    assert "no seat could vote" in outcome.error
    fields = {
        "answer_form": "choice",
        "options": ["A) Mars", "B) Jupiter", "C) Venus"],
        "debate": "never",
    }
    seat_scripted_agents(**{name: saying("B) Jupiter") for name in THREE})
    _, _, result = await run_debate(agents=THREE, question=question, **fields)
    assert (result["verdict"], result["confidence"]) == ("B) Jupiter", 1.0)


async def test_a_cut_reply_is_asked_for_once_more_with_a_larger_limit(
    seat_scripted_agents, run_debate
):
    """Cut again: the text is kept and marked. Cut once: the complete reply is used."""
    agents = {}

    def cut(times):
        def reply(task):
            if isinstance(task, Propose) and len(agents["ann"].asked) <= times:
                return said('{"answer": "9.9", "reasons": "9.9 is larger because the', is_cut=True)
            return saying("9.11")(task)

        return reply

    for times, verdict, replies_cut in ((1, "9.11", 0), (2, "9.9", 2)):
        agents.update(seat_scripted_agents(ann=cut(times), bob=saying("9.9"), cyd=saying("9.9")))
        _, _, result = await run_debate(agents=THREE, rounds=0)
        assert [manner.larger for manner in agents["ann"].manners[:2]] == [False, True]
        assert result["first_votes"][0]["verdict"] == verdict
        assert result["seats"][0]["calls"] >= 2
        assert ("cut at a limit" in (result["error"] or "")) == bool(replies_cut)


async def test_a_seat_whose_replies_end_before_they_begin_is_asked_twice(
    seat_scripted_agents, run_debate
):
    """Cut within hidden thinking, also at the larger limit: a third try would end in the same way.

    What the tries cost is counted.
    """
    agents = seat_scripted_agents(
        ann=lambda task: said("", is_cut=True, cost_usd=0.25), bob=saying("tea"), cyd=saying("tea")
    )
    _, _, result = await run_debate(agents=THREE, rounds=0)
    assert [manner.larger for manner in agents["ann"].manners] == [False, True]
    assert "ann dropped out (propose): no usable answer: the reply was blank" in result["error"]
    row = result["seats"][0]
    counted = [row[name] for name in ("calls", "input_tokens", "output_tokens", "cost_usd")]
    assert counted == [2, 20, 10, 0.5]
    assert (result["token_usage"]["input_tokens"], result["cost_usd"]) == (40, 0.5)


async def test_blank_answers_are_not_a_consensus(seat_scripted_agents, run_debate):
    """Three seats that say nothing: no answer, no consensus, and an error that says so."""
    seat_scripted_agents(**{name: lambda _: said(" \n") for name in THREE})
    outcome, _, result = await run_debate(agents=THREE)
    assert result is None
    assert "no usable answer: the reply was blank" in outcome.error


async def test_an_agent_whose_provider_ignores_schemas_is_asked_in_words(
    seat_scripted_agents, run_debate
):
    """It answers with prose, which is used; from the next phase on, JSON is asked for in its prompt."""

    def prose(task):
        return (
            said("Tea. It has less caffeine.")
            if isinstance(task, Propose)
            else saying("Tea.")(task)
        )

    agents = seat_scripted_agents(ann=prose, bob=saying("milk"), cyd=saying("rum"))
    _, _, result = await run_debate(agents=THREE, rounds=1)
    assert [manner.prompted for manner in agents["ann"].manners] == [False, True, True, True]
    assert not any(manner.prompted for manner in agents["bob"].manners)
    assert result["first_votes"][0]["verdict"] == "Tea."


async def test_a_review_names_the_best_answer_by_label(seat_scripted_agents, run_debate):
    """The journal keeps seats, not labels, so that a reader need not know them."""
    seat_scripted_agents(ann=saying("tea"), bob=saying("milk", best="tea"), cyd=saying("rum"))
    _, session, _ = await run_debate(agents=THREE, rounds=1)
    kept = session.kept["call/r1.review.1.0"]["value"]
    assert (kept["best"], kept["stop"]) == (0, False)
    assert label_of(Review(None, {"KQTX": type("Answer", (), {"verdict": "a"})}), "a") == "KQTX"
