"""A report whose reply was lost is repeated after the job has moved on: answered as before."""

import pytest

from aragora_q.contracts import Completed, Failed, Released, Retry
from aragora_q.redis.keys import MAX_DATA_BYTES


async def _moved_on(harness, session, outcome, later):
    """Report an attempt; then another worker starts the job, and perhaps ends it."""
    await harness.enqueue("a", max_attempts=2)
    job = await harness.start_one(session)
    verdict = await harness.report(session, job, outcome)
    other = await harness.worker("other")
    if isinstance(outcome, Retry):
        again = await harness.start_delayed(other)
    else:
        again = await harness.start_one(other)
    if later is not None:
        await harness.report(other, again, later)
    return verdict, job


OUTCOMES = [Retry("x", 60), Retry("busy", 60, charged=False), Released()]


LATER = [None, Completed(b"{}"), Failed("y"), Retry("z", 60), Released()]
PAIRS = [
    (outcome, later)
    for outcome in OUTCOMES
    for later in LATER
    if type(later) is not type(outcome)  # the queue remembers one report of each kind
]


@pytest.mark.parametrize(("outcome", "later"), PAIRS)
async def test_repeated_report_is_answered_as_before(harness, outcome, later):
    """However the job went on, the answer is the same; nothing changes, and no report counts as refused."""
    session = await harness.worker()
    verdict, job = await _moved_on(harness, session, outcome, later)
    fields, counters, events = harness.fields("a"), harness.counters(), harness.events()
    for _ in range(2):
        assert await harness.report(session, job, outcome) == verdict
    assert (harness.fields("a"), harness.counters(), harness.events()) == (fields, counters, events)


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_repeated_report_of_a_cancelled_job(harness, outcome):
    """The report came before the cancel, and is answered so; the job stays cancelled."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    verdict = await harness.report(session, job, outcome)
    await harness.queue.cancel("a")
    assert await harness.report(session, job, outcome) == verdict
    assert await harness.queue.get_status("a") == "cancelled"


@pytest.mark.parametrize("again", [None, Completed(b"{}"), Failed("again"), Retry("x", 60)])
@pytest.mark.parametrize("outcome", [Failed("x"), Retry("x", 60)])
async def test_repeated_report_of_a_job_that_failed_and_was_requeued(harness, outcome, again):
    """The report failed the job before its new life, and is answered so, however that goes on."""
    session = await harness.worker()
    await harness.enqueue("a", max_attempts=1)
    job = await harness.start_one(session)
    assert await harness.report(session, job, outcome) == "failed"
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    if again is not None:
        new = await harness.start_one(session)
        assert await harness.report(session, new, again) != "lost"
    fields, counters = harness.fields("a"), harness.counters()
    answer = await harness.report(session, job, outcome)
    is_kept = not isinstance(again, Failed | Retry)  # the queue remembers one report of each kind
    assert answer == ("failed" if is_kept else "lost")
    assert harness.fields("a") == fields
    assert counters.get("refused", 0) == 0
    assert harness.counters().get("refused", 0) == (not is_kept)


async def test_repeated_report_of_a_result_too_large_to_keep(new_harness):
    """It failed the job, which was requeued since, and is answered as before."""
    harness = new_harness()
    session = await harness.worker()
    await harness.enqueue("a")
    job, result = await harness.start_one(session), Completed(b"x" * (MAX_DATA_BYTES + 1))
    assert await harness.report(session, job, result) == "failed"
    assert await harness.queue.requeue(["a"]) == ["requeued"]
    assert await harness.report(session, job, result) == "failed"
    assert await harness.report(session, job, Completed(b"{}")) == "lost"


async def test_another_report_of_an_attempt_that_was_retried_is_refused(harness):
    """Only the same kind of report is a repetition."""
    session = await harness.worker()
    _, job = await _moved_on(harness, session, Retry("x", 60), None)
    for outcome in (Completed(b"{}"), Failed("x"), Released()):
        assert await harness.report(session, job, outcome) == "lost"


async def test_a_report_of_an_earlier_attempt_is_refused(harness):
    """The last attempt that was retried is remembered, not those before."""
    session = await harness.worker()
    await harness.enqueue("a")
    first = await harness.start_one(session)
    await harness.report(session, first, Retry("x", 60))
    second = await harness.start_delayed(session)
    await harness.report(session, second, Retry("y", 60))
    assert await harness.report(session, second, Retry("y", 60)) == "retrying"
    assert await harness.report(session, first, Retry("x", 60)) == "lost"
