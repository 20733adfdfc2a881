"""Real `aragora-q worker` processes: signals, exit codes, systemd's messages, and sudden deaths."""

import signal
import socket
import subprocess
import time

import psutil
import pytest
from support import processes, servers
from support.wait import wait_until, wait_until_sync

from aragora_q.base import Identity, Job, JobStatus
from aragora_q.job import create_debate_job


async def _enqueue(harness, job_id, *gated):
    await harness.queue.enqueue(Job(payload={"do": list(gated)}, id=job_id))


# -- signals


async def test_sigterm_drains(new_harness, worker_process, redis_url):
    """SIGTERM: the running job ends and is recorded, no other begins, exit 143, nothing left behind."""
    harness = new_harness()
    worker = worker_process(redis_url)
    await _enqueue(harness, "running", ["sleep", 1])
    await harness.wait_for_status("running", JobStatus.PROCESSING)
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    await _enqueue(harness, "late")
    assert worker.wait_for_exit() == 143, worker.text()
    assert (await harness.queue.get_job("running")).status is JobStatus.COMPLETED
    assert await harness.queue.get_status("late") is JobStatus.PENDING
    assert (await harness.queue.get_queue_stats())["workers"] == []
    assert "worker stopped" in worker.text()
    assert "Traceback" not in worker.text()


async def test_second_signal_hands_back(new_harness, worker_process, redis_url):
    """A second signal, even with every slot busy, releases the running jobs at once, uncharged."""
    harness = new_harness()
    worker = worker_process(redis_url, slots=1)
    await _enqueue(harness, "long", ["sleep", 60])
    await harness.wait_for_status("long", JobStatus.PROCESSING)
    worker.signal(signal.SIGINT)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit() == 130, worker.text()
    job = await harness.queue.get_job("long")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


async def test_jobs_in_threads_do_not_hold_up_the_end(new_harness, worker_process, redis_url):
    """More jobs than there are threads, each asleep in one: handed back, and the process is gone."""
    harness = new_harness()
    worker = worker_process(redis_url, slots=40)
    for n in range(40):
        await _enqueue(harness, f"j{n}", ["thread", 60])
    await wait_until(lambda: len(harness.pending()) == 40, 20, "all to run")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit(15) == 143, worker.text()
    assert "worker stopped" in worker.text()
    job = await harness.queue.get_job("j0")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)


async def test_signal_after_the_end_is_final(new_harness, worker_process, redis_url):
    """A job that refuses to be cancelled can keep the worker_process, but not against one more signal."""
    harness = new_harness()
    worker = worker_process(redis_url)
    await _enqueue(harness, "stubborn", ["stay"])
    await harness.wait_for_status("stubborn", JobStatus.PROCESSING)
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "worker stopped" in worker.text(), 30, "it to give up")

    def is_gone():
        worker.signal(signal.SIGTERM)
        return not worker.is_alive

    await wait_until(is_gone, 5, "the process to end")
    assert worker.wait_for_exit() == 143, worker.text()


async def test_process_1_waits_for_no_thread(new_harness, worker_process, redis_url):
    """In a container no signal kills process 1: it exits by itself, and leaves threads of jobs alone."""
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to make a PID namespace")
    harness = new_harness()
    worker = worker_process(redis_url, before=apart).wait_until_started()
    await _enqueue(harness, "a", ["thread", 60])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    [first] = psutil.Process(worker.process.pid).children()
    first.terminate()
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    first.terminate()
    assert worker.wait_for_exit(15) == 143, worker.text()
    assert await harness.queue.get_status("a") is JobStatus.PENDING


async def test_burst_exits_0(new_harness, worker_process, redis_url):
    """A burst ends by itself when all is done."""
    harness = new_harness()
    await _enqueue(harness, "a")
    worker = worker_process(redis_url, "p1", "--burst")
    assert worker.wait_for_exit() == 0, worker.text()
    assert await harness.queue.get_status("a") is JobStatus.COMPLETED


# -- systemd


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self.lines = []

    def heard(self, start):
        """Whether a line that begins so has come."""
        self.drain()
        return any(line.startswith(start) for line in self.lines)

    def drain(self):
        while True:
            try:
                self.lines += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.lines

    def close(self):
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


