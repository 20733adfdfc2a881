"""Each way in which a debate's result is less than what was asked for is in its receipt, by code."""

import json
from dataclasses import replace

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import THREE, failing, said, saying

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed
from aragora_q.errors import AgentUnavailable, HoldJob, PermanentError
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.requests import Propose, Review, Synthesize, Vote
from aragora_q.job import create_debate_job
from aragora_q.report.calls import Calls, read_calls
from aragora_q.report.degradation import degradations
from aragora_q.report.receipt import make_receipt, verify

FREE = Price(0.0, 0.0, 0.0, "test")
UNPRICED = "1 call without a known price"
"""What a call that failed took is not known."""


@pytest.fixture
def degraded(seat_scripted_agents, run_debate):
    """Runs a debate of these agents; returns how its receipt says that it is degraded: texts by code.

    None: the job has not ended, but is tried again.
    """

    async def run(
        replies, session=None, agents=THREE, changes=None, settings=None, usd=0.001, **fields
    ):
        found = seat_scripted_agents(**{name: _priced(each, usd) for name, each in replies.items()})
        for agent in found.values():
            agent.price = FREE
        for name, values in (changes or {}).items():
            for field, value in values.items():
                setattr(found[name], field, value)
        session = session or MemorySession()
        outcome, session, _ = await run_debate(
            agents=agents, session=session, settings=settings, **{"rounds": 0} | fields
        )
        if not isinstance(outcome, Completed | Failed):
            return None
        has_completed = isinstance(outcome, Completed)
        names = ("attempts", "max_attempts", "gates")
        payload = {name: value for name, value in fields.items() if name not in names}
        job = Job(
            create_debate_job("Tea or coffee?", agents, **{"rounds": 0} | payload).payload,
            id="job",
            status=JobStatus.COMPLETED if has_completed else JobStatus.FAILED,
            result=result_of(outcome) if outcome.result else None,
            error=None if has_completed else outcome.error,
        )
        calls = read_calls(session.kept, None)
        made = make_receipt("debates", job, calls, None)
        assert verify(made, None).is_verified(requires_signature=False)
        rows = json.loads(made)["degradation"]
        assert rows == [each._asdict() for each in degradations(job, calls)]
        return {row["code"]: row["text"] for row in rows}

    return run


def _priced(reply, usd):
    """The same replies, with a price."""
    return lambda task: replace(reply(task), cost_usd=usd)


def everyone(**others):
    """Agents that say `tea`, but for `others`."""
    return {name: saying("tea") for name in THREE} | others


def prose_on(kind, verdict="tea"):
    """An agent whose replies to requests of that type are not JSON."""
    return lambda task: said("Who knows?") if isinstance(task, kind) else saying(verdict)(task)


async def test_nothing(degraded):
    """A debate in which all went well is not degraded, nor is one without consensus."""
    assert await degraded(everyone()) == {}
    assert await degraded({name: saying(name) for name in THREE}, rounds=1) == {}


async def test_a_seat_that_dropped_out(degraded):
    """Which, where and why."""
    found = await degraded(everyone(bob=failing(PermanentError("404: no such model"), Propose)))
    assert found == {"dropped": "bob dropped out (propose): 404: no such model"}


async def test_an_abstention_and_an_unusable_reply(degraded):
    """A ballot that is prose, twice: its seat abstained, and two replies that were paid for are lost."""
    found = await degraded(everyone(bob=prose_on(Vote), cyd=saying("milk")))
    assert found == {
        "abstained": "bob abstained (the reply was not a JSON object)",
        "unusable": "bob: 2 replies were not usable (the reply was not a JSON object)",
    }


async def test_an_unusable_reply_that_was_repaired(degraded):
    """The seat answered in the end; the reply that could not be used is named nevertheless."""
    asked = []

    def prose_once(task):
        asked.append(type(task))
        return said("Who knows?") if asked.count(Vote) == 1 else saying("tea")(task)

    found = await degraded(everyone(bob=prose_once, cyd=saying("milk")))
    assert found == {"unusable": "bob: a reply was not usable (the reply was not a JSON object)"}


