"""Run a program in its own process group, read its output, and stop it with all its children.

Used by `command.py`; must not know jobs. Linux only.

asyncio's subprocesses are not used for two reasons. They give a child a pipe as fd 3 only with
`preexec_fn`, which runs Python between fork and exec and is unsafe while other threads run (the
lease keeper does). And they reap the child at once: after that its process id may be reused, so
killing its group could hit another program. The system calls below work the same on asyncio and uvloop.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

GRACE_SECONDS = 3.0
"""Time between SIGTERM and SIGKILL. Shorter than a stopping worker waits for its last attempts."""

ORPHAN_GRACE_SECONDS = 1.0
"""How long pipes stay open after the program ended, if a child that left the group holds them."""

_CHUNK_BYTES = 65_536


OPEN_FILES = 4
"""Open files that a running program takes: three pipes, and the handle through which its end is noticed."""


class ProcessGroup:
    """A running program and its children.

    `stdout`, `stderr` and `messages` (fd 3) are its output. `exited` resolves to its exit code, to the
    negative signal number if a signal killed it, or to None if another part of this process, such as
    the kernel with SIGCHLD ignored, took its exit status.
    """

    def __init__(self, pid: int) -> None:
        self.stdout = self.stderr = self.messages = asyncio.StreamReader()
        self._pid = pid
        self._pipes: list[_Pipe] = []
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._is_reaped = False
        self._is_stopping = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # it ended, and its exit status was taken
            self.exited.set_result(None)
            self._reap()
            return
        except OSError:  # out of file descriptors: its exit could not be noticed
            self._reap()
            raise
        self._loop.add_reader(self._pidfd, self._on_exit)

    @classmethod
    async def start(cls, argv: list[str], env: Mapping[str, str], stdin: bytes) -> ProcessGroup:
        """Start `argv` (its first item is a path) with environment `env` and `stdin` to read.

        Raises:
            OSError: the program cannot be started.

        """
        read_fds: list[int] = []
        try:
            # Without a turn of the loop: programs that start together must not all hold both ends.
            group = cls._spawn(argv, env, stdin, read_fds)
        except BaseException:
            for fd in read_fds:
                os.close(fd)
            raise
        try:
            while read_fds:
                group._pipes.append(await _Pipe.open(read_fds.pop(0)))  # noqa: SLF001 - its own
        except BaseException:
            for fd in read_fds:
                os.close(fd)
            await group.stop(set())
            raise
        group.stdout, group.stderr, group.messages = (pipe.reader for pipe in group._pipes)  # noqa: SLF001
        return group

    @classmethod
    def _spawn(
        cls, argv: list[str], env: Mapping[str, str], stdin: bytes, read_fds: list[int]
    ) -> ProcessGroup:
        """Start the program; add the read ends of its stdout, stderr and messages to `read_fds`."""
        with ExitStack() as cleanup:
            child_fds = [_shift_fd(_memfd(stdin))]
            cleanup.callback(os.close, child_fds[0])
            for _ in ("stdout", "stderr", "messages"):
                read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
                read_fds.append(read_fd)
                child_fds.append(_shift_fd(write_fd))
                cleanup.callback(os.close, child_fds[-1])
            pid = _spawn(argv, env, child_fds)
        return cls(pid)  # by now, there is room for one more open file

    async def wait(self, readers: set[asyncio.Task[Any]]) -> int | None:
        """Return the exit code after the program ended and all `readers` of its output finished.

        If a reader fails, its exception is raised at once; the caller then calls `stop`.
        """
        await asyncio.wait({self.exited, *readers}, return_when=asyncio.FIRST_EXCEPTION)
        for task in readers:
            if task.done():
                task.result()
        return await self.exited

    async def stop(self, readers: set[asyncio.Task[Any]]) -> None:
        """Stop the group if it still runs, then cancel `readers`.

        Sends SIGTERM, waits up to GRACE_SECONDS while `readers` go on, then sends SIGKILL.
        """
        try:
            if not self.exited.done():
                self._is_stopping = True
                self._signal(signal.SIGTERM)
                await asyncio.wait({self.exited, *readers}, timeout=GRACE_SECONDS)
        finally:
            self._is_stopping = False
            self._signal(signal.SIGKILL)
            if self.exited.done():
                self._reap()
            self._close_pipes()
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.exited.set_result(self._exit_code())
        if not self._is_stopping:  # while stopping, a child may still be handling SIGTERM
            self._reap()

    def _exit_code(self) -> int | None:
        try:
            status = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return None
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def _reap(self) -> None:
        """Kill remaining children, then reap the program. After reaping, its id may be reused."""
        if self._is_reaped:
            return
        self._signal(signal.SIGKILL)
        self._is_reaped = True
        with suppress(ChildProcessError):  # taken by another part of this process
            os.waitpid(self._pid, 0)
        self._loop.call_later(ORPHAN_GRACE_SECONDS, self._close_pipes)

    def _signal(self, number: signal.Signals) -> None:
        if not self._is_reaped:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    def _close_pipes(self) -> None:
        for pipe in self._pipes:
            pipe.close()


async def read_lines(stream: asyncio.StreamReader, max_bytes: int) -> AsyncIterator[bytes]:
    r"""Yield the lines of `stream` without their `\n`.

    A line longer than `max_bytes` is yielded once, as soon as it is that long, cut to `max_bytes` + 1
    bytes; its rest is skipped. (`StreamReader.readline` raises an error and drops data instead.)
    """
    line, is_cut = b"", False
    while chunk := await stream.read(_CHUNK_BYTES):
        *complete, rest = chunk.split(b"\n")
        for part in complete:
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


class _Pipe:
    """The read end of a pipe that the program writes to."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self.reader = reader
        self._transport = transport

    @classmethod
    async def open(cls, fd: int) -> _Pipe:
        """Start reading `fd`; the pipe owns and closes it."""
        reader = asyncio.StreamReader()
        # Not interrupted, which takes one turn of the loop: uvloop would leave the file open.
        opening = asyncio.ensure_future(
            asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
            )
        )
        try:
            transport, _ = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.result()[0].close())
            raise
        return cls(reader, transport)

    def close(self) -> None:
        self._transport.close()


def _spawn(argv: list[str], env: Mapping[str, str], child_fds: list[int]) -> int:
    """Start a program that has `child_fds` as its descriptors 0, 1, …, and no others; return its id."""
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(child_fds)],
        setsid=True,
        # Python ignores the first two, others may ignore SIGCHLD; a program expects the default
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD],
        setsigmask=[],
    )


def _shift_fd(fd: int) -> int:
    """Move `fd` to a number above 3, so that the child's descriptors do not overwrite each other."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 4)
    finally:
        os.close(fd)


def _memfd(data: bytes) -> int:
    """Return an in-memory file with `data`. Unlike a pipe, it needs no writer and cannot break."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd
