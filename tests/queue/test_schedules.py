"""enqueue.lua with `tick`, plan_schedules.lua, change_schedule.lua: each time of a schedule once."""

import json
from dataclasses import replace

import pytest
from support.schedules import now_ms, scheduler

from aragora_q.contracts import Plan, ScheduleState, Tick
from aragora_q.errors import GroupSealed, InvalidPayload, QueueFull
from aragora_q.job import Job

AT = 1_700_000_000_000
NEXT = AT + 60_000


def tick(at=AT, *, name="nightly", **job):
    job = Job({"n": 1}, id=f"{name}@{at // 1000}", tags={"schedule": name}, **job)
    return Tick(name, at, at + 60_000, job, reason=f"due at {at}")


async def state(harness, name="nightly"):
    return (await harness.queue.schedules.read()).states.get(name, ScheduleState(name))


async def test_a_time_is_enqueued_once(harness):
    """Job and time are one transition: afterwards, the time and those before are past."""
    schedules = harness.queue.schedules
    assert await schedules.enqueue([tick()]) == ["created"]
    assert await schedules.enqueue([tick(), tick(AT - 60_000)]) == ["past", "past"]
    assert await state(harness) == ScheduleState(
        "nightly", last_at=AT / 1000, next_at=NEXT / 1000, last_job=f"nightly@{AT // 1000}"
    )
    assert harness.counters()["ticks"] == 1
    assert harness.counters()["enqueued"] == 1
    [line] = await harness.queue.tracker.history(f"nightly@{AT // 1000}")
    assert line["cause"] == "scheduled"
    assert (line["by"], line["reason"]) == ("schedule nightly", f"due at {AT}")


async def test_a_time_stays_past_when_its_job_is_purged(harness):
    """The state of a schedule does not depend on its jobs."""
    schedules = harness.queue.schedules
    await schedules.enqueue([tick()])
    await harness.queue.cancel(tick().job.id)
    assert await harness.queue.purge_many([tick().job.id]) == ["purged"]
    assert await schedules.enqueue([tick()]) == ["past"]
    assert (await harness.queue.get_status(tick().job.id)) is None


async def test_an_id_that_exists_is_done_with(harness):
    """A job with the id of a time stands for it; it is not counted as enqueued."""
    await harness.enqueue(tick().job.id)
    assert await harness.queue.schedules.enqueue([tick()]) == ["exists"]
    assert (await state(harness)).last_at == AT / 1000
    assert "ticks" not in harness.counters()


async def test_a_paused_schedule_enqueues_nothing(harness):
    """Nothing is enqueued between pause and resume, and nothing afterwards for the times in between."""
    schedules = harness.queue.schedules
    assert await schedules.pause("nightly", by="ann@host", reason="too dear")
    assert not await schedules.pause("nightly", by="bob@host")
    paused = (await state(harness)).paused
    assert (paused.by, paused.reason) == ("ann@host", "too dear")
    assert paused.at > AT / 1000
    assert await schedules.enqueue([tick()]) == ["paused"]
    assert await schedules.resume("nightly", next_at=NEXT / 1000, by="ann@host")
    assert not await schedules.resume("nightly", by="ann@host")
    now = await state(harness)
    assert (now.paused, now.next_at) == (None, NEXT / 1000)
    assert await schedules.enqueue([tick()]) == ["past"]
    assert harness.entries() == []


async def test_changes_of_a_schedule_are_events(harness):
    """Each says who changed which schedule, and why."""
    schedules = harness.queue.schedules
    await schedules.pause("nightly", by="ann@host", reason="too dear")
    await schedules.resume("nightly", by="bob@host")
    await schedules.forget("nightly", by="cat@host")
    events = await harness.queue.read_events("0-0")
    assert [(e["event"], e["schedule"], e["by"], e["reason"]) for e in events] == [
        ("schedule_paused", "nightly", "ann@host", "too dear"),
        ("schedule_resumed", "nightly", "bob@host", ""),
        ("schedule_forgotten", "nightly", "cat@host", ""),
    ]


