"""A grace period delays each job by at most half its own lease."""

from support.queue_harness import decisions


def _let_time_pass(harness, ms):
    """Make the current grace period older, as if it had begun earlier."""
    for field in ("grace_started_at", "grace_until"):
        harness.redis.hincrby(harness.keys.control, field, -ms)


async def test_a_dead_long_lease_worker_delays_no_short_lease(harness):
    """Half a long lease of silence starts a long grace period; jobs with short leases wait for a short one."""
    long = await harness.worker("long", lease_seconds=1800)
    await harness.enqueue("slow")
    await harness.start_one(long)
    harness.stop_heartbeat("long", 930)
    harness.backdate("slow", 1_830_000)
    dead = await harness.worker("dead", lease_seconds=60)
    alive = await harness.worker("alive", lease_seconds=60)
    control = harness.redis.hgetall(harness.keys.control)
    grace = int(control["grace_until"]) - int(control["grace_started_at"])
    assert grace == 900_000
    await harness.enqueue("quick")
    await harness.start_one(dead)
    harness.backdate("quick", 63_000)
    harness.stop_heartbeat("dead", 63)
    await harness.renew(alive)
    client = harness.other_client(claim_idle_ms=60_000)
    assert await client.reclaim() == [], "it waits for half its lease, too"
    _let_time_pass(harness, 30_000)
    assert decisions(await client.reclaim()) == [("quick", "reclaimed")]
    _let_time_pass(harness, 840_000)
    assert await client.reclaim() == []
    _let_time_pass(harness, 33_000)
    assert decisions(await client.reclaim()) == [("slow", "reclaimed")]


async def test_an_entry_that_was_never_started_waits_for_the_callers_lease_only(harness):
    """Its redelivery is delayed by half the lease of the caller, not of the silent worker."""
    long = await harness.worker("long", lease_seconds=3600)
    harness.stop_heartbeat("long", 1801)
    await harness.enqueue("a")
    [entry] = harness.deliver("broken")
    harness.backdate_entry(harness.keys.stream_normal, entry, 63_000)
    client = harness.other_client(claim_idle_ms=60_000)
    assert await client.reclaim() == []
    _let_time_pass(harness, 30_000)
    assert decisions(await client.reclaim()) == [("a", "redelivered")]
    assert long


async def test_a_short_lease_worker_shortens_no_long_lease(harness):
    """After an outage of more than half a long lease, its worker has half of it to come back."""
    long = await harness.worker("long", lease_seconds=1800)
    short = await harness.worker("short", lease_seconds=60)
    await harness.enqueue("slow")
    job = await harness.start_one(long)
    for worker in ("long", "short"):
        harness.stop_heartbeat(worker, 1830)
    harness.redis.zincrby(harness.keys.workers, 1, "short")  # the newest heartbeat
    harness.backdate("slow", 1_830_000)
    await harness.renew(short)
    _let_time_pass(harness, 870_000)
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(long, job)).lost == {}


async def test_short_outages_that_a_long_lease_worker_did_not_get_through(harness):
    """Its own silence counts, though a worker with a short lease was heard between them."""
    long = await harness.worker("long", lease_seconds=1800)
    short = await harness.worker("short", lease_seconds=60)
    await harness.enqueue("slow")
    job = await harness.start_one(long)
    harness.backdate("slow", 1_830_000)
    harness.stop_heartbeat("long", 1650)
    await harness.renew(short)
    harness.stop_heartbeat("short", 90)
    harness.stop_heartbeat("long", 90)
    await harness.renew(short)
    _let_time_pass(harness, 60_000)
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(long, job)).lost == {}


async def test_a_long_lease_worker_hides_no_outage(harness):
    """A silence of more than the shortest lease is an outage, though a long lease has hardly aged."""
    short = await harness.worker("short", lease_seconds=60)
    await harness.enqueue("quick")
    job = await harness.start_one(short)
    await harness.worker("long", lease_seconds=1800)
    harness.stop_heartbeat("short", 120)
    harness.stop_heartbeat("long", 90)
    harness.backdate("quick", 120_000)
    assert await harness.queue.reclaim() == []
    assert (await harness.renew(short, job)).lost == {}
