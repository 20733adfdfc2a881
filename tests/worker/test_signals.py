"""Signals reach a worker whatever its settings look like by then."""

import asyncio
import os
import signal
import socket
import time

import pytest
from support.topologies import PASSWORD
from support.wait import wait_until

from aragora_q.config.settings import QueueConfig
from aragora_q.launcher import running_worker


@pytest.fixture
def password(tmp_path):
    """A password file; the test makes it unreadable."""
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    return path


@pytest.fixture
def worker(shared_server, worker_process, password):
    """A worker that reads `password`, on a server with users."""
    acl = shared_server("acl")
    url = f"redis://queue:ignored@127.0.0.1:{acl.server.port}"
    variables = {"REDIS_URL": url, "REDIS_PASSWORD_FILE": str(password)}
    worker = worker_process(acl, environment=variables).wait_until_started()
    worker.acl = acl
    return worker


@pytest.mark.slow
async def test_sighup_with_an_unreadable_password_changes_nothing(worker, password):
    """The reload is refused in one line; afterwards the worker still stops on SIGTERM."""
    password.write_bytes(b"s\xe9same")
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: "settings not reloaded" in worker.text(), what="the refusal")
    assert "Traceback" not in worker.text()
    password.write_text(PASSWORD)
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: "settings reloaded" in worker.text(), what="the reload")
    assert worker.stop() == -signal.SIGTERM


@pytest.mark.slow
async def test_a_worker_survives_a_password_file_that_turns_bad(worker, password):
    """New connections are refused and retried; when the file is right again, the worker goes on."""
    password.write_bytes(b"s\xe9same")
    with worker.acl.admin_client() as admin:
        admin.execute_command("CLIENT", "KILL", "USER", "queue")
    await wait_until(lambda: "not UTF-8" in worker.text(), 60, "the refusal")
    assert worker.is_alive
    assert "Traceback" not in worker.text()
    password.write_text(PASSWORD)
    await wait_until(lambda: "Redis available again" in worker.text(), 60, "the next connection")
    assert worker.stop() == -signal.SIGTERM


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
)
async def test_whatever_a_reload_raises_the_next_signal_is_received(redis_url, error, caplog):
    """Even an error that is a defect of this program must not make a worker deaf to SIGTERM."""

    def reload():
        raise error

    async def execute(_job):
        return {}

    received = []
    async with running_worker(
        QueueConfig(redis_url=redis_url, queue="signals", metrics_port=0),
        execute,
        on_signal=received.append,
        reload=reload,
    ) as worker:
        running = asyncio.create_task(worker.start())
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_until(lambda: "signal not fully handled" in caplog.text, what="the log line")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 60)
    assert received == [signal.SIGTERM]


def test_sighup_before_redis_answers_does_not_end_a_worker(worker_process):
    """Its default action would: a worker that starts, or waits for Redis, must survive a reload."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        worker = worker_process(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            worker.signal(signal.SIGHUP)
            time.sleep(0.3)  # the effect would be immediate
            assert worker.stop() == -signal.SIGTERM