async def test_no_vote(degraded):
    """No ballot could be used: the job failed, and its result is partial."""
    found = await degraded({name: prose_on(Vote, name) for name in THREE})
    assert list(found) == ["failed", "partial", "no_vote", "abstained", "unusable"]
    assert found["failed"].startswith("the job failed: PermanentError: no seat could vote")


async def test_a_failed_debate_without_a_result(degraded):
    """All that is known is why: no seat is left."""
    gone = failing(PermanentError("401"), Propose)
    found = await degraded(dict.fromkeys(THREE, gone))
    assert found["failed"].startswith("the job failed: ")
    assert "partial" not in found


def test_seats_that_dropped_out_of_a_debate_without_a_result():
    """Which and why, as far as the journal knows."""
    payload = create_debate_job("Tea or coffee?", THREE, rounds=0).payload
    job = Job(payload, id="job", status=JobStatus.FAILED, error="out of time")
    calls = read_calls({"dropped/1": {"why": "404: no such model"}}, None)
    found = [each for each in degradations(job, calls) if each.code == "dropped"]
    assert found == [("dropped", "bob dropped out: 404: no such model")]


@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [
        ("judge", "not_judged", "eve did not decide, so the votes do (no such model)"),
        ("synthesis", "not_written", "eve did not write, so the best-liked answer stays (no such model)"),
    ],
)  # fmt: skip
async def test_a_judge_that_failed(degraded, mode, code, text):
    """The votes decided instead; or no answer was written."""
    eve = failing(PermanentError("no such model"), Vote | Synthesize)
    replies = {"ann": saying("tea"), "bob": saying("milk", choice="tea"), "eve": eve}
    found = await degraded(replies, agents=["ann", "bob"], consensus=mode, judge="eve")
    assert found == {code: text}


async def test_replies_that_were_cut(degraded):
    """An answer that is longer than allowed is cut at a limit."""

    def long(task):
        value = {"answer": "tea", "reasons": "x" * 100_000}
        return said(value) if isinstance(task, Propose) else saying("tea")(task)

    found = await degraded(everyone(ann=long))
    assert found == {"replies_cut": "ann: a reply was cut at a limit"}


@pytest.fixture
async def interrupted(degraded):
    """Leaves a debate that was interrupted when bob was asked for `on`; returns its session."""

    async def leave(on, **fields):
        session = MemorySession()
        replies = {name: saying(name) for name in THREE}
        down = {**replies, "bob": failing(AgentUnavailable("down"), on)}
        assert await degraded(down, session=session, **fields) is None
        return session

    return leave


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"model": "other:m"}, "other_model", "bob: continued with another model (scripted:bob, other:m)"),
        ({"settings": "other"}, "other_settings", "bob: continued with other settings"),
    ],
)  # fmt: skip
async def test_a_debate_that_was_resumed_with_another_agent(
    degraded, interrupted, change, code, text
):
    """The model or the settings behind a name changed between two attempts."""
    session = await interrupted(Vote)
    found = await degraded(everyone(), session=session, changes={"bob": change}, attempts=2)
    assert found == {code: text, "unpriced": UNPRICED}


async def test_a_debate_that_time_ended(degraded, interrupted):
    """`timeout_seconds` left no room for another round."""
    fields = {"rounds": 2, "timeout_seconds": 100}
    session = await interrupted(Review, **fields)
    session.kept["life/time_up"] = {"at": 0.0}
    replies = {name: saying(name) for name in THREE}
    found = await degraded(replies, session=session, attempts=2, **fields)
    assert found["ended_early"] == "timeout_seconds did not allow another round"


async def test_a_debate_that_a_limit_of_cost_ended(degraded):
    """`max_cost_usd` left no room for another round."""
    price = Price(1_000.0, 1_000.0, 1_000.0, "test")
    changes = {name: {"price": price} for name in THREE}
    replies = {name: saying(name) for name in THREE}
    fields = {"rounds": 3, "debate": "always", "max_cost_usd": 15.0, "usd": 0.5}
    found = await degraded(replies, changes=changes, **fields)
    assert found["ended_early"] == "max_cost_usd did not allow another round"


