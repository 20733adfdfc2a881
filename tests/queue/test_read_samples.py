"""Reading samples: what `sample.lua` writes comes back, in one round trip, whatever else is in the stream."""

import json

import pytest

from aragora_q.contracts import Completed, Failed
from aragora_q.samples import as_json, read_samples


@pytest.fixture
def move_sample(harness):
    """Moves the newest sample some minutes into the past, as if it had been written then."""

    def move(minutes):
        [entry_id, fields] = harness.redis.xrange(harness.keys.samples_minute)[-1]
        at = int(entry_id.partition("-")[0]) - minutes * 60_000
        kept = harness.redis.xrange(harness.keys.samples_minute)[:-1]
        harness.redis.delete(harness.keys.samples_minute)
        for each_id, each in [*kept, (at, fields)]:
            harness.redis.xadd(harness.keys.samples_minute, each, id=each_id)

    return move


async def test_what_is_written_is_read(harness, move_sample):
    """Two samples a minute apart show what happened between them, also as JSON."""
    await harness.queue.sample()
    move_sample(1)
    worker = await harness.worker()
    for job_id, outcome in (("good", Completed(b"{}")), ("bad", Failed("no"))):
        await harness.enqueue(job_id)
        job = await harness.start_one(worker)
        await harness.report(worker, job, outcome)
    await harness.enqueue("waits")
    await harness.queue.sample()
    found = await read_samples(harness.queue.connection, "2h")
    view = json.loads(json.dumps(as_json(found)))
    assert (view["span"], view["step_seconds"], len(view["points"])) == ("2h", 60, 120)
    [point] = [point for point in view["points"] if point["completed"] is not None]
    counts = {name: point[name] for name in ("enqueued", "started", "completed", "failed")}
    assert counts == {"enqueued": 3, "started": 2, "completed": 1, "failed": 1}
    assert point["run"]["p50_seconds"] == point["total"]["p50_seconds"] == 0.5
    assert point["spent_usd"] == 0
    assert found.series().gauges["waiting"][-1] == 1


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
