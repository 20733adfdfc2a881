"""The metrics port: any address, and clients that reset, are silent or slow."""

import http.client
import logging
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from support import servers
from support.wait import wait_until_sync

from aragora_q.errors import ConfigError
from aragora_q.observability import http as metrics_http
from aragora_q.observability.http import serving

HEALTHY = lambda: True  # noqa: E731


def get(port, path="/healthz", host="127.0.0.1", method="GET"):
    """Status and body of a response."""
    with closing(http.client.HTTPConnection(host, port, timeout=60)) as connection:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def serve(stack, host="127.0.0.1", port=None, is_healthy=HEALTHY):
    """Serve until `stack` ends; returns the port."""
    port = servers.free_port() if port is None else port
    return stack.enter_context(serving(CollectorRegistry(), host, port, is_healthy))


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_addresses_are_served(host):
    """A worker in a network without IPv4 can be scraped."""
    with ExitStack() as stack:
        port = serve(stack, host)
        assert get(port, host="::1") == (200, "ok\n")
        assert get(port, "/metrics", host="::1")[0] == 200


@needs_ipv6
def test_localhost_is_served_on_ipv4():
    """The name has addresses of both kinds; scrapers that are given 127.0.0.1 must reach it."""
    with ExitStack() as stack:
        assert get(serve(stack, "localhost")) == (200, "ok\n")


def test_paths_and_methods():
    """/metrics, /healthz with both states, others; HEAD as probes send it."""
    healthy = [True]
    with ExitStack() as stack:
        port = serve(stack, is_healthy=lambda: healthy[0])
        assert get(port, "/metrics?name[]=x")[0] == 200
        assert get(port, "/other") == (404, "try /metrics or /healthz\n")
        assert get(port, method="HEAD") == (200, "")
        healthy[0] = False
        assert get(port) == (503, "stalled\n")


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "[::1]", "x" * 70])
@pytest.mark.parametrize("port", [None, 1_234])
def test_an_address_that_cannot_be_served_is_refused(host, port):
    """Whether or not a port is configured: only a port in use is a reason to try the next one."""
    with (
        pytest.raises(ConfigError, match="cannot serve metrics on") as caught,
        ExitStack() as stack,
    ):
        stack.enter_context(serving(CollectorRegistry(), host, port, HEALTHY))
    assert "metrics_host" in caught.value.hint


def test_used_default_ports_are_skipped_and_reported(monkeypatch, caplog):
    """The next default port is used; without a free one there are no metrics, and a warning."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(metrics_http, "DEFAULT_PORTS", [servers.free_port(), servers.free_port()])
    registry = CollectorRegistry()
    with ExitStack() as stack:
        for expected in (*metrics_http.DEFAULT_PORTS, None):
            assert not caplog.records
            port = stack.enter_context(serving(registry, "127.0.0.1", None, HEALTHY))
            assert port == expected
        assert "no metrics served: all default ports are in use" in caplog.text


def test_port_0_serves_nothing(caplog):
    """It is what the operator asked for: no warning."""
    with serving(CollectorRegistry(), "127.0.0.1", 0, HEALTHY) as port:
        assert (port, caplog.records) == (None, [])


def reset(client):
    """Close a connection by a reset, as probes of load balancers do."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_clients_that_leave_cost_no_output(capfd, caplog):
    """Resets before, within and after a request, and bytes that are not HTTP: no traceback, no log line."""
    with ExitStack() as stack:
        port = serve(stack)
        for data in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\xff\n\n"):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(data)
            reset(client)
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"\xff\n\n")
        client.recv(1)
        client.close()
        assert get(port) == (200, "ok\n")
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


def test_an_error_in_a_request_is_one_log_line(caplog, capfd):
    """A fault of this program is logged with its traceback as a part of the record; others are served."""

    def broken():
        raise ValueError("broken")

    with ExitStack() as stack:
        port = serve(stack, is_healthy=broken)
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port)
        wait_until_sync(lambda: caplog.records)
        assert get(port, "/metrics")[0] == 200
    [record] = caplog.records
    assert record.exc_info
    assert capfd.readouterr() == ("", "")


def descriptors():
    """How many this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


def silent_clients(stack, port, count):
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)
    ]


def test_silent_clients_hold_a_bounded_number_of_descriptors():
    """For one connection too many the oldest is closed, so that scrapes are answered meanwhile."""
    threads, before = threading.active_count(), descriptors()
    with ExitStack() as stack:
        port = serve(stack)
        count = 3 * metrics_http.MAX_CONNECTIONS
        clients = silent_clients(stack, port, count)
        for _ in range(3):
            assert get(port) == (200, "ok\n")
        most = threads + metrics_http.MAX_CONNECTIONS + 1
        wait_until_sync(lambda: threading.active_count() <= most, what="closed ones to end")
        opened = descriptors() - before - count
        assert opened <= metrics_http.MAX_CONNECTIONS + 2  # the listening socket, the listing
        clients[0].settimeout(60)
        assert clients[0].recv(1) == b""


@pytest.mark.parametrize("limit", ["SILENT_SECONDS", "CONNECTION_SECONDS"])
def test_silent_and_slow_clients_are_disconnected(monkeypatch, limit):
    """After some seconds without a byte; after more seconds also if bytes arrive."""
    if limit == "SILENT_SECONDS":
        monkeypatch.setattr(metrics_http._Handler, "timeout", 0.2)
    else:
        monkeypatch.setattr(metrics_http, limit, 0.2)
    with ExitStack() as stack:
        [client] = silent_clients(stack, serve(stack), 1)
        client.settimeout(0.05)
        until = time.monotonic() + 60
        with suppress(ConnectionError):
            while time.monotonic() < until:
                try:
                    if client.recv(1) == b"":
                        return
                except TimeoutError:
                    if limit == "CONNECTION_SECONDS":
                        client.send(b"x")
            pytest.fail("still connected")


def test_a_process_without_free_descriptors_serves_again_later(monkeypatch):
    """A connection that cannot be accepted waits; neither the thread nor the process ends for it."""
    failures = [OSError(24, "Too many open files")] * 3
    accept = socket.socket.accept

    def scarce(listener):
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    with ExitStack() as stack:
        assert get(serve(stack)) == (200, "ok\n")
    assert not failures
