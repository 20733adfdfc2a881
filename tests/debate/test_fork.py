"""Debates that take over finished calls of another one: what is asked again, what is paid for."""

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, said, saying

from aragora_q.contracts import Completed, Failed
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.requests import Review, Vote

TEXT = {"agents": THREE, "rounds": 1, "debate": "always", "question": "Which drink?"}


def seeds_of(session, source="source"):
    """What `enqueue` copies to a fork of the debate in `session`."""
    kept = session.kept
    own = {f"seed/{source}/{n}": each for n, each in kept.items() if n.startswith("call/")}
    older = {n: each for n, each in kept.items() if n.startswith("seed/") and n != "seed/begun"}
    return {**older, **own, "seed/begun": kept["begun"]}


def asked_of(agents):
    """Return the kinds of requests that agents got since the last call, by name."""
    found = {}
    for name, agent in agents.items():
        if agent.asked:
            found[name] = [type(each).__name__ for each in agent.asked]
            agent.asked.clear()
    return found


@pytest.fixture
def seated(seat_scripted_agents):
    """Four agents with different answers, and two that can judge."""
    return seat_scripted_agents(
        ann=saying("tea", choice="tea"), bob=saying("milk", choice="tea"),
        cyd=saying("water", choice="tea"), dee=saying("juice", choice="tea"),
        jon=saying("tea", choice="tea"), kim=saying("tea", choice="tea"),
    )  # fmt: skip


@pytest.fixture
def forked(run_debate, seated):
    """Runs a debate, then a fork of it; returns the requests of the fork, its result and both sessions."""

    async def fork(source, changes, prepare=lambda: None, **more):
        outcome, session, _ = await run_debate(**source)
        asked_of(seated)
        prepare()
        fields = {**source, **changes}
        forked_session = MemorySession(seeds_of(session))
        outcome, _, result = await run_debate(
            session=forked_session, forked_from="source", **fields, **more
        )
        return asked_of(seated), outcome, result, session, forked_session

    return fork


async def test_nothing_changed_costs_nothing(forked):
    """A fork without changes makes no call, has the same outcome, and says what it took over."""
    asked, _, result, session, fork = await forked(TEXT, {})
    source = [each for name, each in session.kept.items() if name.startswith("call/")]
    assert asked == {}
    assert (result["forked_from"], result["taken_over"]) == ("source", len(source))
    assert result["token_usage"] == {"input_tokens": 0, "output_tokens": 0, "requests": 0}
    assert result["cost_usd"] == 0
    assert [seat["calls"] for seat in result["seats"]] == [0, 0, 0]
    assert [seat["taken_over"] for seat in result["seats"]] == [4, 4, 4]
    for name, entry in fork.kept.items():
        if name.startswith("call/"):
            assert entry["from"] == "source"
            assert entry["value"] == session.kept[name]["value"]
            assert entry["was"]["in"] == session.kept[name]["in"] == 10
            free = (entry[field] for field in ("usd", "in", "out", "cached", "max_in", "seconds"))
            assert not any(free)


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ("majority", "supermajority", {}),
        ("majority", "unanimous", {}),
        ("majority", "weighted", {}),
        ("majority", "any", {}),
        ("majority", "none", {}),
        ("none", "majority", {name: ["Vote"] for name in THREE}),
        ("majority", "judge", {"jon": ["Vote", "Vote"]}),
        ("majority", "synthesis", {"jon": ["Synthesize"]}),
        ("judge", "synthesis", {"jon": ["Synthesize"]}),
        ("synthesis", "judge", {"jon": ["Vote", "Vote"]}),
        ("judge", "majority", {}),
    ],
)
async def test_another_consensus_mode(forked, before, after, asked):
    """Changing the consensus mode costs what that mode asks for and the other did not."""
    source = {**TEXT, "consensus": before}
    if before in ("judge", "synthesis"):
        source["judge"] = "jon"
    judge = "jon" if after in ("judge", "synthesis") else None
    found, outcome, *_ = await forked(source, {"consensus": after, "judge": judge})
    assert isinstance(outcome, Completed)
    assert found == asked


async def test_another_judge(forked):
    """Another judge judges again; the votes are taken over."""
    source = {**TEXT, "consensus": "judge", "judge": "jon"}
    found, *_ = await forked(source, {"judge": "kim"})
    assert found == {"kim": ["Vote", "Vote"]}


async def test_more_rounds(forked):
    """More rounds cost these rounds, and the vote if an answer has changed; fewer, the vote likewise."""
    found, *_ = await forked(TEXT, {"rounds": 2})
    assert found == {name: ["Review", "Revise"] for name in THREE}
    found, *_ = await forked({**TEXT, "rounds": 2}, {"rounds": 1})
    assert found == {}


