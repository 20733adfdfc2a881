"""A program in a process group of its own: started, listened to, and ended with all its children.

Used by `command.py`; knows nothing of jobs. asyncio's own subprocesses would not do: they give a
child a pipe as fd 3 only by running Python between fork and exec, which is unsafe beside the lease
keeper's thread, and they reap a child before its group can be killed safely, since a reaped process'
id may be anybody's. Here the same few system calls serve asyncio and uvloop alike. Linux only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

GRACE_SECONDS = 3.0
"""From TERM to KILL. Shorter than a stopping worker waits for its last attempts."""

ORPHAN_GRACE_SECONDS = 1.0
"""How long the pipes stay open when the program is gone, but something of it left the group."""

_CHUNK_BYTES = 65_536


class ProcessGroup:
    """One running program. `exited` tells its exit code, negative if a signal killed it."""

    def __init__(self, pid: int, streams: Sequence[_Pipe]) -> None:
        self.stdout, self.stderr, self.reports = (pipe.reader for pipe in streams)
        self._pid = pid
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._is_reaped = False
        self._is_stopping = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:  # no descriptor left: then nobody would hear it end
            self._reap()
            raise
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    async def start(cls, argv: list[str], env: Mapping[str, str], stdin: bytes) -> ProcessGroup:
        """Run `argv`, whose first word is a path, with `stdin` to read. Raises OSError if it cannot be run.

        `reports` is what the program writes to fd 3.
        """
        streams: list[_Pipe] = []
        with ExitStack() as ends:
            given = [_shift_fds(_memfd(stdin))]
            ends.callback(os.close, given[0])
            try:
                for _ in ("stdout", "stderr", "reports"):
                    ours, theirs = os.pipe2(os.O_CLOEXEC)
                    given.append(_shift_fds(theirs))
                    ends.callback(os.close, given[-1])
                    streams.append(await _Pipe.open(ours))
                return cls(_spawn(argv, env, given), streams)
            except BaseException:
                for pipe in streams:
                    pipe.close()
                raise

    async def finish(self, work: set[asyncio.Task[Any]]) -> int:
        """The exit code, once the program is gone and `work` has read all it had to say.

        Raises what a task of `work` raises, at once.
        """
        await asyncio.wait({self.exited, *work}, return_when=asyncio.FIRST_EXCEPTION)
        for task in work:
            if task.done():
                task.result()
        return await self.exited

    async def stop(self, work: set[asyncio.Task[Any]]) -> None:
        """End the group, if it runs: TERM, time to obey while `work` still listens, KILL. End `work`."""
        try:
            if not self.exited.done():
                self._is_stopping = True
                self._signal(signal.SIGTERM)
                await asyncio.wait({self.exited, *work}, timeout=GRACE_SECONDS)
        finally:
            self._is_stopping = False
            self._signal(signal.SIGKILL)
            if self.exited.done():
                self._reap()
            self._hang_up()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        if ended is not None:
            is_exit = ended.si_code == os.CLD_EXITED
            self.exited.set_result(ended.si_status if is_exit else -ended.si_status)
        if not self._is_stopping:  # a child may still be obeying TERM
            self._reap()

    def _reap(self) -> None:
        """Kill what the program left behind, then free its id: in this order, as long as the id is ours."""
        if self._is_reaped:
            return
        self._signal(signal.SIGKILL)
        self._is_reaped = True
        os.waitpid(self._pid, 0)
        self._loop.call_later(ORPHAN_GRACE_SECONDS, self._hang_up)

    def _signal(self, number: signal.Signals) -> None:
        if not self._is_reaped:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    def _hang_up(self) -> None:
        for pipe in self._streams:
            pipe.close()


async def lines(stream: asyncio.StreamReader, max_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a stream, without their ends; of a longer one, at once, its first `max_bytes` + 1 bytes."""
    line, is_cut = b"", False
    while chunk := await stream.read(_CHUNK_BYTES):
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            if not is_cut:
                yield (line + part)[: max_bytes + 1]
            line, is_cut = b"", False
        if not is_cut:
            line += rest
        if len(line) > max_bytes:
            yield line[: max_bytes + 1]
            line, is_cut = b"", True
    if line:
        yield line


async def read_all(stream: asyncio.StreamReader, max_bytes: int) -> bytes:
    """Everything up to the end of a stream; at most `max_bytes` + 1 bytes of it, and then at once."""
    parts: list[bytes] = []
    left = max_bytes + 1
    while left > 0 and (chunk := await stream.read(min(left, _CHUNK_BYTES))):
        parts.append(chunk)
        left -= len(chunk)
    return b"".join(parts)


class _Pipe:
    """Our end of a pipe that the program writes to."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self.reader = reader
        self._transport = transport

    @classmethod
    async def open(cls, fd: int) -> _Pipe:
        """Listen at `fd`, which is ours to close from now on."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
        )
        return cls(reader, transport)

    def close(self) -> None:
        self._transport.close()


def _spawn(argv: list[str], env: Mapping[str, str], given: list[int]) -> int:
    """Start a program whose descriptors 0, 1, … are those `given`, and no others."""
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given)],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
        setsigmask=[],
    )


def _shift_fds(fd: int) -> int:
    """`fd` under a number above those that the program knows, so that none overwrites another."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4)
    os.close(fd)
    return moved


def _memfd(data: bytes) -> int:
    """A file with `data` to read from: unlike a pipe, nobody has to feed it, and it cannot break."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
