"""One worker of a queue does its maintenance, whichever lives; the fleet's size does not matter."""

import asyncio
import time
from collections import Counter

import pytest
from support.executors import succeed
from support.schedules import now_ms
from support.wait import wait_until
from support.workers import wait_until_registered

from aragora_q.contracts import Identity
from aragora_q.maintenance import MAX_ASK_SECONDS, RETRY_SAMPLE_SECONDS, MaintenanceLoop
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker import liveness

NO_PID = "4194304"
"""One more than the highest process id that Linux gives."""


def _maintainer(harness):
    return (harness.redis.hget(harness.keys.control, "maintainer") or "").partition(" ")[0]


@pytest.mark.slow
async def test_a_killed_worker_is_replaced_within_seconds(new_harness, worker_process, redis_url):
    """kill -9 of the worker that does maintenance: another one promotes and reclaims soon after."""
    harness = new_harness(claim_idle_ms=1000)
    workers = {
        f"p{n}": worker_process(redis_url, f"p{n}", slots=1, lease_ms=1000) for n in range(3)
    }
    for worker in workers.values():
        worker.wait_until_started()
    first = await wait_until(lambda: _maintainer(harness), what="a worker to do maintenance")
    await harness.enqueue_steps("running", ["sleep", 0.5])
    workers[first].kill()
    killed_at = time.monotonic()
    await harness.enqueue_steps("delayed", delay_seconds=0.1)
    await harness.wait_for_end("delayed", "running")
    assert _maintainer(harness) in set(workers) - {first}
    assert time.monotonic() - killed_at < 20


@pytest.mark.slow
async def test_a_worker_that_stops_hands_maintenance_over(new_harness, worker_pool):
    """Its successor does not wait until the right expires."""
    harness = new_harness(claim_idle_ms=20_000)  # the right lasts for five seconds
    workers = {name: worker_pool.start(harness, succeed, name) for name in ("w1", "w2")}
    for worker in workers.values():
        await wait_until_registered(harness, worker)
    first = await wait_until(lambda: _maintainer(harness))
    await workers[first].stop()
    assert _maintainer(harness) != first
    [second] = set(workers) - {first}
    await wait_until(lambda: _maintainer(harness) == second, what="the other one to take over")


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of maintenance that any queue of this process makes, and changes of the maintainer."""
    counted = Counter()
    maintainers = [None]

    def count(name):
        original = getattr(RedisStreamsQueue, name)

        async def method(self, *args, **options):
            counted[name] += 1
            result = await original(self, *args, **options)
            if name == "claim_maintenance" and result.is_granted and args[0] != maintainers[-1]:
                counted["handover"] += 1
                maintainers.append(args[0])
            return result

        monkeypatch.setattr(RedisStreamsQueue, name, method)

    for name in ("promote", "reclaim", "remove_dead_workers", "purge", "claim_maintenance"):
        count(name)
    return counted


async def _calls_in(calls, seconds):
    calls.clear()
    await asyncio.sleep(seconds)  # the claim is about a span of time
    return Counter(calls)


@pytest.mark.slow
async def test_a_fleet_makes_no_more_passes_than_one_worker(new_harness, worker_pool, calls):
    """Twenty idle workers promote and reclaim about as often as one; the other nineteen only ask."""
    harness = new_harness(claim_idle_ms=2000)
    workers = [worker_pool.start(harness, succeed, "w0")]
    await wait_until_registered(harness, workers[0])
    await wait_until(lambda: calls["promote"])

    async def undisturbed():
        counted = await _calls_in(calls, 4)
        return counted if counted["promote"] >= 10 and counted["reclaim"] >= 6 else None

    alone = await wait_until(undisturbed, 60, "seconds in which the machine does not stall")
    for n in range(1, 20):
        workers.append(worker_pool.start(harness, succeed, f"w{n}"))
    for worker in workers[1:]:
        await wait_until_registered(harness, worker)
    await wait_until(lambda: calls["reclaim"] >= 19, what="each worker's pass at its start")
    fleet = await _calls_in(calls, 4)
    for name in ("promote", "reclaim", "remove_dead_workers", "purge"):
        # A new maintainer begins with every pass; on a busy machine the right may change hands.
        most = 1.5 * alone[name] + 2 + fleet["handover"]
        assert fleet[name] <= most, (name, fleet, alone)
    assert fleet["claim_maintenance"] <= alone["claim_maintenance"] + 19 * 8


async def test_each_worker_reclaims_at_its_start(new_harness, worker_pool):
    """A restarted worker takes over its old jobs at once, even if another one does maintenance."""
    harness = new_harness(claim_idle_ms=60_000)
    old = harness.queue.session(Identity("w1"))
    await old.register({**liveness.describe(), "pid": NO_PID})
    await harness.enqueue("a")
    await harness.start_one(old)
    assert (await harness.queue.claim_maintenance("other", 60)).is_granted
    worker_pool.start(harness, succeed, "w1")
    job = await harness.wait_for_end("a", timeout=30)
    assert (job.status, job.crashes) == ("completed", 1)
    assert _maintainer(harness) == "other"


async def test_the_maintainer_writes_a_sample_a_minute(new_harness):
    """It does not ask Redis again before the minute has ended; a sample that is refused stops no other pass."""
    harness = new_harness(claim_idle_ms=60_000)
    loop = MaintenanceLoop(harness.queue, "w1", 60)
    harness.redis.set(harness.keys.samples_minute, "damaged")
    await loop._step()
    assert harness.redis.hget(harness.keys.counters, "last_purge_at")
    assert loop._due["sample"] <= time.monotonic() + 1.2 * RETRY_SAMPLE_SECONDS
    harness.redis.delete(harness.keys.samples_minute)
    loop._due.clear()
    await loop._step()
    [(entry_id, _)] = harness.redis.xrange(harness.keys.samples_minute)
    seconds_left = int(entry_id.partition("-")[0]) / 1000 + 60 - now_ms(harness.redis) / 1000
    assert loop._due["sample"] - time.monotonic() == pytest.approx(seconds_left, abs=1.5)


async def test_survivors_of_a_large_fleet_ask_soon(new_harness):
    """However many workers died together, one that is left asks for maintenance within seconds."""
    harness = new_harness(claim_idle_ms=60_000)
    assert (await harness.queue.claim_maintenance("dead", 5)).is_granted
    names = [f"dead{n}" for n in range(3000)]
    harness.redis.zadd(harness.keys.workers, dict.fromkeys(names, 1))
    loop = MaintenanceLoop(harness.queue, "survivor", 60)
    assert await loop._step() <= 1.5 * MAX_ASK_SECONDS
