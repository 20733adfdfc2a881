"""The stream `changes`: what operators did, once per command, of the queue and of its gates."""

import asyncio

import pytest

from aragora_q.base import JobStatus
from aragora_q.config.tables import BudgetConfig
from aragora_q.contracts import Completed, Held
from aragora_q.gates.accounts import Accounts
from aragora_q.gates.book import Book
from aragora_q.redis.keys import MAX_CHANGES

ANN = {"by": "ann", "reason": "why"}


async def changes(harness, **options):
    """What was changed, newest first, without times."""
    return [
        (each.verb, each.subject, each.count, each.ids)
        for each in await harness.queue.changes(**options)
    ]


def event(harness):
    """The fields of the latest event."""
    [(_, fields)] = harness.redis.xrevrange(harness.keys.events, count=1)
    return fields


@pytest.mark.parametrize("verb", ["cancel", "hold", "unhold", "requeue", "purge"])
async def test_each_verb_on_jobs(harness, verb):
    """A verb on two jobs is one change with who and why, as its event says; without `by`, there is none."""
    queue, ids = harness.queue, ["a", "b"]
    for job_id in ids:
        await harness.enqueue(job_id)
    before = {"unhold": queue.hold_many, "requeue": queue.cancel_many, "purge": queue.cancel_many}
    if verb in before:
        await before[verb](ids)
    assert await queue.changes() == []
    send = getattr(queue, "requeue" if verb == "requeue" else f"{verb}_many")
    await send(ids, **ANN)
    [change] = await queue.changes()
    assert (change.verb, change.subject, change.by, change.reason) == (verb, "", "ann", "why")
    assert (change.count, change.ids) == (2, ("a", "b"))
    assert change.since <= change.at
    assert change.what == f"{verb} 2 jobs: a, b"
    published = event(harness)
    assert (published["ids"], published["by"], published["reason"]) == ("a b", "ann", "why")
    await send(ids, **ANN)  # changes nothing
    assert len(await queue.changes()) == 1


async def test_holds_that_are_asked_or_taken_over_are_changes(harness):
    """The hold of a running job, its withdrawal, and a person's hold of a job that was held automatically."""
    session = await harness.worker()
    for job_id in ("runs", "money"):
        await harness.enqueue(job_id)
    job = await harness.start_one(session)
    assert await harness.queue.hold_many([job.id], **ANN) == ["asked"]
    assert await harness.queue.unhold_many([job.id], **ANN) == ["unheld"]
    job = await harness.start_one(session)
    await harness.report(session, job, Held("budget", "full", "month"))
    assert [verb for verb, *_ in await changes(harness)] == ["unhold", "hold"]
    assert await harness.queue.hold_many([job.id], **ANN) == ["held"]
    assert [verb for verb, *_ in await changes(harness)] == ["hold", "unhold", "hold"]


async def test_what_is_automatic_is_no_change(harness):
    """Holds and releases by budgets, and the purge of maintenance, are not noted."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    await harness.report(session, job, Held("budget", "full", "month"))
    assert await harness.queue.unhold_many(["a"], ["budget"]) == ["unheld"]
    job = await harness.start_one(session)
    await harness.report(session, job, Completed(b"{}"))
    await harness.queue.purge(JobStatus.COMPLETED, older_than_seconds=-1)
    assert await harness.queue.changes() == []
    assert "by" not in event(harness)


async def test_a_purge_by_age_is_noted_with_who(harness):
    """What an operator deletes by age is one change for all statuses."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id)
    await harness.queue.cancel_many(["a", "b"])
    await harness.queue.purge(JobStatus.CANCELLED, older_than_seconds=-1, **ANN)
    [(verb, _, count, ids)] = await changes(harness)
    assert (verb, count, sorted(ids)) == ("purge", 2, ["a", "b"])


async def test_a_command_on_many_jobs_is_one_change(harness):
    """250 jobs take three calls: one change counts all and names ten; one of another operator stays."""
    ids = [f"j{n}" for n in range(250)]
    for job_id in ids:
        await harness.enqueue(job_id)
    await harness.queue.cancel_many(ids[:100], **ANN)
    await harness.queue.pause(by="bob")
    await harness.queue.cancel_many(ids[100:], **ANN)
    assert await changes(harness) == [
        ("cancel", "", 250, tuple(ids[:10])),
        ("pause", "", 0, ()),
    ]


