"""Send messages to systemd, as described in sd_notify(3); does nothing outside of systemd.

Used by the launcher and the exporter. A message is one datagram to the socket in NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send state lines such as `READY=1` or `STATUS=3/8 running`. Errors are ignored.

    Unprintable characters are replaced by blanks, because a line may contain text of others, such as Redis.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux' abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall("\n".join(map(_printable, lines)).encode())
        except OSError:
            pass


def watchdog_seconds() -> float | None:
    """Return the seconds within which systemd expects WATCHDOG=1, or None; see sd_watchdog_enabled(3)."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID")
    if not (usec.isascii() and usec.isdigit()) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000 or None


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line)
