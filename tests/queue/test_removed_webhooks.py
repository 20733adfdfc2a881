"""Webhooks that no process delivers: their messages are seen, and do not stay."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import ClaimRequest, Settled
from aragora_q.redis.keys import DELIVERY_DAYS

WEBHOOK = {"url": "https://hooks.example.com/", "secret_file": "/nonexistent"}
LONGEST_MS = DELIVERY_DAYS * 86_400_000


@pytest.fixture
async def queue(harness):
    """A client whose configuration has the webhook `acme`."""
    return harness.other_client(webhooks={"acme": WEBHOOK})


async def _end(harness, queue, *ids):
    """Enqueue jobs that name the webhook, and cancel them: a message each."""
    for job_id in ids:
        await queue.enqueue(_job(job_id))
        await queue.cancel(job_id)


def _job(job_id):
    return Job({"n": 1}, id=job_id, notify=("acme",))


async def test_messages_that_no_process_delivers_are_seen(harness, queue):
    """The first message makes the name known: other clients see how many wait."""
    assert (await harness.queue.outbox.read()).states == {}
    await _end(harness, queue, "a", "b")
    read = await harness.queue.outbox.read()
    assert list(read.states) == ["acme"]
    state = read.states["acme"]
    assert (state.waiting, state.failures, state.disabled) == (2, 0, None)
    assert 0 <= state.oldest_seconds(read.now) < 60


async def test_an_outbox_ends_with_its_messages(harness, queue):
    """Every step that keeps a message keeps its outbox for as long, and no longer."""
    keys = harness.keys
    outbox = harness.queue.outbox

    def lifetimes(*names):
        return [LONGEST_MS - 60_000 < harness.redis.pttl(name) <= LONGEST_MS for name in names]

    await _end(harness, queue, "a")
    assert lifetimes(keys.outbox("acme")) == [True]
    for result, kept in (("retry", "outbox"), ("ok", "sent")):
        harness.redis.persist(keys.outbox("acme"))
        [delivery] = (await outbox.claim([ClaimRequest("acme", 1, 0)])).deliveries
        assert lifetimes(keys.outbox("acme")) == [True]
        harness.redis.persist(keys.outbox("acme"))
        await outbox.settle([Settled(delivery, result)])
        assert lifetimes(getattr(keys, kept)("acme"), keys.delivery(delivery.id)) == [True, True]
    await outbox.redeliver([delivery.id])
    assert lifetimes(keys.outbox("acme")) == [True]


async def test_a_webhook_is_forgotten(harness, queue):
    """State and messages are deleted; nothing else is. It is known again with its next message."""
    outbox = harness.queue.outbox
    assert not await outbox.forget("acme")
    await _end(harness, queue, "a", "b")
    [delivery] = (await outbox.claim([ClaimRequest("acme", 1, 60)])).deliveries
    await outbox.settle([Settled(delivery, "ok")])
    await outbox.disable("acme", by="ann@host", reason="moved")
    await outbox.disable("other", by="ann@host")
    assert await outbox.forget("acme", by="ann@host", reason="gone")
    [change] = await harness.queue.changes(1)
    assert (change.verb, change.subject, change.by, change.reason) == (
        "forget", "webhook:acme", "ann@host", "gone",
    )  # fmt: skip
    *_, event = await harness.queue.read_events("0-0")
    assert event["event"] == "webhook_forgotten"
    assert (event["webhook"], event["by"], event["reason"]) == ("acme", "ann@host", "gone")
    assert await outbox.known() == {"other"}
    assert await outbox.deliveries(["acme"], 10) == []
    left = [
        key for key in harness.redis.scan_iter(f"{harness.keys.queue_prefix}*") if "deliver" in key
    ]
    assert left == []
    assert "deliveries_dropped" not in harness.counters()
    await _end(harness, queue, "c")
    assert (await outbox.read()).states["acme"].waiting == 1