async def test_one_other_agent(forked):
    """Another agent in a seat: its proposal is asked for, and everything after the proposals again."""
    later = ["Review", "Revise", "Vote"]
    found, _, result, *_ = await forked(TEXT, {"agents": ["ann", "dee", "cyd"]})
    assert found == {"ann": later, "cyd": later, "dee": ["Propose", *later]}
    assert result["taken_over"] == 2


async def test_another_order(forked):
    """Agents in another order keep their proposals; the phases after them are asked for again."""
    later = ["Review", "Revise", "Vote"]
    found, *_ = await forked(TEXT, {"agents": ["cyd", "ann", "bob"]})
    assert found == dict.fromkeys(THREE, later)


async def test_a_vote_counts_for_the_seat_that_it_meant(run_debate, seat_scripted_agents):
    """A vote on the same answers under the same labels is asked for again if they are other seats' here."""
    made = seat_scripted_agents(
        ann=saying("tea", choice="water"), bob=saying("tea", choice="tea"),
        cyd=saying("water", choice="tea"),
    )  # fmt: skip
    fields = {"rounds": 0, "debate": "never", "question": "Which drink?"}
    _, session, _ = await run_debate(agents=THREE, **fields)
    asked_of(made)
    fork = MemorySession(seeds_of(session))
    outcome, _, result = await run_debate(
        session=fork, agents=["ann", "cyd"], forked_from="source", **fields
    )
    assert isinstance(outcome, Completed)
    assert asked_of(made) == {"ann": ["Vote"], "cyd": ["Vote"]}
    assert result["taken_over"] == 2


async def test_each_sample_counts_once(run_debate, seat_scripted_agents):
    """An agent in several seats: each of its answers is taken over once, however seats are ordered."""
    numbers = iter(range(100))
    made = seat_scripted_agents(
        ann=lambda _: said({"answer": f"tea {next(numbers)}", "reasons": ""}), bob=saying("milk")
    )
    fields = {"rounds": 0, "consensus": "none", "debate": "never"}
    _, session, _ = await run_debate(agents=["ann", "bob", "ann"], **fields)
    made["ann"].asked.clear()
    fork = MemorySession(seeds_of(session))
    _, _, result = await run_debate(
        session=fork, agents=["ann", "ann", "ann", "bob"], forked_from="source", **fields
    )
    assert len(made["ann"].asked) == 1
    verdicts = [each["verdict"] for each in result["first_votes"]]
    assert len(set(verdicts)) == 4


async def test_another_question(forked):
    """Nothing of a debate about another question is taken over: everything is paid for."""
    found, _, result, *_ = await forked(TEXT, {"question": "Which food?"})
    assert found == {name: ["Propose", "Review", "Revise", "Vote"] for name in THREE}
    assert result["taken_over"] == 0


async def test_another_answer_form(forked):
    """Nor of one in another form, or with other options."""
    choice = {**TEXT, "answer_form": "choice", "options": ["tea", "milk", "water"]}
    found, *_ = await forked(choice, {"options": ["tea", "milk", "water", "wine"]})
    assert {request for asked in found.values() for request in asked} == {"Propose", "Discuss"}


async def test_the_nonce_is_not_used_if_the_question_has_it(run_debate, seated):
    """A question that contains the other debate's nonce gets a new one."""
    _, session, _ = await run_debate(**TEXT)
    nonce = session.kept["begun"]["nonce"]
    fork = MemorySession(seeds_of(session))
    await run_debate(session=fork, **{**TEXT, "question": f"Who is {nonce}?"})
    assert fork.kept["begun"]["nonce"] != nonce


@pytest.mark.parametrize("change", ["model", "settings"])
async def test_changed_agents_are_asked(forked, seated, change):
    """Replies of an agent whose model or settings have changed are not taken over."""
    found, *_ = await forked(TEXT, {}, lambda: setattr(seated["bob"], change, "changed"))
    assert found == {"bob": ["Propose", "Review", "Revise", "Vote"]}  # which answers the same


async def test_limits_count_only_what_is_left(forked, seated):
    """A limit far below what the other debate took is enough if nothing is left to be paid for."""
    for name in (*THREE, "jon"):
        seated[name].price = Price(1.0, 2.0, 0.1, "configuration")
    asked, outcome, result, *_ = await forked(
        TEXT, {"consensus": "supermajority", "max_tokens": 1, "max_cost_usd": 0.000001}
    )
    assert isinstance(outcome, Completed), outcome
    assert asked == {}
    assert (result["error"], result["ended_by"]) == (None, "rounds")


