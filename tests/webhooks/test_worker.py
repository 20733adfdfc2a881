"""Webhooks with real workers: end to end, at least once, and what they do to jobs, drains and ends."""

import asyncio
import json
import signal
import time
from pathlib import Path

import pytest
from support.executors import GatedExecutor, succeed
from support.receivers import answer, hang, new_secret, resolve_to
from support.wait import wait_until
from support.worker_processes import run_burst_worker
from support.workers import LONG_LEASE

from aragora_q.base import Job, JobStatus
from aragora_q.webhooks import deliverer as module


def toml(**webhooks):
    """The tables of a configuration file."""
    return "".join(
        f"[webhooks.{name}]\n"
        + "".join(
            f"{field} = {json.dumps(value)}\n"
            for field, value in webhook.model_dump(mode="json").items()
            if value is not None
        )
        for name, webhook in webhooks.items()
    )


@pytest.fixture
def configured(tmp_path):
    """Writes the configuration file of worker processes; returns its path."""

    def write(**webhooks):
        path = tmp_path / "aragora-q.toml"
        path.write_text(toml(**webhooks))
        return path

    return write


@pytest.mark.slow
async def test_a_completed_job_reaches_its_receiver(
    new_harness, worker_process, configured, receiver, redis_url, tmp_path
):
    """Worker process, HTTPS, the specification's own verification; also the end of its group, and a failure."""
    target = receiver()
    webhooks = {"ops": target.webhook(tmp_path)}
    config = configured(**webhooks)
    harness = new_harness(webhooks=webhooks)
    worker = worker_process(redis_url, "w1", "--config", str(config))
    fields = {"group": "nightly", "notify": ("ops",)}
    await harness.enqueue_steps("good", **fields)
    await harness.enqueue_steps("bad", ["permanent"], **fields)
    await harness.queue.seal_group("nightly", notify=("ops",))
    await wait_until(lambda: len(target.requests) == 3, what="three messages")
    assert sorted(message["type"] for message in target.verified()) == [
        "group.ended", "job.completed", "job.failed",
    ]  # fmt: skip
    assert len({request.id for request in target.requests}) == 3
    assert worker.stop() == -signal.SIGTERM
    for hidden in (target.secret, "/hook", "whsec"):
        assert hidden not in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.slow
async def test_a_burst_worker_delivers_before_it_exits(
    new_harness, configured, receiver, redis_url, tmp_path
):
    """Cron needs no other worker: what its last job left is delivered, and the exit code is 0."""
    target = receiver()
    webhooks = {"ops": target.webhook(tmp_path)}
    config = configured(**webhooks)
    harness = new_harness(webhooks=webhooks)
    for n in range(3):
        await harness.enqueue_payload(f"j{n}", {"do": []}, notify=("ops",))
    log = await asyncio.to_thread(
        run_burst_worker,
        redis_url, "--config", str(config), "--executor", "support.executors:make",
    )  # fmt: skip
    assert sorted(each["data"]["id"] for each in target.verified()) == ["j0", "j1", "j2"], log
    assert (await harness.queue.outbox.states(["ops"])).states["ops"].waiting == 0


