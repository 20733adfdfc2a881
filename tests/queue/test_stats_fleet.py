"""Statistics of a large fleet: counts are exact, the list of workers and the number of calls are bounded."""

import pytest

from aragora_q.status import MAX_WORKERS

FLEET = MAX_WORKERS + 50


async def _register(harness, count, first=0):
    for n in range(first, first + count):
        await harness.worker(f"w{n:04}")


async def test_workers_are_counted_and_some_listed(harness):
    """All workers count as alive or silent; at most MAX_WORKERS are listed, the longest silent ones first."""
    await _register(harness, FLEET)
    for worker_id in ("w0007", "w0140"):
        harness.stop_heartbeat(worker_id, 1_000)
    stats = await harness.queue.get_queue_stats()
    assert stats["worker_counts"] == {"alive": FLEET - 2, "silent": 2}
    assert len(stats["workers"]) == MAX_WORKERS
    assert {worker["worker_id"] for worker in stats["workers"][:2]} == {"w0007", "w0140"}
    assert [worker["is_alive"] for worker in stats["workers"][:3]] == [False, False, True]


async def test_counts_of_a_small_fleet_go_by_each_workers_own_lease(harness):
    """While all workers are listed, a worker is alive if its heartbeat is younger than its own lease."""
    await harness.worker("long", lease_seconds=3_600)
    await harness.worker("short", lease_seconds=120)
    for worker_id in ("long", "short"):
        harness.stop_heartbeat(worker_id, 600)
    assert (await harness.queue.get_queue_stats())["worker_counts"] == {"alive": 1, "silent": 1}


@pytest.mark.parametrize("count", [1, FLEET])
async def test_the_number_of_calls_does_not_depend_on_the_fleet(harness, monkeypatch, count):
    """Four round trips, and no more commands than a full list of workers takes."""
    await _register(harness, count)
    client, sent = harness.queue.connection._client, []
    send_all = client.send_all

    async def counted(commands, *args, **options):
        sent.append(len(commands))
        return await send_all(commands, *args, **options)

    monkeypatch.setattr(client, "send_all", counted)
    await harness.queue.get_queue_stats()
    assert len(sent) <= 4
    assert sum(sent) < MAX_WORKERS + 40
