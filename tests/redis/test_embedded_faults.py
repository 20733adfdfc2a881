"""embedded://: deaths, freezes and odd places; the server comes back, and never outlives its users."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis
from support.paths import ROOT
from support.processes import embedded_processes, is_running, run_command
from support.wait import wait_until_sync

from aragora_q.errors import ConfigError, RedisUnreachable
from aragora_q.redis import embedded

GRACE_SECONDS = 0.4
STOP_SECONDS = 2.0


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(embedded, "GRACE_SECONDS", GRACE_SECONDS)
    monkeypatch.setattr(embedded, "STOP_SECONDS", STOP_SECONDS)


@pytest.fixture
def parent():
    """A short path; when the test ends, all servers below it must end without being stopped."""
    with tempfile.TemporaryDirectory(prefix="aq-") as name:
        yield Path(name)
        wait_until_sync(lambda: not embedded_processes(name), 60, "the servers to end")


@pytest.fixture
def directory(parent):
    return parent / "state"


def process_id(use):
    with client(use) as connection:
        return connection.info("server")["process_id"]


def client(use):
    return redis.Redis(unix_socket_path=use.path, decode_responses=True)


def supervisor_of(directory, server):
    [supervisor] = [pid for pid in embedded_processes(directory) if pid != server]
    return supervisor


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until_sync(lambda: not is_running(pid), 60, f"{pid} to die")


def value_of(use, key):
    try:
        with client(use) as connection:
            return connection.get(key)
    except redis.RedisError:
        return None


def write(use):
    with client(use) as connection:
        connection.config_set("appendfsync", "always")
        connection.set("kept", "yes")


@pytest.mark.slow
def test_it_comes_back_when_supervisor_and_server_die(directory):
    """While one process uses it, and no other command starts, the server is started again."""
    use = embedded.open_server(directory)
    write(use)
    server = process_id(use)
    kill(supervisor_of(directory, server))
    kill(server)
    assert wait_until_sync(lambda: value_of(use, "kept"), 60, "the server to come back") == "yes"
    use.release()


@pytest.mark.slow
def test_an_adopted_server_that_dies_is_started_again(directory):
    """A server that a new supervisor found running is watched like one that it started."""
    use = embedded.open_server(directory)
    write(use)
    server = process_id(use)
    first = supervisor_of(directory, server)
    kill(first)
    again = embedded.open_server(directory)
    assert process_id(again) == server
    assert supervisor_of(directory, server) != first
    kill(server)
    assert wait_until_sync(lambda: value_of(use, "kept"), 60, "the server to come back") == "yes"
    use.release()
    again.release()


@pytest.mark.slow
def test_a_frozen_server_is_adopted_not_doubled(directory):
    """A server that does not answer is a server: a second one would write to the same files."""
    use = embedded.open_server(directory)
    write(use)
    server = process_id(use)
    os.kill(server, signal.SIGSTOP)
    kill(supervisor_of(directory, server))
    wait_until_sync(lambda: len(embedded_processes(directory)) == 2, 60, "the next supervisor")
    time.sleep(2)
    assert len(embedded_processes(directory)) == 2
    os.kill(server, signal.SIGCONT)
    assert wait_until_sync(lambda: value_of(use, "kept"), 60, "the server to answer") == "yes"
    assert process_id(use) == server
    use.release()


@pytest.mark.slow
@pytest.mark.parametrize("is_adopted", [False, True], ids=["started", "adopted"])
def test_a_server_frozen_at_its_end_does_not_stay(directory, is_adopted):
    """It is killed when it does not end in time, and its supervisor ends, too; no data is lost."""
    use = embedded.open_server(directory)
    write(use)
    server = process_id(use)
    if is_adopted:
        kill(supervisor_of(directory, server))
        embedded.open_server(directory).release()
    os.kill(server, signal.SIGSTOP)
    use.release()
    wait_until_sync(lambda: not embedded_processes(directory), 60, "server and supervisor to end")
    use = embedded.open_server(directory)
    assert value_of(use, "kept") == "yes"
    use.release()


@pytest.mark.slow
def test_a_server_that_never_answers_is_killed(directory, monkeypatch):
    """A server that hangs before it listens fails the command, and does not stay."""
    directory.mkdir(mode=0o700)
    program = directory / "valkey-hangs"
    os.mkfifo(directory / "never")  # waits in this process, without another one to count
    program.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do read -r _ < never; done\n")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "START_SECONDS", 1.0)
    monkeypatch.setattr(embedded, "_binary", lambda: str(program))
    with pytest.raises(RedisUnreachable, match="does not answer"):
        embedded.open_server(directory)
    assert len(embedded_processes(directory)) == 2
    wait_until_sync(lambda: not embedded_processes(directory), 60, "server and supervisor to end")


@pytest.mark.slow
def test_a_command_during_the_end_of_a_frozen_server_gets_a_new_one(directory):
    """It waits until the old one is gone, and then starts its own."""
    use = embedded.open_server(directory)
    write(use)
    os.kill(process_id(use), signal.SIGSTOP)
    use.release()
    time.sleep(GRACE_SECONDS + 2 * embedded.POLL_SECONDS)
    use = embedded.open_server(directory)
    assert value_of(use, "kept") == "yes"
    use.release()


@pytest.mark.slow
def test_one_after_the_other_without_a_pause(directory, monkeypatch):
    """Commands that come just when the server ends get a server."""
    monkeypatch.setattr(embedded, "GRACE_SECONDS", 0.0)
    for pause in range(8):
        use = embedded.open_server(directory)
        write(use)
        use.release()
        time.sleep(pause * 0.07)
    use = embedded.open_server(directory)
    assert value_of(use, "kept") == "yes"
    use.release()


USE = """
import sys
from pathlib import Path
import redis
from aragora_q.redis import embedded
embedded.GRACE_SECONDS = 0.4
use = embedded.open_server(Path(sys.argv[1]))
print(redis.Redis(unix_socket_path=use.path).info("server")["process_id"])
"""


@pytest.mark.slow
def test_one_server_whatever_the_environment(parent):
    """A login, cron and a service with other directories for temporary files share the server."""
    directory = parent / ("long" * 30)
    use = embedded.open_server(directory)
    pids = {str(process_id(use))}
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        other = parent / name
        other.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", USE, directory],
            env={**os.environ, "PYTHONPATH": str(ROOT), name: str(other)},
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        pids.add(done.stdout.strip())
        assert list(other.iterdir()) == []
    assert len(pids) == 1
    use.release()


@pytest.mark.parametrize(
    "name",
    ["with space", "é\u2028ü", "quote\"'", "#?%41", "line\nbreak", "not-utf8-\udcff", "-dash", "x" * 200,
     "/".join(["deep"] * 60)],
    ids=ascii,
)  # fmt: skip
def test_odd_directory_names(parent, name):
    """Whatever the directory is called, its server starts, keeps its data there, and answers."""
    use = embedded.open_server(parent / name)
    with client(use) as connection:
        assert connection.ping()
    assert (parent / name / "appendonlydir").is_dir()
    assert (parent / name / "valkey.log").is_file()
    use.release()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b" * 40, "not-utf8-\udcff"], ids=["long", "bytes"])
def test_an_odd_directory_serves_the_command_line(parent, name):
    """The whole way: client, worker, and the lease keeper's thread."""
    variables = {"REDIS_URL": "embedded://", "XDG_STATE_HOME": str(parent / name)}
    job = run_command("enqueue", "Tea?", "--agents", "demo,demo", "--quiet", **variables)
    assert job.returncode == 0, job.stderr
    done = run_command("worker", "--burst", "--metrics-port", "0", **variables)
    assert done.returncode == 0, done.stderr
    assert run_command("wait", job.stdout.strip(), **variables).returncode == 0