async def test_a_job_is_named_and_counted_once(harness):
    """A command that is repeated within 10 seconds has the same jobs, not more; the latest time counts."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id)
    for ids in (["a"], ["a", "b"], ["b"]):
        await harness.queue.cancel_many(ids)
        await harness.queue.requeue(ids, by="ann", reason="once more")
    assert await changes(harness) == [("requeue", "", 2, ("a", "b"))]


async def test_ids_fit_a_narrow_line(harness):
    """As many ids as fit, each whole; the only one is always there."""
    ids = ["long-" * 10, *(f"nightly@17959360{n}0" for n in range(2))]
    for job_id in ids:
        await harness.enqueue(job_id)
    await harness.queue.hold_many(ids[:1], **ANN)
    await harness.queue.cancel_many(ids[1:], **ANN)
    await harness.queue.cancel_many(ids[:1], by="bob")
    await harness.queue.purge_many(ids, **ANN)
    assert [each.what for each in await harness.queue.changes()] == [
        "purge 3 jobs",
        f"cancel 1 job: {ids[0]}",
        f"cancel 2 jobs: {ids[1]}, …",
        f"hold 1 job: {ids[0]}",
    ]


async def test_what_differs_is_another_change(harness):
    """Another reason, another verb in between, or more than 10 seconds: not counted together."""
    for job_id in ("a", "b", "c", "d"):
        await harness.enqueue(job_id)
    queue = harness.queue
    await queue.cancel("a", by="ann", reason="x")
    await queue.cancel("b", by="ann", reason="y")
    await queue.requeue(["a"], by="ann", reason="y")
    await queue.cancel("c", by="ann", reason="y")
    assert [ids for *_, ids in await changes(harness)] == [("c",), ("a",), ("b",), ("a",)]
    key = harness.keys.changes
    [(_, fields)] = harness.redis.xrevrange(key, count=1)
    harness.redis.delete(key)
    harness.redis.xadd(key, fields, id="1000-0")  # long ago
    await queue.cancel("d", by="ann", reason="y")
    assert [ids for *_, ids in await changes(harness)] == [("d",), ("c",)]


async def test_groups(harness):
    """Seal and cancel are one change each, the latter with its jobs; a second time changes nothing."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id, group="g")
    for _ in range(2):
        await harness.queue.seal_group("g", **ANN)
    for _ in range(2):
        await harness.queue.cancel_group("g", **ANN)
    (cancelled, sealed) = await harness.queue.changes()
    assert (cancelled.verb, cancelled.subject, cancelled.count) == ("cancel", "group:g", 2)
    assert cancelled.what.startswith("cancel group g, 2 jobs: ")
    assert (sealed.what, sealed.by, sealed.reason) == ("seal group g", "ann", "why")
    found = [fields for _, fields in harness.redis.xrange(harness.keys.events)]
    told = {each["event"]: each for each in found}
    for name in ("sealed", "group_cancelled", "cancelled"):
        assert (told[name]["by"], told[name]["reason"]) == ("ann", "why")
    assert told["sealed"]["group"] == told["group_cancelled"]["group"] == "g"


async def test_a_group_without_live_jobs(harness):
    """Its cancel is a change, too: the group takes no more jobs."""
    await harness.enqueue("a", group="g")
    await harness.queue.cancel("a")
    await harness.queue.cancel_group("g", **ANN)
    [change] = await harness.queue.changes()
    assert (change.what, change.by, change.reason) == ("cancel group g", "ann", "why")


async def test_pause_and_resume(harness):
    """Both are noted, once each, and told in events."""
    for paused in (True, True, False, False):
        await harness.queue.pause(paused=paused, **ANN)
        assert (event(harness)["by"], event(harness)["reason"]) == ("ann", "why")
    assert [each.what for each in await harness.queue.changes()] == [
        "resume the queue",
        "pause the queue",
    ]


