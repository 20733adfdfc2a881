"""embedded://: a private Valkey that processes share, that is durable, and that ends after its last user."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis
from support.paths import ROOT
from support.processes import embedded_processes
from support.wait import wait_until_sync

from aragora_q.errors import ConfigError
from aragora_q.redis import embedded

GRACE_SECONDS = 0.4
"""Shorter than the real one, for all tests but that about it: a dozen servers are waited for here."""


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    monkeypatch.setattr(embedded, "GRACE_SECONDS", GRACE_SECONDS)


@pytest.fixture
def directory():
    """A short path; after the test its server must end without being stopped."""
    with tempfile.TemporaryDirectory(prefix="aq-") as name:
        path = Path(name) / "state"
        yield path
        wait_until_sync(
            lambda: not embedded_processes(path), 60, "the server to end with its last user"
        )


def user(directory, code="import time; time.sleep(60)"):
    """Another process that uses the server; prints its server's pid first."""
    program = (
        "import sys, redis; from pathlib import Path; from aragora_q.redis import embedded\n"
        f"embedded.GRACE_SECONDS = {embedded.GRACE_SECONDS}\n"
        "use = embedded.open_server(Path(sys.argv[1]))\n"
        "print(redis.Redis.from_url(use.url).info('server')['process_id'], flush=True)\n" + code
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(directory), "user"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.server = int(process.stdout.readline())
    return process


def end(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.wait(60)
    process.stdout.close()


def client(use):
    return redis.Redis.from_url(use.url, decode_responses=True)


@pytest.mark.slow
def test_data_survives_the_server(directory):
    """What was written is there when the server has ended and is started again."""
    use = embedded.open_server(directory)
    with client(use) as connection:
        connection.set("kept", "yes")
        assert connection.config_get("appendonly") == {"appendonly": "yes"}
        assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    use.release()
    wait_until_sync(lambda: not embedded_processes(directory), 60, "the server to end")
    use = embedded.open_server(directory)
    with client(use) as connection:
        assert connection.get("kept") == "yes"
    use.release()


@pytest.mark.slow
def test_directory_is_private(directory):
    """Other users can neither read the directory nor connect to the socket."""
    use = embedded.open_server(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert Path(use.url.removeprefix("unix://")).stat().st_mode & 0o077 == 0
    use.release()


@pytest.mark.slow
def test_simultaneous_starts_share_one_server(directory):
    """Five commands that start at the same instant end up with one server."""
    program = [
        sys.executable, "-c",
        (
            "import sys, redis; from pathlib import Path; from aragora_q.redis import embedded\n"
            f"embedded.GRACE_SECONDS = {GRACE_SECONDS}\n"
            "use = embedded.open_server(Path(sys.argv[1]))\n"
            "print(redis.Redis.from_url(use.url).info('server')['process_id'], flush=True)\n"
            "sys.stdin.read()"
        ),
        str(directory), "user",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(5)
    ]
    pids = {process.stdout.readline() for process in started}  # all use it until the last has come
    for process in started:
        process.communicate(timeout=60)
    assert len(pids) == 1, pids


@pytest.mark.slow
def test_starter_killed_while_another_uses_it(directory):
    """kill -9 of the process that started the server does not end it while another one uses it."""
    starter, other = user(directory), user(directory)
    assert starter.server == other.server
    end(starter)
    time.sleep(embedded.GRACE_SECONDS + 1)  # longer than an unused server would have lived
    use = embedded.open_server(directory)
    with client(use) as connection:
        assert connection.info("server")["process_id"] == other.server
    use.release()
    end(other)


@pytest.mark.slow
def test_next_command_adopts_within_the_grace(directory, monkeypatch):
    """A command that comes right after a killed one finds the same server."""
    monkeypatch.setattr(embedded, "GRACE_SECONDS", 8.0)
    first = user(directory)
    end(first)
    use = embedded.open_server(directory)
    with client(use) as connection:
        assert connection.info("server")["process_id"] == first.server
    use.release()


@pytest.mark.slow
def test_no_orphan_when_all_users_are_killed(directory):
    """kill -9 of every user leaves no process behind."""
    end(user(directory))
    wait_until_sync(lambda: not embedded_processes(directory), 60, "the orphan to end")


def test_killed_supervisor_is_replaced(directory):
    """If the supervisor is killed, the next command adopts the server and gives it a new one."""
    use = embedded.open_server(directory)
    with client(use) as connection:
        server = connection.info("server")["process_id"]
    [supervisor] = [pid for pid in embedded_processes(directory) if pid != server]
    os.kill(supervisor, signal.SIGKILL)
    wait_until_sync(
        lambda: supervisor not in embedded_processes(directory), 60, "the supervisor to die"
    )
    again = embedded.open_server(directory)
    with client(again) as connection:
        assert connection.info("server")["process_id"] == server
    wait_until_sync(lambda: len(embedded_processes(directory)) == 2, what="a new supervisor")
    use.release()
    again.release()


@pytest.mark.slow
def test_killed_server_is_restarted(directory):
    """If the server is killed while in use, it comes back with its data."""
    use = embedded.open_server(directory)
    with client(use) as connection:
        connection.set("kept", "yes")
        connection.config_set("appendfsync", "always")
        os.kill(connection.info("server")["process_id"], signal.SIGKILL)

    def value():
        try:
            with client(use) as connection:
                return connection.get("kept")
        except redis.RedisError:
            return None

    assert wait_until_sync(value, 60, "the server to come back") == "yes"
    use.release()


@pytest.mark.slow
def test_stale_socket_does_not_confuse(directory):
    """A socket file that a dead server left is not taken for a server."""
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(directory / "valkey.sock"))
    use = embedded.open_server(directory)
    with client(use) as connection:
        assert connection.ping()
    use.release()


@pytest.mark.slow
def test_long_directory_names_work():
    """If the directory's path is too long for a socket, the socket is elsewhere."""
    with tempfile.TemporaryDirectory(prefix="aq-") as name:
        directory = Path(name) / ("long" * 30)
        use = embedded.open_server(directory)
        with client(use) as connection:
            assert connection.ping()
        use.release()
        wait_until_sync(lambda: not embedded_processes(directory), 60, "the server to end")


@pytest.mark.slow
def test_loading_is_waited_for(directory):
    """A server that loads its data is waited for."""
    use = embedded.open_server(directory)
    with client(use) as connection:
        with connection.pipeline() as pipeline:
            for number in range(20_000):
                pipeline.set(f"key:{number}", "x" * 100)
            pipeline.execute()
        connection.config_set("key-load-delay", "50")
        connection.config_rewrite() if connection.info("server").get("config_file") else None
    use.release()
    wait_until_sync(lambda: not embedded_processes(directory), 60, "the server to end")
    use = embedded.open_server(directory)
    with client(use) as connection:
        assert connection.dbsize() == 20_000
    use.release()


def test_unusable_directory_is_explained(tmp_path):
    """A directory that cannot be made is a configuration error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use .*/file/state"):
        embedded.open_server(tmp_path / "file" / "state")


def test_missing_wheel_is_explained(tmp_path, monkeypatch):
    """Without the wheel, the error says which package to install."""
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        embedded.open_server(tmp_path)
    assert "aragora-q[embedded]" in caught.value.hint