async def test_systemd_is_told_the_truth(new_harness, worker_process, redis_url, systemd):
    """READY, STATUS, WATCHDOG while all moves, none while the loop is blocked, STOPPING at the signal."""
    harness = new_harness()
    variables = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "600000"}
    worker = worker_process(redis_url, environment=variables)
    await wait_until(lambda: systemd.heard("READY=1"), 20)
    await wait_until(lambda: systemd.heard("WATCHDOG=1"))
    assert systemd.heard("STATUS=0/4 running")
    await _enqueue(harness, "blocking", ["block", 1.5])
    await harness.wait_for_status("blocking", JobStatus.PROCESSING)
    systemd.drain()
    systemd.lines.clear()
    started_at = time.monotonic()
    await harness.wait_for_end("blocking")
    if time.monotonic() - started_at > 1:  # else this machine was too slow to watch the silence
        assert systemd.drain().count("WATCHDOG=1") <= 2
    await wait_until(lambda: systemd.heard("WATCHDOG=1"), what="the watchdog to be fed again")
    await _enqueue(harness, "last", ["sleep", 2])
    await wait_until(lambda: systemd.heard("STATUS=1/4 running, oldest"), what="the job to show")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: systemd.heard("STOPPING=1"))
    await wait_until(lambda: systemd.heard("EXTEND_TIMEOUT_USEC="))
    assert worker.wait_for_exit() == 143


