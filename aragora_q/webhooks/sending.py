"""Send one message to a webhook's target, and say how it answered.

Called by the deliverer in a thread per message, and by `webhook test`; `doctor` only looks targets up.
Workers are inside private networks, and the names of targets are not theirs: a message goes only to addresses
that were checked, never where an answer leads. Nothing of a secret, and no URL, is in a result: some URLs are
secrets.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from aragora_q._version import __version__
from aragora_q.config.tables import WebhookConfig
from aragora_q.errors import AragoraQError, ConfigError
from aragora_q.formats import truncate
from aragora_q.webhooks import signing

MAX_ANSWER_BYTES = 64 * 1024
"""Longest header of an answer."""

MAX_BODY_BYTES = 1024
"""What is read of the body of a refusal, at most."""

MAX_BODY_CHARS = 200
CHUNK_BYTES = 16 * 1024
MAX_RETRY_AFTER_SECONDS = 8 * 3600.0
SWITCHING_PROTOCOLS = 101
NAT64 = IPv6Network("64:ff9b::/96")
"""Addresses that lead a network without IPv4 to IPv4 addresses, in their last 32 bits (RFC 6052)."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
NOT_PUBLIC = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))
"""Metadata services of clouds and the like, in addresses that (older) Pythons call global."""

Found = tuple[int, int, int, str, Any]
"""One address, as `socket.getaddrinfo` returns it."""


class NotSent(AragoraQError):
    """The message was not delivered: the reason is the message of the error."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How the target answered one message, or why it was not sent."""

    result: Literal["delivered", "failed", "gone"]
    """`gone`: the target wants no more messages (410)."""
    text: str
    """What happened, for logs; without anything that the target or a job wrote."""
    status: int | None = None
    """Status of the answer; None: there was no answer."""
    body: str = ""
    """The beginning of the body of a refusal, escaped."""
    retry_after_seconds: float = 0.0
    """How long the target asks to wait."""
    seconds: float = 0.0
    """How long it took."""


class Deadline:
    """The end of the time that a delivery has."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def send(webhook: WebhookConfig, message_id: str, body: bytes) -> Sent:
    """Sign and send a message, once. Blocks for at most `timeout_seconds`, or as long as the look-up takes.

    Raises:
        ConfigError: the secret or the CA certificate cannot be used. Nothing was sent.
    """
    began = time.monotonic()
    headers = signing.headers(signing.read_keys(webhook.secret_file), message_id, body)
    context = tls_context(webhook.ca_file)
    try:
        sent = _exchange(webhook, context, headers, body)
    except NotSent as error:
        sent = Sent("failed", str(error))
    return _timed(sent, time.monotonic() - began)


def _timed(sent: Sent, seconds: float) -> Sent:
    return Sent(
        sent.result, sent.text, sent.status, sent.body, sent.retry_after_seconds, round(seconds, 3)
    )


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return what verifies targets' certificates: by `ca_file`, or by the system's CAs.

    Raises:
        ConfigError: the file cannot be used.
    """
    paths = [ca_file] if ca_file else ssl.get_default_verify_paths()[:2]
    try:
        changed_at = tuple(_changed_at(path, needed=bool(ca_file)) for path in paths if path)
        return _context(ca_file, changed_at)
    except OSError as error:  # ssl.SSLError is one
        is_format = isinstance(error, ssl.SSLError)
        reason = "no certificate in PEM" if is_format else error.strerror
        source = f"ca_file {ca_file}" if ca_file else "the system's CAs"
        raise ConfigError(f"cannot use {source}: {reason}") from None


def _changed_at(path: str, *, needed: bool) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        if needed:
            raise
        return 0


@lru_cache(maxsize=32)
def _context(ca_file: str | None, _changed_at: tuple[int, ...]) -> ssl.SSLContext:
    """Read certificates again when their file has changed, not for every message: that takes 30 ms."""
    return ssl.create_default_context(cafile=ca_file)


def look_up(webhook: WebhookConfig) -> list[Found]:
    """Return the addresses of the target; all of them may be used.

    Raises:
        NotSent: the look-up failed, or one of the addresses is not public and not in `allow_networks`.
    """
    parts = urlsplit(webhook.url)
    host, port = str(parts.hostname), parts.port or 443
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise NotSent(f"the look-up of the name {host!r} failed: {text}") from None
    networks = [ip_network(text) for text in webhook.allow_networks]
    for *_, target in found:
        address = _unwrapped(ip_address(str(target[0]).partition("%")[0]))
        is_allowed = any(address in network for network in networks)
        if not (_is_public(address) or is_allowed):
            is_name = host != str(address)
            named = f"{host} leads to {address}, which" if is_name else str(address)
            raise NotSent(f"refused: {named} is neither public nor in allow_networks")
    return list(dict.fromkeys(found))


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address leads to; any other address as it is."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return True for unicast addresses of the Internet; `is_global` alone allows some others."""
    if address.is_multicast or not address.is_global:
        return False
    if any(address in network for network in NOT_PUBLIC):
        return False
    return isinstance(address, IPv4Address) or address in GLOBAL_UNICAST


