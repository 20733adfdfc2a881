"""A batch that goes in partly says which jobs are in the queue."""

import pytest

from aragora_q.base import EnqueueResult, Job
from aragora_q.errors import InvalidPayload, QueueFull, RedisUnreachable, UnsupportedServer


def _jobs(count, **payload):
    return [Job({"n": n, **payload}, id=f"j{n}") for n in range(count)]


async def test_a_full_queue_says_what_went_in(harness):
    """`results` has one result per job in order; None: not enqueued. A job that is known is not refused."""
    queue = harness.other_client(max_backlog=3)
    await harness.enqueue("j3")
    with pytest.raises(QueueFull, match="limit of 3") as full:
        await queue.enqueue_many(_jobs(5))
    created = [EnqueueResult(f"j{n}", created=True) for n in range(2)]
    known = EnqueueResult("j3", created=False)
    assert full.value.results == [*created, None, known, None]
    assert (
        sorted(harness.redis.hget(harness.keys.job(f"j{n}"), "status") or "" for n in range(5))[2:]
        == ["pending"] * 3
    )
    with pytest.raises(QueueFull) as full:
        await queue.enqueue(Job({}, id="one"))
    assert full.value.results == [None]


async def test_results_span_the_batches_of_a_call(harness):
    """A call that takes several batches reports those that went in before, and None for those not sent."""
    queue = harness.other_client(max_backlog=150)
    with pytest.raises(QueueFull) as full:
        await queue.enqueue_many(_jobs(350))
    results = full.value.results
    assert len(results) == 350
    assert [result.id for result in results[:150]] == [f"j{n}" for n in range(150)]
    assert set(results[150:]) == {None}


async def test_every_error_says_what_went_in(harness, monkeypatch):
    """Also when a later job is invalid, or Redis goes away in the middle."""
    jobs = _jobs(250)
    jobs[240].priority = 5_000
    with pytest.raises(InvalidPayload) as invalid:
        await harness.queue.enqueue_many(jobs)
    assert [result is not None for result in invalid.value.results] == [True] * 200 + [False] * 50
    run, calls = harness.queue.connection.run, []

    async def run_once(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise RedisUnreachable("gone")
        return await run(*args, **kwargs)

    monkeypatch.setattr(harness.queue.connection, "run", run_once)
    with pytest.raises(RedisUnreachable) as gone:
        await harness.queue.enqueue_many(_jobs(150))
    assert [result is not None for result in gone.value.results] == [True] * 100 + [False] * 50


async def test_nothing_sent_is_nothing_enqueued(new_harness):
    """An error before the first batch (here: a server without a replica) names no job as enqueued."""
    queue = new_harness().other_client(durability="replica")
    with pytest.raises(UnsupportedServer) as refused:
        await queue.enqueue_many(_jobs(2))
    assert refused.value.results == [None, None]


async def test_a_generator_s_jobs_have_results_as_far_as_they_were_taken(harness):
    """Its jobs go in as those of a list do. After an error, the caller goes on where the call stopped."""
    jobs = iter(_jobs(350))
    queue = harness.other_client(max_backlog=150)
    with pytest.raises(QueueFull) as full:
        await queue.enqueue_many(job for job in jobs)
    results = full.value.results
    assert [result.id for result in results[:150]] == [f"j{n}" for n in range(150)]
    assert set(results[150:]) == {None}
    assert next(jobs).id == f"j{len(results)}"


async def test_a_generator_that_fails_says_what_went_in(harness):
    """An error of the generator itself has a result for each job that it gave before."""

    def jobs():
        yield from _jobs(230)
        raise InvalidPayload("no more questions")

    with pytest.raises(InvalidPayload, match="no more questions") as failed:
        await harness.queue.enqueue_many(jobs())
    results = failed.value.results
    assert [result is not None for result in results] == [True] * 200 + [False] * 30


@pytest.mark.parametrize("jobs", [{"a": 1}, [{"question": "Tea?"}], ["Tea?"]], ids=str)
async def test_only_jobs_are_enqueued(harness, jobs):
    """Anything else raises a TypeError that names its type."""
    given = type(next(iter(jobs))).__name__
    with pytest.raises(TypeError, match=f"^enqueue takes a Job, got {given}$"):
        await harness.queue.enqueue_many(jobs)
    with pytest.raises(TypeError, match=f"^enqueue takes a Job, got {type(jobs).__name__}$"):
        await harness.queue.enqueue(jobs)


async def test_a_generator_that_raises_leaves_what_was_sent(harness):
    """Its own error comes out as it is; a new generator with the same ids adds what is missing."""

    def jobs(*, fails):
        yield from _jobs(130)
        if fails:
            raise OSError("cannot read the questions")

    with pytest.raises(OSError, match="cannot read the questions"):
        await harness.queue.enqueue_many(jobs(fails=True))
    results = await harness.queue.enqueue_many(jobs(fails=False))
    assert [result.created for result in results] == [False] * 100 + [True] * 30