def test_a_user_without_a_home_needs_a_directory(monkeypatch):
    """A user id with neither HOME nor a passwd entry, as in containers: one line, exit code 78."""
    for name in ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ConfigError, match="no home directory") as caught:
        embedded.open_server()
    assert "embedded:///path/to/directory" in caught.value.hint


def test_a_relative_state_directory_is_ignored(monkeypatch, tmp_path):
    """As the XDG specification demands: data must not depend on the current directory."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert embedded.default_directory() == tmp_path / ".local/state/aragora-q/embedded"


def test_a_directory_that_anyone_can_write_to_is_refused(tmp_path):
    """Such as /tmp itself: it is neither used nor made private."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(ConfigError, match="other users can write to it"):
        embedded.open_server(shared)
    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_an_existing_directory_keeps_its_rights(parent):
    """The data in it is private in any case."""
    existing = parent / "existing"
    existing.mkdir()
    existing.chmod(0o755)
    use = embedded.open_server(existing)
    assert existing.stat().st_mode & 0o777 == 0o755
    for path in existing.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    use.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a link to another user")
def test_a_link_of_another_user_is_not_followed(tmp_path):
    """In a shared directory anyone could have made it."""
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    os.chown(link, 4243, 4243, follow_symlinks=False)
    with pytest.raises(ConfigError, match="link of another user"):
        embedded.open_server(link)
    assert list(target.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_explained(tmp_path, monkeypatch):
    """One line with the file, whatever the operating system says."""
    tmp_path.joinpath("start.lock").mkdir()
    with pytest.raises(ConfigError, match=r"cannot use .*start\.lock: Is a directory"):
        embedded.open_server(tmp_path)