@pytest.mark.parametrize("priced", [True, False])
async def test_calls_without_a_price(degraded, priced):
    """How many calls the cost does not cover, and that the limit of cost did not cover them."""
    replies = {name: saying(name) for name in THREE}
    found = await degraded(replies, max_cost_usd=10.0, usd=0.001 if priced else None)
    assert found == ({} if priced else {
        "not_limited": "max_cost_usd did not limit 6 calls: what they took is not known",
        "unpriced": "6 calls without a known price",
    })  # fmt: skip


async def test_a_result_that_was_cut(degraded):
    """What was left out, since the result was too large."""
    replies = {name: saying(name) for name in THREE}
    found = await degraded(
        replies, rounds=20, debate="always", transcript=True, settings={"max_result_bytes": 8_000}
    )
    assert found["result_cut"] == "transcript left out: too large"


async def test_a_fallback(degraded):
    """An agent answered in place of one whose provider takes no calls."""
    agents = {"agents": {"bob": {"model": "demo", "fallback": ["sub"]}, "sub": "demo"}}
    closed = HoldJob("acme@1: no credit", cause="provider", by="acme@1")
    replies = everyone(bob=failing(closed, Propose | Vote), sub=saying("tea"))
    found = await degraded(replies, settings=agents, changes={"bob": {"account": "acme@1"}})
    assert found == {
        "fallback": "sub answered for bob (1 call: acme@1: no credit)",
        "unpriced": UNPRICED,
    }


async def test_answers_that_voters_saw_cut(degraded):
    """A limit left no room to show the answers whole."""

    def long(name):
        def reply(task):
            value = {"answer": name, "reasons": "x" * 3_000}
            return said(value if isinstance(task, Propose) else json.loads(saying(name)(task).text))

        return reply

    replies = {name: long(name) for name in THREE}
    found = await degraded(replies, max_tokens=8_000)
    assert found["answers_cut"].startswith("voters saw at most ")


class Small(MemorySession):
    """Has room for few checkpoints."""

    async def checkpoint(self, job, name, value):
        if len(self.kept) > 8:
            raise PermanentError("checkpoints exceed their limit")
        await super().checkpoint(job, name, value)


async def test_a_journal_that_is_full(degraded):
    """No more replies were asked for."""
    replies = {name: saying(name) for name in THREE}
    found = await degraded(replies, session=Small(), rounds=2, debate="always")
    assert found["journal_full"].startswith("the job's journal was full")


def test_a_journal_that_cannot_be_read():
    """Calls that are damaged, or the whole journal: a receipt says so."""
    job = Job({"question": "Tea?", "agents": ["ann"]}, status=JobStatus.COMPLETED)
    [found] = degradations(job, read_calls({"call/propose.0.0": 7}, None))
    assert (found.code, "cannot be read" in found.text) == ("journal", True)
    [found] = degradations(job, read_calls(None, None))
    assert (found.code, "cannot be read" in found.text) == ("journal", True)


def test_jobs_without_a_debate():
    """A failed job says why, and if its result is partial; a cancelled one that it is."""
    job = Job({"n": 1}, status=JobStatus.FAILED, error="boom", result={"half": 1})
    assert list(degradations(job, Calls())) == [
        ("failed", "the job failed: boom"),
        ("partial", "the result is what was there when the job failed"),
    ]
    job = Job({"n": 1}, status=JobStatus.CANCELLED)
    assert list(degradations(job, Calls())) == [("cancelled", "the job was cancelled")]
    assert list(degradations(Job({"n": 1}, status=JobStatus.COMPLETED, result={}), Calls())) == []


@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [7], [{}], [{"code": 7, "text": None}]])
@pytest.mark.parametrize(
    "field", ["problems", "ended_by", "seats", "votes", "unpriced_calls", "decided_by"]
)
def test_results_of_other_programs(field, junk):
    """Whatever is in a result, a receipt can be made, and verifies."""
    job = Job(
        {"question": "Tea?", "agents": ["ann", 7]}, status=JobStatus.COMPLETED, result={field: junk}
    )
    made = make_receipt("debates", job, Calls(), None)
    assert verify(made, None).is_verified(requires_signature=False)
