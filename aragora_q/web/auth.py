"""Who sent a request: by token, by the cookie of a login, by a reverse proxy, or at this machine's desk.

Used by `guard.py` for every request, and by the login page. Only digests of tokens are kept. Knows nothing of
Redis.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from itsdangerous import BadData, URLSafeSerializer
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from aragora_q.observability.logs import get_logger
from aragora_q.web.roles import ANONYMOUS, Actor, Role
from aragora_q.web.tokens import Grant, TokenFile, find_grant, token_digest

logger = get_logger(__name__)

LOGIN_SECONDS = 12 * 3600
"""How long a login lasts."""

LINK_SECONDS = 3600
"""How long the link that is printed at the start can be used, once."""

WRONG_TOKEN_SECONDS = 0.5
"""How long the answer to a wrong token takes."""

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a request that came through a proxy: it was not sent at this machine."""

MAX_USER_CHARS = 100

GROUP = "@"
"""Before the name of a group: people may choose names for themselves, or for their groups."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Session(NamedTuple):
    """A login: what its cookie contains."""

    id: str
    name: str
    digest: str
    """The token's digest in hexadecimal; empty for a login by the link."""
    ends_at: float
    """By the clock of this process: setting that of the machine makes no login longer."""


class Sessions:
    """Signs and checks the cookies of logins. The key is random: a restart ends all logins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._signer = URLSafeSerializer(secrets.token_bytes(32), salt="aragora-q console")
        self._clock = clock
        self._ended: dict[str, float] = {}

    def start(self, name: str, digest: bytes = b"") -> str:
        """Return the value of the cookie of a new login."""
        ends_at = self._clock() + LOGIN_SECONDS
        return self._signer.dumps(Session(secrets.token_urlsafe(12), name, digest.hex(), ends_at))

    def read(self, cookie: str) -> Session | None:
        """Return the login of a cookie; None if it is forged, too old, or logged out."""
        try:
            session = Session(*self._signer.loads(cookie))
        except (BadData, TypeError):
            return None
        return (
            session if session.id not in self._ended and self._clock() < session.ends_at else None
        )

    def end(self, cookie: str) -> None:
        """Log out: the cookie is refused from now on, also copies of it."""
        if session := self.read(cookie):
            now = self._clock()
            self._ended = {id_: at for id_, at in self._ended.items() if at > now}
            self._ended[session.id] = session.ends_at


class LoginLimiter:
    """Slows down wrong tokens, by address. It knows nothing of right ones, and so they always work."""

    BURST = 10
    """Wrong tokens of an address before it has to wait."""

    SECONDS_PER_TRY = 6.0
    MAX_ADDRESSES = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When an address has all its tries again, by address."""

    def wrong(self, address: str) -> float:
        """Count a wrong token; return the seconds after which the address may try again, 0 if now."""
        now, key = self._clock(), network_of(address)
        full_at = max(self._full_at.pop(key, now), now)
        wait_seconds = full_at - now - (self.BURST - 1) * self.SECONDS_PER_TRY
        if wait_seconds <= 0:
            full_at += self.SECONDS_PER_TRY
        self._full_at[key] = full_at
        if len(self._full_at) > self.MAX_ADDRESSES:
            self._full_at.popitem(last=False)
        return max(0.0, wait_seconds)


