"""What every request passes before the application: who sent it, and whether it may be answered at all.

A request that is refused here reaches no route. Refused are hosts that are not this console's (DNS rebinding),
changes that another site's page sends (cross-site requests), requests without a login, and bodies that are too
long. Every answer gets the headers that keep browsers from running or framing what the console did not write.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aragora_q.observability.logs import get_logger
from aragora_q.observability.web_metrics import WebMetrics
from aragora_q.web.access import LOG_IN, TOKEN_HINT
from aragora_q.web.auth import Auth, Caller, host_of, is_local, parse_ip
from aragora_q.web.media import EVENTS, NDJSON, PROBLEM, has_lines, media_type
from aragora_q.web.problems import CHALLENGE, RETRY_SECONDS, new_problem

logger = get_logger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = (*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")
FOR_PROBES = ("/metrics", "/healthz")
"""Paths that need neither login nor a known host: monitoring calls them by any name."""

PUBLIC = (*FOR_PROBES, "/login", "/logout", "/favicon.ico")
STATIC = "/static/"

MAX_LOGIN_BYTES = 16 * 1024
"""Longest body of a client that is not logged in: it can send nothing but the form of a login."""

MAX_BODY_BYTES = 1024 * 1024
MAX_LINES_BYTES = 1024 * 1024 * 1024
"""Longest body of JSON lines: they are read one at a time."""

MAX_DIGITS = 16
STOP_SECONDS = 1.0
"""Time for requests under way to end when the process stops; then they are answered 503."""

RECHECK_SECONDS = 1.0
"""How long an answer goes on without a look whether its receiver is still logged in."""

MAX_LOGGED_CHARS = 200

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(Exception):
    """A request that is not passed on."""

    def __init__(
        self, status: HTTPStatus, detail: str, hint: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.hint = hint
        self.retry_after = retry_after


class Hosts:
    """The hosts under which the console may be reached: other names may be an attacker's."""

    def __init__(self, listens_on: str, names: Iterable[str]) -> None:
        address = parse_ip(listens_on)
        self._is_any_address = address is not None and address.is_unspecified
        self._names = {listens_on.lower(), *(name.lower().rstrip(".") for name in names)}

    def include(self, host: str) -> bool:
        """Return True if a request to this host is answered. An address needs no name server."""
        address = parse_ip(host)
        if address is not None and (self._is_any_address or str(address) in self._names):
            return True
        return is_local(host) or host in self._names


class Guard:
    """The ASGI application that guards another one."""

    def __init__(
        self, app: ASGIApp, auth: Auth, hosts: Hosts, metrics: WebMetrics, max_payload_bytes: int
    ) -> None:
        self._app = app
        self._auth = auth
        self._hosts = hosts
        self._metrics = metrics
        self._max_body = max(MAX_BODY_BYTES, 2 * max_payload_bytes)
        self._requests: set[asyncio.Timeout] = set()
        """Of each request under way, what ends it."""
        self._is_stopping = False

    def stop(self) -> None:
        """End the requests that wait for something, soon: the process is stopping."""
        self._is_stopping = True
        at = asyncio.get_running_loop().time() + STOP_SECONDS
        for request in self._requests:
            request.reschedule(at)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        exchange = _Exchange(scope, receive, send)
        started_at = time.monotonic()
        caller = self._auth.identify(scope, exchange.headers)
        scope["state"]["actor"] = caller.actor
        if caller.is_https:  # at the proxy: cookies and redirections are of what the browser sees
            exchange.scope["scheme"] = "https"
        if not _is_public(exchange.path):
            exchange.is_allowed = lambda: self._auth.identify(scope, exchange.headers) == caller
        try:
            await self._answer(exchange, caller)
        except Refused as refusal:
            await exchange.refuse(refusal)
        except Exception:
            if not exchange.is_lost:
                logger.exception("request failed", extra=_named(exchange, caller))
            if not exchange.status:
                await exchange.refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"))
        finally:
            self._finish(exchange, caller, time.monotonic() - started_at)

    async def _answer(self, exchange: _Exchange, caller: Caller) -> None:
        """Pass a request on. Raises Refused if it must not be."""
        exchange.check_framing()
        self._check_host(exchange)
        if exchange.method not in METHODS:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "unknown method")
        if caller.is_wrong:
            await self._refuse_token(caller.actor.address)
        _check_origin(exchange, caller)
        if caller.actor.role is None:
            exchange.max_body = MAX_LOGIN_BYTES
            if not _is_public(exchange.path):
                exchange.lead_to_login()
        else:
            exchange.max_body = MAX_LINES_BYTES if has_lines(exchange.headers) else self._max_body
        if exchange.length > exchange.max_body:
            raise exchange.too_long()
        if self._is_stopping:
            raise _stopping()
        self._requests.add(exchange.timeout)
        try:
            await exchange.pass_to(self._app)
        finally:
            self._requests.discard(exchange.timeout)

    def _check_host(self, exchange: _Exchange) -> None:
        if exchange.path in FOR_PROBES:
            return
        host = host_of(exchange.headers)
        if host is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "the request has no valid header Host")
        if not self._hosts.include(host):
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this console is not known as {host:.100}",
                hint="if that is its name, add it to web_hosts",
            )

    async def _refuse_token(self, address: str) -> None:
        wait_seconds = await self._auth.refuse(address)
        if wait_seconds:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong tokens",
                hint="wait, and check the token",
                retry_after=wait_seconds,
            )
        raise Refused(HTTPStatus.UNAUTHORIZED, "the token is not valid", hint=TOKEN_HINT)

    def _finish(self, exchange: _Exchange, caller: Caller, seconds: float) -> None:
        self._metrics.requests(group_of(exchange.path), f"{exchange.status // 100}xx").inc()
        fields = {
            **_named(exchange, caller),
            "status": exchange.status,
            "seconds": seconds,
            **exchange.scope["state"].get("action", {}),
        }
        log = logger.debug if exchange.method in SAFE_METHODS else logger.info
        log("request", extra=fields)


