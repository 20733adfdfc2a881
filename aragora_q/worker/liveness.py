"""Identify this process, and detect that another process on this host is dead.

Used by `registration`: a worker that is restarted under its previous id does not wait for the lease
of its dead predecessor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def describe() -> dict[str, str]:
    """Return host and pid, and the scope in which the pid is unique: boot and pid namespace."""
    return {"host": socket.gethostname(), "pid": str(os.getpid()), "scope": _pid_scope()}


def is_known_dead(record: Mapping[str, str]) -> bool:
    """Return True if the process that wrote `record` with `describe` has certainly ended."""
    scope, pid = record.get("scope"), record.get("pid", "")
    is_number = pid.isascii() and pid.isdigit()
    if not scope or scope != _pid_scope() or not is_number or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _pid_scope() -> str:
    """Return the scope; empty if the kernel does not show it: then pids cannot be compared."""
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot_id}/{Path('/proc/self/ns/pid').readlink()}"
    return ""