async def test_a_limit_that_is_too_low_for_the_rest(forked, seated):
    """What is left to be paid for must fit the limit: nothing is sent beyond it."""
    asked, outcome, result, *_ = await forked(
        {**TEXT, "consensus": "none"}, {"consensus": "majority", "max_tokens": 10}
    )
    assert isinstance(outcome, Completed)
    assert asked == {}
    assert {each["implied"] for each in result["votes"]} == {True}  # the reviews count


async def test_transcript_of_a_fork(forked):
    """A fork with a transcript has every reply that it took over."""
    _, _, result, *_ = await forked(TEXT, {"transcript": True})
    assert len(result["transcript"]) == 12


async def test_all_tries_of_a_call(run_debate, seat_scripted_agents):
    """A reply that was repaired is taken over with the one before it, and not repaired again."""
    replies = iter([{"reasons": ""}, {"answer": "tea", "reasons": ""}])
    made = seat_scripted_agents(ann=lambda _: said(next(replies)), bob=saying("milk"))
    fields = {"agents": ["ann", "bob"], "rounds": 0, "consensus": "none"}
    _, session, _ = await run_debate(**fields)
    assert len(made["ann"].asked) == 2
    fork = MemorySession(seeds_of(session))
    _, _, result = await run_debate(session=fork, forked_from="source", **fields)
    assert len(made["ann"].asked) == 2
    assert result["taken_over"] == 3


async def test_a_reply_that_the_limits_cut_is_asked_for_again(run_debate, seated):
    """A call that the other debate's limits cut short is made with the room that this one has, and paid for."""
    _, session, _ = await run_debate(**TEXT)
    asked_of(seated)
    seeds = seeds_of(session)
    seeds["seed/source/call/vote.1.0"] |= {"limited": True, "clipped": True}
    fork = MemorySession(seeds)
    _, _, result = await run_debate(session=fork, forked_from="source", **TEXT)
    assert asked_of(seated) == {"bob": ["Vote"]}
    assert (result["taken_over"], result["token_usage"]["requests"]) == (11, 1)


async def test_a_crash_in_between(run_debate, seated):
    """An attempt that ended while it took calls over is continued: each is taken over once."""
    _, session, whole = await run_debate(**TEXT)
    asked_of(seated)
    fork = MemorySession(seeds_of(session))
    await run_debate(session=fork, forked_from="source", **TEXT)
    calls = sorted(name for name in fork.kept if name.startswith("call/"))
    for lost in (calls[::2], calls[1:], calls):
        again = MemorySession({n: each for n, each in fork.kept.items() if n not in lost})
        _, _, result = await run_debate(session=again, forked_from="source", **TEXT)
        assert result["final_answer"] == whole["final_answer"]
        assert sorted(n for n in again.kept if n.startswith("call/")) == calls
    assert asked_of(seated) == {}


async def test_a_fork_of_a_fork(run_debate, seated):
    """A fork of a fork takes over what both have, and names the debate that paid for each call."""
    _, session, _ = await run_debate(**{**TEXT, "consensus": "none"})
    fork = MemorySession(seeds_of(session))
    await run_debate(session=fork, forked_from="source", **TEXT)
    asked_of(seated)
    second = MemorySession(seeds_of(fork, "fork"))
    _, _, result = await run_debate(session=second, forked_from="fork", **TEXT)
    assert asked_of(seated) == {}
    paid_by = {
        n.partition(".")[0]: each["from"] for n, each in second.kept.items() if "call/" in n[:5]
    }
    assert paid_by == {"call/propose": "source", "call/r1": "source", "call/vote": "fork"}
    assert result["taken_over"] == 12


async def test_seeds_of_a_fork_that_did_not_run(run_debate, seated):
    """A fork of a fork that has not begun takes over what that one would have."""
    _, session, _ = await run_debate(**TEXT)
    asked_of(seated)
    waiting = seeds_of(session)
    second = MemorySession(waiting)
    _, _, result = await run_debate(session=second, forked_from="fork", **TEXT)
    assert (asked_of(seated), result["taken_over"]) == ({}, 12)