async def test_what_operators_do_with_a_schedule_is_listed(harness):
    """Each call that changes something is one change, with who and why; a time that is due is none."""
    schedules = harness.queue.schedules
    await schedules.enqueue([tick()])
    for _ in range(2):
        await schedules.pause("nightly", by="ann@host", reason="too dear")
    await schedules.resume("nightly", by="bob@host")
    for _ in range(2):
        await schedules.run(
            "nightly", Job({}, id="nightly@1-run"), by="cat@host", reason="missed it"
        )
    await schedules.forget("nightly", by="dan@host")
    found = [(each.verb, each.by, each.reason, each.ids) for each in await harness.queue.changes()]
    assert found == [
        ("forget", "dan@host", "", ()),
        ("run", "cat@host", "missed it", ("nightly@1-run",)),
        ("resume", "bob@host", "", ()),
        ("pause", "ann@host", "too dear", ()),
    ]
    assert {each.subject for each in await harness.queue.changes()} == {"schedule:nightly"}


async def test_a_full_queue_keeps_the_time(harness):
    """Nothing changes, so that the time is tried again; then it is enqueued."""
    harness.queue.config = harness.queue.connection.config = harness.queue.config.model_copy(
        update={"max_backlog": 1}
    )
    schedules = harness.queue.schedules
    await harness.enqueue("a")
    assert await schedules.enqueue([tick()]) == ["full"]
    assert await state(harness) == ScheduleState("nightly")
    await harness.queue.cancel("a")
    assert await schedules.enqueue([tick()]) == ["created"]


async def test_a_refused_job_changes_nothing(harness):
    """A sealed group and an invalid job are errors; the time is not done with until it is planned so."""
    schedules = harness.queue.schedules
    await harness.queue.enqueue(Job({}, id="a", group="g"))
    await harness.queue.seal_group("g")
    sealed, invalid = await schedules.enqueue(
        [tick(group="g"), tick(name="other", priority=1_000_000)]
    )
    assert isinstance(sealed, GroupSealed)
    assert isinstance(invalid, InvalidPayload)
    assert await state(harness) == ScheduleState("nightly")


async def test_missed_times_are_counted_once(harness):
    """A second process that read the same state changes nothing; `error` says why a time was refused."""
    schedules = harness.queue.schedules
    plan = Plan(ScheduleState("nightly"), NEXT)
    assert await schedules.plan([plan]) == [True]
    first = await state(harness)
    assert first.next_at == NEXT / 1000
    assert first.last_at > AT / 1000
    later = round(first.last_at * 1000) + 60_000
    missed = Plan(first, later + 60_000, later, missed=3, error="group g is sealed")
    assert await schedules.plan([missed, missed]) == [True, False]
    now = await state(harness)
    assert (now.missed, now.error) == (3, "group g is sealed")
    assert (now.last_at, now.next_at) == (later / 1000, later / 1000 + 60)
    assert harness.counters()["ticks_missed"] == 3
    assert await schedules.enqueue([tick(later + 60_000)]) == ["created"]
    assert (await state(harness)).error is None


async def test_a_time_is_not_both_enqueued_and_missed(harness):
    """A process that counts missed times, while another one enqueues the last of them, is to count again."""
    schedules = harness.queue.schedules
    await schedules.enqueue([tick()])
    seen = await state(harness)
    later = replace(tick(NEXT + 60_000), missed=1, last_at=round(seen.last_at * 1000))
    assert await schedules.enqueue([tick(NEXT)]) == ["created"]
    assert await schedules.enqueue([later]) == ["changed"]
    assert (await state(harness)).last_at == NEXT / 1000
    assert "ticks_missed" not in harness.counters()
    assert await schedules.enqueue([replace(later, last_at=NEXT)]) == ["created"]
    assert (await state(harness)).missed == harness.counters()["ticks_missed"] == 1


async def test_a_damaged_number_of_missed_times_begins_again(harness):
    """Neither a time that is enqueued nor one that is missed is lost because of it."""
    harness.redis.hset(harness.keys.schedules, "missed:nightly", "-")
    schedules = harness.queue.schedules
    assert await schedules.enqueue([replace(tick(), missed=2)]) == ["created"]
    assert (await state(harness)).missed == 2
    assert harness.counters()["enqueued"] == 1
    harness.redis.hset(harness.keys.schedules, "missed:nightly", "-")
    assert await schedules.plan([Plan(await state(harness), NEXT, AT, missed=3)]) == [True]
    assert (await state(harness)).missed == 3
    assert harness.counters()["ticks_missed"] == 5