async def test_redis_away_at_the_start_is_waited_for(
    own_server, new_harness, worker_process, systemd
):
    """READY, the fault in STATUS; work begins when Redis comes; SIGTERM meanwhile ends it."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    server.kill()
    waiting = worker_process(server.url, "p1", environment={"NOTIFY_SOCKET": systemd.path})
    leaving = worker_process(server.url, "p2")
    await wait_until(lambda: systemd.heard("READY=1"), 20)
    await wait_until(lambda: systemd.heard("STATUS=waiting for Redis"))
    await wait_until(lambda: "Redis is away" in leaving.text(), 20)
    leaving.signal(signal.SIGTERM)
    assert leaving.wait_for_exit() == 143, leaving.text()
    server.start()
    harness.redis.connection_pool.disconnect()
    waiting.wait_until_started()
    await _enqueue(harness, "a")
    await harness.wait_for_end("a")
    assert waiting.is_alive


async def test_server_that_comes_up_unsuitable_is_refused(worker_process, own_server):
    """What is checked at the start is checked as well when Redis comes later."""
    server = own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    server.kill()
    worker = worker_process(server.url)
    await wait_until(lambda: "Redis is away" in worker.text(), 20)
    server.start()
    assert worker.wait_for_exit() == 78, worker.text()
    assert "allkeys-lru" in worker.text()


async def test_sighup_reads_settings_again(
    new_harness, worker_process, redis_url, systemd, tmp_path
):
    """SIGHUP takes up changed settings while jobs run; wrong ones are told and change nothing."""
    harness = new_harness()
    settings = tmp_path / "settings.toml"
    settings.write_text("concurrency = 1\n")
    worker = worker_process(
        redis_url,
        "p1",
        "--config",
        settings,
        slots=None,
        environment={"NOTIFY_SOCKET": systemd.path},
    ).wait_until_started()
    for name in ("a", "b"):
        await _enqueue(harness, name, ["sleep", 60])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    assert await harness.queue.get_status("b") is JobStatus.PENDING
    settings.write_text("concurrency = 2\nlog_level = 'loud'\n")
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: "settings not reloaded" in worker.text(), what="the refusal")
    settings.write_text("concurrency = 2\n")
    worker.signal(signal.SIGHUP)
    await harness.wait_for_status("b", JobStatus.PROCESSING)
    assert systemd.heard("RELOADING=1")
    assert (await harness.queue.get_job("a")).fence == 1
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit() == 143


# -- refusals


def _refused(url, code, *words, args=(), **variables):
    """A worker that must not start: one line, a remedy, no traceback."""
    done = subprocess.run(
        processes.cli(
            "worker", "--executor", "support.executors:make", "--metrics-port", "0", *args
        ),
        env=processes.env(REDIS_URL=url, **variables),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    error = done.stderr[done.stderr.index("aragora-q: error:") :]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in error, error
    assert len(error.strip().splitlines()) <= 3, error
    assert done.stdout == ""


def test_evicting_server_is_refused(own_server):
    """78: a server that may delete jobs; overridden, it is worked on."""
    url = own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").url
    _refused(url, 78, "allkeys-lru", "noeviction", "allow_eviction")
    done = subprocess.run(
        processes.cli(
            "worker", "--burst", "--executor", "support.executors:make", "--metrics-port", "0"
        ),
        env=processes.env(
            REDIS_URL=url,
            ARAGORA_QUEUE_ALLOW_EVICTION="true",
        ),
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_old_server_is_refused(own_server):
    """78: a server without script flags, version and remedy named."""
    _refused(own_server(binary=servers.redis62).url, 78, "Redis 6.2", "too old", "7.0")


def test_wrong_password_is_refused(own_server):
    """77, with and without a password; the password is never shown."""
    server = own_server("--requirepass", "right")
    _refused(server.url, 77, "denies access", "REDIS_PASSWORD")
    _refused(server.url, 77, "denies access", REDIS_PASSWORD="wrong-secret")
    _refused(server.url.replace("://", "://:wrong-secret@"), 77, "denies access")


async def test_worker_id_in_use_is_refused(new_harness, redis_url):
    """78: a living worker has that id; who and where is told, after a lease of waiting."""
    harness = new_harness(claim_idle_ms=500)
    holder = harness.queue.session(Identity("p1"))
    await holder.register({"host": "elsewhere", "pid": "4711"})
    renewer = holder.lease_renewer()
    other_worker = subprocess.Popen(
        processes.cli(
            "worker",
            "--worker-id",
            "p1",
            "--executor",
            "support.executors:make",
            "--metrics-port",
            "0",
        ),
        env=processes.env(
            REDIS_URL=redis_url,
            ARAGORA_QUEUE_CLAIM_IDLE_MS="500",
        ),
        stderr=subprocess.PIPE,
        text=True,
    )

    async def beat():
        renewer.renew([])
        return other_worker.poll() is not None

    try:
        await wait_until(beat, 30, "the other_worker to give up")
    finally:
        other_worker.kill()
        renewer.close()
    told = other_worker.communicate()[1]
    assert other_worker.returncode == 78, told
    assert "worker id p1 is in use by pid 4711 on elsewhere" in told
    await holder.unregister()


def test_bad_settings_are_refused(redis_url):
    """78: a busy metrics port, an unknown executor, an unknown variable; 2: a malformed id."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _refused(redis_url, 78, f"127.0.0.1:{port}", args=("--metrics-port", str(port)))
    _refused(redis_url, 78, "nowhere", args=("--executor", "nowhere:make"))
    _refused(redis_url, 78, "CONCURENCY", "CONCURRENCY", ARAGORA_QUEUE_CONCURENCY="3")


# -- sudden deaths


async def test_killed_worker_is_replaced_by_another(
    new_harness, worker_process, redis_url, tmp_path
):
    """kill -9 in mid-job: the job runs once more, elsewhere, completes once, charged one attempt."""
    harness = new_harness(claim_idle_ms=1000)
    notes = tmp_path / "notes"
    both = {name: worker_process(redis_url, name, slots=1, environment={"RUN_LOG_FILE": str(notes)})
            for name in ("p1", "p2")}  # fmt: skip
    for worker in both.values():
        worker.wait_until_started()
    await _enqueue(harness, "a", ["sleep", 2])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    victim = both[(await harness.queue.get_job("a")).worker_id]
    victim.kill()
    job = await harness.wait_for_end("a", timeout=40)
    assert job.status is JobStatus.COMPLETED
    assert (job.attempts, job.crashes, job.fence) == (1, 1, 2)
    assert job.result == {"attempt": 1, "fence": 2, "crashes": 1}
    assert job.worker_id != victim.worker_id
    counters = harness.counters()
    assert (counters["completed"], counters["crashed"]) == (1, 1)


