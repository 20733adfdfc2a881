"""The outbox: each end of a job or group that names webhooks leaves a message for each, in one transition."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from support.moves import ENDINGS, report
from support.queue_harness import QueueHarness, check_and_close
from support.schedules import now_ms
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.contracts import ClaimRequest, Completed, Failed, Report, Settled
from aragora_q.errors import GroupSealed, InvalidPayload
from aragora_q.redis.keys import DELIVERY_DAYS, GIVE_UP_HOURS, MAX_DATA_BYTES, MAX_OUTBOX, MAX_SENT
from aragora_q.redis.scripts import BATCH_LIMIT

NAMES = ("ops", "chat")
WEBHOOKS = {name: {"url": "https://example.com/", "secret_file": "secret"} for name in NAMES}
NOTIFY = {"notify": NAMES}
LEASE_SECONDS = 30.0


@pytest.fixture
async def harness(backend):
    """An empty queue on each backend, whose configuration has two webhooks."""
    harness = QueueHarness.on(backend, webhooks=WEBHOOKS)
    yield harness
    await check_and_close(harness)


@pytest.fixture
def webhook_harness(new_harness):
    """The same on one backend, for what does not depend on the server."""
    return new_harness(webhooks=WEBHOOKS)


async def _messages(harness, name="ops"):
    """What is reported to a webhook, newest first."""
    found = await harness.queue.outbox.deliveries([name], 1000)
    return [(each.kind, each.subject, each.event) for each in found]


async def _claim(harness, name="ops", limit=10, lease_seconds=LEASE_SECONDS):
    claimed = await harness.queue.outbox.claim([ClaimRequest(name, limit, lease_seconds)])
    return claimed.deliveries


async def _settle(harness, delivery, result, **fields):
    [became] = await harness.queue.outbox.settle([Settled(delivery, result, **fields)])
    return became


async def _state(harness, name="ops"):
    return (await harness.queue.outbox.states([name])).states[name]


async def _totals(harness):
    return tuple((await harness.queue.outbox.states([])).totals)


async def _end_jobs(harness, *ids, notify=("ops",)):
    """Leave one message for each of these jobs, in their order."""
    for job_id in ids:
        await harness.enqueue(job_id, notify=notify)
        await harness.queue.cancel(job_id)


def _age(harness, delivery, seconds):
    """Make a message older, as if that much time had passed since it was put in the outbox."""
    harness.redis.hincrby(harness.keys.delivery(delivery.id), "queued_at", -round(seconds * 1000))


def _make_due(harness, delivery):
    harness.redis.zadd(harness.keys.outbox(delivery.webhook), {delivery.id: 1})


@pytest.mark.parametrize("ending", ENDINGS)
async def test_every_end_leaves_a_message_for_each_webhook(harness, ending):
    """However a job ends: one message for each webhook that it names; again after a requeue."""
    fields, end, status = ENDINGS[ending]
    await harness.enqueue("a", group="g", tags={"by": "notify:other"}, **NOTIFY, **fields)
    await harness.enqueue("silent", group="g", delay_seconds=60)
    assert await _messages(harness) == []
    await end(harness)
    await harness.queue.cancel("silent")
    assert [await _messages(harness, name) for name in NAMES] == [[("job", "a", status)]] * 2
    assert harness.redis.exists(harness.keys.outbox("other")) == 0
    job = await harness.queue.get_job("a")
    [delivery] = await _claim(harness)
    assert (delivery.at, delivery.attempts) == (job.completed_at, 1)
    if status != "completed" and ending != "promote without payload":
        assert await harness.queue.requeue(["a"]) == ["requeued"]
        await harness.queue.cancel("a")
        assert await _messages(harness) == [("job", "a", "cancelled"), ("job", "a", status)]


async def test_a_result_too_large_to_keep_is_reported_as_failed(webhook_harness):
    """The report that completes the job fails it: so does the message."""
    harness = webhook_harness
    await harness.enqueue("a", **NOTIFY)
    await report(Completed(b"x" * (MAX_DATA_BYTES + 1)))(harness)
    assert await _messages(harness) == [("job", "a", "failed")]


async def test_reports_and_calls_that_are_repeated_leave_one_message(webhook_harness):
    """A report, a cancel and a seal that are sent again, because a reply was lost, add no message."""
    harness = webhook_harness
    session = await harness.worker()
    for job_id, outcome in (("a", Completed(b"{}")), ("b", Failed("no"))):
        await harness.enqueue(job_id, group="g", notify=["ops"])
        job = await harness.start_one(session)
        for _ in range(2):
            await harness.report(session, job, outcome)
    await harness.enqueue("c", group="g", notify=["ops"])
    for _ in range(2):
        await harness.queue.cancel("c")
        await harness.queue.seal_group("g", notify=["ops"])
    assert sorted(await _messages(harness)) == [
        ("group", "g", "ended"),
        ("job", "a", "completed"),
        ("job", "b", "failed"),
        ("job", "c", "cancelled"),
    ]


async def test_jobs_of_one_call_have_a_message_each(harness):
    """Many jobs that end in one call, some without a webhook: a message for each that names one; ids differ."""
    jobs = [Job({}, id=f"j{n}", notify=NAMES[: n % 3]) for n in range(99)]
    await harness.queue.enqueue_many(jobs)
    session = await harness.worker()
    started = (await session.start(100)).jobs
    await session.report([Report(job, Completed(b"{}")) for job in started])
    found = await harness.queue.outbox.deliveries(NAMES, 1000)
    assert len({each.id for each in found}) == len(found) == 99
    by_name = {name: {each.subject for each in found if each.webhook == name} for name in NAMES}
    assert by_name == {
        "ops": {f"j{n}" for n in range(99) if n % 3 > 0},
        "chat": {f"j{n}" for n in range(99) if n % 3 > 1},
    }


@pytest.mark.parametrize("then", [None, Job({}, id="then", notify=("chat",))])
async def test_the_end_of_a_group_is_reported(harness, then):
    """The group's last end leaves a message for the webhooks of its seal; so does each further end."""
    await harness.enqueue("a", group="g")
    assert await harness.queue.seal_group("g", then, notify=["ops"])
    assert await _messages(harness) == []
    await report(Completed(b"{}"))(harness)
    group = await harness.queue.tracker.get_group("g")
    [delivery] = await _claim(harness)
    assert (delivery.kind, delivery.subject, delivery.event) == ("group", "g", "ended")
    assert delivery.at == group.ended_at
    if then:
        await harness.queue.cancel("then")
        assert await _messages(harness, "chat") == [("job", "then", "cancelled")]
    await harness.enqueue("b", group="again")
    await harness.queue.cancel("b")
    assert await harness.queue.seal_group("again", notify=["ops"])  # ends at once
    await harness.queue.requeue(["b"])
    await harness.queue.cancel("b")
    assert (await _messages(harness))[:2] == [("group", "again", "ended")] * 2


