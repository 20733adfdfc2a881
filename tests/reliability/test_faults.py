"""One fault each, on a server that the test may break: rows of the fault matrix of docs/reliability.md."""

import asyncio
import mmap
import resource
import shutil
import signal
import struct
import subprocess
import time

import psutil
import pytest
import redis
from support import invariants, processes, servers
from support.executors import succeed
from support.processes import run_command
from support.proxy import Proxy
from support.queue_harness import QueueHarness
from support.wait import wait_until, wait_until_sync

from aragora_q import connection
from aragora_q.base import Completed, Job, JobStatus
from aragora_q.errors import AragoraQError, RedisUnreachable
from aragora_q.worker import DebateWorker

HOUR = 3600


async def test_a_frozen_worker_loses_its_job_once(redis_url, new_harness, worker_process):
    """Row 2: frozen beyond its lease, its job is another's; thawed, its result is refused."""
    harness = new_harness()
    frozen = worker_process(redis_url, "frozen").wait_until_started()
    await harness.queue.enqueue(Job(payload={"do": [["sleep", 1]]}, id="a"))
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    frozen.signal(signal.SIGSTOP)
    worker_process(redis_url, "other")
    await wait_until(
        lambda: harness.fields("a").get("fence") == "2", 20, "the job to be taken over"
    )
    frozen.signal(signal.SIGCONT)
    job = await harness.wait_for_status("a", JobStatus.COMPLETED)
    assert (job.fence, job.crashes, job.attempts) == (2, 1, 1)
    assert harness.counters()["completed"] == 1
    await wait_until(lambda: "lost" in frozen.text(), 20, "the zombie to hear of it")


async def test_a_blocked_loop_keeps_its_job(redis_url, new_harness, worker_process):
    """Row 3: time.sleep for three leases; the lease keeper's thread holds the job."""
    harness = new_harness()
    worker_process(redis_url, "blocked").wait_until_started()
    worker_process(redis_url, "other").wait_until_started()
    await harness.queue.enqueue(Job(payload={"do": [["block", 3]]}, id="a"))
    job = await harness.wait_for_status("a", JobStatus.COMPLETED)
    assert (job.fence, job.crashes) == (1, 0)


@pytest.mark.parametrize("poison", ["exit", "eat"])
async def test_poison(redis_url, new_harness, worker_process, poison):
    """Row 4: a job that ends its worker fails after so many crashes; it does not circulate for ever."""
    harness = new_harness()
    await harness.queue.enqueue(Job(payload={"do": [[poison]]}, id="bad", max_attempts=2))
    await harness.queue.enqueue(Job(payload={"do": [["sleep", 0.05]]}, id="good"))
    worker = worker_process(redis_url, "w1", slots=1)  # what runs beside it would be counted, too

    def limit_memory():
        if poison == "eat" and worker.is_alive:
            size = 400 * 1024 * 1024
            resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (size, size))

    async def is_over():
        if not worker.is_alive:
            worker.start()
        limit_memory()
        return await harness.queue.get_status("bad") == JobStatus.FAILED

    await wait_until(is_over, 60, "the poison to fail")
    job = await harness.queue.get_job("bad")
    if poison == "exit":
        assert job.crashes == 3
        assert "w1" in job.error
    assert job.attempts <= 2
    await harness.wait_for_status("good", JobStatus.COMPLETED)


async def test_poison_takes_no_other_along(redis_url, new_harness, worker_process):
    """Row 4: jobs that share their workers with a poison pill are charged its crashes, and outlive it."""
    harness, harmless = new_harness(), ["before", "behind"]
    for name in ("before", "bad", "behind"):
        steps = [["sleep", 0.1], ["exit"]] if name == "bad" else [["sleep", 0.5]]
        await harness.queue.enqueue(Job(payload={"do": steps}, id=name))
    worker = worker_process(redis_url, "w1", slots=5)

    async def is_over():
        if not worker.is_alive:
            worker.start()
        stats = await harness.queue.get_queue_stats()
        return stats["completed"] + stats["failed"] == 3

    await wait_until(is_over, 60, "all jobs to end")
    jobs = {name: await harness.queue.get_job(name) for name in ("bad", *harmless)}
    assert {name: job.status for name, job in jobs.items()} == {
        "bad": JobStatus.FAILED,
        **dict.fromkeys(harmless, JobStatus.COMPLETED),
    }
    assert {job.crashes for job in jobs.values()} == {2, 3}, "they were beside it, twice"
    invariants.check(harness.redis, harness.keys.stem)


