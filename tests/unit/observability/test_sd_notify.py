"""Messages to systemd, over a datagram socket."""

import os
import socket

import pytest

from aragora_q.observability import sd_notify


@pytest.fixture(params=["path", "abstract"])
def listener(request, monkeypatch, tmp_path):
    """The socket that systemd would listen on, in the file system and in the abstract namespace."""
    address = str(tmp_path / "notify") if request.param == "path" else f"\0aq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield listening


def test_lines_arrive_as_one_datagram(listener):
    """States that belong together are sent together."""
    sd_notify.notify("READY=1", "STATUS=2/3 running")
    assert listener.recv(1000) == b"READY=1\nSTATUS=2/3 running"


def test_hostile_status_is_one_line(listener):
    """Text from elsewhere, such as an error of Redis, cannot add another state."""
    sd_notify.notify("STATUS=waiting: x\nMAINPID=1\r\x1b[2J", "WATCHDOG=1")
    received = listener.recv(1000).decode()
    assert received.split("\n")[1:] == ["WATCHDOG=1"]
    assert received.isprintable() or received.replace("\n", "").isprintable()


def test_lone_surrogates_do_no_harm(listener):
    """Text that is not valid UTF-8 does not stop a worker."""
    sd_notify.notify("STATUS=\ud800")
    assert listener.recv(1000).startswith(b"STATUS=")


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "@unbound", "x" * 200])
def test_without_systemd_nothing_happens(monkeypatch, address):
    """Without systemd, or if its socket is missing, nothing happens."""
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    sd_notify.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        pytest.param("1500000", str(os.getpid()), 1.5, id="own"),
        ("30000000", "1", None),
        (None, None, None),
        ("", None, None),
        ("soon", None, None),
        ("0", None, None),
        ("²", None, None),
    ],
)
def test_watchdog_interval(monkeypatch, usec, pid, seconds):
    """The watchdog is used only if systemd asks this process for it; invalid values and zero disable it."""
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert sd_notify.watchdog_seconds() == seconds
