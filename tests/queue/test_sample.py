"""sample.lua and complete.lua: samples of a queue, and the buckets of durations that they have."""

from datetime import date, timedelta

import pytest
from support.schedules import now_ms

from aragora_q.contracts import Completed
from aragora_q.maintenance import reap_pass
from aragora_q.redis.keys import SAMPLED_COUNTERS

HOUR_MS = 3_600_000


def _samples(harness, kind="minute"):
    return harness.redis.xrange(getattr(harness.keys, f"samples_{kind}"))


async def _complete(harness, worker, job_id, *, run_ms, total_ms):
    """Complete a job whose attempt began, and that was enqueued, some time ago.

    The times of short ones are negative: they count as 0, however slow this machine is.
    """
    await harness.enqueue(job_id)
    job = await harness.start_one(worker)
    now = now_ms(harness.redis)
    job.fence = now - run_ms
    times = {"fence": job.fence, "created_at": now - total_ms}
    harness.redis.hset(harness.keys.job(job_id), mapping=times)
    assert await harness.report(worker, job, Completed(b"{}")) == "completed"


async def test_any_number_of_callers_write_one_sample(harness):
    """One a minute and one an hour, with ids of their beginning; the next is due within a minute."""
    began = now_ms(harness.redis)
    due = [await harness.queue.sample() for _ in range(3)]
    ended = now_ms(harness.redis)
    for kind, ms in (("minute", 60_000), ("hour", HOUR_MS)):
        ids = {entry_id for entry_id, _ in _samples(harness, kind)}
        assert ids  # two if another minute or hour began meanwhile
        assert ids <= {f"{moment - moment % ms}-0" for moment in (began, ended)}
    assert all(0 < seconds <= 60 for seconds in due)


async def test_a_sample_has_counters_gauges_and_durations(harness):
    """Lifetime totals, what waits and runs now, live workers, and completed jobs by their durations."""
    worker = await harness.worker()
    await _complete(harness, worker, "short", run_ms=-60_000, total_ms=20_000)
    await _complete(harness, worker, "long", run_ms=20_000, total_ms=10 * 86_400_000)
    await harness.enqueue("running")
    await harness.start_one(worker)
    for n in range(2):
        await harness.enqueue(f"waiting-{n}")
    await harness.enqueue("delayed", delay_seconds=60)
    await harness.queue.sample()
    fields = _samples(harness)[-1][1]
    numbers = fields["counts"].split()
    counters = dict(zip(SAMPLED_COUNTERS, numbers, strict=False))
    assert counters | {"enqueued": "6", "started": "3", "completed": "2"} == counters
    assert numbers[len(SAMPLED_COUNTERS) :] == ["2", "1", "1", "0", "1", "0", "0"]
    assert fields["run"] == "0 1 0 0 0 0 0 1"  # 17.2 to 30.3 s are bucket 6
    assert fields["total"] == "6 1" + " 0" * 14 + " 1"


async def test_odd_times_and_damaged_keys_do_not_stop_a_report(harness):
    """Times that are missing, of the future or no numbers count as none; so does a key of another type."""
    worker = await harness.worker()
    for n, moment in enumerate(("", "nan", "inf", 10**14)):
        await harness.enqueue(f"odd-{n}")
        job = await harness.start_one(worker)
        harness.redis.hset(harness.keys.job(job.id), "created_at", moment)
        assert await harness.report(worker, job, Completed(b"{}")) == "completed"
    assert sum(map(int, harness.redis.hgetall(harness.keys.durations).values())) == 4
    harness.redis.hset(harness.keys.durations, mapping={"x": 1, "9999 9999": 1, "1 1": "x"})
    await harness.queue.sample()
    assert _samples(harness)[-1][1]["total"] == "0 4"
    harness.redis.delete(harness.keys.durations)
    harness.redis.set(harness.keys.durations, "text")
    await _complete(harness, worker, "last", run_ms=0, total_ms=0)
    harness.redis.delete(harness.keys.durations)


async def test_samples_are_kept_for_their_time(harness):
    """Minutes for 48 hours, hours for 90 days."""
    hour = now_ms(harness.redis) // HOUR_MS * HOUR_MS
    for stream, kept_hours in (
        (harness.keys.samples_minute, 48),
        (harness.keys.samples_hour, 2160),
    ):
        for hours in (kept_hours + 2, kept_hours - 1):
            harness.redis.xadd(stream, {"counts": "-"}, id=hour - hours * HOUR_MS)
    await harness.queue.sample()
    for kind, kept_hours in (("minute", 48), ("hour", 2160)):
        oldest, _ = _samples(harness, kind)
        assert oldest[0] == f"{hour - (kept_hours - 1) * HOUR_MS}-0"


async def test_a_clock_that_was_set_back_stops_no_samples(harness):
    """Samples of the future are dropped, those of the past are kept."""
    now = now_ms(harness.redis)
    for moment in (now - 2 * HOUR_MS, now + HOUR_MS, now + 365 * 24 * HOUR_MS):
        harness.redis.xadd(harness.keys.samples_minute, {"counts": "-"}, id=moment)
    await harness.queue.sample()
    past, present = _samples(harness)
    assert past == (f"{now - 2 * HOUR_MS}-0", {"counts": "-"})
    assert 0 <= now_ms(harness.redis) - int(present[0].removesuffix("-0")) < 120_000


@pytest.mark.parametrize("damage", [None, "text", "1 2"])
async def test_a_sample_has_what_the_queue_spent(harness, damage):
    """Of today and of yesterday; what cannot be read is unknown, and the sample is written."""
    seconds, _ = await harness.queue.connection.execute("TIME")
    day = int(seconds) // 86_400
    gates = harness.queue.connection.gate_keys
    key = gates.spend_of_queue(str(date(1970, 1, 1) + timedelta(days=day)), harness.config.queue)
    harness.redis.set(key, damage or "3 0 10 20 0 1500000 0 0")
    await reap_pass(harness.queue, "reaper")
    spent = _samples(harness)[-1][1]["counts"].split()[-2:]
    assert spent == (["-", "-"] if damage else ["1500000", "0"])
    harness.redis.delete(key)
