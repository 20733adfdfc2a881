"""The list `bell`: one token for each job that became runnable, for one idle worker each."""

import asyncio

import pytest
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed, Identity, Released, Retry
from aragora_q.redis.keys import MAX_BELL


def _tokens(harness):
    return harness.redis.llen(harness.keys.bell)


async def test_each_job_that_becomes_runnable_rings_once(harness):
    """By enqueue, promote, requeue, release, reclaim or release of an orphan; not by a delay or repetition."""
    session = await harness.worker()

    def rung():
        tokens = _tokens(harness)
        harness.redis.delete(harness.keys.bell)
        return tokens

    await harness.enqueue("a")
    assert rung() == 1
    await harness.enqueue("a")
    assert rung() == 0
    await harness.report(session, await harness.start_one(session), Released())
    assert rung() == 1
    await harness.report(session, await harness.start_one(session), Retry("x", 60))
    assert rung() == 0
    await harness.start_delayed(session)
    assert rung() == 1
    assert await session.release_orphans(lambda _: False, min_idle_seconds=0) == ["a"]
    assert rung() == 1
    await harness.start_one(session)
    harness.backdate("a")
    await harness.queue.reclaim()
    assert rung() == 1
    job = await harness.start_one(session)
    await harness.report(session, job, Failed("x"))
    await harness.queue.requeue(["a"])
    assert rung() == 1
    await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    await harness.enqueue("later", delay_seconds=60)
    assert rung() == 0
    await harness.queue.enqueue_many([Job({}, id=f"j{n}") for n in range(7)])
    assert rung() == 7


async def test_tokens_are_bounded(harness):
    """However many jobs wait, the list has at most MAX_BELL tokens."""
    for n in range(3):
        await harness.queue.enqueue_many([Job({}, id=f"j{n}-{k}") for k in range(90)])
    assert _tokens(harness) == MAX_BELL


async def test_stale_tokens_are_removed(harness):
    """A start that finds no job removes all tokens; one that finds some leaves them to other workers."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=f"j{n}") for n in range(5)])
    assert (await session.start(3)).state == "ok"
    assert _tokens(harness) == 5
    assert (await session.start(3)).state == "ok"
    assert (await session.start(3)).state == "empty"
    assert _tokens(harness) == 0


async def test_unregistering_gives_a_token_back(harness):
    """A worker that stops may have taken one without starting a job."""
    session = await harness.worker()
    await harness.enqueue("a")
    await session.wait_for_work(1)
    assert _tokens(harness) == 0
    await session.unregister()
    assert _tokens(harness) == 1


async def _blocked(harness, count):
    await wait_until(
        lambda: harness.redis.info("clients")["blocked_clients"] == count,
        what=f"{count} blocked workers",
    )


@pytest.mark.parametrize("jobs", [1, 4])
async def test_an_enqueue_wakes_as_many_workers_as_jobs(new_harness, jobs):
    """Of ten idle workers, n jobs wake n: each of these calls `start` once, the others stay blocked."""
    harness = new_harness(claim_idle_ms=60_000)
    sessions = []
    for n in range(10):
        session = harness.other_client().session(Identity(f"idle{n}"))
        await session.register({})
        sessions.append(session)
    await sessions[0].start(1)  # the server knows the script
    waits = [asyncio.create_task(session.start_next(60)) for session in sessions]
    await _blocked(harness, 10)
    await harness.enqueue("known")  # so that it knows this one, too
    await _blocked(harness, 9)
    harness.redis.config_resetstat()
    for n in range(jobs):
        await harness.enqueue(f"j{n}")
    await _blocked(harness, 9 - jobs)
    await wait_until(lambda: sum(wait.done() for wait in waits) > jobs, what="their replies")
    await asyncio.sleep(0.3)  # the claim is that nothing more happens
    assert harness.redis.info("clients")["blocked_clients"] == 9 - jobs
    assert harness.redis.info("commandstats")["cmdstat_evalsha"]["calls"] == 2 * jobs
    done = [wait.result() for wait in waits if wait.done()]
    assert sorted(job.id for fetched in done for job in fetched.jobs) == sorted(
        ["known", *(f"j{n}" for n in range(jobs))]
    )
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_an_empty_start_reads_no_payload(new_harness):
    """A start that finds nothing asks for new entries only, whatever runs and however large it is."""
    harness = new_harness(claim_idle_ms=60_000)
    session = await harness.worker()
    for priority in (-1, 0, 1):
        for n in range(2):
            await harness.enqueue(f"p{priority}-{n}", priority=priority)
    assert len((await session.start(10)).jobs) == 6
    harness.redis.config_resetstat()
    assert (await session.start(10)).state == "empty"
    calls = {
        name.removeprefix("cmdstat_"): stats["calls"]
        for name, stats in harness.redis.info("commandstats").items()
    }
    assert calls.pop("xreadgroup") == 3
    assert set(calls) <= {
        "evalsha",
        "time",
        "hget",
        "hmget",
        "del",
        "info",
        "config|resetstat",
    }