def network_of(address: str) -> str:
    """Return an address, or the /64 of an IPv6 one: a client has all addresses in it."""
    found = parse_ip(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address


class LoginLink:
    """The code of the link that is printed at the start: it logs in one browser, once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._code = ""
        self._expires_at = 0.0

    def make(self) -> str:
        """Return a new code."""
        self._code, self._expires_at = secrets.token_urlsafe(16), self._clock() + LINK_SECONDS
        return self._code

    @property
    def was_made(self) -> bool:
        """True if there was a code."""
        return self._expires_at > 0

    def use(self, code: str) -> bool:
        """Return True if the code is right; it is not right any more afterwards."""
        expected = self._code.encode()
        is_right = hmac.compare_digest(expected, code.encode(errors="replace"))
        if not expected or not is_right or self._clock() > self._expires_at:
            return False
        self._code = ""
        return True


def parse_ip(text: str) -> Address | None:
    """Return an IP address, with or without port and brackets; None if it is not one."""
    host = re.sub(r"^\[(.*)\](?::\d+)?$|^([^:]*):\d+$", r"\1\2", text.strip())
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


class Proxies:
    """The reverse proxies that are believed, and the roles of those whom they name."""

    def __init__(self, networks: Iterable[str], roles: Mapping[str, str]) -> None:
        self._networks: list[Network] = [ipaddress.ip_network(each) for each in networks]
        self._roles = {name: Role(role) for name, role in roles.items()}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def includes(self, peer: str) -> bool:
        """Return True if a request of this peer is believed."""
        address = parse_ip(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, headers: Headers) -> str:
        """Return the client's address: the last one that is not a listed proxy's."""
        client = peer
        for text in reversed(",".join(headers.getlist("x-forwarded-for")).split(",")):
            address = parse_ip(text)
            if address is None:
                break
            client = str(address)
            if not self.includes(client):
                break
        return client

    def actor(self, headers: Headers, address: str) -> Actor | None:
        """Return whom the proxy names; None if it names no user, or if a header is there twice."""
        users = headers.getlist("x-forwarded-user")
        groups = headers.getlist("x-forwarded-groups")
        if len(users) != 1 or len(groups) > 1 or not (user := _plain_name(users[0])):
            return None
        names = [f"{GROUP}{name.strip()}" for group in groups for name in group.split(",")]
        if user != "*" and not user.startswith(GROUP):
            names.append(user)
        roles = [self._roles[name] for name in names if name in self._roles]
        order = list(Role)
        role = max(roles, key=order.index) if roles else self._roles.get("*")
        return Actor(user, role, address)


def _plain_name(text: str) -> str:
    """Return a user's name without what histories and logs cannot show."""
    name = text.encode("latin-1").decode(errors="replace")  # as proxies send it
    return "".join(char if char.isprintable() else "?" for char in name).strip()[:MAX_USER_CHARS]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and how it shows that."""

    actor: Actor
    is_https: bool
    has_token: bool = False
    is_ambient: bool = False
    """A browser adds what shows it by itself: a cookie, or the login at a proxy."""
    is_wrong: bool = False
    """The request has a token that is not valid."""


class Auth:
    """Finds out who sent a request; logs browsers in and out."""

    def __init__(
        self,
        tokens: TokenFile | None,
        proxies: Proxies,
        *,
        highest: Role,
        port: int,
        is_loopback: bool,
        count_refused: Callable[[], object] = lambda: None,
    ) -> None:
        self.tokens = tokens
        self.proxies = proxies
        self.highest = highest
        """The role of a login by the link."""
        self.is_loopback = is_loopback
        """Whether the console listens on this machine only."""
        self._count_refused = count_refused
        self.sessions = Sessions()
        self.limiter = LoginLimiter()
        self.link = LoginLink()
        self.desk_name = "desk"
        self.cookie = f"aragora_q_{port}"
        """Name of the cookie: browsers send cookies to all ports of a host."""

    def identify(self, scope: Scope, headers: Headers) -> Caller:
        """Return who sent a request."""
        peer = str(parse_ip((scope["client"] or ("", 0))[0]) or "")
        is_proxied = self.proxies.includes(peer)
        address = self.proxies.client(peer, headers) if is_proxied else peer
        is_https = scope["scheme"] == "https" or (
            is_proxied and headers.get("x-forwarded-proto", "").strip() == "https"
        )
        unknown = Actor(ANONYMOUS, None, address)
        if token := _bearer(headers):
            grant = self.grant_of(token)
            if grant is None:
                return Caller(unknown, is_https, is_wrong=True)
            return Caller(Actor(grant.name, grant.role, address), is_https, has_token=True)
        if is_proxied and (actor := self.proxies.actor(headers, address)):
            return Caller(actor, is_https, is_ambient=True)
        if actor := self._logged_in(headers, address):
            return Caller(actor, is_https, is_ambient=True)
        if self._is_desk(headers, peer):
            return Caller(Actor(ANONYMOUS, Role.VIEWER, address), is_https)
        return Caller(unknown, is_https)

    async def refuse(self, address: str) -> float:
        """Count a wrong token, and wait; return the seconds after which the address may try again, 0: now."""
        self._count_refused()
        wait_seconds = self.limiter.wrong(address)
        if not wait_seconds:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
        return wait_seconds

    def grant_of(self, token: str) -> Grant | None:
        """Return the line of a token in the file; None if it is not valid."""
        return self._grant_of(token_digest(token))

    def cookie_of(self, headers: Headers) -> str:
        """Return the cookie of a login; empty if there is none."""
        cookies = cookie_parser("; ".join(headers.getlist("cookie")))
        return cookies.get(self.cookie, "")

    def _logged_in(self, headers: Headers, address: str) -> Actor | None:
        cookie = self.cookie_of(headers)
        session = self.sessions.read(cookie) if cookie else None
        if session is None:
            return None
        if not session.digest:
            return Actor(session.name, self.highest, address)
        grant = self._grant_of(bytes.fromhex(session.digest))
        return None if grant is None else Actor(grant.name, grant.role, address)

    def _grant_of(self, digest: bytes) -> Grant | None:
        return find_grant(self.tokens.grants() if self.tokens else (), digest)

    def _is_desk(self, headers: Headers, peer: str) -> bool:
        """Return True for a request that was sent on this machine: reading needs no token there."""
        if not self.is_loopback or self.proxies or any(name in headers for name in FORWARDED):
            return False
        address = parse_ip(peer)
        return address is not None and address.is_loopback and is_local(host_of(headers) or "")


def _bearer(headers: Headers) -> str:
    """Return the token of a request; empty if it has none."""
    values = headers.getlist("authorization")
    tokens = [value[7:].strip() for value in values if value[:7].lower() == "bearer "]
    return tokens[0] if len(tokens) == 1 and tokens[0] else "\n" if tokens else ""


def host_of(headers: Headers) -> str | None:
    """Return the host of the Host header in lower case, without port and brackets; None if it is not one."""
    values = headers.getlist("host")
    if len(values) != 1:
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", values[0])
    return (match[1] or match[2]).lower().rstrip(".") if match else None


def is_local(host: str) -> bool:
    """Return True for the names of this machine that no name server can change."""
    address = parse_ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)
