"""The pages of webhooks: state, messages, and what operators do with both."""

import pytest

from aragora_q.base import Job
from aragora_q.contracts import ClaimRequest, Settled
from aragora_q.web.roles import Role

HOOKS = {
    "ops": {"url": "https://hooks.example.com/T0/secret-path", "secret_file": "ops"},
    "spare": {"url": "https://10.0.0.9/", "secret_file": "spare", "events": "failed"},
}
BY = "alice from 10.0.0.7"


@pytest.fixture
async def console(new_console):
    """A console whose configuration has two webhooks."""
    return new_console(webhooks=HOOKS)


@pytest.fixture
async def operator(console):
    return console.browser()


@pytest.fixture
async def ends(harness, console):
    """Ends jobs that report to the webhook `ops`; returns their ids."""
    queue = console.console.roles[Role.PRODUCER].queue

    async def end(*ids):
        await queue.enqueue_many([Job({}, id=each, notify=("ops",)) for each in ids])
        await queue.cancel_many(ids)
        return ids

    return end


@pytest.fixture
async def queue_of_old(harness):
    """Ends jobs that report to the webhook `old`, which the console does not have; returns what waits."""
    queue = harness.other_client(webhooks={"old": HOOKS["ops"]})

    async def end(*ids):
        await queue.enqueue_many([Job({}, id=each, notify=("old",)) for each in ids])
        await queue.cancel_many(ids)
        return await queue.outbox.deliveries(["old"], 100)

    return end


async def attempt(queue, result, answer="", delay_seconds=60.0):
    """Try to deliver what is due to `ops`, with this result."""
    claimed = await queue.outbox.claim([ClaimRequest("ops", 10, 30.0)])
    await queue.outbox.settle(
        [Settled(each, result, answer, delay_seconds) for each in claimed.deliveries]
    )
    return claimed.deliveries


async def test_the_state_of_each_webhook(harness, operator, ends):
    """Those with a problem come first, with why; of an address only the host is shown."""
    await ends("j1", "j2")
    await attempt(harness.queue, "retry", "503 <b>Service</b> Unavailable")
    page = await operator.get("/webhooks")
    assert "2 webhooks, 2 waiting messages" in page.words
    assert "ops hooks.example.com failing 503 <b>Service</b> Unavailable" in page.words
    assert "secret-path" not in page.text
    assert page.words.index("ops") < page.words.index("spare")
    assert "spare 10.0.0.9 ok" in page.words


async def test_the_messages_of_a_webhook(harness, operator, ends):
    """A message has what it is about, with a link, its result, its attempts and the last answer."""
    await ends("j1")
    [delivery] = await attempt(harness.queue, "retry", "connection refused")
    page = await operator.get("/webhooks/ops")
    assert page.status == 200
    assert f"j1 message {delivery.id} cancelled" in page.words
    assert 'href="/jobs/j1"' in page.text
    assert "waiting due" in page.words
    assert "connection refused" in page.words
    assert "aragora-q webhook deliveries ops" in page.words
    assert "No message is kept." in (await operator.get("/webhooks/spare")).words


async def test_disable_and_enable(harness, operator, ends):
    """A webhook is disabled with who did it and why, at once; a second time changes nothing."""
    answer = await operator.post("/webhooks/ops/disable", reason="receiver moves", to="/webhooks")
    assert (answer.status, answer.headers["location"]) == (303, "/webhooks")
    assert operator.logged["action"] == "webhook disable"
    page = await operator.get("/webhooks")
    assert "Webhook ops is disabled." in page.words
    assert f"disabled by {BY}" in page.words
    assert "receiver moves" in page.words
    assert (
        "Webhook ops was already disabled." in (await operator.done("/webhooks/ops/disable")).words
    )
    assert "Webhook ops is enabled." in (await operator.done("/webhooks/ops/enable")).words
    assert "Webhook ops was not disabled." in (await operator.done("/webhooks/ops/enable")).words


async def test_messages_are_sent_again_once_that_is_confirmed(harness, operator, ends):
    """Checked messages, also delivered ones, wait again after a page has asked."""
    await ends("j1", "j2")
    done = await attempt(harness.queue, "ok", "204")
    assert "Last success" in (await operator.get("/webhooks/ops")).words
    ids = [each.id for each in done]
    asked = await operator.post("/webhooks/ops/redeliver", id=ids, to="/webhooks/ops")
    assert asked.status == 200
    assert "Send 2 messages to webhook ops again?" in asked.words
    assert f"aragora-q webhook redeliver {' '.join(ids)}" in asked.words
    page = await operator.done(
        "/webhooks/ops/redeliver", asked.fields("/webhooks/ops/redeliver"), reason="lost there"
    )
    assert "2 messages to be sent again." in page.words
    assert (await harness.queue.outbox.states(["ops"])).states["ops"].waiting == 2
    page = await operator.done("/webhooks/ops/redeliver", id=[ids[0], "1-9"], confirmed="2")
    assert (
        "1 message waited already, due now; 1 message not of this webhook, or not kept any more."
        in page.words
    )