@pytest.fixture
async def proxied(redis_url):
    """A proxy before the server, a harness behind it and one beside it."""
    proxy = await Proxy(int(redis_url.rpartition(":")[2])).start()
    behind, beside = QueueHarness(proxy.url, client=redis.Redis()), QueueHarness(redis_url)
    yield proxy, behind, beside
    await behind.close()
    await proxy.stop()
    invariants.check(beside.redis, beside.keys.stem)
    await beside.close()


async def test_lost_replies_do_nothing_twice(proxied):
    """Rows 6, 8: the reply to an enqueue, then to a completion, is lost; both are asked again."""
    proxy, behind, beside = proxied
    await behind.enqueue("warm")  # the scripts are known from here on
    proxy.mode, proxy.match = "drop_reply", b"EVALSHA"
    with pytest.raises(RedisUnreachable):
        await behind.enqueue("a")
    proxy.mode = "pass"
    [answer] = await behind.queue.enqueue_many([Job(payload={"n": 1}, id="a")])
    assert not answer.created, "it was in already"
    assert len(beside.entries()) == 2
    session = await behind.worker()
    jobs = (await session.start(2)).jobs
    assert await behind.report(session, jobs[0], Completed(b"{}")) == "completed"
    proxy.mode = "drop_reply"
    with pytest.raises(RedisUnreachable):
        await behind.report(session, jobs[1], Completed(b"{}"))
    proxy.mode = "pass"
    assert await behind.report(session, jobs[1], Completed(b"{}")) == "completed"
    assert beside.counters()["completed"] == 2


async def test_a_start_whose_reply_is_lost(proxied):
    """Rows 7, 10: what was started for a worker without its knowledge comes back, uncharged."""
    proxy, behind, beside = proxied
    await behind.enqueue("a")
    session = await behind.worker()
    await session.start(1, low_first=True)
    await beside.enqueue("b")
    proxy.mode, proxy.match = "drop_reply", b"EVALSHA"
    with pytest.raises(RedisUnreachable):
        await session.start(1)
    proxy.mode = "pass"
    assert beside.fields("b")["status"] == "processing"
    assert await session.recover(["a"], min_idle_seconds=0) == ["b"]
    assert (beside.fields("b")["status"], beside.fields("b")["attempts"]) == ("pending", "0")


async def test_half_open_connections(proxied, monkeypatch):
    """Row 9: a peer that vanished without a word is noticed by timeout, and the work goes on."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT_SECONDS", 1.0)
    proxy, _, beside = proxied
    harness = QueueHarness(proxy.url, client=redis.Redis(), claim_idle_ms=1000)
    worker = DebateWorker(harness.queue, "w1", executor=succeed, config=harness.config)
    running = asyncio.create_task(worker.start())
    await beside.enqueue("a")
    await beside.wait_for_status("a", JobStatus.COMPLETED)
    proxy.mode = "blackhole"
    await beside.enqueue("b")
    await wait_until(lambda: worker.get_stats()["redis_fault"], 20, "the silence to be noticed")
    proxy.mode = "pass"
    await beside.wait_for_status("b", JobStatus.COMPLETED)
    await worker.stop()
    await running
    await harness.close()


async def test_the_keys_are_wiped_under_a_worker(redis_url, new_harness, worker_process):
    """Row 13: FLUSHALL, then DEL of the stream, while a worker blocks: it signs on again and goes on."""
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
    """Row 14: XTRIM or XDEL of a running job's entry costs nothing: the job completes from its hash."""
    harness = new_harness()
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    harness.redis.xtrim(harness.keys.stream_normal, maxlen=0, approximate=False)
    assert harness.renew(session, job).gone == {}
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert harness.pending() == []


def test_a_server_that_evicts_is_refused(own_server, worker_process):
    """Row 15: a worker exits 78 rather than work where jobs may vanish, unless it is told to."""
    server = own_server("--maxmemory-policy", "allkeys-lru")
    worker = worker_process(server.url)
    wait_until_sync(lambda: not worker.is_alive, 20, "the worker to refuse")
    assert worker.process.returncode == 78
    assert "maxmemory-policy" in worker.text()
    told = {"ARAGORA_QUEUE_ALLOW_EVICTION": "true"}
    worker_process(server.url, "w2", environment=told).wait_until_started()


