"""One attempt of one job: its outcome depends on its cause, whatever the executor does."""

import asyncio
import errno
import gc
import math
import weakref
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory_session import MemorySession, make_attempt

from aragora_q.base import Job
from aragora_q.context import current_attempt
from aragora_q.contracts import MAX_PUT_OFF_SECONDS, Completed, Failed, Held, Released, Retry
from aragora_q.errors import (
    GateClosed,
    HoldJob,
    InvalidPayload,
    LeaseLost,
    PermanentError,
    RetryLater,
    WorkerUnable,
)


def returning(result):
    async def executor(job):
        return result

    return executor


def raising(error):
    async def executor(job):
        raise error

    return executor


async def test_result_is_reported_as_json():
    """What the executor returns is the result, encoded once."""
    assert await make_attempt(returning({"a": [1, "é"]})).run() == Completed(
        '{"a":[1,"é"]}'.encode()
    )


async def test_any_mapping_is_a_result():
    """The contract says mapping, not dict."""
    assert await make_attempt(returning(MappingProxyType({"a": 1}))).run() == Completed(b'{"a":1}')


async def test_executor_gets_the_decoded_payload():
    """The payload is decoded in the attempt, so that a malformed one fails its job only."""
    seen = []

    async def executor(job):
        seen.append(job.payload)
        return {}

    await make_attempt(executor, payload=b'{"question": "why?"}').run()
    assert seen == [{"question": "why?"}]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", "PermanentError: payload is not JSON: "),
        (b"\xff\xfe", "PermanentError: payload is not JSON: "),
        (b'{"a": NaN}', "PermanentError: payload is not JSON: "),
        (b"[1]", "PermanentError: payload is a JSON list, not an object"),
        (b"null", "PermanentError: payload is a JSON NoneType, not an object"),
    ],
)
async def test_malformed_payload_fails_permanently(payload, error):
    """No retry can repair invalid bytes; the executor is not called."""
    outcome = await make_attempt(raising(AssertionError), payload=payload).run()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith(error)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RuntimeError("boom"), Retry("RuntimeError: boom", 1.0)),
        (ConnectionError("refused"), Retry("ConnectionError: refused", 1.0)),
        (TimeoutError("slow"), Retry("TimeoutError: slow", 1.0)),
        (ValueError("bad"), Failed("ValueError: bad")),
        (KeyError("bad"), Failed("KeyError: 'bad'")),
        (InvalidPayload("bad"), Failed("InvalidPayload: bad")),
        (PermanentError("never"), Failed("PermanentError: never")),
        (SystemExit(3), Retry("SystemExit: 3", 1.0)),
        (GeneratorExit(), Retry("GeneratorExit", 1.0)),
        (asyncio.CancelledError(), Retry("the executor cancelled its own task", 1.0)),
        (BaseException("odd"), Retry("BaseException: odd", 1.0)),
        (LeaseLost("gone"), None),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_error_decides(error, outcome):
    """Every exception, also BaseException, ends as retry, failure, or no outcome."""
    assert await make_attempt(raising(error)).run() == outcome


async def test_keyboard_interrupt_is_the_jobs():
    """A worker receives Ctrl-C as a signal of its loop: an executor that raises it is at fault."""
    outcome = await make_attempt(raising(KeyboardInterrupt())).run()
    assert outcome == Retry("KeyboardInterrupt", 1.0)


async def test_second_ctrl_c_releases_the_job():
    """While the worker's task is cancelled, as `asyncio.run` does at Ctrl-C, the job is not charged."""
    attempt = make_attempt(raising(KeyboardInterrupt()))
    attempt._is_ending = lambda: True
    assert await attempt.run() == Released()


class _Mute(Exception):
    def __str__(self):
        raise SystemExit(1)


class _NoDelay(RetryLater):
    def __init__(self):
        pass


def nested_groups(error, depth):
    """An exception in `depth` groups, one in the other."""
    for _ in range(depth):
        error = BaseExceptionGroup("", [error])
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (_Mute(), "_Mute: (message cannot be read)"),
        (nested_groups(RuntimeError("x"), 5000), "RuntimeError: x"),
        (RecursionError("deep"), "RecursionError: deep"),
        (MemoryError(), "MemoryError"),
    ],
    ids=["mute", "nested", "recursion", "memory"],
)
async def test_errors_that_are_hard_to_describe_are_the_jobs(error, text):
    """An error that resists being read is an outcome like any other: charged, with a text."""
    assert await make_attempt(raising(error)).run() == Retry(text, 1.0)


