"""Messages to systemd, as sd_notify(3) describes them; silent where nobody listens.

Called by the launcher. One datagram to the socket that NOTIFY_SOCKET names: too little for a library.
"""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send state lines such as `READY=1` or `STATUS=3/8 running`. Failure to send is ignored.

    A line may quote others, such as Redis: what is not printable becomes a blank, so that it stays one.
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
    """Seconds within which systemd wants a WATCHDOG=1, if it does; sd_watchdog_enabled(3)."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID")
    if not (usec.isascii() and usec.isdigit()) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000 or None


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else " " for char in line)
