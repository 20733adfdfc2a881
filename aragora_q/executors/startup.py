"""Find out whether a program can be started, and say why not in words that lead to the cause.

Used by `command.py`, when the worker starts and when a start fails later. Linux only.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

_OTHER_FORMATS = Path("/proc/sys/fs/binfmt_misc")
"""Formats of executables that were registered on this machine, such as those of emulators."""

_UNKNOWN_FORMAT = (
    "neither a script with an interpreter in its first line nor a binary of this machine"
)

MAX_FIRST_LINE_BYTES = 256

ENV_EXIT_CODES = (126, 127)
"""Exit codes of `env` for a program that it cannot start."""


def allow_waiting() -> None:
    """Give SIGCHLD its default action: if the parent had it ignored, no exit status would arrive."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        with suppress(ValueError):  # not in the main thread, the only one that may
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def find_fault(path: str) -> str | None:
    """Return why the program at `path` cannot be started; None if no reason is visible without a start."""
    is_noexec = os.statvfs(path).f_flag & os.ST_NOEXEC
    fault = (
        "on a file system without exec" if is_noexec else script_fault(path) or _format_fault(path)
    )
    return fault and f"cannot start {path}: {fault}"


def _format_fault(path: str) -> str | None:
    """Return a fault if the kernel knows no format of executables that begins as this file does."""
    registered = {entry.name for entry in _OTHER_FORMATS.glob("*")} - {"register", "status"}
    start = _first_line(path)
    if start is None or start.startswith((b"#!", b"\x7fELF")) or registered:
        return None
    return _UNKNOWN_FORMAT


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
            return _UNKNOWN_FORMAT
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
    line = _first_line(path)
    if line is None or not line.startswith(b"#!"):
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


def _first_line(path: str) -> bytes | None:
    """Return how a file begins; None if it cannot be read, although it may be executable."""
    try:
        with Path(path).open("rb") as file:
            return file.readline(MAX_FIRST_LINE_BYTES)
    except OSError:
        return None