async def test_retry_later_without_a_delay():
    """A subclass that forgets to set the delay gets the backoff."""
    outcome = await make_attempt(raising(_NoDelay())).run()
    assert (outcome.delay_seconds, outcome.charged) == (1.0, False)


def _wrapped(error):
    outer = RuntimeError("library")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        BlockingIOError(errno.EAGAIN, "fork"),
        _wrapped(OSError(errno.ENOSPC, "No space left on device")),
        ExceptionGroup("", [ValueError("x"), OSError(errno.ENOMEM, "memory")]),
        RuntimeError("can't start new thread"),
    ],
    ids=["files", "processes", "disk behind a library", "memory in a group", "threads"],
)
async def test_limits_of_the_machine_are_not_charged(error):
    """A limit that an executor met is the worker's trouble: the job waits, uncharged and bounded."""
    attempt = make_attempt(raising(error))
    outcome = await attempt.run()
    assert isinstance(outcome, Retry)
    assert not outcome.charged
    assert attempt.trouble


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (PermanentError("no"), Failed("PermanentError: no")),
        (
            RetryLater("later", delay_seconds=9),
            Retry("RetryLater: later", 9, charged=False),
        ),
    ],
    ids=["permanent", "later"],
)
async def test_an_executors_verdict_on_a_limit_counts(verdict, outcome):
    """An executor that met a limit and decides itself is taken at its word."""
    verdict.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    attempt = make_attempt(raising(verdict))
    assert await attempt.run() == outcome
    assert attempt.trouble is None


class _Failure(PermanentError):
    """Forgets to initialize its base class."""

    def __init__(self, message):
        Exception.__init__(self, message)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            PermanentError("no vote", partial_result=MappingProxyType({"answers": ["a"]})),
            Failed("PermanentError: no vote", b'{"answers":["a"]}'),
        ),
        (PermanentError("no", partial_result={}), Failed("PermanentError: no", b"{}")),
        (_Failure("no"), Failed("_Failure: no")),
        (
            ExceptionGroup("", [ValueError("a"), PermanentError("b", partial_result={"n": 1})]),
            Failed("ValueError: a; PermanentError: b", b'{"n":1}'),
        ),
        (
            ExceptionGroup("", [OSError("a"), PermanentError("b", partial_result={"n": 1})]),
            Retry("OSError: a; PermanentError: b", 1.0),
        ),
    ],
    ids=["result", "empty result", "none", "group", "group that is retried"],
)
async def test_a_failure_may_carry_a_partial_result(error, outcome):
    """What a permanent error brings is encoded once; a job that is retried has no result."""
    assert await make_attempt(raising(error)).run() == outcome


class _Hostile(Mapping):
    def __getitem__(self, name):
        raise OSError("no such field")

    def __iter__(self):
        return iter("a")

    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("partial", "reason"),
    [
        ({"a": math.nan}, "result is not JSON: "),
        ({"a": object()}, "result is not JSON: "),
        (["a"], "result is a list, not a JSON object"),
        ({"a": "x" * 93}, "result has 101 bytes, max_result_bytes is 100"),
        (_Hostile(), "OSError: no such field"),
    ],
    ids=["nan", "object", "list", "oversize", "hostile"],
)
async def test_a_partial_result_that_cannot_be_kept_is_left_out(partial, reason):
    """The job fails as it would without it; its error begins with why, so that cutting it keeps that."""
    error = PermanentError("no vote", partial_result=partial)
    outcome = await make_attempt(raising(error), max_result_bytes=100).run()
    assert isinstance(outcome, Failed)
    assert outcome.result is None
    assert outcome.error.startswith(f"partial result left out ({reason}")
    assert outcome.error.endswith("; PermanentError: no vote")


class _Unreadable(OSError):
    @property
    def errno(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [OSError(["x"], "y"), _Unreadable()], ids=["type", "property"])