def _stopping() -> Refused:
    return Refused(
        HTTPStatus.SERVICE_UNAVAILABLE, "the console is stopping", retry_after=RETRY_SECONDS
    )


def group_of(path: str) -> str:
    """Return the part of the console that a path belongs to, for metrics."""
    if path in FOR_PROBES:
        return "probes"
    if path == "/events" or (path.startswith("/api/") and path.endswith("/events")):
        return "events"
    return next((name for name in ("api", "static") if path.startswith(f"/{name}/")), "pages")


def _named(exchange: _Exchange, caller: Caller) -> dict[str, Any]:
    """Return what a log line says of a request: never its query, which may hold the code of a link."""
    return {
        "actor": caller.actor.name,
        "address": caller.actor.address,
        "method": exchange.method[:20],
        "path": exchange.path[:MAX_LOGGED_CHARS],
        **exchange.scope["state"].get("span", {}),  # its ids, because the span has ended
    }


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(STATIC)


def _check_origin(exchange: _Exchange, caller: Caller) -> None:
    """Refuse what a page of another site sends, with this site's cookie or from this machine, but links.

    Browsers say where a request is from; a program need not, but has no cookie then.
    """
    if caller.has_token:
        return
    site, origin = exchange.headers.get("sec-fetch-site"), exchange.headers.get("origin")
    if exchange.method in SAFE_METHODS:
        is_own = site not in ("cross-site", "same-site") or (
            exchange.headers.get("sec-fetch-mode") == "navigate"
        )
    elif site is not None:
        is_own = site in ("same-origin", "none")
    elif origin is not None:
        is_own = _authority(origin) == _authority(f"//{exchange.headers.get('host', '')}")
    else:
        is_own = not caller.is_ambient
    if not is_own:
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "this request does not come from a page of this console",
            hint="programs send a token: Authorization: Bearer TOKEN",
        )