@pytest.mark.slow
async def test_a_worker_that_dies_after_the_answer_sends_again(
    new_harness, worker_process, configured, receiver, redis_url, tmp_path
):
    """Killed between the answer and its record: another worker sends the message again, with the same id."""
    workers = []

    def kill_and_answer(connection):
        if workers and workers[0].is_alive:
            workers[0].kill()
        answer(200)(connection)

    target = receiver(kill_and_answer)
    webhooks = {"ops": target.webhook(tmp_path)}
    config = configured(**webhooks)
    harness = new_harness(webhooks=webhooks)
    workers.append(worker_process(redis_url, "w1", "--config", str(config)))
    await harness.enqueue_steps("j1", notify=("ops",))
    await wait_until(lambda: not workers[0].is_alive, what="the first worker to die")
    assert (await harness.queue.get_job("j1")).status is JobStatus.COMPLETED
    [delivery] = await harness.queue.outbox.deliveries(["ops"], 10)
    harness.redis.zadd(harness.keys.outbox("ops"), {delivery.id: 0}, xx=True)  # the lease ends
    workers.append(worker_process(redis_url, "w2", "--config", str(config)))
    await wait_until(lambda: len(target.requests) == 2, what="the second message")

    async def is_delivered():
        [delivery] = await harness.queue.outbox.deliveries(["ops"], 10)
        return delivery.result == "delivered"

    await wait_until(is_delivered, what="the delivery to be recorded")
    first, second = target.requests
    assert first.id == second.id
    assert first.verified(target.secret) == second.verified(target.secret)


@pytest.mark.slow
async def test_a_reload_applies_webhooks(
    new_harness, worker_process, configured, receiver, redis_url, tmp_path
):
    """SIGHUP: a webhook that was added to the file takes messages without a restart."""
    target = receiver()
    config = configured()
    harness = new_harness(webhooks={"ops": target.webhook(tmp_path)})
    worker = worker_process(redis_url, "w1", "--config", str(config)).wait_until_started()
    await harness.enqueue_steps("j1", notify=("ops",))
    await harness.wait_for_end("j1")
    configured(ops=target.webhook(tmp_path))
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: target.requests, what="the message")
    assert worker.is_alive


@pytest.mark.slow
async def test_a_secret_changes_while_a_worker_runs(
    new_harness, worker_process, configured, receiver, redis_url, tmp_path
):
    """Without a signal: a second line in the file, then without it; either receiver verifies what it gets."""
    target = receiver()
    webhook = target.webhook(tmp_path)
    config = configured(ops=webhook)
    harness = new_harness(webhooks={"ops": webhook})
    worker_process(redis_url, "w1", "--config", str(config))
    old, new = target.secret, new_secret()
    for n, (lines, readers) in enumerate(
        [((old,), (old,)), ((new, old), (new, old)), ((new,), (new,))]
    ):
        Path(webhook.secret_file).write_text("".join(f"{line}\n" for line in lines))
        await harness.enqueue_steps(f"j{n}", notify=("ops",))
        await wait_until(lambda n=n: len(target.requests) == n + 1, what="the message")
        for secret in readers:
            assert target.requests[n].verified(secret)["data"]["id"] == f"j{n}"


async def test_a_hanging_target_delays_neither_jobs_nor_the_end(
    new_harness, worker_pool, receiver, tmp_path
):
    """While it hangs, jobs run, and other targets get their messages; a stop takes 5 s longer."""
    slow, fast = receiver(hang), receiver()
    webhooks = {
        "slow": slow.webhook(tmp_path, timeout_seconds=120),
        "fast": fast.webhook(tmp_path),
    }
    harness = new_harness(webhooks=webhooks, **LONG_LEASE)
    worker = worker_pool.start(harness, succeed, config=harness.config)
    await harness.enqueue("first", notify=("slow",))
    await wait_until(lambda: slow.requests, what="it to hang")
    ids = [f"j{n}" for n in range(200)]
    await harness.queue.enqueue_many(
        [Job({}, id=each, notify=("slow", "fast") if each == "j0" else ()) for each in ids]
    )
    await harness.wait_for_end(*ids)
    await wait_until(lambda: fast.requests, what="the other message")
    assert module.LAST_PASS_SECONDS == 5
    began = time.monotonic()
    await worker.stop()
    assert 4 < time.monotonic() - began < 60, "not as long as the target hangs"
    assert worker.task.done() or await worker.task is None
    state = (await harness.queue.outbox.states(["slow"])).states["slow"]
    assert (state.waiting, state.failures) == (2, 0), "it still hangs"