async def test_an_error_that_cannot_be_inspected_is_an_ordinary_one(error):
    """An executor may raise anything; its job has an outcome."""
    outcome = await make_attempt(raising(error)).run()
    assert (outcome.error, outcome.charged) == (type(error).__name__, True)


async def test_an_executor_that_cannot_run_hands_back():
    """WorkerUnable releases the job for any worker, and the reason is the worker's."""
    attempt = make_attempt(raising(WorkerUnable("no GPU")))
    assert await attempt.run() == Released()
    assert attempt.trouble == "no GPU"


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (10, 300.0)])
async def test_backoff_counts_from_the_first_failure(attempts, seconds):
    """The delay after the first charged start has exponent 0."""
    outcome = await make_attempt(raising(RuntimeError("x")), attempts=attempts).run()
    assert outcome.delay_seconds == seconds


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (40.5, 40.5),
        (0.5, 1.0),
        (0, 1.0),
        (-5, 1.0),
        (math.nan, 1.0),
        (math.inf, 6 * 3600.0),
        (10**400, 6 * 3600.0),
        ("soon", 1.0),
        (None, 1.0),
    ],
)
async def test_retry_later_is_uncharged_and_bounded(asked, seconds):
    """The provider's delay is used between the normal backoff and six hours; invalid values are ignored."""
    outcome = await make_attempt(raising(RetryLater("busy", delay_seconds=asked))).run()
    assert outcome == Retry("RetryLater: busy", seconds, charged=False)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (HoldJob("ask first"), Held("executor", "ask first")),
        (
            HoldJob("full", cause="budget", by="day/all", until_seconds=60, usd=0.25),
            Held("budget", "full", "day/all", 60, 0.25),
        ),
        (HoldJob("x", cause="person"), Held("executor", "x")),
        (HoldJob("x", cause=[], by=7), Held("executor", "x")),
        (HoldJob("", until_seconds=math.nan, usd=-1), Held("executor", "HoldJob", "", 0.0, 0.0)),
        (
            HoldJob("x", until_seconds=math.inf, usd=10**400),
            Held("executor", "x", "", 366 * 86400.0, 1e8),
        ),
    ],
)
async def test_an_executor_holds_its_job(error, outcome):
    """Whatever else was raised with it; what the error says is bounded, and an executor is not a person."""
    assert await make_attempt(raising(error)).run() == outcome
    others = [RetryLater("busy", delay_seconds=9), error, ValueError("x")]
    assert await make_attempt(raising(ExceptionGroup("all", others))).run() == outcome


async def test_a_closed_gate_is_not_a_deferral():
    """A job that only gates put off is retried without bounds; with another reason, the bounds count."""
    shut = GateClosed("shut", delay_seconds=9)
    outcome = await make_attempt(raising(shut)).run()
    assert outcome == Retry("GateClosed: shut", 9, charged=False, is_gated=True)
    long = GateClosed("shut", delay_seconds=7 * 3600)  # an operator may open it before
    assert (await make_attempt(raising(long)).run()).delay_seconds == MAX_PUT_OFF_SECONDS
    both = ExceptionGroup("all", [shut, RetryLater("busy", delay_seconds=5)])
    outcome = await make_attempt(raising(both)).run()
    assert (outcome.delay_seconds, outcome.charged, outcome.is_gated) == (9, False, False)


async def test_retry_later_waits_as_asked_or_up_to_a_fifth_longer():
    """Jobs that a provider sends back for the same time do not return together, and none returns early."""
    error = RetryLater("busy", delay_seconds=40)
    outcomes = [await make_attempt(raising(error), jitter=True).run() for _ in range(100)]
    delays = [outcome.delay_seconds for outcome in outcomes]
    assert 40 <= min(delays) < 44 < max(delays) <= 48
    assert len(set(delays)) > 90


@pytest.mark.parametrize("result", [None, [], "text", 7, b"bytes"])
async def test_result_must_be_an_object(result):
    """The error of an executor that returns something else shows what it returned."""
    outcome = await make_attempt(returning(result)).run()
    kind = type(result).__name__
    assert outcome == Failed(f"PermanentError: result is a {kind}, not a JSON object")


@pytest.mark.parametrize(
    "result", [{"a": math.nan}, {"a": object()}, {"a": "\ud800"}, {"n": "NaN", "a": object()}]
)
async def test_result_must_be_json(result):
    """A value that JSON cannot express fails the job with the reason, not the worker."""
    outcome = await make_attempt(returning(result)).run()
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("PermanentError: result is not JSON: ")


