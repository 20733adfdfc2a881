"""The outbox is delivered: what arrives, what is tried again and when, what one target does to another."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from support.receivers import answer, hang, resolve_to
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.webhooks import deliverer as module
from aragora_q.webhooks.deliverer import Deliverer

CONTENT = "the content of the job"


def impatient(monkeypatch):
    """Try again after 0.1 s instead of 5 s and more."""
    monkeypatch.setattr(module, "DELAYS_SECONDS", (0.1,))
    monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.05)


class Bench:
    """A queue with webhooks that lead to receivers, and the deliverer of one worker."""

    def __init__(self, new_harness, tmp_path, workers=1, **receivers):
        self.receivers = receivers
        self.webhooks = {name: receiver.webhook(tmp_path) for name, receiver in receivers.items()}
        self._new_harness = new_harness
        self._workers = workers
        self.metrics = WorkerMetrics("debates")
        self._task = self._session = None

    def configure(self, name, **fields):
        self.webhooks[name] = self.webhooks[name].model_copy(update=fields)
        return self

    async def start(self):
        self.harness = self._new_harness(webhooks=self.webhooks)
        self.queue, self.outbox = self.harness.queue, self.harness.queue.outbox
        self.deliverer = Deliverer(
            self.queue, self.harness.config, self.metrics, lambda: self._workers
        )
        self._task = asyncio.create_task(self.deliverer.run())
        return self

    async def stop(self):
        if self._task is not None:
            await self.stop_task()
            await self.deliverer.close()

    async def stop_task(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        assert self._task.cancelled(), self._task

    async def end(self, *ids, notify=("ops",), outcome=None, **fields):
        """Enqueue jobs, run them, and end them."""
        if self._session is None:
            self._session = await self.harness.worker()
        await self.queue.enqueue_many(
            [Job({"question": CONTENT}, id=each, notify=notify, **fields) for each in ids]
        )
        for job in (await self._session.start(100)).jobs:
            await self.harness.report(self._session, job, outcome or Completed(b'{"x":"CONTENT"}'))

    async def state(self, name="ops"):
        return (await self.outbox.states([name])).states[name]

    async def deliveries(self, name="ops"):
        return await self.outbox.deliveries([name], 100)

    async def wait_for(self, count, name="ops"):
        receiver = self.receivers[name]
        await wait_until(lambda: len(receiver.requests) >= count, what=f"{count} requests")
        return receiver.verified()

    async def wait_until_settled(self, name="ops", timeout=30):
        async def is_settled():
            found = await self.deliveries(name)
            return found and all(each.result != "waiting" for each in found)

        await wait_until(is_settled, timeout, "all messages to be delivered or given up")
        return await self.deliveries(name)


@pytest.fixture
async def bench(new_harness, tmp_path):
    made = []

    def make(*args, **receivers):
        made.append(Bench(new_harness, tmp_path, *args, **receivers))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def test_the_end_of_a_job_is_reported(bench, receiver):
    """Status, labels, times, no content; the message has the id of the delivery and the time of the end."""
    bench = await bench(ops=receiver()).start()
    await bench.end("j1", group="nightly", tenant="acme", tags={"env": "prod"})
    [message] = await bench.wait_for(1)
    job = await bench.queue.get_job("j1")
    data = message["data"]
    assert message["type"] == "job.completed"
    assert message["timestamp"] == data["ended_at"]
    assert data["ended_at"].endswith("Z")
    assert (data["queue"], data["id"], data["status"]) == ("debates", "j1", "completed")
    assert (data["group"], data["tenant"], data["tags"]) == ("nightly", "acme", {"env": "prod"})
    assert (data["attempts"], data["error"], data["cost_usd"]) == (1, None, None)
    assert data["created_at"] <= data["started_at"] <= data["ended_at"]
    assert not {"payload", "result", "decision"} & set(data)
    assert CONTENT not in str(message)
    [delivery] = await bench.wait_until_settled()
    assert (delivery.result, delivery.answer, delivery.attempts) == ("delivered", "answered 200", 1)
    assert delivery.id == bench.receivers["ops"].requests[0].id
    assert job.completed_at == delivery.at


async def test_the_decision_of_a_debate_is_reported(bench, receiver):
    """What was decided, how sure, and what it cost."""
    bench = await bench(ops=receiver()).start()
    result = (
        b'{"consensus_reached":true,"confidence":0.75,"verdict":"yes","decided_by":"votes",'
        b'"degraded":false,"cost_usd":0.42,"transcript":[1]}'
    )
    await bench.end("j1", outcome=Completed(result))
    [message] = await bench.wait_for(1)
    assert message["data"]["cost_usd"] == 0.42
    assert message["data"]["decision"] == {
        "consensus_reached": True, "confidence": 0.75, "verdict": "yes", "decided_by": "votes",
        "ended_by": None, "degraded": False,
    }  # fmt: skip


async def test_the_content_is_sent_if_that_is_set(bench, receiver):
    """include_result; what is longer than 1 MiB is null."""
    bench = await bench(ops=receiver()).configure("ops", include_result=True).start()
    await bench.end("small")
    [message] = await bench.wait_for(1)
    assert message["data"]["payload"] == {"question": CONTENT}
    assert message["data"]["result"] == {"x": "CONTENT"}
    await bench.end("large", outcome=Completed(b'{"x":"%s"}' % (b"y" * 1_100_000)))
    large = (await bench.wait_for(2))[1]["data"]
    assert (large["id"], large["payload"], large["result"]) == ("large", None, None)
    assert large["attempts"] == 1


async def test_failures_and_cancels_are_reported(bench, receiver):
    """With the error of a failed job, shortened."""
    bench = await bench(ops=receiver()).start()
    await bench.end("bad", outcome=Failed("broken " * 1000, b'{"cost_usd":0.1}'))
    await bench.queue.enqueue(Job({}, id="unwanted", notify=("ops",)))
    await bench.queue.cancel("unwanted", by="ann@desk", reason="typo")
    messages = {each["data"]["id"]: each for each in await bench.wait_for(2)}
    assert messages["bad"]["type"] == "job.failed"
    assert messages["bad"]["data"]["error"].startswith("broken broken")
    assert len(messages["bad"]["data"]["error"]) <= 1000
    assert messages["bad"]["data"]["cost_usd"] == 0.1
    assert messages["unwanted"]["type"] == "job.cancelled"
    assert messages["unwanted"]["data"]["error"] is None


async def test_events_that_are_not_wanted_are_not_sent(bench, receiver):
    """`events` of the webhook; the message leaves the outbox without a trace."""
    bench = await bench(ops=receiver()).configure("ops", events=("failed",)).start()
    await bench.end("good")
    await bench.end("bad", outcome=Failed("no"))
    [message] = await bench.wait_for(1)
    assert message["data"]["id"] == "bad"
    [delivery] = await bench.wait_until_settled()
    assert delivery.subject == "bad"
    assert (await bench.state()).waiting == 0


async def test_the_end_of_a_group_is_reported(bench, receiver):
    """Once, with its counts, also to a webhook that wants few events of jobs."""
    bench = await bench(ops=receiver()).configure("ops", events=("failed",)).start()
    await bench.end("j1", "j2", group="nightly", notify=())
    await bench.queue.seal_group("nightly", notify=("ops",))
    [message] = await bench.wait_for(1)
    assert message["type"] == "group.ended"
    assert message["data"]["name"] == "nightly"
    assert message["data"]["counts"]["completed"] == 2
    assert message["timestamp"] == message["data"]["ended_at"] >= message["data"]["created_at"]


async def test_a_job_that_has_moved_on(bench, receiver):
    """Purged or requeued before its message was sent: it has what is known of that end, and no more."""
    down = receiver()
    bench = bench(ops=down).configure("ops", url="https://127.0.0.1:1/")
    await bench.start()
    await bench.end("purged", "requeued", outcome=Failed("no"))
    await wait_until(lambda: _has_failed(bench), what="the first attempt")
    assert await bench.queue.requeue(["requeued"]) == ["requeued"]
    assert await bench.queue.purge_many(["purged"]) == ["purged"]
    bench.deliverer.reconfigure(
        bench.harness.config.model_copy(
            update={"webhooks": {"ops": bench.webhooks["ops"].model_copy(update={"url": down.url})}}
        )
    )
    await bench.outbox.redeliver([each.id for each in await bench.deliveries()])
    messages = await bench.wait_for(2)
    assert {each["data"]["id"] for each in messages} == {"purged", "requeued"}
    for message in messages:
        assert message["type"] == "job.failed"
        assert set(message["data"]) == {"queue", "id", "status", "ended_at"}


async def _has_failed(bench, times=1):
    return (await bench.state()).failures >= times


async def test_a_target_that_is_down_gets_the_message_later(bench, receiver, monkeypatch):
    """With the same id, and the count of attempts; the state shows why it failed, until it does not."""
    impatient(monkeypatch)
    target = receiver(answer(500, body=b"out of order"))
    bench = await bench(ops=target).start()
    await bench.end("j1")
    await bench.wait_for(2)
    state = await bench.state()
    assert state.failures > 0
    assert state.last_error == "answered 500: out of order"
    assert state.waiting == 1
    target.behave = answer(200)
    [delivery] = await bench.wait_until_settled()
    assert delivery.result == "delivered"
    assert delivery.attempts == len(target.requests) >= 2
    assert {request.id for request in target.requests} == {delivery.id}
    assert (await bench.state()).failures == 0


async def test_a_target_that_is_down_is_not_asked_for_each_message(bench, receiver):
    """However many wait: 2, 4, 8 seconds between attempts, of all workers together. A redelivery is at once."""
    target = receiver(answer(500))
    bench = await bench(ops=target).start()
    await bench.outbox.disable("ops")
    await bench.end(*(f"j{n}" for n in range(80)))
    await bench.outbox.enable("ops")
    await bench.wait_for(2)
    first, second, *_ = target.requests
    assert second.at - first.at > 1.9
    await wait_until(lambda: _has_failed(bench, 2), what="the second attempt to be recorded")
    assert len(target.requests) <= 3
    target.behave = answer(200)
    later = int(bench.harness.redis.time()[0] + 3_600) * 1000
    bench.harness.redis.hset(bench.harness.keys.webhooks, "probe_until:ops", later)
    waiting = [each.id for each in await bench.deliveries()]
    await bench.outbox.redeliver(waiting, by="ann@desk")
    assert len(await bench.wait_until_settled()) == 80


@pytest.mark.parametrize("attempts", range(1, 13))
def test_delays(attempts):
    """From seconds to 8 hours, within a fifth; ten attempts take about a day. Retry-After is a lower bound."""
    from aragora_q.contracts import Delivery
    from aragora_q.webhooks.sending import Sent

    delivery = Delivery("1-1", "ops", "job", "j1", "failed", 1.0, attempts, None)
    expected = [5, 30, 120, 600, 1800, 3600, 7200, 14_400, *[28_800] * 9][attempts - 1]
    delays = {
        module._settled(delivery, Sent("failed", "x"), 1).delay_seconds / expected
        for _ in range(50)
    }
    assert 0.8 <= min(delays) < max(delays) <= 1.2
    asked = Sent("failed", "x", 503, retry_after_seconds=20_000)
    settled = module._settled(delivery, asked, 1)
    assert settled.delay_seconds >= settled.pause_seconds == 20_000
    assert module._settled(delivery, Sent("failed", "x"), 5000).pause_seconds == 256


async def test_retry_after_is_respected(bench, receiver, monkeypatch):
    """The message is not due before the time that the target asks for."""
    impatient(monkeypatch)
    bench = await bench(ops=receiver(answer(503, headers="Retry-After: 3000\r\n"))).start()
    await bench.end("j1")
    await wait_until(lambda: _has_failed(bench), what="the first attempt")
    [delivery] = await bench.deliveries()
    assert delivery.due_at - time.time() > 2900


async def test_a_target_that_is_gone_is_disabled(bench, receiver, caplog):
    """410: nothing more is sent until an operator enables it; no message is lost."""
    target = receiver(answer(410))
    bench = await bench(ops=target).start()
    await bench.end("j1", "j2")
    await wait_until(lambda: _is_disabled(bench), what="the webhook to be disabled")
    assert (await bench.state()).disabled.by == "the target"
    [line] = [each for each in caplog.records if "webhook disabled" in each.getMessage()]
    assert (line.levelname, line.remedy) == ("ERROR", "aragora-q webhook enable ops")
    sent = len(target.requests)
    await bench.end("j3")
    target.behave = answer(200)
    await bench.outbox.enable("ops", by="ann@desk", reason="repaired")
    delivered = await bench.wait_until_settled()
    assert sorted(each.subject for each in delivered) == ["j1", "j2", "j3"]
    assert len(target.requests) == sent + 3


async def _is_disabled(bench):
    return (await bench.state()).disabled is not None


async def test_an_unusable_secret_is_not_the_end(bench, receiver, tmp_path, monkeypatch, caplog):
    """The message waits, the state says why, and the log; the file is read again at the next attempt."""
    impatient(monkeypatch)
    target = receiver()
    bench = bench(ops=target).configure("ops", secret_file=str(tmp_path / "late"))
    await bench.start()
    await bench.end("j1")
    await wait_until(lambda: _has_failed(bench), what="the first attempt")
    assert "No such file or directory" in (await bench.state()).last_error
    (tmp_path / "late").write_text("whsec_pl4nted")
    await wait_until(lambda: _says(bench, "24 to 64 bytes"), what="the second attempt")
    (tmp_path / "late").write_text(target.secret)
    assert (await bench.wait_for(1))[0]["data"]["id"] == "j1"
    assert "pl4nted" not in caplog.text + str(await bench.deliveries())


async def _says(bench, text):
    return text in (await bench.state()).last_error


async def test_logs_have_no_secrets_and_no_content(bench, receiver, tmp_path, monkeypatch, caplog):
    """Neither URL, nor secret, nor what a target or a job wrote; failures are logged once a minute."""
    caplog.set_level(logging.DEBUG, "aragora_q")
    impatient(monkeypatch)
    target = receiver(answer(500, body=b"t0ken of the target"))
    bench = await bench(ops=target).start()
    await bench.end("j1", "j2", outcome=Failed(CONTENT))
    await bench.wait_for(3)
    target.behave = answer(200)
    await bench.wait_until_settled()
    lines = [each.getMessage() for each in caplog.records]
    for hidden in ("/hook", "t0ken", CONTENT, target.secret, target.secret[6:20], "v1,"):
        assert not [line for line in lines if hidden in line]
    failed = [each for each in caplog.records if "not delivered" in each.getMessage()]
    assert len(failed) == 1
    assert (failed[0].webhook, failed[0].error) == ("ops", "answered 500")
    assert failed[0].job in ("j1", "j2")
    await wait_until(lambda: "webhook takes messages again" in caplog.text, what="the line")


async def test_metrics(bench, receiver, monkeypatch):
    """Attempts by result, from zero on."""
    impatient(monkeypatch)
    target = receiver(answer(500))
    bench = await bench(ops=target).start()
    assert _count(bench, "failed") == _count(bench, "delivered") == 0
    await bench.end("j1")
    await bench.wait_for(2)
    target.behave = answer(200)
    await bench.wait_until_settled()
    await wait_until(lambda: _count(bench, "delivered") == 1, what="the metric")
    assert _count(bench, "failed") == len(target.requests) - 1


def _count(bench, result):
    name = f'aragora_q_webhook_delivery_duration_seconds_count{{queue="debates",result="{result}"}}'
    lines = generate_latest(bench.metrics.registry).decode().splitlines()
    [line] = [each for each in lines if each.startswith(name)]
    return float(line.split()[-1])


async def test_a_hanging_target_delays_no_other(bench, receiver, certificates):
    """Four targets that never answer, with many messages each; others get theirs while these hang."""
    hanging = {f"slow{n}": receiver(hang) for n in range(4)}
    bench = await bench(ops=receiver(), **hanging).start()
    await bench.end(*(f"h{n}" for n in range(30)), notify=tuple(hanging))
    await wait_until(lambda: all(each.requests for each in hanging.values()), what="them to hang")
    await bench.end("j1")
    await bench.wait_for(1)
    assert [len(each.requests) for each in hanging.values()] == [1] * 4


async def test_more_targets_than_places(bench, receiver, monkeypatch):
    """Each target has at least one message under way, however many others hang."""
    monkeypatch.setattr(module, "MAX_SENDING", 2)
    hanging = {f"a{n}": receiver(hang) for n in range(3)}
    bench = await bench(**hanging, ops=receiver()).start()
    await bench.end("h", notify=tuple(hanging))
    await wait_until(lambda: all(each.requests for each in hanging.values()), what="them to hang")
    await bench.end("j1")
    assert (await bench.wait_for(1))[0]["data"]["id"] == "j1"
    assert [len(each.requests) for each in hanging.values()] == [1] * 3


async def test_a_slow_look_up_delays_no_other(bench, receiver, monkeypatch):
    """It cannot be interrupted: its message is tried again, others are sent meanwhile."""
    resolve_to(monkeypatch, "127.0.0.1", host="lost.example", seconds=3)
    target, lost = receiver(), receiver()
    bench = bench(ops=target, lost=lost)
    bench.configure("lost", url=f"https://lost.example:{lost.port}/", timeout_seconds=0.3)
    await bench.start()
    await bench.end("j1", notify=("lost",))
    await bench.end("j2", notify=("ops",))
    await bench.wait_for(1)
    await wait_until(
        lambda: _state_says(bench, "lost", "look-up"), what="the look-up to be given up"
    )
    assert lost.connections == 0


async def _state_says(bench, name, text):
    return text in (await bench.state(name)).last_error


async def test_webhooks_change_while_it_runs(bench, receiver, tmp_path):
    """A webhook that is new takes messages at once; those of one that is gone wait."""
    bench = await bench(ops=receiver(), new=receiver()).start()
    config = bench.harness.config
    bench.deliverer.reconfigure(
        config.model_copy(update={"webhooks": {"ops": bench.webhooks["ops"]}})
    )
    await bench.end("j1", notify=("ops", "new"))
    await bench.wait_for(1)
    assert (await bench.state("new")).waiting == 1
    bench.deliverer.reconfigure(config)
    await bench.wait_for(1, "new")


async def test_redis_goes_away(own_server, new_harness, receiver, bench, tmp_path):
    """Messages wait while it is away, and are delivered when it is back."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    target = receiver()
    bench = bench(ops=target).configure("ops", timeout_seconds=2)  # so that leases end soon
    bench._new_harness = lambda **settings: new_harness(redis_url=server.url, **settings)
    await bench.start()
    await bench.end("j1")
    await bench.wait_for(1)
    await bench.end("j2")
    server.kill()
    server.start()
    await bench.wait_until_settled(timeout=60)
    assert {each["data"]["id"] for each in target.verified()} == {"j1", "j2"}


