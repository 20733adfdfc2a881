"""Fault matrix of docs/reliability.md: a server that is full, loading, busy, wiped or away."""

import asyncio
import shutil
import time

import psutil
import pytest
import redis
from support.processes import run_command
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.errors import AragoraQError

pytestmark = pytest.mark.slow


async def test_the_keys_are_wiped_under_a_worker(redis_url, new_harness, worker_process):
    """Row 13: FLUSHALL, then DEL of the stream, while a worker blocks: it registers again and goes on."""
    harness = new_harness()
    worker = worker_process(redis_url).wait_until_started()
    for n, wipe in enumerate(
        (harness.redis.flushall, lambda: harness.redis.delete(harness.keys.stream_normal))
    ):
        wipe()
        await harness.queue.enqueue(Job(payload={}, id=f"after-{n}"))
        await harness.wait_for_status(f"after-{n}", JobStatus.COMPLETED)
    assert worker.is_alive


async def test_an_entry_is_deleted_under_its_worker(new_harness):
    """Row 14: after XTRIM or XDEL of a running job's entry, the job completes from its hash."""
    harness = new_harness()
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.xtrim(harness.keys.stream_normal, maxlen=0, approximate=False)
    assert (await harness.renew(session, job)).lost == {}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert harness.pending() == []


def test_a_server_that_evicts_is_refused(own_server, worker_process):
    """Row 15: a worker exits 78 if the server may delete jobs, unless it is configured to accept that."""
    server = own_server("--maxmemory-policy", "allkeys-lru")
    worker = worker_process(server.url)
    wait_until_sync(lambda: not worker.is_alive, 60, "the worker to refuse")
    assert worker.process.returncode == 78
    assert "maxmemory-policy" in worker.text()
    told = {"ARAGORA_QUEUE_ALLOW_EVICTION": "true"}
    worker_process(server.url, "w2", environment=told).wait_until_started()


async def test_a_full_server(own_server, new_harness, worker_process):
    """Row 16: at maxmemory an enqueue is 75 and workers drain what is there, also what follows a group."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    for n in range(20):
        await harness.enqueue_steps(f"j{n}", ["sleep", 0.01], group="g", tenant="t")
    await harness.queue.seal_group("g", Job({}, id="then", tenant="t"))
    harness.redis.config_set("maxmemory", "1mb")
    done = run_command("enqueue", "Full?", "--agents", "claude,gpt", url=server.url)
    assert done.returncode == 75, done.stderr
    assert "OOM" in done.stderr
    worker_process(server.url)
    await wait_until(lambda: harness.redis.zcard(harness.keys.completed) == 21, 60, "the drain")
    assert harness.entries() == []


async def test_a_server_that_cannot_write_its_disk(own_server, new_harness, worker_process):
    """Row 17: MISCONF is 75 for a command; a worker waits until the disk is back."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    worker = worker_process(server.url).wait_until_started()
    harness.redis.config_set("save", "3600 1")
    shutil.rmtree(server.directory)
    harness.redis.bgsave()
    await wait_until(lambda: _refuses_writes(harness.redis), 60, "the failed save")
    done = run_command("enqueue", "Writable?", "--agents", "claude,gpt", url=server.url)
    assert done.returncode == 75, done.stderr
    assert "MISCONF" in done.stderr
    assert worker.is_alive
    harness.redis.config_set("save", "")
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_status("after", JobStatus.COMPLETED)


def _refuses_writes(redis_client):
    try:
        redis_client.set("probe", 1)
    except redis.ResponseError as error:
        return str(error).startswith("MISCONF")
    return False


async def test_a_server_that_is_loading(own_server, new_harness, worker_process):
    """Row 18: LOADING is 75 for a command; a worker waits."""
    server = own_server("--appendonly", "yes", "--key-load-delay", "500")
    harness = new_harness(redis_url=server.url)
    await harness.queue.enqueue(Job(payload={}, id="before"))
    with harness.redis.pipeline(transaction=False) as filler:
        for n in range(15_000):
            filler.set(f"filler:{n}", n)
        filler.execute()
    worker = worker_process(server.url).wait_until_started()
    await harness.wait_for_status("before", JobStatus.COMPLETED)
    await asyncio.to_thread(server.kill)
    server.start(wait=False)

    async def is_loading():
        try:
            await harness.queue.get_status("before")
        except AragoraQError as error:
            return error.exit_code == 75 and "LOADING" in str(error)
        return False

    await wait_until(is_loading, 60, "the loading to be met")

    async def is_back():
        try:
            await harness.queue.enqueue(Job(payload={}, id="after"))
        except Exception:
            return False
        return True

    await wait_until(is_back, 60, "the server to be back")
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    assert worker.is_alive


async def test_a_script_that_blocks_the_server(own_server, new_harness, worker_process):
    """Row 19: BUSY is 75 for a command; a worker waits."""
    server = own_server("--busy-reply-threshold", "50")
    harness = new_harness(redis_url=server.url)
    worker = worker_process(server.url).wait_until_started()
    blocker = redis.Redis(port=server.port, socket_timeout=30)
    loop = asyncio.create_task(asyncio.to_thread(_swallowing, blocker.eval, "while true do end", 0))
    await wait_until(lambda: _is_busy(harness.redis), what="the script to run")
    done = await asyncio.to_thread(run_command, "reap", url=server.url)
    assert done.returncode == 75, done.stderr
    assert "BUSY" in done.stderr
    harness.redis.script_kill()
    await loop
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    assert worker.is_alive
    blocker.close()


def _is_busy(redis_client):
    try:
        redis_client.ping()
    except redis.exceptions.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def _swallowing(function, *args):
    try:
        function(*args)
    except redis.RedisError:
        return


async def test_a_fleet_rides_out_an_outage(own_server, new_harness, worker_process, tmp_path):
    """Row 37: workers wait without busy loops or floods of log lines, and all work again within seconds."""
    server = own_server("--appendonly", "yes")
    harness = new_harness(redis_url=server.url)
    fleet = [worker_process(server.url, f"w{n}", slots=1) for n in range(5)]
    for worker in fleet:
        worker.wait_until_started()
    await asyncio.to_thread(server.kill)
    await wait_until(
        lambda: all("Redis unavailable, retrying" in w.text() for w in fleet),
        60,
        "the outage to be noticed",
    )
    before = [(_cpu_seconds(worker), len(worker.text().splitlines())) for worker in fleet]
    started = time.monotonic()
    await asyncio.sleep(4)
    seconds = time.monotonic() - started
    for worker, (cpu, lines) in zip(fleet, before, strict=True):
        assert worker.is_alive
        assert _cpu_seconds(worker) - cpu < 0.25 * seconds, "no spin"
        assert len(worker.text().splitlines()) - lines < 2 * seconds + 2, "no flood"
    await asyncio.to_thread(server.start)
    back = time.monotonic()
    may_end = tmp_path / "may-end"
    for n in range(5):
        await harness.enqueue_steps(f"j{n}", ["until", str(may_end)])
    await wait_until(
        lambda: all(harness.fields(f"j{n}").get("status") == "processing" for n in range(5)), 60,
        "all five to work",
    )  # fmt: skip
    assert time.monotonic() - back < 20
    may_end.touch()


def _cpu_seconds(worker):
    times = psutil.Process(worker.process.pid).cpu_times()
    return times.user + times.system
