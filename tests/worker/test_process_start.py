"""A worker process that must not start says why, with the documented exit code."""

import socket
import subprocess

import pytest
from support import processes, servers
from support.wait import wait_until

from aragora_q.contracts import Identity


@pytest.mark.slow
async def test_server_that_comes_up_unsuitable_is_refused(worker_process, own_server):
    """The checks at the start also run if Redis becomes available later."""
    server = own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    server.kill()
    worker = worker_process(server.url)
    await wait_until(lambda: "Redis unavailable" in worker.text(), 60)
    server.start()
    assert worker.wait_for_exit() == 78, worker.text()
    assert "allkeys-lru" in worker.text()


def _refused(url, code, *words, args=(), **variables):
    """Assert that a worker does not start: exit code, one line, a remedy, no traceback."""
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


@pytest.mark.slow
def test_evicting_server_is_refused(own_server):
    """78: a server that may delete jobs; with the override, jobs run."""
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


@pytest.mark.slow
def test_old_server_is_refused(own_server):
    """78: a server without script flags, version and remedy named."""
    _refused(own_server(binary=servers.redis62).url, 78, "Redis 6.2", "is not supported", "7.0")


@pytest.mark.slow
def test_wrong_password_is_refused(own_server):
    """77, with and without a password; the password is never shown."""
    server = own_server("--requirepass", "right")
    _refused(server.url, 77, "denies access", "REDIS_PASSWORD")
    _refused(server.url, 77, "denies access", REDIS_PASSWORD="wrong-secret")
    _refused(server.url.replace("://", "://:wrong-secret@"), 77, "denies access")


@pytest.mark.slow
async def test_worker_id_in_use_is_refused(new_harness, redis_url):
    """78: a live worker has that id; the message names it, after waiting one lease."""
    harness = new_harness(claim_idle_ms=6000)
    lease_owner = harness.queue.session(Identity("p1"))
    await lease_owner.register({"host": "elsewhere", "pid": "4711"})
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
            ARAGORA_QUEUE_CLAIM_IDLE_MS="6000",
        ),
        stderr=subprocess.PIPE,
        text=True,
    )

    async def beat():
        await harness.renew(lease_owner)
        return other_worker.poll() is not None

    try:
        await wait_until(beat, 60, "the other_worker to give up")
    finally:
        other_worker.kill()
    told = other_worker.communicate()[1]
    assert other_worker.returncode == 78, told
    assert "worker id p1 is in use by pid 4711 on elsewhere" in told
    await lease_owner.unregister()


@pytest.mark.slow
def test_bad_settings_are_refused(redis_url):
    """78: a busy metrics port, an unknown executor, an unknown variable; 2: a malformed id."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _refused(redis_url, 78, f"127.0.0.1:{port}", args=("--metrics-port", str(port)))
    _refused(redis_url, 78, "nowhere", args=("--executor", "nowhere:make"))
    _refused(redis_url, 78, "CONCURENCY", "CONCURRENCY", ARAGORA_QUEUE_CONCURENCY="3")
