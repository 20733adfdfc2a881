"""An executor's result that could not be read again fails its job, with the reason."""

import pytest
from support.wait import wait_until
from support.workers import LONG_LEASE

from aragora_q.base import JobStatus


def _nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("result", "reason"),
    [(_nested(230), "nested too deeply"), ({"n": 10**5_000}, "more than 4,300 digits")],
    ids=["depth", "digits"],
)
async def test_a_result_that_could_not_be_read_fails_the_job(
    new_harness, worker_pool, result, reason
):
    """The job fails at once: another attempt would return the same."""
    harness = new_harness(**LONG_LEASE)

    async def executor(_job):
        return result

    await harness.enqueue("a")
    worker_pool.start(harness, executor)

    async def is_failed():
        return await harness.queue.get_status("a") is JobStatus.FAILED

    await wait_until(is_failed, what="the failure")
    assert reason in (await harness.queue.get_job("a")).error
