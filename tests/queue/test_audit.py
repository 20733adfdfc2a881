"""The history of a job says who changed it, and why; that of the queue's pause is in its statistics."""

import json

import pytest

from aragora_q import Job
from aragora_q.contracts import Failed

ANN = {"by": "ann@desk", "reason": "wrong question"}


async def lines(harness, job_id):
    """Cause, actor and reason of each line of a job's history."""
    history = await harness.queue.tracker.history(job_id)
    return [(line["cause"], line.get("by"), line.get("reason")) for line in history]


async def test_each_act_is_a_line_of_the_history(harness):
    """Cancel, requeue, hold and unhold add a line each; the error stays the last error."""
    session = await harness.worker()
    await harness.enqueue("j")
    await harness.report(session, await harness.start_one(session), Failed("no"))
    await harness.queue.requeue(["j"], **ANN)
    await harness.queue.hold("j", **ANN)
    await harness.queue.unhold("j", by="bob@web", reason="")
    await harness.start_one(session)
    await harness.queue.hold("j", **ANN)
    await harness.queue.unhold("j", by="", reason="it was asked")
    await harness.queue.cancel("j", **ANN)
    assert await lines(harness, "j") == [
        ("error", None, None),
        ("requeued", *ANN.values()),
        ("held", *ANN.values()),
        ("unheld", "bob@web", ""),
        ("held", *ANN.values()),
        ("unheld", "", "it was asked"),
        ("cancelled", *ANN.values()),
    ]
    history = await harness.queue.tracker.history("j")
    assert [line["attempt"] for line in history] == [1, 1, 0, 0, 1, 1, 1]
    job = await harness.queue.get_job("j")
    assert (job.error, job.hold) == ("no", None)
    assert harness.redis.pttl(harness.keys.history("j")) > 0


async def test_without_actor_and_reason_nothing_is_kept(harness):
    """What maintenance frees by itself, and callers that give neither, add no line and no key."""
    await harness.queue.enqueue_many([Job({}, id="a"), Job({}, id="b")])
    await harness.queue.cancel("a")
    await harness.queue.requeue(["a"])
    await harness.queue.unhold_many(["b"], ("budget", "provider"))
    await harness.queue.cancel_many(["a", "b"])
    assert not harness.redis.exists(harness.keys.history("a"), harness.keys.history("b"))


async def test_the_reason_of_a_hold_is_that_of_its_own_line(harness):
    """A job that was requeued or freed for another reason, and is held again, shows why it is held."""
    await harness.enqueue("j")
    await harness.queue.cancel("j", by="bob", reason="cancelled because")
    await harness.queue.requeue(["j"], by="bob", reason="requeued because")
    await harness.queue.hold("j", by="ann", reason="held because")
    harness.redis.rpush(
        harness.keys.history("j"),
        json.dumps({"at": 1, "cause": "unheld", "attempt": 0, "by": "x", "reason": "other"}),
    )
    job = await harness.queue.get_job("j")
    assert (job.hold.by, job.hold.reason) == ("ann", "held because")


@pytest.mark.parametrize("act", ["cancel_many", "requeue", "unhold_many"])
async def test_long_and_odd_texts_are_cut(harness, act):
    """A name and a reason of any length and with any characters are kept up to their limits."""
    await harness.enqueue("j")
    if act == "unhold_many":
        await harness.queue.hold("j")
    elif act == "requeue":
        await harness.queue.cancel("j")
    await getattr(harness.queue, act)(["j"], by="é" * 100, reason="\ud800\n\x00" + "x" * 100_000)
    line = (await harness.queue.tracker.history("j"))[-1]
    assert line["by"] == "é" * 32
    assert line["reason"].startswith("?\n\x00x")
    assert len(line["reason"]) <= 8_000


async def test_a_group_keeps_who_cancelled_it(harness):
    """The group and the history of its live jobs have the actor and the reason, of the first cancel."""
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", group="g") for n in range(3)])
    assert await harness.queue.cancel_group("g", **ANN) == 3
    await harness.queue.cancel_group("g", by="bob", reason="again")
    group = await harness.queue.tracker.get_group("g")
    assert (group.cancelled_by, group.cancelled_reason) == tuple(ANN.values())
    assert await lines(harness, "j1") == [("cancelled", *ANN.values())]


async def test_statistics_say_who_paused_and_resumed(harness):
    """They have the latest of both; a second pause of a paused queue changes nothing."""
    assert await harness.queue.pause(**ANN)
    assert not await harness.queue.pause(by="bob", reason="again")
    stats = await harness.queue.get_queue_stats()
    assert (stats["paused_by"], stats["paused_reason"]) == tuple(ANN.values())
    assert stats["resumed_at"] is stats["resumed_by"] is None
    assert await harness.queue.pause(paused=False, by="bob@web")
    stats = await harness.queue.get_queue_stats()
    assert stats["paused_at"] is stats["paused_by"] is stats["paused_reason"] is None
    assert (stats["resumed_by"], stats["resumed_reason"]) == ("bob@web", "")
    assert stats["resumed_at"] > 0
