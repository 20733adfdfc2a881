"""A worker process reports its state to systemd."""

import signal
import socket
from collections import Counter
from itertools import pairwise

import pytest
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.gates.book import Book


class Systemd:
    """A server for NOTIFY_SOCKET."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self.lines = []

    def has_received(self, start):
        """Whether a line with this start has arrived."""
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


@pytest.mark.slow
async def test_systemd_gets_the_state(new_harness, worker_process, redis_url, systemd, tmp_path):
    """READY, STATUS, WATCHDOG while all loops move, none while one is blocked, STOPPING after the signal."""
    harness = new_harness()
    variables = {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "600000"}
    worker = worker_process(redis_url, environment=variables)
    await wait_until(lambda: systemd.has_received("READY=1"), 60)
    await wait_until(lambda: systemd.has_received("WATCHDOG=1"))
    assert systemd.has_received("STATUS=0/4 running")
    await harness.enqueue_steps("blocking", ["block", 1.5])
    await harness.wait_for_end("blocking")
    fed = Counter(pairwise(systemd.drain()))
    assert fed["STATUS=1/4 running", "WATCHDOG=1"] <= 2
    systemd.lines.clear()
    await wait_until(
        lambda: systemd.has_received("WATCHDOG=1"), what="the watchdog to be fed again"
    )
    may_end = tmp_path / "may-end"
    await harness.enqueue_steps("last", ["until", str(may_end)])
    await wait_until(
        lambda: systemd.has_received("STATUS=1/4 running, oldest"), what="the job to show"
    )
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: systemd.has_received("STOPPING=1"))
    await wait_until(lambda: systemd.has_received("EXTEND_TIMEOUT_USEC="))
    may_end.touch()
    assert worker.wait_for_exit() == 143


@pytest.mark.slow
async def test_redis_away_at_the_start_is_waited_for(
    own_server, new_harness, worker_process, systemd
):
    """READY, the error in STATUS; jobs start when Redis comes; SIGTERM before that ends the worker."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    server.kill()
    waiting = worker_process(server.url, "p1", environment={"NOTIFY_SOCKET": systemd.path})
    leaving = worker_process(server.url, "p2")
    await wait_until(lambda: systemd.has_received("READY=1"), 60)
    await wait_until(lambda: systemd.has_received("STATUS=waiting for Redis"))
    await wait_until(lambda: "Redis unavailable" in leaving.text(), 60)
    leaving.signal(signal.SIGTERM)
    assert leaving.wait_for_exit() == 143, leaving.text()
    server.start()
    harness.redis.connection_pool.disconnect()
    waiting.wait_until_started()
    await harness.enqueue_steps("a")
    await harness.wait_for_end("a")
    assert waiting.is_alive


async def declares_a_budget(harness):
    connection = harness.queue.connection.for_gates()
    try:
        return [each.limit_usd for each in await Book(connection).budgets()] == [5.0]
    finally:
        await connection.close()


@pytest.mark.slow
async def test_sighup_reads_settings_again(
    new_harness, worker_process, redis_url, systemd, tmp_path
):
    """SIGHUP applies changed settings while jobs run; invalid ones are logged and change nothing."""
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
        await harness.enqueue_steps(name, ["sleep", 60])
    await harness.wait_for_status("a", JobStatus.PROCESSING)
    assert await harness.queue.get_status("b") is JobStatus.PENDING
    settings.write_text("concurrency = 2\nlog_level = 'loud'\n")
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: "settings not reloaded" in worker.text(), what="the refusal")
    settings.write_text('concurrency = 2\n[budgets.day]\nlimit_usd = 5\nwindow = "day"\n')
    worker.signal(signal.SIGHUP)
    await harness.wait_for_status("b", JobStatus.PROCESSING)
    assert systemd.has_received("RELOADING=1")
    assert harness.counters()["started"] == 2
    await wait_until(lambda: declares_a_budget(harness), 60, "the new budget")
    worker.signal(signal.SIGTERM)
    await wait_until(lambda: "draining" in worker.text(), what="the drain")
    worker.signal(signal.SIGTERM)
    assert worker.wait_for_exit() == 143
