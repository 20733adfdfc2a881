"""One message to one target: what counts as delivered, and what the others are called."""

import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from support.receivers import answer, forever, hang, new_secret, raw, resolve_to, trickle

from aragora_q.errors import ConfigError
from aragora_q.webhooks.sending import MAX_ANSWER_BYTES, send

BODY = b'{"type":"test"}'

LIMIT = 3
"""Seconds for a whole delivery where its end is what is waited for: in the other steps, a slow machine may take
some of them."""

NOT_VALID = "no valid answer: "
ENDED = f"{NOT_VALID}the connection was closed before its end"
TOO_LONG = f"{NOT_VALID}its header is longer than 65,536 bytes"
REDIRECT = "answered 304: a redirect, which is not followed"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

ANSWERS = {
    "200": (answer(200), "delivered", "answered 200"),
    "200 and then closes": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"), "delivered", "answered 200"),
    "early hints": (
        raw(b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 C\r\n\r\n"),
        "delivered", "answered 201"),
    "interim": (raw(CONTINUE + b"HTTP/1.1 102 C\r\n\r\nHTTP/1.0 202 C\r\n\r\n"), "delivered", "answered 202"),
    "410": (answer(410), "gone", "answered 410"),
    "404": (answer(404), "failed", "answered 404"),
    "500": (answer(500), "failed", "answered 500"),
    "101": (answer(101), "failed", "answered 101"),
    "304": (answer(304), "failed", REDIRECT),
    "nothing": (raw(b""), "failed", ENDED),
    "half a header": (raw(b"HTTP/1.1 200 OK\r\n"), "failed", ENDED),
    "half a line": (raw(b"HTTP/1.1 200 OK\r\nX: "), "failed", ENDED),
    "garbage": (raw(b"\0\xff<script>\r\n\r\n" * 9), "failed", f"{NOT_VALID}not HTTP"),
    "status of letters": (raw(b"HTTP/1.1 2OO OK\r\n\r\n"), "failed", f"{NOT_VALID}not HTTP"),
    "status of five digits": (raw(b"HTTP/1.1 99999 OK\r\n\r\n"), "failed", f"{NOT_VALID}not HTTP"),
    "HTTP/3": (raw(b"HTTP/3 200 OK\r\n\r\n"), "failed", f"{NOT_VALID}not HTTP/1"),
    "long line": (raw(b"HTTP/1.1 200 " + b"x" * 70_000), "failed", NOT_VALID),
    "many headers": (
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101),
        "failed", f"{NOT_VALID}got more than 100 headers"),
    "endless 100": (forever(CONTINUE), "failed", TOO_LONG),
    "endless 103": (forever(b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n"), "failed", TOO_LONG),
    "endless text": (forever(b"x" * 1000), "failed", NOT_VALID),
    "endless header": (forever(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 60_000), "failed", NOT_VALID),
    "chunked nonsense, 200": (
        raw(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"zz\r\n-5\r\n"),
        "delivered", "answered 200"),
    "chunked nonsense, 500": (raw(b"HTTP/1.1 500 E\r\n" + CHUNKED + b"zz\r\n-5\r\n"), "failed", "answered 500"),
    "endless chunk": (raw(b"HTTP/1.1 500 E\r\n" + CHUNKED + b"ffffffffffff\r\nx"), "failed", "answered 500"),
    "negative length": (raw(b"HTTP/1.1 500 E\r\nContent-Length: -9\r\n\r\n"), "failed", "answered 500"),
    "huge length": (raw(b"HTTP/1.1 500 E\r\nContent-Length: 10000000000\r\n\r\n"), "failed", "answered 500"),
}  # fmt: skip


def test_a_message_arrives_and_is_verified(receiver, tmp_path):
    """POST of JSON with the headers of Standard Webhooks; the path and query of the URL; any 2xx is success."""
    target = receiver(answer(204))
    webhook = target.webhook(tmp_path, url=f"https://{target.host}:{target.port}//x%20y?a=1&b=2")
    sent = send(webhook, "1700000000000-1", BODY)
    assert (sent.result, sent.status, sent.text) == ("delivered", 204, "answered 204")
    assert 0 < sent.seconds < 60
    [request] = target.requests
    assert request.first == "POST //x%20y?a=1&b=2 HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{target.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("aragora-q/")
    assert request.id == "1700000000000-1"
    assert request.verified(target.secret) == {"type": "test"}


def test_a_large_message_arrives(receiver, tmp_path):
    """More than sockets hold at once."""
    target = receiver()
    body = b'{"x":"%s"}' % (b"y" * 3_000_000)
    assert send(target.webhook(tmp_path), "1-1", body).result == "delivered"
    assert target.requests[0].body == body


def test_the_secret_is_read_for_each_message(receiver, tmp_path):
    """A rotation needs no restart: the next message is signed with the new secret and the old one."""
    target = receiver()
    webhook = target.webhook(tmp_path)
    send(webhook, "1-1", BODY)
    old, target.secret = target.secret, new_secret()
    Path(webhook.secret_file).write_text(f"{target.secret}\n{old}\n")
    send(webhook, "1-2", BODY)
    first, second = target.requests
    assert first.verified(old) == second.verified(old) == second.verified(target.secret)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_target_may_answer(receiver, tmp_path, name):
    """Delivered is what has a whole header with a status of 2xx; the body does not matter."""
    behave, result, text = ANSWERS[name]
    target = receiver(behave)
    sent = send(target.webhook(tmp_path), "1-1", BODY)
    assert sent.result == result
    assert sent.text.startswith(text)
    assert "script" not in sent.text
    assert len(sent.text) < 250
    assert len(target.requests) == 1


def test_a_refusal_shows_its_beginning(receiver, tmp_path):
    """For people; escaped, because a terminal may show it, and apart from the text for logs."""
    target = receiver(answer(422, body=b"\x1b[2J unknown type \xff" + b"z" * 5000))
    sent = send(target.webhook(tmp_path), "1-1", BODY)
    assert sent.text == "answered 422"
    assert sent.body.startswith("\\u001b[2J unknown type")
    assert len(sent.body) < 300


def test_redirects_are_not_followed(receiver, tmp_path):
    """To http, to a private address, to itself: no second request; the text does not show where to."""
    for location in ("http://127.0.0.1/", "https://10.0.0.1/", "/hook", "https://169.254.169.254/"):
        for status in (301, 302, 303, 307, 308):
            target = receiver(answer(status, headers=f"Location: {location}\r\n"))
            sent = send(target.webhook(tmp_path), "1-1", BODY)
            assert (sent.result, sent.status) == ("failed", status)
            assert sent.text.startswith(f"answered {status}: a redirect, which is not followed")
            assert location not in sent.text
            assert (len(target.requests), target.connections) == (1, 1)


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "120", 120), (503, "7200", 7200), (503, "9" * 40, 8 * 3600), (500, "120", 0),
        (503, "-5", 0), (503, "soon", 0), (503, "", 0), (503, "1e5", 0), (503, "nan", 0),
        (503, "in 1000 s", 1000), (503, "in -1000 s", 0), (503, "in 100000000 s", 8 * 3600),
        (503, "Sun, 29 Nov 2096 06:00:00 -0000", 0), (503, "Sun, 99 Nov 2026 06:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after(receiver, tmp_path, status, header, seconds):
    """Of 429 and 503; seconds or a date, at most 8 hours; anything else is as if it were not there."""
    if header.startswith("in "):
        header = formatdate(time.time() + int(header.split()[1]), usegmt=True)
    target = receiver(answer(status, headers=f"Retry-After: {header}\r\n"))
    sent = send(target.webhook(tmp_path), "1-1", BODY)
    assert sent.retry_after_seconds == pytest.approx(seconds, abs=60 if seconds == 1000 else 0)


SLOW = {
    "no answer": hang,
    "status line": trickle(b"HTTP/1.1 200 OK\r\n\r\n"),
    "headers": trickle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50),
    "interim answers": trickle(b"HTTP/1.1 100 C\r\n\r\n" * 50),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_answer_ends_with_its_time(receiver, tmp_path, name):
    """The time is that of the whole delivery: a byte now and again does not extend it."""
    target = receiver(SLOW[name])
    began = time.monotonic()
    sent = send(target.webhook(tmp_path, timeout_seconds=LIMIT), "1-1", BODY)
    assert (sent.result, sent.text) == ("failed", f"no answer within {LIMIT} s")
    assert LIMIT - 0.1 < time.monotonic() - began < 30


def test_a_slow_body_of_a_refusal_does_not_hold_up(receiver, tmp_path):
    """It is read for people only: what is not there yet is left out, and success does not wait for it."""
    for status, result in ((200, "delivered"), (500, "failed")):
        head = f"HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n".encode()

        def behave(connection, head=head):
            connection.sendall(head)
            trickle(b"x" * 100)(connection)

        target = receiver(behave)
        began = time.monotonic()
        sent = send(target.webhook(tmp_path), "1-1", BODY)
        assert (sent.result, sent.status) == (result, status)
        assert time.monotonic() - began < 15, "the whole body takes 20 s"
    target = receiver(
        lambda c: (c.sendall(b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n"), hang(c))
    )
    sent = send(target.webhook(tmp_path, timeout_seconds=LIMIT), "1-1", BODY)
    assert (sent.result, sent.text, sent.body) == ("failed", "answered 500", "")


@pytest.fixture
def hang_without_reading():
    """Keeps a connection open until the test is over."""
    is_over = threading.Event()
    yield lambda _connection: is_over.wait(100)
    is_over.set()


def test_a_receiver_that_takes_nothing(receiver, hang_without_reading, tmp_path):
    """A message larger than the buffers between them: the time is over while it is sent."""
    target = receiver()
    target._receive = hang_without_reading
    began = time.monotonic()
    webhook = target.webhook(tmp_path, timeout_seconds=LIMIT)
    sent = send(webhook, "1-1", b"x" * 30_000_000)
    assert sent.text == f"no end of the request within {LIMIT} s"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("most_bytes", "pause_seconds"), [(1000, 0.05), (100_000, 0.01)])
def test_a_receiver_that_takes_little_at_a_time(receiver, tmp_path, most_bytes, pause_seconds):
    """Likewise, whether one piece of the message takes too long, or only all of them together."""
    target = receiver()

    def sip(connection):
        if most_bytes < 10_000:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        while connection.recv(most_bytes):
            time.sleep(pause_seconds)

    target._receive = sip
    began = time.monotonic()
    webhook = target.webhook(tmp_path, timeout_seconds=LIMIT)
    sent = send(webhook, "1-1", b"x" * 60_000_000)
    assert sent.text == f"no end of the request within {LIMIT} s"
    assert time.monotonic() - began < 30, "the whole message takes longer"


def test_no_tls_handshake(receiver, hang_without_reading, tmp_path):
    """A target that accepts and says nothing, a byte at a time, or something else."""
    for behave, text in (
        (hang, f"no TLS handshake within {LIMIT} s"),
        (hang_without_reading, f"no TLS handshake within {LIMIT} s"),
        (trickle(b"\x16\x03\x03" + b"\x00" * 50), "no TLS handshake"),
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no TLS handshake: "),
        (raw(b""), "no TLS handshake: "),
    ):
        target = receiver(behave, before_tls=True)
        began = time.monotonic()
        sent = send(target.webhook(tmp_path, timeout_seconds=LIMIT), "1-1", BODY)
        assert sent.result == "failed"
        assert sent.text.startswith(text)
        assert time.monotonic() - began < 30


def test_a_target_that_speaks_no_tls(receiver, tmp_path):
    """Nothing of the message is sent in the clear."""
    target = receiver(certificate=None)
    sent = send(target.webhook(tmp_path, timeout_seconds=1), "1-1", BODY)
    assert sent.result == "failed"
    assert sent.text.startswith("no TLS handshake")
    assert target.requests == []


def test_a_target_that_accepts_nothing(tmp_path, receiver):
    """Down: refused at once. A full queue of connections: within the time."""
    target = receiver()
    webhook = target.webhook(tmp_path, timeout_seconds=1)
    target.close()
    assert send(webhook, "1-1", BODY).text == "no connection (127.0.0.1): connection refused"
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    waiting = []
    for _ in range(4):  # the kernel completes the first ones by itself
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(("127.0.0.1", port))
    try:
        began = time.monotonic()
        sent = send(
            target.webhook(tmp_path, url=f"https://127.0.0.1:{port}/", timeout_seconds=1),
            "1-1",
            BODY,
        )
        assert sent.text in ("no connection (127.0.0.1) within 1 s", "no TLS handshake within 1 s")
        assert time.monotonic() - began < 30
    finally:
        for each in (*waiting, listener):
            each.close()


@pytest.mark.parametrize(
    ("certificate", "ca", "text"),
    [
        ("other", "ca.crt", "certificate refused: IP address mismatch"),
        ("expired", "ca.crt", "certificate refused: certificate has expired"),
        ("server", "untrusted.crt", "certificate refused: "),
        ("server", None, "certificate refused: "),
    ],
)
def test_certificates(receiver, certificates, tmp_path, certificate, ca, text):
    """For another host, expired, by another authority, or by one that the system does not know."""
    target = receiver(certificate=certificate)
    webhook = target.webhook(tmp_path, ca_file=certificates[ca] if ca else None)
    sent = send(webhook, "1-1", BODY)
    assert sent.result == "failed"
    assert sent.text.startswith(text)
    assert target.requests == []


def test_a_certificate_is_for_the_name_in_the_url(receiver, tmp_path, monkeypatch):
    """SNI and Host are the URL's, also where the connection goes to an address."""
    names = []
    target = receiver(certificate="named")
    target._context.sni_callback = lambda _socket, name, _context: names.append(name)
    resolve_to(monkeypatch, "127.0.0.1")
    webhook = target.webhook(tmp_path, url=f"https://hooks.example:{target.port}/x")
    assert send(webhook, "1-1", BODY).result == "delivered"
    assert names == ["hooks.example"]
    assert target.requests[0].headers["host"] == f"hooks.example:{target.port}"


def test_an_unusable_ca_file_is_a_mistake_of_the_configuration(receiver, tmp_path):
    """The error names the file; nothing is sent."""
    target = receiver()
    (tmp_path / "ca.pem").write_text("no certificate")
    for name, reason in (("missing", "No such file"), ("ca.pem", "no certificate in PEM")):
        with pytest.raises(ConfigError, match=f"{name}: {reason}"):
            send(target.webhook(tmp_path, ca_file=str(tmp_path / name)), "1-1", BODY)
    with pytest.raises(ConfigError, match="cannot read"):
        send(target.webhook(tmp_path, secret_file=str(tmp_path / "missing")), "1-1", BODY)
    assert target.connections == 0


def test_a_renewed_ca_file_applies(receiver, certificates, tmp_path):
    """Without a restart."""
    target = receiver()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(certificates["untrusted.crt"]).read_bytes())
    webhook = target.webhook(tmp_path, ca_file=str(ca))
    assert send(webhook, "1-1", BODY).result == "failed"
    ca.write_bytes(Path(certificates["ca.crt"]).read_bytes())
    assert send(webhook, "1-1", BODY).result == "delivered"


def test_a_slow_look_up_counts(receiver, tmp_path, monkeypatch):
    """It cannot be interrupted, but nothing is sent when the time is over."""
    target = receiver()
    resolve_to(monkeypatch, "127.0.0.1", host="localhost", seconds=1.2)
    webhook = target.webhook(tmp_path, url=f"https://localhost:{target.port}/", timeout_seconds=1)
    assert send(webhook, "1-1", BODY).text == "no result of the look-up within 1 s"
    assert target.connections == 0


def test_proxies_of_the_environment_are_not_used(receiver, tmp_path, monkeypatch):
    """A proxy would connect to addresses that were not checked."""
    target, proxy = receiver(), receiver(certificate=None)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert send(target.webhook(tmp_path), "1-1", BODY).result == "delivered"
    assert proxy.connections == 0


def test_nothing_is_left_open(receiver, tmp_path):
    """Neither sockets nor threads, whatever the target does."""
    before = threading.active_count()
    for behave in (answer(200), answer(500), raw(b"x"), hang):
        target = receiver(behave)
        send(target.webhook(tmp_path, timeout_seconds=0.5), "1-1", BODY)
        target.close()
    assert threading.active_count() <= before
    assert MAX_ANSWER_BYTES == 65_536