async def test_the_first_time_stays_due(harness):
    """A process that plans a new schedule right before its first time takes nothing from it."""
    schedules = harness.queue.schedules
    assert await schedules.plan([Plan(ScheduleState("nightly"), AT)]) == [True]
    assert (await state(harness)).last_at < AT / 1000
    assert await schedules.enqueue([tick()]) == ["created"]


async def test_run_is_of_no_time(harness):
    """A job that an operator enqueues says who did; times stay due, also those of a paused schedule."""
    schedules = harness.queue.schedules
    await schedules.pause("nightly")
    job = Job({}, id="nightly@1-run")
    assert await schedules.run("nightly", job, by="ann@host", reason="missed it")
    assert not await schedules.run("nightly", job, by="ann@host")
    now = await state(harness)
    assert (now.last_job, now.last_at) == ("nightly@1-run", None)
    [line] = await harness.queue.tracker.history("nightly@1-run")
    assert (line["cause"], line["by"], line["reason"]) == ("scheduled", "ann@host", "missed it")
    assert "ticks" not in harness.counters()


async def test_run_says_why_not(harness):
    """A full queue and a refused job are errors."""
    harness.queue.config = harness.queue.connection.config = harness.queue.config.model_copy(
        update={"max_backlog": 1}
    )
    await harness.enqueue("a")
    with pytest.raises(QueueFull, match="limit of 1 waiting"):
        await harness.queue.schedules.run("nightly", Job({}, id="nightly@1-run"))
    assert await state(harness) == ScheduleState("nightly")


async def test_forget_deletes_all_that_is_known(harness):
    """Afterwards the schedule is unknown; others are not touched."""
    schedules = harness.queue.schedules
    await schedules.enqueue([tick(), tick(name="other")])
    await schedules.pause("nightly")
    assert await schedules.forget("nightly")
    assert not await schedules.forget("nightly")
    assert list((await schedules.read()).states) == ["other"]


async def test_damaged_state_is_repaired_by_the_next_time(harness):
    """What another program wrote neither stops a schedule nor ends a read."""
    key = harness.keys.schedules
    harness.redis.hset(
        key, mapping={"last:nightly": "x", "missed:nightly": "-", "paused:other": "[", "odd": "1"}
    )
    read = await harness.queue.schedules.read()
    assert read.states["nightly"] == ScheduleState("nightly")
    assert read.states["other"].paused is not None
    assert await harness.queue.schedules.plan([Plan(read.states["nightly"], NEXT)]) == [True]
    assert (await state(harness)).next_at == NEXT / 1000


@pytest.mark.parametrize("text", ["999999999999999", "-5", "9" * 400, "1e9"])
async def test_times_that_are_none_are_as_if_there_were_none(harness, text):
    """Also those that no calendar has: a schedule with them becomes known, and is due at its next time."""
    fields = dict.fromkeys((f"{field}:nightly" for field in ("last", "next")), text)
    harness.redis.hset(harness.keys.schedules, mapping=fields)
    process = scheduler(harness, nightly={"cron": "0 6 * * *", "job": {"payload": {}}})
    before = now_ms(harness.redis) / 1000
    await process.step()
    after = now_ms(harness.redis) / 1000
    found = await state(harness)
    assert found.last_at <= after
    assert before < found.next_at <= after + 86_400
    harness.redis.hset(harness.keys.schedules, mapping=fields)
    assert await harness.queue.schedules.enqueue([tick()]) == ["created"]


async def test_text_of_any_kind_is_kept(harness):
    """Names of people and reasons are data, also with quotes, line breaks and other scripts."""
    reason = 'say "no"\n\x1b[31mß€ \udcff'
    await harness.queue.schedules.run("nightly", Job({}, id="j"), by='a "b"\n', reason=reason)
    [line] = await harness.queue.tracker.history("j")
    assert line["by"] == 'a "b"\n'
    assert line["reason"] == reason.replace("\udcff", "?")
    assert json.dumps(line)
