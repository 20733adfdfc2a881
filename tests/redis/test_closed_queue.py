"""A closed queue is closed: calls are refused, nothing is sent, nothing goes on in the background."""

import asyncio

import pytest
from support.executors import GatedExecutor
from support.proxy import Proxy
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import QueueClosed
from aragora_q.redis.connection import Connection
from aragora_q.redis.discovery import FailoverInProgress
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker.debate_worker import DebateWorker


@pytest.fixture
async def proxy(redis_url):
    proxy = await Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])).start()
    yield proxy
    await proxy.stop()


@pytest.fixture
def queue(proxy):
    return RedisStreamsQueue(QueueConfig(redis_url=proxy.url))


def _connections(redis_client):
    return redis_client.info("stats")["total_connections_received"]


async def test_calls_after_close_are_refused(queue, redis_client):
    """Every call says that the queue is closed, and opens no connection; closing again is harmless."""
    await queue.enqueue(Job({}, id="a"))
    await queue.close()
    before = _connections(redis_client)
    for call in (
        lambda: queue.enqueue(Job({}, id="b")),
        lambda: queue.enqueue_many([Job({}, id="b")]),
        lambda: queue.get_job("a"),
        lambda: queue.cancel("a"),
        queue.get_queue_stats,
        queue.reclaim,
        lambda: anext(queue.events()),
    ):
        with pytest.raises(QueueClosed, match="closed"):
            await call()
    await queue.close()
    assert _connections(redis_client) == before


async def test_a_queue_that_was_never_used_can_be_closed(queue, redis_client):
    """Closing opens no connection, and the queue is closed from then on."""
    before = _connections(redis_client)
    await queue.close()
    with pytest.raises(QueueClosed):
        await queue.get_status("a")
    assert _connections(redis_client) == before


async def test_close_ends_what_is_under_way(queue, redis_client):
    """A blocking read, a call without a reply and callers that wait for a connection end at once."""
    await queue.enqueue(Job({}, id="a"))
    events = queue.events("0-0")
    await anext(events)
    followers = [asyncio.create_task(_follow(events))]
    await wait_until(lambda: _blocked(redis_client), what="the blocking read")
    redis_client.client_pause(60_000, all=False)
    try:
        followers += [asyncio.create_task(queue.enqueue(Job({}, id=f"j{n}"))) for n in range(100)]
        await wait_until(lambda: _blocked(redis_client) > 60, what="calls without a reply")
        started_at = asyncio.get_running_loop().time()
        await queue.close()
        ended = await asyncio.gather(*followers, return_exceptions=True)
        assert asyncio.get_running_loop().time() - started_at < COMMAND_TIMEOUT_SECONDS
        assert {type(error) for error in ended} == {QueueClosed}
    finally:
        redis_client.client_unpause()
    await wait_until(lambda: len(redis_client.client_list()) == 1, what="all connections to end")


async def _follow(events):
    async for _ in events:
        pass


def _blocked(redis_client):
    return redis_client.info("clients")["blocked_clients"]


async def test_close_ends_retries(monkeypatch):
    """A call that waits for the end of a failover is refused soon after its queue is closed."""
    queue = RedisStreamsQueue(QueueConfig(redis_url="redis+sentinel://127.0.0.1/debates"))
    queue.connection.failover_seconds = 60.0

    async def discover():
        raise FailoverInProgress("no primary is elected yet")

    monkeypatch.setattr(queue.connection._client._discovery, "discover", discover)
    call = asyncio.create_task(queue.get_status("a"))
    await asyncio.sleep(0.2)
    assert not call.done()
    await queue.close()
    with pytest.raises(QueueClosed):
        await asyncio.wait_for(call, 60)


@pytest.mark.slow
async def test_close_stops_the_workers_of_the_queue(proxy, redis_client):
    """They release their jobs, uncharged, and end; lease keepers and maintenance end with them."""
    queue, gated = RedisStreamsQueue(QueueConfig(redis_url=proxy.url)), GatedExecutor()
    workers = [DebateWorker(queue, name, executor=gated) for name in ("w1", "w2")]
    running = [asyncio.create_task(worker.start()) for worker in workers]
    await queue.enqueue(Job({}, id="a"))
    await wait_until(lambda: gated.entered, what="the job to run")
    await queue.close()
    await asyncio.wait_for(asyncio.gather(*running), 30)
    assert gated.cancelled == ["a"]
    job = redis_client.hgetall("aragora:queue:debates:job:a")
    assert (job["status"], job["attempts"], job.get("crashes")) == ("pending", "0", None)
    assert redis_client.zcard("aragora:queue:debates:workers") == 0
    await wait_until(lambda: len(redis_client.client_list()) == 1, what="all connections to end")
    commands = redis_client.info("stats")["total_commands_processed"]
    await asyncio.sleep(1.5)
    assert redis_client.info("stats")["total_commands_processed"] - commands <= 2