async def test_a_cancelled_group_is_reported(webhook_harness):
    """A group that is cancelled reports its end, once; one that was sealed without webhooks does not."""
    harness = webhook_harness
    for group in ("sealed", "open"):
        for n in range(3):
            await harness.enqueue(f"{group}{n}", group=group)
    await harness.queue.seal_group("sealed", notify=["ops"])
    for group in ("sealed", "open"):
        assert await harness.queue.cancel_group(group) == 3
    assert await _messages(harness) == [("group", "sealed", "ended")]


async def test_a_group_is_sealed_with_one_set_of_webhooks(webhook_harness):
    """Sealed again with other webhooks: refused. The same, or none: it was sealed already."""
    harness = webhook_harness
    await harness.enqueue("a", group="g")
    assert await harness.queue.seal_group("g", notify=["ops"])
    assert not await harness.queue.seal_group("g", notify=["ops"])
    assert not await harness.queue.seal_group("g")
    with pytest.raises(GroupSealed, match="other webhooks"):
        await harness.queue.seal_group("g", notify=["chat"])
    await harness.enqueue("b", group="both")
    assert await harness.queue.seal_group("both", notify=["ops", "chat"])
    assert not await harness.queue.seal_group("both", notify=["chat", "ops"])  # in any order
    assert (await harness.queue.tracker.get_group("g")).notify == ("ops",)


