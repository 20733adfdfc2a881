"""A debate's time limit goes by the server's clock, wherever its attempts run."""

import time

import pytest
from support.scripted_agents import THREE, saying
from support.workers import LONG_LEASE

from aragora_q.base import JobStatus
from aragora_q.errors import AgentUnavailable
from aragora_q.executors import debate
from aragora_q.executors.debate.requests import Vote
from aragora_q.job import create_debate_job


@pytest.mark.parametrize("hours", [-2, 2], ids=["slow", "fast"])
async def test_an_attempt_on_a_worker_whose_clock_is_wrong(
    new_harness, worker_pool, seat_scripted_agents, monkeypatch, hours
):
    """The first attempt's worker is two hours off: the next one neither gives up nor counts backward."""
    real, offset = time.time, [hours * 3600]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    ann = saying("tea")

    def fails_once(task):
        if isinstance(task, Vote) and offset[0]:
            offset[0] = 0  # the next attempt runs elsewhere
            raise AgentUnavailable("down")
        return ann(task)

    seat_scripted_agents(ann=fails_once, bob=saying("tea, please"), cyd=saying("coffee"))
    harness = new_harness(**LONG_LEASE)
    worker_pool.start(harness, debate.create(harness.config))
    job = create_debate_job("Tea?", THREE, rounds=0, timeout_seconds=600, job_id="j")
    await harness.queue.enqueue(job)
    job = await harness.wait_for_end("j")
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2), job.error
    assert 0 <= job.result["duration_seconds"] < 300


async def test_an_executor_knows_when_its_attempt_began(new_harness, worker_pool):
    """`started_at` of the job that an executor gets is the server's time, as `status` shows it."""
    harness = new_harness(**LONG_LEASE)
    given = []

    async def executor(job):
        given.append(job.started_at)
        return {}

    worker_pool.start(harness, executor)
    await harness.enqueue("a")
    job = await harness.wait_for_end("a")
    assert given == [job.started_at]