async def test_all_that_failed_are_sent_again(harness, operator, ends):
    """The page asks with their number; if more have failed since, nothing is sent, and it asks again."""
    assert "No message failed" in (await operator.done("/webhooks/ops/redeliver", failed="1")).words
    assert "No message was selected" in (await operator.done("/webhooks/ops/redeliver")).words
    await ends("j1", "j2")
    [first, second] = await attempt(harness.queue, "retry", "500")
    for each in (first, second):
        harness.redis.zrem(harness.keys.outbox("ops"), each.id)
        harness.redis.zadd(harness.keys.sent("ops"), {each.id: 1})
        harness.redis.hset(harness.keys.delivery(each.id), "result", "failed")
    asked = await operator.post("/webhooks/ops/redeliver", failed="1", id=first.id)
    assert "Send 2 messages that failed to webhook ops again?" in asked.words
    assert "aragora-q webhook redeliver --webhook ops --failed" in asked.words
    grown = await operator.post("/webhooks/ops/redeliver", failed="1", confirmed="1")
    assert grown.status == 409
    assert "2 messages failed by now, not 1: nothing is sent again." in grown.words
    page = await operator.done("/webhooks/ops/redeliver", asked.fields("/webhooks/ops/redeliver"))
    assert "2 messages to be sent again." in page.words


async def test_a_webhook_that_is_not_configured_here(harness, operator):
    """What the queue knows of it is shown, and an operator may disable or enable it; others are unknown."""
    await harness.queue.outbox.disable("old", by="ann@desk", reason="<i>gone</i>")
    page = await operator.get("/")
    assert "Webhook old is disabled by ann@desk (<i>gone</i>), 0 messages waiting" in page.words
    page = await operator.get("/webhooks")
    assert "old disabled by ann@desk" in page.words
    assert "<i>gone" not in page.text
    page = await operator.get("/webhooks/old")
    assert "not configured here" in page.words
    await operator.done("/webhooks/old/enable")
    assert (await operator.get("/webhooks/none")).status == 404
    for verb in ("enable", "disable", "forget", "redeliver"):
        assert (await operator.post(f"/webhooks/none/{verb}")).status == 404


async def test_a_webhook_is_forgotten_once_that_is_confirmed(harness, operator, queue_of_old):
    """The page asks, with the number of messages that wait; if more wait since, it asks again."""
    [delivery] = await queue_of_old("j1")
    page = await operator.get("/webhooks/old")
    assert 'action="/webhooks/old/forget"' in page.text
    asked = await operator.post("/webhooks/old/forget", reason="renamed")
    assert asked.status == 200
    assert "1 message waiting for it will never be sent" in asked.words
    assert "aragora-q webhook forget old --reason renamed" in asked.words
    await queue_of_old("j2")
    grown = await operator.post("/webhooks/old/forget", asked.fields("/webhooks/old/forget"))
    assert grown.status == 409
    assert "2 messages waiting by now, not 1: nothing is deleted." in grown.words
    assert (await harness.queue.outbox.states(["old"])).states["old"].waiting == 2
    page = await operator.done(
        "/webhooks/old/forget", grown.fields("/webhooks/old/forget"), reason="renamed"
    )
    assert "Webhook old is forgotten." in page.words
    assert await harness.queue.outbox.known() == set()
    assert not harness.redis.exists(harness.keys.delivery(delivery.id))
    [change, *_] = await harness.queue.changes()
    assert (change.verb, change.subject, change.by, change.reason) == (
        "forget", "webhook:old", BY, "renamed",
    )  # fmt: skip
    assert (await operator.post("/webhooks/old/forget", confirmed="1")).status == 404


async def test_a_webhook_that_is_configured_here_is_not_forgotten(harness, operator, ends):
    """Its messages would be sent: nothing is deleted, and the page says what to do."""
    await ends("j1")
    assert 'action="/webhooks/ops/forget"' not in (await operator.get("/webhooks/ops")).text
    answer = await operator.post("/webhooks/ops/forget", confirmed="1")
    assert answer.status == 422
    assert "is configured here" in answer.words
    assert (await harness.queue.outbox.states(["ops"])).states["ops"].waiting == 1


async def test_messages_of_another_webhook_are_not_sent_again(harness, operator, queue_of_old):
    """An id of another webhook is not found on this one's page, and its message stays as it is."""
    [delivery] = await queue_of_old("j1")
    page = await operator.done("/webhooks/ops/redeliver", id=delivery.id, confirmed="1")
    assert "1 message not of this webhook, or not kept any more." in page.words
    assert not [each for each in await harness.queue.changes() if each.verb == "redeliver"]


async def test_a_viewer_reads_and_does_nothing(console, ends):
    """A viewer sees all of it, without buttons; an action is refused."""
    await ends("j1")
    viewer = console.browser(Role.VIEWER)
    for address in ("/webhooks", "/webhooks/ops"):
        page = await viewer.get(address)
        assert page.status == 200
        assert "<button class=" not in page.text.replace('<button type="button"', "")
    for verb in ("enable", "disable", "forget", "redeliver"):
        assert (await viewer.post(f"/webhooks/ops/{verb}", id="1-1")).status == 403


async def test_no_webhooks(new_console):
    """Without webhooks the page says how to have some."""
    assert "There are no webhooks." in (await new_console().browser().get("/webhooks")).words