async def test_restarted_worker_takes_its_jobs_at_once(new_harness, worker_process, redis_url):
    """A worker that comes back under its id after kill -9 waits neither for its id nor for the lease."""
    harness = new_harness(claim_idle_ms=60_000)
    process_options = {"slots": 1, "lease_ms": 60_000}
    worker = worker_process(redis_url, "p1", **process_options).wait_until_started()
    await _enqueue(harness, "a", ["sleep", 0.5])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    worker.kill()
    worker.start().wait_until_started()
    worker_process(redis_url, "p2", lease_ms=2000)  # a caretaker who looks more often
    job = await harness.wait_for_end("a", timeout=30)
    assert (job.status, job.crashes) == (JobStatus.COMPLETED, 1)


async def test_frozen_worker_learns_that_it_lost_its_job(new_harness, worker_process, redis_url):
    """SIGSTOP beyond the lease: another one completes the job, the thawed one's result is refused."""
    harness = new_harness(claim_idle_ms=1000)
    frozen = worker_process(redis_url, "p1", slots=1).wait_until_started()
    await _enqueue(harness, "a", ["block", 1])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    frozen.signal(signal.SIGSTOP)
    worker_process(redis_url, "p2", slots=1).wait_until_started()
    job = await harness.wait_for_end("a", timeout=40)
    assert (job.worker_id, job.fence, job.result["fence"]) == ("p2", 2, 2)
    frozen.signal(signal.SIGCONT)
    await wait_until(
        lambda: any(f"job lost{rest}" in frozen.text() for rest in ("", ", attempt stopped")),
        20,
        "the thawed worker to learn",
    )
    await _enqueue(harness, "b")
    await harness.wait_for_end("b")
    assert (await harness.queue.get_job("a")).fence == 2
    assert harness.counters()["completed"] == 2
    assert frozen.is_alive


async def test_killed_in_mid_debate(new_harness, worker_process, redis_url):
    """kill -9 of the worker that runs a debate: it completes once, elsewhere."""
    harness = new_harness(claim_idle_ms=1000)
    both = {name: worker_process(redis_url, name, "--executor", "debate") for name in ("p1", "p2")}
    for worker in both.values():
        worker.wait_until_started()
    job_id = await harness.queue.enqueue(
        create_debate_job(
            "Should we use microservices?", ["demo:bold", "demo:careful", "demo:curious"]
        )
    )

    async def is_under_way():
        job = await harness.queue.get_job(job_id)
        return job.worker_id if job.progress else None

    victim = await wait_until(is_under_way, 30, "the debate's progress")
    both[victim].kill()
    job = await harness.wait_for_end(job_id, timeout=40)
    assert job.status is JobStatus.COMPLETED, job.error
    assert (job.attempts, job.crashes) == (1, 1)
    assert job.worker_id != victim
    assert job.result["final_answer"]
    assert harness.counters()["completed"] == 1


async def test_poison_pill_stops_killing_workers(new_harness, worker_process, redis_url):
    """A job that ends its worker's process each time becomes a dead letter; other jobs get done."""
    harness = new_harness(claim_idle_ms=1000)
    await harness.queue.enqueue(Job(payload={"do": [["exit"]]}, id="pill"))
    pulse = await harness.worker("pulse")
    for n in range(3):
        worker = worker_process(redis_url, f"victim{n}")
        assert worker.wait_for_exit(20) == 9, worker.text()

        async def taken():
            harness.renew(pulse)
            return [each.decision for each in await harness.queue.reclaim()]

        decision = await wait_until(taken, what="the lease to run out")
        assert decision == ["poisoned" if n == 2 else "reclaimed"]
    job = await harness.queue.get_job("pill")
    assert (job.status, job.crashes) == (JobStatus.FAILED, 3)
    await _enqueue(harness, "good")
    worker_process(redis_url, "survivor")
    await harness.wait_for_end("good")
    wait_until_sync(lambda: harness.counters()["completed"] == 1)