async def test_budgets_and_providers(harness):
    """What is set and reset is noted with the gates, and shown with the changes of the queue, by time."""
    await harness.queue.pause(**ANN)
    wanted = BudgetConfig(limit_usd=50, window="day")
    await asyncio.sleep(0.002)  # changes of one millisecond, in two streams, have no order
    async with harness.queue.connection.open_gates() as gates:
        book, accounts = Book(gates), Accounts(gates)
        await book.set_budget("total", wanted, **ANN)
        await book.set_budget("total", wanted, **ANN)  # as a call that is sent again
        await book.reset_budget("total", **ANN)
        await book.reset_budget("total", **ANN)
        await accounts.pause("openai", **ANN)
        await accounts.resume("openai", **ANN)
        assert (await book.budgets(), await accounts.pauses()) == ([], {})
    found = await harness.queue.changes()
    assert [each.what for each in found] == [
        "resume provider openai",
        "pause provider openai",
        "reset budget total",
        "set budget total, $50.00/day, scope all, on full: hold",
        "pause the queue",
    ]
    assert {(each.by, each.reason) for each in found} == {("ann", "why")}


async def test_hostile_names_and_reasons_are_cut(harness):
    """A megabyte of reason or name is cut between characters; control characters are kept as data."""
    for reason, by in (("é" * 1_000_000, "ü" * 1_000_000), ("\x1b[31m\n\0\ud800", "a\x07b\nc")):
        await harness.enqueue("a")
        await harness.queue.cancel("a", by=by, reason=reason)
        await harness.queue.purge_many(["a"])
    second, first = await harness.queue.changes()
    assert (first.reason, first.by) == ("é" * 2_000, "ü" * 32)
    assert (second.reason, second.by) == ("\x1b[31m\n\0?", "a\x07b\nc")
    raw = {"retention_ms": 1, "by": "x", "group": "", "reason": b"\xc3\xa9" * 500_000}
    await harness.enqueue("b")
    await harness.queue.connection.run("cancel", [(harness.keys.job("b"), ("b",))], **raw)
    [latest, *_] = await harness.queue.changes()
    assert 3_990 < len(latest.reason) <= 4_000
    assert set(latest.reason) == {"é"}


async def test_a_key_of_another_type_is_replaced(harness):
    """No command fails because another program wrote to `changes`; until the next one, it reads as empty."""
    await harness.enqueue("a")
    gates_key = harness.queue.connection.gate_keys.named["changes"]
    for key in (harness.keys.changes, gates_key):
        harness.redis.set(key, "x")
    assert await harness.queue.changes() == []
    assert await harness.queue.cancel("a", **ANN)
    assert await harness.queue.pause(**ANN)
    await asyncio.sleep(0.002)  # changes of one millisecond, in two streams, have no order
    async with harness.queue.connection.open_gates() as gates:
        await Accounts(gates).pause("openai", **ANN)
    assert [each.verb for each in await harness.queue.changes()] == ["pause", "pause", "cancel"]


async def test_a_stream_without_an_id_left_is_replaced(harness):
    """As one to which another program wrote the last id that there is."""
    last = f"{2**64 - 1}-{2**64 - 1}"
    harness.redis.xadd(harness.keys.changes, {"verb": "x", "by": "y"}, id=last)
    await harness.enqueue("a")
    assert await harness.queue.cancel("a", **ANN)
    assert await harness.queue.pause(**ANN)
    assert [each.verb for each in await harness.queue.changes()] == ["pause", "cancel"]


async def test_foreign_entries_are_read(harness):
    """Entries that another program wrote have blanks for what cannot be read."""
    harness.redis.xadd(harness.keys.changes, {"count": "many", "since": "-", "x": "y"})
    [change] = await harness.queue.changes()
    assert (change.verb, change.count, change.ids) == ("", 0, ())
    assert change.since == change.at


async def test_since_limit_and_cap(harness):
    """The newest ones are read, at most `limit`, from a time on; the stream does not grow without end."""
    key = harness.keys.changes
    for n in range(1, 6):
        harness.redis.xadd(key, {"verb": f"v{n}", "by": "x"}, id=f"{n}000-0")
    assert [verb for verb, *_ in await changes(harness, limit=2)] == ["v5", "v4"]
    assert [verb for verb, *_ in await changes(harness, since_ms=4000)] == ["v5", "v4"]
    for n in range(2 * MAX_CHANGES):
        harness.redis.xadd(key, {"verb": "v", "by": "x"}, id=f"{6000 + n}-0")
    await harness.queue.pause(**ANN)
    assert harness.redis.xlen(key) <= MAX_CHANGES + 100
