"""Jobs that take over finished calls of another one, and debates that make calls again after a requeue."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed
from aragora_q.errors import InvalidPayload
from aragora_q.job import create_debate_job
from aragora_q.redis.keys import BACKSTOP_MS
from aragora_q.streams import session as sessions

CALLS = {
    "begun": {"nonce": "0123abcd"},
    "call/propose.0.0": {"value": "tea"},
    "call/r1.review.0.0": {"value": "milk"},
    "fault/propose.1.0": {"why": "down"},
    "life/begun": {"at": 1},
}


def fork_of(source, job_id="fork", **fields):
    return create_debate_job("Why?", ["a", "b"], forked_from=source, job_id=job_id, **fields)


@pytest.fixture
def run_source(harness):
    """Runs a job that stores `saved`, and ends as `ending` says, or not at all."""

    async def run(ending=None, saved=CALLS, job_id="source"):
        session = await harness.worker()
        await harness.queue.enqueue(create_debate_job("Why?", ["a", "b"], job_id=job_id))
        job = await harness.start_one(session)
        for name, value in saved.items():
            await session.checkpoint(job, name, value)
        if ending is not None:
            await harness.report(session, job, ending)
        return session, job

    return run


SEEDS = {
    "seed/begun": CALLS["begun"],
    "seed/source/call/propose.0.0": {"value": "tea"},
    "seed/source/call/r1.review.0.0": {"value": "milk"},
}


@pytest.mark.parametrize("ending", [None, Completed(b"{}"), Failed("x"), "cancel"])
async def test_a_fork_begins_with_the_calls_of_its_source(harness, run_source, ending):
    """Whether it runs, completed, failed or was cancelled; only calls with a reply, and what began it."""
    await run_source(None if ending == "cancel" else ending)
    if ending == "cancel":
        await harness.queue.cancel("source")
    await harness.queue.enqueue(fork_of("source"))
    assert await harness.queue.tracker.checkpoints("fork") == SEEDS
    assert harness.redis.pttl(harness.keys.journal("fork")) == -1
    assert harness.redis.hget(harness.keys.journal("fork"), "bytes") is None


async def test_a_fork_keeps_them_when_its_source_is_gone(harness, run_source):
    """Deleting the source takes nothing from a fork; its own forks get what it has not taken over, too."""
    await run_source(Completed(b"{}"))
    await harness.queue.enqueue(fork_of("source"))
    await harness.queue.purge_many(["source"])
    await harness.queue.enqueue(fork_of("fork", "second"))
    assert await harness.queue.tracker.checkpoints("second") == SEEDS
    with pytest.raises(InvalidPayload, match="source was not found, or has expired"):
        await harness.queue.enqueue(fork_of("source", "third"))
    assert await harness.queue.get_job("third") is None


async def test_an_existing_fork_is_not_changed(harness, run_source):
    """An id that exists changes nothing, whatever it is to take over."""
    session, job = await run_source()
    await harness.queue.enqueue(fork_of("source"))
    await session.checkpoint(job, "call/vote.0.0", {"value": "new"})
    [result] = await harness.queue.enqueue_many([fork_of("source")])
    assert not result.created
    assert await harness.queue.tracker.checkpoints("fork") == SEEDS


async def test_what_cannot_be_forked_is_refused(harness, run_source):
    """Unknown jobs, jobs without a finished call, and expired ones; other jobs of the batch are enqueued."""
    await run_source(Completed(b"{}"))
    harness.redis.pexpire(harness.keys.job("source"), BACKSTOP_MS - 1000)
    with pytest.raises(InvalidPayload, match="has expired"):
        await harness.queue.enqueue(fork_of("source"))
    await harness.queue.enqueue(Job({"n": 1}, id="other"))
    with pytest.raises(InvalidPayload, match="debate other has no finished calls"):
        await harness.queue.enqueue(fork_of("other"))
    jobs = [fork_of("missing", "f1"), Job({"n": 2}, id="fine"), fork_of("other", "f2", group="g")]
    with pytest.raises(InvalidPayload) as refused:
        await harness.queue.enqueue_many(jobs)
    assert [each and each.created for each in refused.value.results] == [None, True, None]
    assert await harness.queue.get_job("f1") is await harness.queue.get_job("f2") is None


async def test_a_held_fork_in_a_group(harness, run_source):
    """Held, delayed and labeled jobs get theirs, too, and a cancelled one expires with them."""
    await run_source()
    await harness.queue.enqueue_many([fork_of("source", "held", group="g")], hold="dear")
    await harness.queue.enqueue(fork_of("source", "later", delay_seconds=60))
    for job_id in ("held", "later"):
        assert await harness.queue.tracker.checkpoints(job_id) == SEEDS
        await harness.queue.cancel(job_id)
        assert harness.redis.pttl(harness.keys.journal(job_id)) > 0


async def test_seeds_do_not_count_for_what_an_attempt_stores(harness, run_source, monkeypatch):
    """Neither their bytes nor their number; the limits of an attempt are as for any job."""
    monkeypatch.setattr(sessions, "MAX_CHECKPOINTS", 4)
    session, _ = await run_source(
        Completed(b"{}"), {n: v for n, v in CALLS.items() if "life" not in n}
    )
    await harness.queue.enqueue(fork_of("source"))
    job = await harness.start_one(session)
    for n in range(4):
        await session.checkpoint(job, f"{n}", {})
        await session.report_progress(job, {"n": n})
    with pytest.raises(Exception, match="more than 4 checkpoints"):
        await session.checkpoint(job, "one more", {})


async def test_damaged_journals_of_sources(harness, run_source):
    """A seed that cannot be read does not stop the fork; a journal of another type is none."""
    await run_source()
    harness.redis.hset(harness.keys.journal("source"), "checkpoint:call/propose.1.0", "not JSON")
    await harness.queue.enqueue(fork_of("source"))
    assert await harness.queue.tracker.checkpoints("fork") == SEEDS
    harness.redis.delete(harness.keys.journal("source"))
    harness.redis.set(harness.keys.journal("source"), "x")
    with pytest.raises(InvalidPayload, match="no finished calls"):
        await harness.queue.enqueue(fork_of("source", "second"))


async def test_the_job_after_a_group_cannot_be_a_fork(harness, run_source):
    """It would begin without the calls."""
    await run_source()
    await harness.queue.enqueue(Job({"n": 1}, id="member", group="g"))
    with pytest.raises(InvalidPayload, match="follows a group cannot take over calls"):
        await harness.queue.seal_group("g", fork_of("source"))


REACHED = {
    "begun": {"nonce": "0123abcd"},
    "decision/before_propose": {}, "call/propose.0.0": {}, "given_up/propose.1.1": {},
    "decision/before_r1.review": {}, "call/r1.review.0.0": {},
    "decision/before_escalation": {}, "call/propose.2.0": {}, "call/r1.revise.0.0": {},
    "decision/before_r2.review": {}, "call/r2.review.0.0": {}, "fault/r2.review.1.0": {},
    "decision/before_vote": {}, "call/vote.0.0": {}, "given_up/vote.1.1": {},
    "call/judge.0.2.0": {}, "dropped/1": {}, "life/begun": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "discarded"),
    [
        ("judge", "judge.0.2.0"),
        ("vote", "vote.0.0 judge.0.2.0"),
        ("r2", "r2.review.0.0 vote.0.0 judge.0.2.0"),
        ("r1.revise", "r1.revise.0.0 r2.review.0.0 vote.0.0 judge.0.2.0"),
        ("r1", "r1.review.0.0 r1.revise.0.0 r2.review.0.0 vote.0.0 judge.0.2.0"),
        (
            "propose",
            "propose.0.0 propose.2.0 r1.review.0.0 r1.revise.0.0 r2.review.0.0 vote.0.0 judge.0.2.0",
        ),
    ],
)
async def test_requeue_discards_calls_from_a_phase_on(harness, run_source, phase, discarded):
    """They stay, as paid for; decisions about these phases are deleted; earlier ones are kept."""
    await run_source(Failed("x"), REACHED)
    assert await harness.queue.requeue(["source"], from_phase=phase) == ["requeued"]
    left = await harness.queue.tracker.checkpoints("source")
    assert {name for name in left if name.startswith("past/")} == {
        f"past/{name}" for name in discarded.split()
    }
    calls = {name for name in REACHED if name.startswith("call/")}
    assert calls - left.keys() == {f"call/{name}" for name in discarded.split()}
    assert "fault/r2.review.1.0" in left
    assert "decision/before_propose" in left or phase == "propose"
    assert ("decision/before_vote" in left) is (phase == "judge")
    assert ("given_up/vote.1.1" in left) is (phase == "judge")
    assert ("given_up/propose.1.1" in left) is (phase != "propose")
    kept_bytes = sum(len(name) + 2 for name in left if name != "begun")
    kept_bytes += len("begun") + len('{"nonce":"0123abcd"}')
    assert int(harness.redis.hget(harness.keys.journal("source"), "bytes")) == kept_bytes


@pytest.mark.parametrize("phase", ["synthesize", "r3", "r1.discuss", "r10"])
async def test_a_phase_that_was_not_reached(harness, run_source, phase):
    """Such a requeue changes nothing; so it is for a job without a journal."""
    await run_source(Failed("x"), REACHED)
    assert await harness.queue.requeue(["source"], from_phase=phase) == ["not-reached"]
    assert await harness.queue.tracker.checkpoints("source") == REACHED
    assert (await harness.queue.get_job("source")).status == "failed"


async def test_requeue_from_is_for_ended_jobs_and_known_phases(harness, run_source):
    """Running and completed jobs are not changed; an unknown phase is refused before anything is sent."""
    session, job = await run_source(None, REACHED)
    assert await harness.queue.requeue(["source", "x"], from_phase="vote") == [
        "processing",
        "unknown",
    ]
    await harness.report(session, job, Completed(b"{}"))
    assert await harness.queue.requeue(["source"], from_phase="vote") == ["completed"]
    for bad in ("votes", "r0", "r1.vote", "begun", "call/vote", "r1."):
        with pytest.raises(InvalidPayload, match="is not a phase of a debate"):
            await harness.queue.requeue(["source"], from_phase=bad)


async def test_requeue_from_twice(harness, run_source):
    """Calls that were made again are discarded likewise, under their own numbers."""
    session, _ = await run_source(Failed("x"), {"call/vote.0.0": {"n": 1}})
    await harness.queue.requeue(["source"], from_phase="vote")
    job = await harness.start_one(session)
    await session.checkpoint(job, "call/vote.0.1", {"n": 2})
    await harness.report(session, job, Failed("y"))
    assert await harness.queue.requeue(["source"], from_phase="vote") == ["requeued"]
    left = await harness.queue.tracker.checkpoints("source")
    assert left == {"past/vote.0.0": {"n": 1}, "past/vote.0.1": {"n": 2}}


async def test_a_requeued_fork_and_its_forks_take_over_nothing_of_the_phase(harness, run_source):
    """What is to be asked again is taken over neither by the fork nor by a fork of it; other seeds stay."""
    session, _ = await run_source(Completed(b"{}"))
    await harness.queue.enqueue(fork_of("source"))
    job = await harness.start_one(session)
    for name in ("begun", "call/propose.0.0", "call/r1.review.0.0"):
        await session.checkpoint(job, name, CALLS[name])
    await harness.report(session, job, Failed("x"))
    await harness.queue.requeue(["fork"], from_phase="r1")
    left = {name: SEEDS[name] for name in ("seed/begun", "seed/source/call/propose.0.0")}
    found = await harness.queue.tracker.checkpoints("fork")
    assert {name: each for name, each in found.items() if name.startswith("seed/")} == left
    assert harness.redis.hget(harness.keys.journal("fork"), "seeds") == "2"
    await harness.queue.enqueue(fork_of("fork", "second"))
    assert await harness.queue.tracker.checkpoints("second") == {
        **left, "seed/fork/call/propose.0.0": CALLS["call/propose.0.0"],
    }  # fmt: skip