async def test_damaged_deliveries_do_not_stop_others(bench, receiver):
    """A time that no calendar has: the message fails and says so, the task goes on."""
    bench = await bench(ops=receiver()).start()
    await bench.outbox.disable("ops")
    await bench.end("j1")
    [delivery] = await bench.deliveries()
    key = bench.harness.keys.delivery(delivery.id)
    bench.harness.redis.hset(key, "at", "999999999999999")
    await bench.outbox.enable("ops")
    await wait_until(lambda: _says(bench, "unexpected error"), what="the failure")
    await bench.end("j2")
    await wait_until(lambda: _has_arrived(bench, "j2"), what="the other message")


def _has_arrived(bench, job_id):
    return any(each["data"]["id"] == job_id for each in bench.receivers["ops"].verified())


async def test_what_is_left_is_delivered_at_the_end(bench, receiver, monkeypatch):
    """`finish` delivers what is due, and returns when that is done."""
    monkeypatch.setattr(module, "LAST_PASS_SECONDS", 600)
    bench = await bench(ops=receiver()).start()
    await bench.stop()
    await bench.end(*(f"j{n}" for n in range(25)))
    await asyncio.wait_for(bench.deliverer.finish(), 60)
    assert len(bench.receivers["ops"].requests) == 25
    assert (await bench.state()).waiting == 0