async def test_a_worker_of_a_closed_queue_is_refused(queue):
    """It does not begin, and says why."""
    await queue.close()
    with pytest.raises(QueueClosed):
        await DebateWorker(queue, "w1", executor=GatedExecutor()).start()


async def test_a_job_that_closes_its_queue(queue, redis_client):
    """Its worker stops and releases it; the close ends with the job."""
    closing = []

    async def executor(job):
        closing.append(job.id)
        await queue.close()

    await queue.enqueue(Job({}, id="a"))
    await asyncio.wait_for(DebateWorker(queue, "w1", executor=executor).start(), 60)
    assert closing == ["a"]
    assert redis_client.hget("aragora:queue:debates:job:a", "status") == "pending"
    await queue.close()


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_close_that_is_cancelled_leaves_no_connection(harness, turns):
    """Nor does it leave a search for the primary. It may be cancelled at any step, as by a stopping worker."""
    connection = Connection(harness.config)
    await connection.execute("TIME")
    await connection.pop_blocking("nothing", 0.01)
    wires = [
        wire
        for client in (connection._client, connection._blocking)
        for pool in client._open_pools
        for wire in pool._due
    ]
    assert len(wires) == 2
    search = connection._client._search = asyncio.create_task(asyncio.sleep(60))
    closing = asyncio.create_task(connection.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert all(wire._transport.is_closing() for wire in wires)
    assert search.cancelled() or search.cancelling()


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_queue_is_closed_again_while_calls_connect(harness, turns):
    """What the first close ends at any step of a connection, the second one leaves alone."""
    queue = RedisStreamsQueue(harness.config)
    calls = [asyncio.create_task(queue.get_status("a")) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await queue.close()
    await queue.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in ended} <= {QueueClosed, type(None)}  # None: it ended before


async def _running_job(harness, queue):
    """Start a worker on `queue` and wait until it runs job `a`; return it, its executor and its task."""
    executor = GatedExecutor()
    worker = DebateWorker(queue, executor=executor)
    running = asyncio.create_task(worker.start())
    await harness.enqueue("a")
    await wait_until(lambda: executor.entered)
    return worker, executor, running


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_a_close_that_is_cancelled_goes_on(new_harness, seconds):
    """The workers release their jobs and stop; then the connection is closed."""
    harness = new_harness()
    queue = RedisStreamsQueue(harness.config)
    _, _, running = await _running_job(harness, queue)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.close()
    await running
    await queue.close()
    assert harness.fields("a")["status"] == "pending"
    with pytest.raises(QueueClosed):
        await queue.get_status("a")


@pytest.mark.parametrize("seconds", [0, 0.05])
async def test_a_program_that_ends_while_it_closes_releases_its_jobs(new_harness, seconds):
    """The end of `asyncio.run` cancels all tasks, also those that stop the workers."""
    harness = new_harness()
    await harness.enqueue("a")

    async def program():
        queue, entered = RedisStreamsQueue(harness.config), asyncio.Event()

        async def execute(job):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.2)

        worker = DebateWorker(queue, executor=execute)
        running = asyncio.create_task(worker.start())
        await entered.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await queue.close()
        assert not running.done()

    await asyncio.to_thread(asyncio.run, program())
    fields = harness.fields("a")
    assert (fields["status"], fields["attempts"]) == ("pending", "0")
    assert await harness.queue.tracker.worker_ids() == set()


async def test_a_queue_is_closed_in_its_event_loop_only(new_harness):
    """Elsewhere, while that loop is open, nothing is closed and no worker stops: the error says why."""
    harness = new_harness()
    worker, executor, running = await _running_job(harness, harness.queue)
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, harness.queue.close())
    executor.gate.set()
    await harness.wait_for_end("a")
    assert await harness.queue.connection.read_blocking({"nothing": "0"}, 0.01, 1) == {}
    await worker.stop()
    await running


async def test_a_worker_that_cannot_stop_does_not_keep_others_from_stopping(new_harness):
    """The connection is closed after all of them; then the error is raised."""
    harness = new_harness()
    queue = RedisStreamsQueue(harness.config)
    _, _, running = await _running_job(harness, queue)

    async def fail():
        raise OSError("cannot stop")

    queue.before_close.add(fail)
    with pytest.raises(OSError, match="cannot stop"):
        await queue.close()
    await running
    assert harness.fields("a")["status"] == "pending"
    with pytest.raises(QueueClosed):
        await queue.get_status("a")
