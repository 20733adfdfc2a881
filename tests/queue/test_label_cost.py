"""What labels cost the server, in commands: a fixed number per call, however large the group or the call.

Times depend on the machine, commands do not; `make bench` measures times.
"""

import asyncio

import pytest

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Released, Report, Retry

LABELS = {"group": "g", "tenant": "t", "tags": {"env": "prod", "team": "research"}}
OUTCOMES = {
    "release": Released(),
    "retry": Retry("no", 0),
    "fail": Failed("no"),
    "complete": Completed(b"{}"),
}
SURPLUS = {
    "enqueue": 8,  # the time, the group read, labels, four indexes, counts
    "purge": 8,  # four indexes, labels; the group read, counted, looked for members
    "promote": 0,  # changes no status
    "release": 3,  # the time, the group read and counted
}
OTHER_SURPLUS = 2  # the group read and counted
"""Commands that a call needs for jobs with a group, a tenant and two tags beyond those of other jobs."""


async def _commands(harness, call):
    """Run `call`; return its result and how many commands the server ran inside scripts."""
    harness.redis.delete(harness.keys.bell)
    harness.redis.config_resetstat()
    result = await call
    stats = harness.redis.info("commandstats")
    return result, sum(
        stats[name]["calls"]
        for name in stats
        if name.removeprefix("cmdstat_") not in ("evalsha", "eval", "info", "config|resetstat")
    )


async def _life(harness, session, count, labels):
    """Take `count` jobs through every transition, one call for each; return the commands of each."""
    found = {}

    async def step(name, call):
        result, found[name] = await _commands(harness, call)
        return result

    async def enqueue():
        jobs = [Job({"n": n}, **labels) for n in range(count)]
        await step("enqueue", harness.queue.enqueue_many(jobs))
        return [job.id for job in jobs]

    ids = await enqueue()
    for name, outcome in OUTCOMES.items():
        jobs = (await step("start", session.start(count))).jobs
        assert len(jobs) == count
        await step(name, session.report([Report(job, outcome) for job in jobs]))
        await asyncio.sleep(0.002)  # to be due, or older than 0 ms
        if name == "retry":
            assert (await step("promote", harness.queue.promote())).promoted == count
        if name == "fail":
            await step("requeue", harness.queue.requeue(ids))
    await step("purge", harness.queue.purge(JobStatus.COMPLETED, older_than_seconds=0))
    await step("cancel", harness.queue.cancel_many(await enqueue()))
    await asyncio.sleep(0.002)
    await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=0)
    return found


@pytest.fixture
def harness(new_harness):
    """A queue on one server: it counts the commands of all its clients."""
    return new_harness(claim_idle_ms=60_000)


@pytest.fixture
async def session(harness):
    """A worker's session; the scripts are loaded, and the queue has two jobs with labels."""
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, delay_seconds=1000, **LABELS) for _ in range(2)])
    await _life(harness, session, 1, {})
    return session


@pytest.mark.parametrize("count", [1, 20])
async def test_commands_do_not_grow_with_the_group(harness, session, count):
    """Every transition needs as many commands in a group of three jobs as in one of 200."""
    small = await _life(harness, session, count, LABELS)
    members = [Job({}, delay_seconds=1000, **LABELS) for _ in range(200)]
    await harness.queue.enqueue_many(members)
    assert await _life(harness, session, count, LABELS) == small


@pytest.mark.parametrize("count", [1, 20])
async def test_labels_cost_a_fixed_number_of_commands_per_call(harness, session, count):
    """Beyond those of a job without labels, and the same for one job as for twenty in one call."""
    bare = await _life(harness, session, count, {})
    labeled = await _life(harness, session, count, LABELS)
    surplus = {name: labeled[name] - bare[name] for name in bare}
    assert surplus == {name: SURPLUS.get(name, OTHER_SURPLUS) for name in bare}


async def test_a_queue_without_labels_costs_no_more_commands(harness):
    """An enqueue and a complete see in a command that they need anyway that no job has labels."""
    session = await harness.worker()
    await _life(harness, session, 1, {})  # loads the scripts
    _, enqueue = await _commands(harness, harness.queue.enqueue_many([Job({})]))
    reports = [Report(job, Completed(b"{}")) for job in (await session.start(1)).jobs]
    _, complete = await _commands(harness, session.report(reports))
    assert (enqueue, complete) == (7, 13)