async def test_damaged_seeds(run_debate, seated):
    """Seeds of another form count for nothing: their calls are made."""
    _, session, _ = await run_debate(**TEXT)
    asked_of(seated)
    seeds = seeds_of(session)
    first = "seed/source/call/propose.0.0"
    for damaged in (
        {},
        {"value": 3},
        {**seeds[first], "was": 3, "from": "x"},
        {**seeds[first], "was": {}},
        {**seeds[first], "in": "1"},
    ):
        fork = MemorySession(
            {**seeds, first: damaged, "seed/x": {}, "seed/": {}, "seed/a/b/c.d": {}}
        )
        outcome, _, _ = await run_debate(session=fork, forked_from="source", **TEXT)
        assert isinstance(outcome, Completed)
        assert asked_of(seated)["ann"][0] == "Propose"
    fork = MemorySession({**seeds, "seed/begun": {"nonce": "<b>"}})
    outcome, _, _ = await run_debate(session=fork, forked_from="source", **TEXT)
    assert isinstance(outcome, Completed)
    assert fork.kept["begun"]["nonce"] != "<b>"


async def test_a_fork_of_a_failed_debate(run_debate, seat_scripted_agents):
    """A fork of a debate that failed goes on from what it had."""
    is_down = True

    def reply(task):
        if isinstance(task, Vote) and is_down:
            raise PermanentError("no such model")
        return saying("tea")(task)

    made = seat_scripted_agents(ann=reply, bob=reply)
    fields = {"agents": ["ann", "bob"], "rounds": 1, "debate": "always", "answer_form": "text"}
    made["bob"]._reply = lambda task: (
        reply(task) if isinstance(task, Vote) else saying("milk")(task)
    )
    outcome, session, _ = await run_debate(**fields)
    assert isinstance(outcome, Failed), result_of(outcome)
    is_down = False
    for agent in made.values():
        agent.asked.clear()
    fork = MemorySession(seeds_of(session))
    outcome, _, _ = await run_debate(session=fork, forked_from="source", **fields)
    assert isinstance(outcome, Completed)
    assert [[type(each) for each in agent.asked] for agent in made.values()] == [[Vote], [Vote]]


def requeued_from(session, *names):
    """What `requeue --from` leaves of the checkpoints; `names` begin those of the discarded calls."""
    begins = tuple(f"call/{name}." for name in names)
    return {
        f"past/{name.removeprefix('call/')}" if name.startswith(begins) else name: each
        for name, each in session.kept.items()
        if not name.startswith("life/")
    }


async def test_calls_are_made_again_after_a_requeue(run_debate, seated):
    """Discarded calls are asked for again and stay counted; earlier ones are not asked for."""
    _, session, first = await run_debate(**TEXT)
    asked_of(seated)
    again = MemorySession(requeued_from(session, "r1.revise", "vote"))
    _, _, result = await run_debate(session=again, **TEXT)
    assert asked_of(seated) == {name: ["Revise", "Vote"] for name in THREE}
    assert (first["token_usage"]["requests"], result["token_usage"]["requests"]) == (12, 18)
    assert [seat["calls"] for seat in result["seats"]] == [6, 6, 6]
    twice = MemorySession(requeued_from(again, "vote"))
    _, _, result = await run_debate(session=twice, **TEXT)
    assert asked_of(seated) == {name: ["Vote"] for name in THREE}
    assert result["token_usage"]["requests"] == 21


async def test_a_requeued_fork_asks_again_for_what_it_had_taken_over(run_debate, seated):
    """Discarded calls that were taken over are made, and paid for; they are not taken over again."""
    _, session, _ = await run_debate(**TEXT)
    fork = MemorySession(seeds_of(session))
    await run_debate(session=fork, forked_from="source", **TEXT)
    asked_of(seated)
    again = MemorySession(requeued_from(fork, "vote"))
    _, _, result = await run_debate(session=again, forked_from="source", **TEXT)
    assert asked_of(seated) == {name: ["Vote"] for name in THREE}
    assert (result["taken_over"], result["token_usage"]["requests"]) == (9, 3)


async def test_seats_that_dropped_out_before_stay_out(run_debate, seat_scripted_agents):
    """A requeue from the phase after that in which a seat dropped out does not ask it again."""

    def reply(task):
        if isinstance(task, Review):
            raise PermanentError("no such model")
        return saying("water")(task)

    made = seat_scripted_agents(ann=saying("tea"), bob=saying("milk"), cyd=reply)
    _, session, _ = await run_debate(**TEXT)
    made["cyd"]._reply = saying("water")
    asked_of(made)
    again = MemorySession(requeued_from(session, "r1.revise", "vote"))
    _, _, result = await run_debate(session=again, **TEXT)
    assert asked_of(made) == {name: ["Revise", "Vote"] for name in ("ann", "bob")}
    assert result["seats"][2]["dropped"] == "round 1, review: no such model"
    from_review = MemorySession(requeued_from(session, "r1.review", "r1.revise", "vote"))
    await run_debate(session=from_review, **TEXT)
    assert asked_of(made) == {name: ["Review", "Revise", "Vote"] for name in THREE}