async def test_names_are_checked_where_jobs_enter(webhook_harness):
    """A webhook that the configuration lacks is refused, with what was meant; nothing is enqueued or sealed."""
    harness = webhook_harness
    with pytest.raises(InvalidPayload, match="opps is not a webhook") as refused:
        await harness.enqueue("a", notify=["opps"])
    assert "ops" in refused.value.hint
    await harness.enqueue("b", group="g")
    with pytest.raises(InvalidPayload, match="group g: notify: nope") as refused:
        await harness.queue.seal_group("g", notify=["nope"])
    assert "chat, ops" in refused.value.hint
    assert (await harness.queue.tracker.get_group("g")).sealed_at is None
    with pytest.raises(InvalidPayload, match="then: notify: nope"):
        await harness.queue.seal_group("g", Job({}, id="then", notify=("nope",)))
    bare = harness.other_client(webhooks={})
    with pytest.raises(InvalidPayload, match="ops is not a webhook") as refused:
        await bare.enqueue(Job({}, id="c", notify=("ops",)))
    assert "[webhooks]" in refused.value.hint
    assert await harness.queue.get_status("a") is None


async def test_a_full_outbox_drops_messages_and_counts_them(webhook_harness):
    """At MAX_OUTBOX, further messages are dropped and counted; the jobs end all the same."""
    harness = webhook_harness
    outbox = harness.keys.outbox("ops")
    filling = {f"{n}-1": n + 1 for n in range(MAX_OUTBOX - 1)}
    harness.redis.zadd(outbox, filling)
    for n in range(3):
        await harness.enqueue(f"j{n}", **NOTIFY)
    assert await harness.queue.cancel_many([f"j{n}" for n in range(3)]) == ["cancelled"] * 3
    assert harness.redis.zcard(outbox) == MAX_OUTBOX
    assert await _totals(harness) == (0, 0, 2)
    assert len(await _messages(harness, "chat")) == 3
    harness.redis.zrem(outbox, *filling)