async def test_the_end_does_not_wait_for_a_hanging_target(bench, receiver, monkeypatch, clock):
    """5 seconds, with the messages of others delivered; its message stays in the outbox."""
    assert module.LAST_PASS_SECONDS == 5
    monkeypatch.setattr(module, "LAST_PASS_SECONDS", 50)
    slow = receiver(hang)
    bench = await bench(ops=receiver(), slow=slow).configure("slow", timeout_seconds=120).start()
    await bench.end("j1", notify=("slow",))
    await wait_until(lambda: slow.requests, what="it to hang")
    await bench.stop_task()
    await bench.end("j2")
    finishing = asyncio.create_task(bench.deliverer.finish())
    await bench.wait_for(1)
    assert not finishing.done()
    clock.ahead_seconds = 50
    await asyncio.wait_for(finishing, 60)
    await asyncio.wait_for(bench.deliverer.close(), 60)
    assert len(bench.receivers["ops"].requests) == 1
    assert (await bench.state("slow")).waiting == 1


def test_pauses_grow_with_the_fleet(new_harness):
    """A fleet of 300 asks about as often as ten workers do."""

    config = SimpleNamespace(webhooks={"ops": None})
    for workers, least, most in ((1, 0.5, 1), (10, 0.5, 1), (100, 5, 10), (10_000, 7.5, 15)):
        deliverer = Deliverer(None, config, None, lambda n=workers: n)
        seconds = [deliverer._poll_seconds() for _ in range(100)]
        assert least <= min(seconds) < max(seconds) <= most


async def test_a_reload_while_messages_are_taken(bench, receiver, monkeypatch):
    """A message of a webhook that the new configuration does not have is sent as it was taken."""
    bench = await bench(ops=receiver()).start()
    claim = bench.outbox.claim

    async def claim_and_reload(requests):
        claimed = await claim(requests)
        if claimed.deliveries:
            bench.deliverer.reconfigure(bench.harness.config.model_copy(update={"webhooks": {}}))
        return claimed

    monkeypatch.setattr(bench.outbox, "claim", claim_and_reload)
    await bench.end("j1")
    [message] = await bench.wait_for(1)
    assert message["data"]["id"] == "j1"
    [delivered] = await bench.wait_until_settled()
    assert delivered.result == "delivered"
