"""Reading samples: what `sample.lua` writes comes back, in one round trip, whatever else is in the stream."""

import pytest
from support.schedules import now_ms

from aragora_q.contracts import Completed, Failed
from aragora_q.samples import read_samples


async def test_what_is_written_is_read(harness):
    """Two samples a minute apart show what happened between them."""
    stream = harness.keys.samples_minute
    await harness.queue.sample()
    [(_, first)] = harness.redis.xrange(stream)
    harness.redis.delete(stream)
    worker = await harness.worker()
    for job_id, outcome in (("good", Completed(b"{}")), ("bad", Failed("no"))):
        await harness.enqueue(job_id)
        job = await harness.start_one(worker)
        # In the future, so that it took no time, however slow this machine is.
        job.fence = now_ms(harness.redis) + 60_000
        times = {"fence": job.fence, "created_at": job.fence}
        harness.redis.hset(harness.keys.job(job_id), mapping=times)
        await harness.report(worker, job, outcome)
    await harness.enqueue("waits")
    await harness.queue.sample()
    [(entry_id, second)] = harness.redis.xrange(stream)
    at = int(entry_id.partition("-")[0])
    harness.redis.delete(stream)
    harness.redis.xadd(stream, first, id=at - 60_000)
    harness.redis.xadd(stream, second, id=at)
    found = await read_samples(harness.queue.connection, "2h")
    series = found.series()
    assert (series.span, series.step, len(series.times)) == ("2h", 60, 120)
    [n] = [n for n, count in enumerate(series.counts["completed"]) if count is not None]
    names = ("enqueued", "started", "completed", "failed")
    assert [series.counts[name][n] for name in names] == [3, 2, 1, 1]
    assert series.run_seconds["p50"][n] == series.total_seconds["p50"][n] == 0.5
    assert series.spent_usd[n] == 0
    assert [n for n in series.gauges["waiting"] if n is not None] == [0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "y"},
        {"counts": "", "run": "", "total": ""},
        {"counts": "1 " * 14, "run": "99 1", "total": ""},
        {"counts": "1 " * 14, "run": "-4 1", "total": ""},
        {"counts": "1 " * 14, "run": "0 " + "1 " * 99, "total": ""},
        {"counts": "1 " * 13 + "9" * 5000, "run": "", "total": ""},
        {"counts": b"\xff", "run": "", "total": ""},
    ],
)
async def test_foreign_entries_are_left_out(harness, fields):
    """Whatever another program wrote, the samples are shown."""
    seconds, _ = harness.redis.time()
    harness.redis.xadd(harness.keys.samples_minute, fields, id=(seconds - 90) * 1000)
    await harness.queue.sample()
    found = await read_samples(harness.queue.connection, "2h")
    assert len(found.samples) == 1


@pytest.mark.parametrize("span", ["2h", "48h", "90d"])
async def test_an_empty_queue_has_no_samples(harness, span):
    """All intervals are gaps, of every span."""
    series = (await read_samples(harness.queue.connection, span)).series()
    assert all(series.is_gap)
    assert set(series.counts["completed"]) == {None}
