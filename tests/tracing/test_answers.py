"""Answers of a receiver are bounded: they say nothing but their status."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest
import requests

from aragora_q.observability.otel.answers import MAX_ANSWER_BYTES, BoundedSession

HEAD = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\n"


@contextmanager
def answering(send):
    """A server that calls `send` with each connection, after it has read a request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        while b"\r\n\r\n" in connection.recv(65_536):
                            send(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
        listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        thread.join()


def test_a_huge_answer_is_not_read():
    """What is beyond the limit stays in the network: memory does not grow with it."""
    sent = []

    def send(connection):
        connection.sendall(HEAD % b"200 OK" + b"\r\n")
        while True:
            sent.append(connection.send(b"x" * 65_536))

    with answering(send) as url, BoundedSession("traces") as session:
        response = session.request("POST", url, timeout=60)
        assert (response.status_code, response.content) == (200, b"")
    assert sum(sent) < 100 * MAX_ANSWER_BYTES  # what the buffers of the kernel take


def test_an_answer_that_drips_ends_with_the_request():
    """The time limit is that of the whole answer, not of each byte."""

    def send(connection):
        connection.sendall(HEAD % b"200 OK" + b"\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with (
        answering(send) as url,
        BoundedSession("traces") as session,
        pytest.raises(requests.ReadTimeout),
    ):
        session.request("POST", url, timeout=3)


@pytest.mark.parametrize("status", [b"300 Choice", b"301 Moved", b"304 Same", b"307 Moved"])
def test_a_redirect_is_an_error_and_is_not_followed(status):
    """Exporters take a redirect for success, and a key must not go where it leads."""
    asked = []

    def send(connection):
        asked.append(1)
        location = b"Location: http://127.0.0.1:1/\r\n" if b"Moved" in status else b""
        connection.sendall(HEAD % status + location + b"Content-Length: 0\r\n\r\n")

    with (
        answering(send) as url,
        BoundedSession("traces") as session,
        pytest.raises(requests.HTTPError, match=rf"HTTP {status[:3].decode()}"),
    ):
        session.request("POST", url, timeout=60, allow_redirects=False)
    assert asked == [1]


def test_a_connection_is_used_again():
    """A short answer is read to its end: the next request needs no new connection."""
    connections = set()

    def send(connection):
        connections.add(connection.getpeername())
        connection.sendall(HEAD % b"200 OK" + b"Content-Length: 2\r\n\r\n{}")

    with answering(send) as url, BoundedSession("traces") as session:
        for _ in range(3):
            session.request("POST", url, timeout=60)
    assert len(connections) == 1
