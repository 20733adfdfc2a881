"""HTTPS receivers of webhooks on loopback, which do what a test says; they verify as users' receivers do."""

import base64
import secrets
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

from standardwebhooks.webhooks import Webhook

from aragora_q.config.tables import WebhookConfig


def new_secret():
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def answer(status=200, headers="", body=b""):
    """Returns what sends an answer with this status."""

    def send(connection):
        head = f"HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return send


def raw(data):
    """Returns what sends these bytes and closes the connection."""
    return lambda connection: connection.sendall(data)


def trickle(data, seconds=0.2):
    """Returns what sends a byte at a time."""

    def send(connection):
        for n in range(len(data)):
            connection.sendall(data[n : n + 1])
            time.sleep(seconds)

    return send


def forever(data):
    """Returns what sends the same again and again."""

    def send(connection):
        while True:
            connection.sendall(data)

    return send


def hang(connection):
    """Keep the connection open until the other side closes it."""
    with suppress(OSError):
        while connection.recv(65_536):
            pass


class Received:
    """A request as it arrived."""

    def __init__(self, head, body):
        self.first, *lines = head.decode("latin-1").split("\r\n")
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        self.body = body
        self.at = time.time()

    @property
    def id(self):
        return self.headers["webhook-id"]

    def verified(self, secret):
        """The message, if its signature is right. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Accepts connections on an address of loopback. `behave` is what it does after each request.

    `certificate` None: it speaks no TLS. `before_tls` True: it behaves before the handshake, and reads nothing.
    """

    def __init__(
        self, certificates, behave=None, *, certificate="server", host="127.0.0.1", before_tls=False
    ):
        self.certificates = certificates
        self.behave = behave or answer(200)
        self.requests = []
        self.connections = 0
        self.secret = new_secret()
        self._before_tls = before_tls
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(
                certificates[f"{certificate}.crt"], certificates[f"{certificate}.key"]
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.host, self.port = host, self._listener.getsockname()[1]
        self._open = set()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}/hook"

    def webhook(self, directory, *, url=None, **fields):
        """The settings of a webhook that leads here."""
        file = directory / f"secret-{self.port}"
        if not file.exists():
            file.write_text(f"{self.secret}\n")
        defaults = {
            "url": url or self.url,
            "secret_file": str(file),
            "allow_networks": ("127.0.0.0/8", "::1/128"),
            "ca_file": self.certificates["ca.crt"],
            "timeout_seconds": 60,
        }
        return WebhookConfig(**{**defaults, **fields})

    def verified(self):
        """All messages, in the order of their arrival."""
        return [request.verified(self.secret) for request in list(self.requests)]

    def _accept(self):
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._is_closed:
                connection.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        self._open.add(connection)
        try:
            if self._before_tls:
                self.behave(connection)
                return
            if self._context is not None:
                self._open.discard(connection)
                connection = self._context.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            self._receive(connection)
            self.behave(connection)
        except (OSError, ValueError):
            pass  # the sender closed the connection, or the test is over
        finally:
            self._open.discard(connection)
            connection.close()

    def _receive(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        received = Received(head, body)
        while len(body) < int(received.headers["content-length"]):
            body += self._more(connection)
        received.body = body
        self.requests.append(received)

    @staticmethod
    def _more(connection):
        data = connection.recv(65_536)
        if not data:
            raise OSError("closed")
        return data

    def close(self):
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextmanager
def receiving(*args, **options):
    receiver = Receiver(*args, **options)
    try:
        yield receiver
    finally:
        receiver.close()


_look_up = socket.getaddrinfo


def resolve_to(monkeypatch, *answers, host="hooks.example", seconds=0.0):
    """Fake the look-up of one name: the addresses of each call in turn, the last ones from then on.

    An answer is one address or a list of them. `seconds`: how long a look-up takes. Returns the list of names
    that were looked up, to which each call adds.
    """
    looked_up, rest = [], list(answers)

    def look_up(name, port, *args, **options):
        if name != host:
            return _look_up(name, port, *args, **options)
        looked_up.append(name)
        time.sleep(seconds)
        found = rest.pop(0) if len(rest) > 1 else rest[0]
        return [
            each
            for address in ([found] if isinstance(found, str) else found)
            for each in _look_up(address, port, *args, **options)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return looked_up