async def test_result_is_bounded():
    """One byte over the limit fails with both numbers; the limit itself is fine."""
    fits, over = {"a": "x" * 92}, {"a": "x" * 93}
    assert await make_attempt(returning(fits), max_result_bytes=100).run() == Completed(
        b'{"a":"' + b"x" * 92 + b'"}'
    )
    assert await make_attempt(returning(over), max_result_bytes=100).run() == Failed(
        "PermanentError: result has 101 bytes, max_result_bytes is 100"
    )


async def forever(job):
    await asyncio.Event().wait()


async def test_timeout_of_the_job_is_a_charged_retry():
    """timeout_seconds limits one attempt, and the error says so."""
    outcome = await make_attempt(forever, payload=b'{"timeout_seconds": 0.01}').run()
    assert outcome == Retry("TimeoutError: no result within timeout_seconds (0.01)", 1.0)


@pytest.mark.parametrize("limit", [100, 1000])
@pytest.mark.parametrize("ends", [True, False], ids=["result", "failure"])
async def test_an_executor_that_stops_in_time_reports(clock, limit, ends):
    """One that uses all but the last 5 % of its time has its outcome: the worker's limit comes later."""

    async def executor(job):
        used = 0.95 * job.payload["timeout_seconds"]
        with suppress(TimeoutError):
            async with asyncio.timeout(used):
                clock.ahead_seconds = used
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        if ends:
            return {"ended_by": "timeout"}
        raise PermanentError("no vote", partial_result={"ended_by": "timeout"})

    outcome = await make_attempt(executor, payload=b'{"timeout_seconds": %d}' % limit).run()
    result = b'{"ended_by":"timeout"}'
    assert outcome == (Completed(result) if ends else Failed("PermanentError: no vote", result))


async def test_timeout_of_the_executor_is_distinguished():
    """A timeout that the executor raised keeps its message."""
    outcome = await make_attempt(
        raising(TimeoutError("provider slow")), payload=b'{"timeout_seconds": 100}'
    ).run()
    assert outcome == Retry("TimeoutError: provider slow", 1.0)


@pytest.mark.parametrize("value", ["0", "-1", '"10"', "[]", "true", "1e300", "1" + "0" * 400])
async def test_invalid_timeout_fails_the_job(value):
    """An invalid number of seconds is an error in the job's data."""
    payload = b'{"timeout_seconds": %s}' % value.encode()
    outcome = await make_attempt(returning({}), payload=payload).run()
    assert isinstance(outcome, Failed)
    assert "timeout_seconds is " in outcome.error


async def stopped(attempt, *reasons):
    """Run an attempt, and cancel it while its executor waits, once for each reason."""
    task = asyncio.create_task(attempt.run())
    await asyncio.sleep(0)
    for reason in reasons:
        attempt.cancel(reason)
    return await task


async def test_released_attempt_is_uncharged():
    """The worker stops: the job is released."""
    assert await stopped(make_attempt(forever), "released") == Released()


@pytest.mark.parametrize("reason", ["cancelled", "lost"])
async def test_abandoned_attempt_reports_nothing(reason):
    """The job is cancelled or its lease is lost: its outcome is not reported."""
    attempt = make_attempt(forever)
    assert await stopped(attempt, reason) is None
    assert attempt.is_abandoned


@pytest.mark.parametrize("reasons", [("released", "lost"), ("lost", "released")])
async def test_lost_outranks_released(reasons):
    """A lost job is not released, even if the worker stops."""
    assert await stopped(make_attempt(forever), *reasons) is None


async def test_executor_is_cancelled_once():
    """An executor gets one CancelledError, so that a second reason does not interrupt its cleanup."""
    cleaning, finish, cleaned = asyncio.Event(), asyncio.Event(), []

    async def cleans_up(job):
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await finish.wait()
            cleaned.append(job.id)

    attempt = make_attempt(cleans_up)
    stopping = asyncio.create_task(stopped(attempt, "released"))
    await cleaning.wait()
    for reason in ("released", "lost"):
        attempt.cancel(reason)
        await asyncio.sleep(0)
    finish.set()
    assert await stopping is None
    assert cleaned == [attempt.job.id]


async def test_result_of_an_abandoned_attempt_is_dropped():
    """An executor that swallows its cancellation returns a result of a job that it no longer owns."""

    async def swallows(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"done": True}

    assert await stopped(make_attempt(swallows), "lost") is None


@pytest.mark.parametrize("error", [RuntimeError("broken cleanup"), ValueError("x"), SystemExit(1)])
async def test_errors_during_a_release_are_not_charged(error):
    """An executor that raises another error when it is cancelled is released."""

    async def fails_to_stop(job):
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    assert await stopped(make_attempt(fails_to_stop), "released") == Released()
    assert await stopped(make_attempt(fails_to_stop), "lost") is None


async def test_result_in_the_last_moment_counts():
    """An executor that finishes while the worker stops has completed."""

    async def finishes(job):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"done": True}

    assert await stopped(make_attempt(finishes), "released") == Completed(b'{"done":true}')


@pytest.mark.parametrize(
    ("reason", "outcome"), [("released", Released()), ("cancelled", None), ("lost", None)]
)
async def test_attempt_cancelled_before_its_first_step(reason, outcome):
    """A worker that stops between start and first step: the executor is not called."""
    attempt = make_attempt(raising(AssertionError))
    attempt.cancel(reason)
    assert await attempt.run() == outcome


async def test_executor_reaches_its_attempt():
    """`current_attempt()` inside an executor is the attempt: progress and checkpoints go to its job."""
    session = MemorySession({"old": {"n": 1}})

    async def executor(job):
        attempt = current_attempt()
        await attempt.report_progress({"round": 1})
        await attempt.checkpoint("new", {"n": 2})
        return await attempt.checkpoints()

    outcome = await make_attempt(executor, session=session).run()
    assert outcome == Completed(b'{"old":{"n":1},"new":{"n":2}}')
    assert session.progress == [{"round": 1}]


async def test_attempts_do_not_see_each_other():
    """Two concurrent jobs have separate attempts."""

    async def executor(job):
        await asyncio.sleep(0)
        return {"is_last": current_attempt().is_last_attempt}

    first = make_attempt(executor, attempts=1, max_attempts=3)
    last = make_attempt(executor, attempts=3, max_attempts=3)
    tasks = [asyncio.create_task(attempt.run()) for attempt in (first, last)]
    assert await asyncio.gather(*tasks) == [
        Completed(b'{"is_last":false}'),
        Completed(b'{"is_last":true}'),
    ]


async def test_outside_a_worker_an_attempt_is_kept_in_memory():
    """An executor can be called directly: progress goes nowhere, checkpoints can be read back."""
    attempt = current_attempt()
    await attempt.report_progress({"n": 1})
    await attempt.checkpoint("a", {"n": 1})
    assert await attempt.checkpoints() == {"a": {"n": 1}}
    assert not attempt.is_last_attempt


@given(st.binary(max_size=40))
def test_no_payload_breaks_an_attempt(payload):
    """Any bytes from Redis: the attempt ends in an outcome."""
    outcome = asyncio.run(make_attempt(returning({}), payload=payload).run())
    assert isinstance(outcome, Completed | Failed)


async def test_an_ended_attempt_keeps_no_memory():
    """Its payload and result are freed at once: a worker looks for garbage rarely, and these may be large."""
    gc.disable()
    try:
        attempt = make_attempt(returning({}))
        await asyncio.create_task(attempt.run())
        kept = weakref.ref(attempt)
        del attempt
        await asyncio.sleep(0)  # asyncio lets go of the task
        assert kept() is None
    finally:
        gc.enable()


async def test_paid_calls_have_the_time_of_the_server():
    """However late in the attempt the first one is made, and whatever the clock of this host says."""
    session = MemorySession()

    async def executor(job):
        await asyncio.sleep(0.05)
        async with current_attempt().call("acme", key="draft", max_cost_usd=0.1) as call:
            call.spent(cost_usd=0.1)
        return {}

    job = Job({}, raw_payload=b"{}", started_at=1_000.0)
    await asyncio.create_task(make_attempt(executor, session=session, job=job).run())
    [entry] = session.kept["spent/ledger"]["calls"]
    assert 1_000.04 < entry["at"] < 1_010