def _exchange(
    webhook: WebhookConfig, context: ssl.SSLContext, headers: Mapping[str, str], body: bytes
) -> Sent:
    """Connect to a checked address, send the message, read the header of the answer."""
    deadline = Deadline(webhook.timeout_seconds)
    parts = urlsplit(webhook.url)
    found = look_up(webhook)
    with _during("result of the look-up", deadline):
        deadline.left()
    with closing(_connect(found, deadline)) as connected:
        with _during("TLS handshake", deadline):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.settimeout(deadline.left())
            secured = context.wrap_socket(connected, server_hostname=parts.hostname)
        with closing(secured):
            wire = _Wire(secured, deadline)
            request = HTTPSConnection(str(parts.hostname), parts.port or 443, context=context)
            request.sock = wire  # so it opens no connection itself
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            with _during("end of the request", deadline):
                request.request("POST", target, body, {**_HEADERS, **headers})
            with _during("answer", deadline):
                return _judged(_response(wire))


_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": f"aragora-q/{__version__}",
    "Connection": "close",
}


def _connect(found: list[Found], deadline: Deadline) -> socket.socket:
    """Return a socket that is connected to the first address that answers; each has its share of the time."""
    reasons = []
    for n, (family, kind, protocol, _, target) in enumerate(found):
        connecting = socket.socket(family, kind, protocol)
        try:
            with _during(f"connection ({target[0]})", deadline):
                connecting.settimeout(deadline.left() / (len(found) - n))
                connecting.connect(target)
        except NotSent as error:
            connecting.close()
            reasons.append(str(error))
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise NotSent("; ".join(reasons))


@contextmanager
def _during(awaited: str, deadline: Deadline) -> Iterator[None]:
    """Raise NotSent instead of what sockets, TLS and http.client raise."""
    try:
        yield
    except TimeoutError:
        raise NotSent(f"no {awaited} within {deadline.seconds:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"certificate refused: {error.verify_message}") from None
    except ssl.SSLError as error:
        reason = (error.reason or "unknown error").lower().replace("_", " ")
        raise NotSent(f"no {awaited}: {reason}") from None
    except OSError as error:
        raise NotSent(f"no {awaited}: {(error.strerror or str(error)).lower()}") from None
    except (HTTPException, ValueError) as error:
        raise NotSent(f"no valid {awaited}: {_described(error)}") from None


def _described(error: Exception) -> str:
    """Return what is wrong with an answer; not its text."""
    words = {
        "BadStatusLine": "not HTTP",
        "UnknownProtocol": "not HTTP/1",
        "LineTooLong": "a line is too long",
    }
    return words.get(type(error).__name__, truncate(str(error), MAX_BODY_CHARS))


class _Wire:
    """A connection as http.client uses it, within the deadline of the delivery."""

    def __init__(self, connected: ssl.SSLSocket, deadline: Deadline) -> None:
        self._connected = connected
        self._deadline = deadline
        self._file = _Reader(_Answer(connected, deadline))

    def sendall(self, data: bytes) -> None:
        """Send, in pieces: a receiver that takes a byte a second does not extend the time."""
        rest = memoryview(data)
        while rest:
            self._connected.settimeout(self._deadline.left())
            rest = rest[self._connected.send(rest[:CHUNK_BYTES]) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the reader of answers."""
        return self._file

    def close(self) -> None:
        """Do nothing: the caller closes the connection."""


class _Reader(io.BufferedReader):
    """The one reader of all answers on a connection: interim ones come before the last."""

    def close(self) -> None:
        """Do nothing: http.client closes it after each of them."""


class _Answer(io.RawIOBase):
    """What the target sends: at most MAX_ANSWER_BYTES, within the deadline."""

    def __init__(self, connected: ssl.SSLSocket, deadline: Deadline) -> None:
        self._connected = connected
        self._deadline = deadline
        self._bytes_left = MAX_ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._bytes_left <= 0:
            raise HTTPException(f"its header is longer than {MAX_ANSWER_BYTES:,} bytes")
        self._connected.settimeout(self._deadline.left())
        received = self._connected.recv_into(buffer)
        if not received:  # http.client would take half a header for a whole one
            raise HTTPException("the connection was closed before its end")
        self._bytes_left -= received
        return received


def _response(wire: _Wire) -> HTTPResponse:
    """Return the answer; interim ones (103 and the like) come before it."""
    while True:
        response = HTTPResponse(wire, method="POST")  # type: ignore[arg-type]
        response.begin()
        if response.status >= 200 or response.status == SWITCHING_PROTOCOLS:
            return response


def _judged(response: HTTPResponse) -> Sent:
    status = response.status
    if 200 <= status < 300:
        return Sent("delivered", f"answered {status}", status)
    if 300 <= status < 400:
        text = f"answered {status}: a redirect, which is not followed; set url to the address it leads to"
        return Sent("failed", text, status)
    return Sent(
        "gone" if status == 410 else "failed",
        f"answered {status}",
        status,
        _beginning(response),
        _retry_after_seconds(response) if status in (429, 503) else 0.0,
    )


def _beginning(response: HTTPResponse) -> str:
    """Return what came of the body together with the header, or soon after; it is for people only."""
    try:
        return truncate(response.read1(MAX_BODY_BYTES).decode(errors="replace"), MAX_BODY_CHARS)
    except (HTTPException, OSError, ValueError):
        return ""


def _retry_after_seconds(response: HTTPResponse) -> float:
    text = (response.getheader("Retry-After") or "").strip()
    try:
        if text.isdecimal():
            seconds = float(text)
        else:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):  # also for a date without a zone
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
