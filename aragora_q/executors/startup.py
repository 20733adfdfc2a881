"""Find out whether a program can be started, and say why not in words that lead to the cause.

Used by `command.py`, when the worker starts and when a start fails later. Linux only.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_TRIAL = """
import ctypes, os, sys
pid = os.fork()
if not pid:
    if ctypes.CDLL(None).ptrace(0, 0, 0, 0):
        os._exit(0)
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        os._exit(100 + error.errno)
status = os.waitpid(pid, 0)[1]
if os.WIFSTOPPED(status):
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os._exit(0)
os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0)
"""
"""Load a program as its tracer, so that the kernel stops it before its first instruction, and kill it.

Exits with 100 and the error's number; with 0 if the program can be started, or if tracing is not allowed here.
"""

_PERMANENT = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG, errno.ELIBBAD})
"""What the kernel answers until the program, its arguments or its file system are changed."""

MAX_FIRST_LINE_BYTES = 256

ENV_EXIT_CODES = (126, 127)
"""Exit codes of `env` for a program that it cannot start."""


def allow_waiting() -> None:
    """Give SIGCHLD its default action: if the parent had it ignored, no exit status would arrive."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread, the only one that may
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def find_fault(argv: list[str], env: Mapping[str, str]) -> str | None:
    """Return why `argv` cannot be started with the environment `env`; None if no reason is visible.

    The program is loaded, but does not run.
    """
    if fault := script_fault(argv[0]):
        return f"cannot start {argv[0]}: {fault}"
    trial = [sys.executable, "-I", "-S", "-c", _TRIAL, *argv]
    try:
        number = (
            subprocess.run(  # noqa: S603 - the operator's program
                trial, env=env, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ).returncode
            - 100
        )
    except OSError as error:
        number = error.errno if error.errno == errno.E2BIG else 0
    if number == errno.EACCES and not os.statvfs(argv[0]).f_flag & os.ST_NOEXEC:
        return None  # a security module may refuse only the trial
    if number not in _PERMANENT:
        return None
    return explain(argv[0], OSError(number, os.strerror(number)))


def interpreter_fault(path: str, exit_code: int) -> str | None:
    """Return why `env`, in a script's first line, ended with `exit_code` instead of the script; else None."""
    fault = script_fault(path) if exit_code in ENV_EXIT_CODES else None
    return fault and f"cannot start {path}: {fault}"


def explain(path: str, error: OSError) -> str:
    """Return why the program at `path` could not be started, in one line."""
    reason = (script_fault(path) if Path(path).exists() else None) or _system_fault(path, error)
    return f"cannot start {path}: {reason}"


def _system_fault(path: str, error: OSError) -> str:
    """Return what the error of the system call means."""
    match error.errno:
        case errno.ENOENT if Path(path).exists():
            return "the loader or interpreter that it was built for is not on this machine"
        case errno.ENOEXEC:
            return "neither a script with an interpreter in its first line nor a binary of this machine"
        case errno.EACCES | errno.EPERM:
            return (
                f"{error.strerror}: not executable for this user, or on a file system without exec"
            )
        case errno.E2BIG:
            return "arguments and environment variables are too long"
        case errno.EMFILE:
            return f"{error.strerror}: raise this process' limit, or lower concurrency"
    return error.strerror or str(error)


def script_fault(path: str) -> str | None:
    """Return what is wrong with a script's first line; None if nothing is, or it is not a script."""
    try:
        with Path(path).open("rb") as file:
            line = file.readline(MAX_FIRST_LINE_BYTES)
    except OSError:  # may be executable, but not readable
        return None
    if not line.startswith(b"#!"):
        return None
    text = os.fsdecode(line[2:].rstrip(b"\n"))
    if text.endswith("\r"):
        return "its lines end with CR LF, as on Windows: convert it to LF"
    interpreter, *arguments = text.split() or [""]
    if not os.access(interpreter, os.X_OK):
        return f"its interpreter {interpreter!r} does not exist or is not executable"
    if Path(interpreter).name == "env":
        name = next((word for word in arguments if word != "-S" and "=" not in word), "-")
        if not name.startswith("-") and shutil.which(name) is None:
            return f"its interpreter {name!r} is not on PATH"
    return None
