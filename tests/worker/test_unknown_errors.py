"""Errors of Redis that aragora-q does not know are logged and waited out: no worker ends for them."""

import asyncio
from contextlib import suppress

import pytest
from support.executors import succeed
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.errors import AccessDenied, CommandRefused, TryAgain
from aragora_q.maintenance import MaintenanceLoop
from aragora_q.redis.errors import translate


def _refusing(connection, monkeypatch, script, message="ERR something unheard of"):
    """Make a script fail with the server's error `message` until the returned event is set."""
    from redis import exceptions

    run, is_over = connection.run, asyncio.Event()

    async def refuse(name, *args, **kwargs):
        if name == script and not is_over.is_set():
            raise translate(exceptions.ResponseError(message), connection.address)
        return await run(name, *args, **kwargs)

    monkeypatch.setattr(connection, "run", refuse)
    return is_over


def _is_logged(caplog):
    return any("unheard of" in str(getattr(record, "error", "")) for record in caplog.records)


@pytest.mark.parametrize("script", ["register", "start"])
async def test_a_worker_waits_for_the_end_of_an_unknown_error(
    new_harness, worker_pool, monkeypatch, caplog, script
):
    """Whatever Redis says to a registration or a fetch: the worker logs it, and tries again."""
    harness = new_harness(claim_idle_ms=2_000)
    worker = worker_pool.start(harness, succeed)
    is_over = _refusing(worker._session._connection, monkeypatch, script)
    await harness.enqueue("a")
    await wait_until(lambda: _is_logged(caplog), what="the error in the log")
    assert "something unheard of" in worker.get_stats()["redis_error"]
    is_over.set()
    await harness.wait_for_status("a", JobStatus.COMPLETED)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["claim_maintenance", "promote", "reclaim", "unregister"])
async def test_maintenance_goes_on_after_an_unknown_error(
    new_harness, worker_pool, monkeypatch, caplog, script
):
    """A pass that fails is logged and repeated; the worker and the other passes go on meanwhile."""
    harness = new_harness(claim_idle_ms=2_000)
    worker = worker_pool.start(harness, succeed)
    is_over = _refusing(worker._session._connection, monkeypatch, script)
    await harness.enqueue("a")
    await harness.wait_for_status("a", JobStatus.COMPLETED)
    await wait_until(lambda: _is_logged(caplog), what="the error in the log")
    await harness.enqueue("later", delay_seconds=0.1)
    if script in ("claim_maintenance", "promote"):
        is_over.set()
    await harness.wait_for_status("later", JobStatus.COMPLETED)
    is_over.set()


async def test_one_failing_pass_does_not_stop_the_others(harness, monkeypatch):
    """While promote is refused, jobs of dead workers are reclaimed all the same."""
    session = await harness.worker("w1")
    await harness.enqueue("a")
    await harness.start_one(session)
    harness.backdate("a")
    _refusing(harness.queue.connection, monkeypatch, "promote")
    loop = MaintenanceLoop(harness.queue, "w2", lease_seconds=2)
    running = asyncio.create_task(loop.run())
    await harness.wait_for_status("a", JobStatus.RETRYING)
    running.cancel()


def test_a_script_that_was_killed_may_be_run_again():
    """SCRIPT KILL ends only scripts that have written nothing: the call is repeated."""
    from redis import exceptions

    killed = "Error running script: Script killed by user with SCRIPT KILL."
    assert isinstance(translate(exceptions.ResponseError(killed), "redis://"), TryAgain)


def test_protected_mode_denies_access():
    """The message says so, and a running worker waits for it to end."""
    from redis import exceptions

    text = "DENIED Redis is running in protected mode because protected mode is enabled"
    error = translate(exceptions.ResponseError(text), "redis://")
    assert isinstance(error, AccessDenied)
    assert "protected mode" in f"{error} {error.hint}"


def test_other_errors_are_told_apart():
    """An error that no table knows has a type of its own, which names it."""
    from redis import exceptions

    error = translate(exceptions.ResponseError("ERR something unheard of"), "redis://host")
    assert isinstance(error, CommandRefused)
    assert "something unheard of" in str(error)


async def test_a_killed_script_does_not_end_a_worker(own_server, new_harness, worker_pool, caplog):
    """A real SCRIPT KILL of a script under way: the call is repeated, the job completes."""
    from redis import exceptions

    server = own_server("--busy-reply-threshold", "50")
    harness = new_harness(redis_url=server.url)

    async def killed():
        loop = asyncio.to_thread(harness.redis.eval, "while true do end", 0)
        task = asyncio.create_task(loop)

        def is_killed():
            with suppress(exceptions.ResponseError):  # it does not run yet
                return client.script_kill()

        with server.client() as client:
            await wait_until(is_killed, what="the script to be killed")
        with pytest.raises(exceptions.ResponseError) as error:
            await task
        return error.value

    assert isinstance(translate(await killed(), server.url), TryAgain)
    worker_pool.start(harness, succeed)
    await killed()
    await harness.enqueue("a")
    await harness.wait_for_status("a", JobStatus.COMPLETED)