DAMAGED = {
    "outbox": lambda keys: (keys.outbox("ops"), "string"),
    "counter": lambda keys: (keys.counters, "notified"),
    "webhooks": lambda keys: (keys.webhooks, "string"),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("ending", ["complete", "fail", "poison", "cancel pending"])
async def test_keys_of_another_type_stop_no_job(webhook_harness, damage, ending):
    """Whatever another program made of the outbox, jobs end; other webhooks have their messages."""
    harness = webhook_harness
    key, how = DAMAGED[damage](harness.keys)
    fields, end, status = ENDINGS[ending]
    await harness.enqueue("a", **NOTIFY, **fields)
    if how == "string":
        harness.redis.set(key, "x")
    else:
        harness.redis.hset(key, how, "many")
    await end(harness)
    assert await harness.queue.get_status("a") == status
    assert [each[1] for each in await _messages(harness, "chat")] == ["a"]
    assert (await _totals(harness))[2] == (damage == "outbox")
    if how == "string":
        harness.redis.delete(key)


async def test_a_claimed_message_is_taken_by_one_process(harness):
    """A message under way is not taken again until its lease ends; then it is, as the next attempt."""
    await _end_jobs(harness, "a", "b", "c")
    first = await _claim(harness, limit=2)
    assert [each.subject for each in first] == ["a", "b"]
    claimed = await harness.queue.outbox.claim([ClaimRequest("ops", 10, LEASE_SECONDS)])
    assert [each.subject for each in claimed.deliveries] == ["c"]
    assert 0 < claimed.next_due_seconds <= LEASE_SECONDS
    assert await _claim(harness) == []
    _make_due(harness, first[0])
    [again] = await _claim(harness)
    assert (again.id, again.attempts) == (first[0].id, 2)
    assert again.due_at > (await _state(harness)).oldest_at


async def test_nothing_that_waits_has_no_due_time(webhook_harness):
    """Without messages, and without webhooks, nothing is due, ever."""
    claim = webhook_harness.queue.outbox.claim
    assert await claim([ClaimRequest("ops", 10, 1.0)]) == ([], None)
    assert await claim([]) == ([], None)


async def test_delivered_messages_are_kept_apart(harness):
    """A delivered message leaves the outbox, is listed with its answer, and is counted once."""
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    assert await _settle(harness, delivery, "ok", answer="204 No Content") == "delivered"
    for result in ("ok", "retry", "gone", "skip"):
        assert await _settle(harness, delivery, result) == "settled"
    state = await _state(harness)
    assert (state.waiting, state.oldest_at, state.failures, state.disabled) == (0, None, 0, None)
    assert state.last_ok_at >= delivery.at
    assert await _totals(harness) == (1, 0, 0)
    [listed] = await harness.queue.outbox.deliveries(["ops"], 10)
    assert (listed.result, listed.answer, listed.attempts) == ("delivered", "204 No Content", 1)
    assert (listed.ended_at, listed.due_at) == (state.last_ok_at, None)
    ttl = harness.redis.pttl(harness.keys.delivery(delivery.id))
    assert ttl > (DELIVERY_DAYS * 24 - 1) * 3_600_000


async def test_a_failed_attempt_is_tried_again(harness):
    """The next attempt is due after its delay; failures in a row are counted until one is delivered."""
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    for _ in range(2):
        became = await _settle(harness, delivery, "retry", delay_seconds=60, answer="503 busy")
        assert became in ("waiting", "settled")
    state = await _state(harness)
    assert (state.waiting, state.failures, state.last_error) == (1, 1, "503 busy")
    assert state.last_error_at >= delivery.at
    [listed] = await harness.queue.outbox.deliveries(["ops"], 10)
    assert (listed.result, listed.answer) == ("waiting", "503 busy")
    assert 59 < listed.due_at - state.last_error_at < 61
    assert await _claim(harness) == []
    _make_due(harness, delivery)
    [again] = await _claim(harness)
    # A late answer of the first attempt changes nothing.
    assert await _settle(harness, delivery, "retry", answer="late") == "settled"
    assert await _settle(harness, again, "ok") == "delivered"
    assert (await _state(harness)).failures == 0


async def test_a_late_success_counts(webhook_harness):
    """A target that answered after the lease has the message: a later attempt changes nothing."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    _make_due(harness, delivery)
    [again] = await _claim(harness)
    assert await _settle(harness, delivery, "ok") == "delivered"
    assert await _settle(harness, again, "retry") == "settled"
    assert (await _state(harness)).waiting == 0


async def test_a_failing_webhook_gets_one_message_at_a_time(harness):
    """While attempts fail, one message is under way, of all processes; a success ends that."""
    await _end_jobs(harness, *"abcd", notify=NAMES)
    [first] = await _claim(harness, limit=1)
    await _settle(harness, first, "retry", delay_seconds=600)
    both = [ClaimRequest(name, 10, LEASE_SECONDS) for name in NAMES]
    claims = await asyncio.gather(*(harness.queue.outbox.claim(both) for _ in range(3)))
    taken = [each for claimed in claims for each in claimed.deliveries]
    assert [each.subject for each in taken if each.webhook == "ops"] == ["b"]
    assert [each.subject for each in taken if each.webhook == "chat"] == list("abcd")
    [second] = [each for each in taken if each.webhook == "ops"]
    await _settle(harness, second, "retry", delay_seconds=600)
    [third] = await _claim(harness)
    await _settle(harness, third, "ok")
    assert [each.subject for each in await _claim(harness)] == ["d"]


async def test_an_abandoned_attempt_does_not_block_a_failing_webhook(webhook_harness):
    """The one message under way to a failing webhook has a lease: after it, the next one is taken."""
    harness = webhook_harness
    await _end_jobs(harness, "a", "b")
    [first] = await _claim(harness, limit=1)
    await _settle(harness, first, "retry", delay_seconds=600)
    assert len(await _claim(harness, lease_seconds=0.05)) == 1
    [again] = await wait_until(lambda: _claim(harness), what="the end of the lease")
    assert again.attempts == 2


async def test_a_message_is_given_up_after_a_day(webhook_harness):
    """A message whose attempts fail for GIVE_UP_HOURS is given up, and counted; it can be sent again."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    _age(harness, delivery, GIVE_UP_HOURS * 3600)
    assert await _settle(harness, delivery, "retry", answer="timed out") == "failed"
    assert await _totals(harness) == (0, 1, 0)
    [listed] = await harness.queue.outbox.deliveries(["ops"], 10)
    assert (listed.result, listed.answer, listed.due_at) == ("failed", "timed out", None)
    asked_at = now_ms(harness.redis)
    assert await harness.queue.outbox.redeliver([delivery.id]) == ["redelivered"]
    assert await harness.queue.outbox.redeliver([delivery.id, "1-1"]) == ["waiting", "unknown"]
    state = await _state(harness)
    assert round(state.oldest_at * 1000) >= asked_at  # waits since it was asked for
    [again] = await _claim(harness)
    assert (again.id, again.attempts, again.at) == (delivery.id, 1, delivery.at)
    assert await _settle(harness, again, "retry") == "waiting"  # it has a day again


async def test_a_waiting_message_is_redelivered_now(webhook_harness):
    """What waits for its next attempt is due at once."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    await _settle(harness, delivery, "retry", delay_seconds=600)
    assert await harness.queue.outbox.redeliver([delivery.id], by="ana@here") == ["waiting"]
    [again] = await _claim(harness)
    assert again.attempts == 2
    [change] = await harness.queue.changes()
    assert (change.verb, change.subject, change.ids) == ("redeliver", "webhook:ops", (delivery.id,))


async def test_redelivery_respects_the_cap(webhook_harness):
    """A message that was delivered stays so if MAX_OUTBOX messages wait."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    await _settle(harness, delivery, "ok")
    harness.redis.zadd(harness.keys.outbox("ops"), {f"{n}-1": n + 1 for n in range(MAX_OUTBOX)})
    assert await harness.queue.outbox.redeliver([delivery.id]) == ["full"]
    harness.redis.delete(harness.keys.outbox("ops"))
    [listed] = await harness.queue.outbox.deliveries(["ops"], 10)
    assert listed.result == "delivered"


async def test_a_disabled_webhook_keeps_its_messages(harness):
    """Nothing is taken while it is disabled; messages wait, further ones too, and go on when it is enabled."""
    outbox = harness.queue.outbox
    await _end_jobs(harness, "a")
    assert await outbox.disable("ops", by="ana@here", reason="moving")
    assert not await outbox.disable("ops", by="ben@here")
    await _end_jobs(harness, "b")
    assert await _claim(harness) == []
    state = await _state(harness)
    assert (state.waiting, state.disabled.by, state.disabled.reason) == (2, "ana@here", "moving")
    assert state.oldest_at <= state.disabled.at <= (await outbox.states([])).now
    assert await outbox.known() == {"ops"}
    assert await outbox.enable("ops", by="ben@here")
    assert not await outbox.enable("ops")
    assert [(each.verb, each.subject, each.by) for each in await harness.queue.changes()] == [
        ("enable", "webhook:ops", "ben@here"),
        ("disable", "webhook:ops", "ana@here"),
    ]
    events = [event for event, _ in harness.events() if event.startswith("webhook")]
    assert events == ["webhook_disabled", "webhook_enabled"]
    assert (await _state(harness)).disabled is None
    assert [each.subject for each in await _claim(harness)] == ["a", "b"]


async def test_a_target_that_is_gone_disables_its_webhook(webhook_harness):
    """The target's answer is the reason; the message waits, and has its full time again after it is enabled."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    _age(harness, delivery, GIVE_UP_HOURS * 3600)
    assert await _settle(harness, delivery, "gone", answer="410 Gone") == "waiting"
    assert await _settle(harness, delivery, "gone", answer="410 Gone") == "settled"
    state = await _state(harness)
    assert (state.disabled.by, state.disabled.reason, state.waiting) == (
        "the target",
        "410 Gone",
        1,
    )
    assert await _claim(harness) == []
    assert await harness.queue.outbox.enable("ops", by="ana")
    [again] = await _claim(harness)
    assert (again.id, again.attempts) == (delivery.id, 2)
    assert await _settle(harness, again, "retry", delay_seconds=5) == "waiting"


async def test_an_event_that_is_not_wanted_is_deleted(webhook_harness):
    """A skipped message leaves nothing, and counts as neither delivered nor failed."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    assert await _settle(harness, delivery, "skip") == "skipped"
    assert await harness.queue.outbox.deliveries(["ops"], 10) == []
    assert harness.redis.exists(harness.keys.delivery(delivery.id)) == 0
    assert await _totals(harness) == (0, 0, 0)


async def test_messages_without_data_are_removed(webhook_harness):
    """A message whose data expired or was damaged is dropped and counted, and blocks no other one."""
    harness = webhook_harness
    await _end_jobs(harness, *"abc")
    expired, damaged = [each.id for each in await harness.queue.outbox.deliveries(["ops"], 9)][1:]
    harness.redis.delete(harness.keys.delivery(expired))
    harness.redis.delete(harness.keys.delivery(damaged))
    harness.redis.set(harness.keys.delivery(damaged), "x")
    listed = await harness.queue.outbox.deliveries(["ops"], 9)
    assert {each.id for each in listed} > {expired, damaged}
    assert [each.subject for each in await _claim(harness)] == ["c"]
    assert await _totals(harness) == (0, 0, 2)
    harness.redis.delete(harness.keys.delivery(damaged))


@pytest.mark.parametrize("number", ["9" * 15, "9" * 400, "9" * 5000, "-1", "1.5", "²", ""])
async def test_damaged_numbers_are_missing(webhook_harness, number):
    """Whatever another program wrote where times and counts are, states and messages can be read."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [waiting] = await harness.queue.outbox.deliveries(["ops"], 9)
    pause = f'{{"at": {number or "null"}, "by": "ana"}}'
    for field in ("last_ok_at", "error_at"):
        harness.redis.hset(harness.keys.webhooks, f"{field}:ops", number)
    harness.redis.hset(harness.keys.webhooks, "disabled:ops", pause)
    harness.redis.hset(harness.keys.delivery(waiting.id), "ended_at", number)
    harness.redis.hset(
        harness.keys.schedules, mapping={"last:s": number, "next:s": number, "paused:s": pause}
    )
    state = await _state(harness)
    assert (state.last_ok_at, state.last_error_at) == (None, None)
    assert datetime.fromtimestamp(state.disabled.at, UTC).year < 2000
    [listed] = await harness.queue.outbox.deliveries(["ops"], 9)
    assert listed.ended_at is None
    schedule = (await harness.queue.schedules.read()).states["s"]
    assert (schedule.last_at, schedule.next_at) == (None, None)
    assert schedule.paused is not None


async def test_messages_of_a_webhook_that_stays_disabled_expire(webhook_harness):
    """After DELIVERY_DAYS, messages of a disabled webhook are dropped and counted."""
    harness = webhook_harness
    await _end_jobs(harness, "a", "b")
    await harness.queue.outbox.disable("ops")
    old, _ = reversed(await harness.queue.outbox.deliveries(["ops"], 9))
    harness.redis.delete(harness.keys.delivery(old.id))
    harness.redis.zincrby(harness.keys.outbox("ops"), -DELIVERY_DAYS * 86_400_000 - 60_000, old.id)
    assert await _claim(harness) == []
    assert [each[1] for each in await _messages(harness)] == ["b"]
    assert await _totals(harness) == (0, 0, 1)


async def test_a_clock_that_was_ahead_delays_nothing(webhook_harness):
    """Times days ahead are from before the server's clock was set right: no message waits for them."""
    harness = webhook_harness
    await _end_jobs(harness, "a", "b")
    [message] = await _claim(harness, limit=1)
    await _settle(harness, message, "retry", delay_seconds=3600, pause_seconds=3600)
    assert await _claim(harness) == []
    ahead_ms = 2 * GIVE_UP_HOURS * 3_600_000
    harness.redis.hincrby(harness.keys.webhooks, "probe_until:ops", ahead_ms)
    for each in await harness.queue.outbox.deliveries(["ops"], 9):
        harness.redis.zincrby(harness.keys.outbox("ops"), ahead_ms, each.id)
    [message] = await _claim(harness)
    assert await _settle(harness, message, "ok") == "delivered"
    assert len(await _claim(harness)) == 1


async def test_expired_messages_delay_no_other(webhook_harness):
    """No process had the webhook for longer than messages are kept: the first that has it takes the rest."""
    harness = webhook_harness
    await _end_jobs(harness, *(f"old{n}" for n in range(50)))
    for each in await harness.queue.outbox.deliveries(["ops"], 50):
        harness.redis.delete(harness.keys.delivery(each.id))
        harness.redis.zincrby(
            harness.keys.outbox("ops"), -DELIVERY_DAYS * 86_400_000 - 60_000, each.id
        )
    await _end_jobs(harness, "new")
    assert [each.subject for each in await _claim(harness, limit=1)] == ["new"]
    assert await _totals(harness) == (0, 0, 50)


async def test_a_long_list_is_read_in_parts(webhook_harness, monkeypatch):
    """The data of a full outbox is not read in one script: the server does other work in between."""
    connection, sizes = webhook_harness.queue.connection, []
    read_all = type(connection).read_all

    async def count_and_read(self, commands, **options):
        commands = list(commands)
        sizes.append(len(commands))
        return await read_all(self, commands, **options)

    ids = [f"j{n}" for n in range(2 * BATCH_LIMIT + 50)]
    await _end_jobs(webhook_harness, *ids)
    monkeypatch.setattr(type(connection), "read_all", count_and_read)
    assert [each[1] for each in await _messages(webhook_harness)] == ids[::-1]
    assert sizes == [BATCH_LIMIT, BATCH_LIMIT, 50]


async def test_the_last_messages_are_kept(webhook_harness):
    """Of those that are sent, the last MAX_SENT are kept; the data of older ones is deleted with them."""
    harness = webhook_harness
    await _end_jobs(harness, "first")
    [delivery] = await _claim(harness)
    await _settle(harness, delivery, "ok")
    sent = harness.keys.sent("ops")
    at = int(harness.redis.zscore(sent, delivery.id))
    fill = {f"{at}-{n}x": at for n in range(MAX_SENT - 1)}
    harness.redis.zadd(sent, fill)
    harness.redis.zadd(sent, {delivery.id: at - 1})
    await _end_jobs(harness, "last")
    [last] = await _claim(harness)
    await _settle(harness, last, "ok")
    assert harness.redis.zcard(sent) == MAX_SENT
    assert harness.redis.exists(harness.keys.delivery(delivery.id)) == 0
    assert harness.redis.exists(harness.keys.delivery(last.id)) == 1
    harness.redis.zrem(sent, *fill)


async def test_answers_are_cut(webhook_harness):
    """However long an answer is, and whatever it holds, a bounded part is kept."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    await _settle(harness, delivery, "retry", answer="\ud800€" * 5000)
    assert 100 < len((await _state(harness)).last_error) <= 500


async def test_settling_what_was_never_claimed_changes_nothing(webhook_harness):
    """An attempt that the queue did not hand out is refused."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [waiting] = await harness.queue.outbox.deliveries(["ops"], 9)
    assert waiting.attempts == 0
    assert await _settle(harness, replace(waiting, attempts=3), "retry") == "settled"
    assert await _settle(harness, replace(waiting, id="1-1"), "ok") == "settled"
    assert (await _state(harness)).failures == 0


async def test_the_state_of_a_full_outbox_is_read_in_few_commands(webhook_harness):
    """Of MAX_OUTBOX messages the oldest is found among those due first, and among those tried most often."""
    harness = webhook_harness
    await _end_jobs(harness, "a")
    [delivery] = await _claim(harness)
    outbox = harness.keys.outbox("ops")
    later = round(delivery.at * 1000) + 1
    harness.redis.zadd(outbox, {f"{later + n}-1": later + n for n in range(MAX_OUTBOX - 1)})
    for due in (1, later + 2 * MAX_OUTBOX):
        harness.redis.zadd(outbox, {delivery.id: due})
        calls_before = harness.redis.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0)
        assert (await _state(harness)).oldest_at == delivery.at
        calls = harness.redis.info("commandstats")["cmdstat_hmget"]["calls"] - calls_before
        assert calls < 300
    harness.redis.zremrangebyscore(outbox, later, later + MAX_OUTBOX)  # these have no data