def _authority(url: str) -> tuple[str, int | None] | None:
    """Return host and port of a URL, without the default ports; None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, None if port in (80, 443) else port) if parts.hostname else None


class _Exchange:
    """One request and its answer, as the guarded application may see and send them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The server's own keeps the method: HEAD is answered as GET, without a body.
        self.scope = {**scope}
        self.headers = Headers(scope=scope)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.status = 0
        """Status of the answer; 0 before it begins."""
        self.is_lost = False
        """Whether the client closed the connection."""
        self.ends_connection = False
        """Whether nothing more is read from the connection after the answer."""
        self.max_body = 0
        self._receive, self._send = receive, send
        self._received = 0
        self._is_complete = False
        self.timeout = asyncio.timeout(None)
        """Ends the request when the process stops, or when who sent it is no longer allowed to."""
        self.is_allowed: Callable[[], bool] = lambda: True
        """Whether who sent the request is still who it was."""
        self._checked_at = time.monotonic()
        self._is_revoked = False

    @property
    def length(self) -> int:
        """The length of the body as the request declares it; 0 if it does not."""
        text = self.headers.get("content-length", "0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else 0

    def check_framing(self) -> None:
        """Refuse a body with two lengths: a proxy that believes the other one passes on a hidden request."""
        if "transfer-encoding" in self.headers and "content-length" in self.headers:
            self.ends_connection = True
            raise Refused(HTTPStatus.BAD_REQUEST, "the request has two lengths")

    def too_long(self) -> Refused:
        """Return the refusal of a body that is too long."""
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is longer than {self.max_body:,} bytes",
            hint=f"many jobs are sent as lines: Content-Type: {NDJSON}",
        )

    def lead_to_login(self) -> None:
        """Pass a request that needs a login to the login page. Raises Refused if no person reads the answer."""
        if self.path.startswith("/api/") or "text/html" not in self.headers.get("accept", ""):
            raise Refused(HTTPStatus.UNAUTHORIZED, LOG_IN, hint=TOKEN_HINT)
        query = self.scope["query_string"].decode("latin-1")
        is_page = self.method in ("GET", "HEAD")
        self.scope["state"]["next"] = (
            (f"{self.path}?{query}" if query else self.path) if is_page else "/"
        )
        self.scope.update(path="/login", raw_path=b"/login", query_string=b"", method="GET")

    async def pass_to(self, app: ASGIApp) -> None:
        """Let `app` answer."""
        if self.method == "HEAD":
            self.scope["method"] = "GET"
        try:
            async with self.timeout:
                await app(self.scope, self.receive, self._send_if_allowed)
        except TimeoutError:
            if not self.timeout.expired():
                raise
            if not self.status and not self._is_revoked:
                raise _stopping() from None
        if not self.status and self._is_revoked:
            raise Refused(HTTPStatus.UNAUTHORIZED, LOG_IN, hint=TOKEN_HINT)
        if self.is_too_long and not self.status:
            raise self.too_long()
        if self.status and not self._is_complete and not self.is_lost:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def is_too_long(self) -> bool:
        """Whether the body turned out to be longer than is allowed."""
        return self._received > self.max_body

    async def receive(self) -> Message:
        """Return the next part of the request; the client is lost where the body is too long."""
        if self.is_too_long:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self.is_too_long:
                return {"type": "http.disconnect"}
        else:
            self.is_lost = True
        return message

    async def _send_if_allowed(self, message: Message) -> None:
        """Send a part of the answer; end the request if its login ended: a stream may outlast it by days."""
        now = time.monotonic()
        if not self._is_revoked and now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at, self._is_revoked = now, not self.is_allowed()
        if self._is_revoked:
            self.timeout.reschedule(0)
        else:
            await self.send(message)

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if self.is_too_long and not self.status:
            return  # `too_long` is the answer
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(message)
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    def _add_headers(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers[name] = value
        if not self.path.startswith(STATIC):
            headers.setdefault("Cache-Control", "no-store")
        if self.method == "HEAD" and media_type(headers) == EVENTS:
            self.timeout.reschedule(0)

    async def refuse(self, refusal: Refused) -> None:
        """Answer with a refusal, as JSON where a program reads it."""
        if self.path.startswith("/api/"):
            kind = PROBLEM
            code, exit_code = CODES.get(refusal.status, ("request-refused", 2))
            body = json.dumps(
                new_problem(refusal.status, code, str(refusal), refusal.hint, exit_code)
            )
        else:
            kind = "text/plain; charset=utf-8"
            body = "".join(f"{line}\n" for line in (str(refusal), refusal.hint) if line)
        data = body.encode()
        headers = [("content-type", kind), ("content-length", str(len(data)))]
        if refusal.status is HTTPStatus.UNAUTHORIZED:
            headers.append(("www-authenticate", CHALLENGE))
        if self.ends_connection:
            headers.append(("connection", "close"))
        if refusal.retry_after:
            headers.append(("retry-after", str(math.ceil(refusal.retry_after))))
        self._received = 0
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await self.send(
            {"type": "http.response.start", "status": int(refusal.status), "headers": raw}
        )
        await self.send({"type": "http.response.body", "body": data})


CODES = {
    HTTPStatus.UNAUTHORIZED: ("not-logged-in", 77),
    HTTPStatus.FORBIDDEN: ("access-denied", 77),
    HTTPStatus.TOO_MANY_REQUESTS: ("too-many-requests", 75),
    HTTPStatus.SERVICE_UNAVAILABLE: ("try-again", 75),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method-not-allowed", 2),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("body-too-large", 2),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("internal-error", 1),
}
"""Code and exit code of a refusal, as the API's; others are a wrong request."""