async def test_a_stop_without_messages_takes_no_time(
    new_harness, worker_pool, receiver, tmp_path, monkeypatch
):
    """The last pass ends when nothing is left."""
    monkeypatch.setattr(module, "LAST_PASS_SECONDS", 600)
    harness = new_harness(webhooks={"ops": receiver().webhook(tmp_path)}, **LONG_LEASE)
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("j1")
    await harness.wait_for_end("j1")
    await asyncio.wait_for(worker.stop(), 60)


async def test_what_a_drain_ends_is_delivered(new_harness, worker_pool, receiver, tmp_path):
    """The job that was running when the worker was stopped: its message is sent before the worker ends."""
    target = receiver()
    harness = new_harness(webhooks={"ops": target.webhook(tmp_path)}, **LONG_LEASE)
    executor = GatedExecutor()
    worker = worker_pool.start(harness, executor)
    await harness.enqueue("j1", notify=("ops",))
    await wait_until(lambda: executor.entered, what="the job to start")
    stop = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.1)
    assert not stop.done()
    executor.gate.set()
    await stop
    assert [each["data"]["id"] for each in target.verified()] == ["j1"]


async def test_an_immediate_stop_does_not_deliver(
    new_harness, worker_pool, receiver, tmp_path, monkeypatch
):
    """A second signal ends the last pass, too; the message stays in the outbox."""
    monkeypatch.setattr(module, "LAST_PASS_SECONDS", 600)
    slow = receiver(hang)
    harness = new_harness(
        webhooks={"slow": slow.webhook(tmp_path, timeout_seconds=120)}, **LONG_LEASE
    )
    worker = worker_pool.start(harness, succeed)
    await harness.enqueue("j1", notify=("slow",))
    await wait_until(lambda: slow.requests, what="it to hang")
    stop = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.5)
    assert not stop.done()
    await asyncio.wait_for(worker.stop(immediately=True), 60)
    await asyncio.wait_for(stop, 30)
    assert (await harness.queue.outbox.states(["slow"])).states["slow"].waiting == 1


async def test_two_workers_send_each_message_once(new_harness, worker_pool, receiver, tmp_path):
    """While nothing fails, at least once is once."""
    target = receiver()
    harness = new_harness(webhooks={"ops": target.webhook(tmp_path)}, **LONG_LEASE)
    for n in range(2):
        worker_pool.start(harness, succeed, f"w{n}")
    ids = [f"j{n}" for n in range(60)]
    await harness.queue.enqueue_many([Job({}, id=each, notify=("ops",)) for each in ids])

    async def is_empty():
        await harness.wait_for_end(*ids)
        return (await harness.queue.outbox.states(["ops"])).states["ops"].waiting == 0

    await wait_until(is_empty, what="all messages to be delivered")
    assert sorted(each["data"]["id"] for each in target.verified()) == sorted(ids)


async def test_a_rebinding_name_never_reaches_a_private_address(
    new_harness, worker_pool, receiver, tmp_path, monkeypatch
):
    """The look-up answers an allowed address, then a private one; each message is checked by itself."""
    monkeypatch.setattr(module, "DELAYS_SECONDS", (0.1,))
    monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.1)
    target, victim = receiver(certificate="named"), receiver(host="127.0.0.2")
    webhook = target.webhook(
        tmp_path, url=f"https://hooks.example:{target.port}/", allow_networks=("127.0.0.1/32",)
    )
    harness = new_harness(webhooks={"ops": webhook}, **LONG_LEASE)
    worker_pool.start(harness, succeed)
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1")
    await harness.enqueue("j1", notify=("ops",))
    await wait_until(lambda: len(target.requests) == 1, what="the first message")
    await harness.enqueue("j2", notify=("ops",))
    await wait_until(lambda: len(target.requests) == 2, what="the second message")
    assert victim.connections == 0
    deliveries = await harness.queue.outbox.deliveries(["ops"], 10)
    assert [each.attempts for each in deliveries] == [3, 1]