async def test_a_full_server(own_server, new_harness, worker_process):
    """Row 16: at maxmemory an enqueue is 75 and workers drain what is there."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    for n in range(20):
        await harness.queue.enqueue(Job(payload={"do": [["sleep", 0.01]]}, id=f"j{n}"))
    harness.redis.config_set("maxmemory", "1mb")
    done = run_command("enqueue", "Full?", "--agents", "claude,gpt", url=server.url)
    assert done.returncode == 75, done.stderr
    assert "OOM" in done.stderr
    worker_process(server.url)
    await wait_until(lambda: harness.redis.zcard(harness.keys.completed) == 20, 30, "the drain")
    assert harness.entries() == []


async def test_a_server_that_cannot_write_its_disk(own_server, new_harness, worker_process):
    """Row 17: MISCONF is 75 to a command; a worker waits, and goes on when the disk is back."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    worker = worker_process(server.url).wait_until_started()
    harness.redis.config_set("save", "3600 1")
    shutil.rmtree(server.directory)
    harness.redis.bgsave()
    await wait_until(lambda: _refuses_writes(harness.redis), 20, "the failed save")
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
    """Row 18: while the data set is read the answer is 75, and a worker waits for it."""
    server = own_server("--appendonly", "yes", "--key-load-delay", "500")
    harness = new_harness(redis_url=server.url)
    await harness.queue.enqueue(Job(payload={}, id="before"))
    with harness.redis.pipeline(transaction=False) as filler:
        for n in range(3000):
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

    await wait_until(is_loading, 20, "the loading to be met")

    async def is_back():
        try:
            await harness.queue.enqueue(Job(payload={}, id="after"))
        except Exception:
            return False
        return True

    await wait_until(is_back, 30, "the server to be back")
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    assert worker.is_alive


async def test_a_script_that_blocks_the_server(own_server, new_harness, worker_process):
    """Row 19: BUSY is 75 to a command and a pause to a worker."""
    server = own_server("--busy-reply-threshold", "50")
    harness = new_harness(redis_url=server.url)
    worker = worker_process(server.url).wait_until_started()
    blocker = redis.Redis(port=server.port, socket_timeout=30)
    loop = asyncio.create_task(asyncio.to_thread(_swallowing, blocker.eval, "while true do end", 0))
    await asyncio.sleep(0.3)
    done = await asyncio.to_thread(run_command, "reap", url=server.url)
    assert done.returncode == 75, done.stderr
    assert "BUSY" in done.stderr
    harness.redis.script_kill()
    await loop
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    assert worker.is_alive
    blocker.close()


def _swallowing(function, *args):
    try:
        function(*args)
    except redis.RedisError:
        return


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_servers_clock_jumps(
    preloaded_server, new_harness, worker_process, tmp_path, hours
):
    """Row 31: leases do not all expire at once, fences hold, work goes on."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", 0))
    server = preloaded_server("clock", servers.debian_redis, CLOCK_OFFSET_FILE=str(file))
    harness = new_harness(redis_url=server.url)
    worker_process(server.url, "w1").wait_until_started()
    worker_process(server.url, "w2").wait_until_started()
    await harness.queue.enqueue(Job(payload={"do": [["sleep", 2.5]]}, id="running"))
    await harness.wait_for_status("running", JobStatus.PROCESSING)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as offset:
        offset[:8] = struct.pack("l", hours * HOUR)
    await harness.queue.enqueue(Job(payload={}, id="after"))
    await harness.wait_for_status("after", JobStatus.COMPLETED)
    job = await harness.wait_for_status("running", JobStatus.COMPLETED)
    assert (job.fence, job.crashes) == (1, 0), "its lease was kept over the jump"


async def test_the_clock_is_set_back_after_a_worker_died(preloaded_server, tmp_path, new_harness):
    """Row 31: its job is another's after one lease, not when the clock has caught up."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", 0))
    server = preloaded_server("clock", servers.debian_redis, CLOCK_OFFSET_FILE=str(file))
    harness = new_harness(redis_url=server.url, claim_idle_ms=2_000)
    await harness.enqueue("a")
    await harness.start_one(await harness.worker("dead"))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8) as offset:
        offset[:8] = struct.pack("l", -HOUR)
    live = await harness.worker("live")

    async def is_reclaimed():
        harness.renew(live)
        return [each.id for each in await harness.queue.reclaim()] == ["a"]

    await wait_until(is_reclaimed, 20, "a to be reclaimed")


