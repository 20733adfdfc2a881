"""How a job may move and end: each way that a script has, on a `QueueHarness`."""

from support.queue_harness import decisions

from aragora_q.contracts import Completed, Failed, Released, Retry


def report(outcome):
    async def move(harness):
        session = await harness.worker()
        await harness.report(session, await harness.start_one(session), outcome)

    return move


async def start(harness):
    await harness.start_one(await harness.worker())


async def start_again(harness):
    await report(Retry("x", 60))(harness)
    await promote(harness)
    await harness.start_one(await harness.worker("w2"))


async def release_orphans(harness):
    session = await harness.worker()
    await harness.start_one(session)
    assert await session.release_orphans(lambda _: False, min_idle_seconds=0) == ["a"]


async def reclaim(harness):
    await harness.start_one(await harness.worker())
    harness.backdate("a")
    assert decisions(await harness.queue.reclaim()) == [("a", "reclaimed")]


async def poison(harness):
    for n, decision in enumerate(("reclaimed", "reclaimed", "poisoned")):
        await harness.start_one(await harness.worker(f"victim{n}"))
        harness.backdate("a")
        assert decisions(await harness.queue.reclaim()) == [("a", decision)]


async def redeliver(harness):
    session = await harness.worker()
    await harness.start_one(session)
    harness.backdate("a")
    harness.redis.hincrby(harness.keys.worker("w1"), "registered_at", -1000)
    await harness.renew(session)
    assert decisions(await harness.queue.reclaim()) == [("a", "redelivered")]


async def promote(harness):
    harness.redis.zadd(harness.keys.delayed, {"a": 1})
    await harness.queue.promote()


async def promote_without_payload(harness):
    harness.redis.delete(harness.keys.payload("a"))
    await promote(harness)


async def cancel(harness):
    assert await harness.queue.cancel("a")


async def hold(harness):
    assert await harness.queue.hold("a")


def after(first, second):
    async def move(harness):
        await first(harness)
        await second(harness)

    return move


async def requeue(harness):
    assert await harness.queue.requeue(["a"]) == ["requeued"]


DELAYED = {"delay_seconds": 60}
ENDINGS = {
    "complete": ({}, report(Completed(b"{}")), "completed"),
    "fail": ({}, report(Failed("x", b"{}")), "failed"),
    "last retry": ({"max_attempts": 1}, report(Retry("x", 60)), "failed"),
    "poison": ({}, poison, "failed"),
    "promote without payload": (DELAYED, promote_without_payload, "failed"),
    "cancel pending": ({}, cancel, "cancelled"),
    "cancel delayed": (DELAYED, cancel, "cancelled"),
    "cancel processing": ({}, after(start, cancel), "cancelled"),
    "cancel held": ({}, after(hold, cancel), "cancelled"),
    "cancel retrying": ({}, after(report(Retry("x", 60)), cancel), "cancelled"),
}
"""How the last job of a group may end: fields of the job, what happens, its status then."""

MOVES = {
    **ENDINGS,
    "enqueue delayed": (DELAYED, None, "pending"),
    "start": ({}, start, "processing"),
    "start again": ({}, start_again, "processing"),
    "retry": ({}, report(Retry("x", 60)), "retrying"),
    "retry later": ({}, report(Retry("x", 60, charged=False)), "retrying"),
    "release": ({}, report(Released()), "pending"),
    "release orphans": ({}, release_orphans, "pending"),
    "reclaim": ({}, reclaim, "retrying"),
    "redeliver": ({}, redeliver, "pending"),
    "promote": (DELAYED, promote, "pending"),
    "requeue failed": ({}, after(report(Failed("x")), requeue), "pending"),
    "requeue cancelled": ({}, after(cancel, requeue), "pending"),
}