async def test_a_workers_clock_is_wrong(redis_url, new_harness, worker_process, shim, tmp_path):
    """Row 32: a worker whose clock is an hour ahead changes nothing: only the server's counts."""
    file = tmp_path / "offset"
    file.write_bytes(struct.pack("l", HOUR))
    harness = new_harness()
    odd = {"LD_PRELOAD": shim("clock"), "CLOCK_OFFSET_FILE": str(file)}
    worker_process(redis_url, "ahead", environment=odd).wait_until_started()
    worker_process(redis_url, "right").wait_until_started()
    for n in range(8):
        await harness.queue.enqueue(Job(payload={"do": [["sleep", 0.5]]}, id=f"j{n}"))
    jobs = [await harness.wait_for_status(f"j{n}", JobStatus.COMPLETED) for n in range(8)]
    assert {(job.fence, job.crashes) for job in jobs} == {(1, 0)}
    now = time.time()
    assert all(abs(job.started_at - now) < 120 for job in jobs)
    assert {"ahead", "right"} == {job.worker_id for job in jobs}


async def test_a_reaper_is_killed_between_its_steps(redis_url, new_harness):
    """Rows 33, 34: each job is taken whole or not at all; the next pass finishes what one left."""
    harness = new_harness()
    session = await harness.worker()
    for n in range(300):
        await harness.enqueue(f"j{n}")
    while (await session.start(100)).jobs:
        pass
    for n in range(300):
        harness.backdate(f"j{n}")
    reaping = processes.cli("reap", "--quiet")
    environment = processes.env(REDIS_URL=redis_url, ARAGORA_QUEUE_CLAIM_IDLE_MS="400")
    killed = subprocess.Popen(reaping, env=environment)
    await wait_until(
        lambda: harness.counters().get("reclaimed") or killed.poll() is not None,
        20,
        "its first step",
    )
    killed.kill()
    killed.wait()
    invariants.check(harness.redis, harness.keys.stem)
    harness.redis.hdel(harness.keys.control, "reap_lock")

    async def is_all_taken():  # a silence of all workers brakes the first passes
        done = await asyncio.to_thread(
            subprocess.run, reaping, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return {harness.fields(f"j{n}")["status"] for n in range(300)} == {"retrying"}

    await wait_until(is_all_taken, 30, "the next passes to take the rest")
    assert harness.counters()["reclaimed"] == 300, "each once"


async def test_names_of_dead_workers_do_not_pile_up(new_harness):
    """Row 35: consumers and records of workers long gone are dropped, those that hold work are not."""
    harness = new_harness(claim_idle_ms=200)
    for n in range(150):
        session = await harness.worker(f"w{n}")
        await session.start(1)
    await harness.enqueue("held")
    holder = await harness.worker("holder")
    await harness.start_one(holder)
    harness.redis.zadd(harness.keys.workers, {f"w{n}": 1 for n in range(150)} | {"holder": 1})
    await harness.queue.forget_dead_workers()
    assert await harness.queue.tracker.consumers() == {"holder"}


async def test_a_fleet_rides_out_an_outage(own_server, new_harness, worker_process):
    """Row 37: workers wait without spinning or flooding their logs, and all work again within seconds."""
    server = own_server("--appendonly", "yes")
    harness = new_harness(redis_url=server.url)
    fleet = [worker_process(server.url, f"w{n}", slots=1) for n in range(5)]
    for worker in fleet:
        worker.wait_until_started()
    await asyncio.to_thread(server.kill)
    await wait_until(
        lambda: all("trying on" in w.text() for w in fleet), 20, "the outage to be noticed"
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
    for n in range(5):
        await harness.queue.enqueue(Job(payload={"do": [["sleep", 4]]}, id=f"j{n}"))
    await wait_until(
        lambda: all(harness.fields(f"j{n}").get("status") == "processing" for n in range(5)), 15,
        "all five to work",
    )  # fmt: skip
    assert time.monotonic() - back < 8


def _cpu_seconds(worker):
    times = psutil.Process(worker.process.pid).cpu_times()
    return times.user + times.system
