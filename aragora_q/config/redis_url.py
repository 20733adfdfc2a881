"""Parse and redact a `redis_url`; parse and format addresses. Pure: connects to nothing.

Used by `redis/connection.py`, and by `settings.py` to reject an invalid URL with its origin. Errors
never contain user, password or options.

    redis://[user[:password]@]host[:port][/database]                one server
    rediss://…                                                      the same over TLS, verified
    unix://[user[:password]@]/path/to/socket[?db=database]          one server on a unix socket
    redis+sentinel://[…@]host[:port][,host[:port]…]/service[/db]    the primary that Sentinels name
    redis+cluster://[…@]host[:port][,host[:port]…]                  a Redis or Valkey Cluster
    rediss+sentinel://, rediss+cluster://                           over TLS
    embedded://[/directory]                                         a private embedded server
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

Kind = Literal["single", "unix", "sentinel", "cluster", "embedded"]

SCHEMES: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "unix",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "embedded": "embedded",
}
DEFAULT_PORTS = {"sentinel": 26379}
REDIS_PORT = 6379
DEFAULT_REDIS_URL = f"redis://localhost:{REDIS_PORT}"
MAX_DATABASE_DIGITS = 9

Address = tuple[str, int]


@dataclass(frozen=True)
class RedisUrl:
    """A parsed `redis_url`. `hosts` are the server, the Sentinels, or some nodes of the cluster."""

    scheme: str
    hosts: tuple[Address, ...] = ()
    path: str = ""
    """The unix socket, or the directory of an embedded server."""
    service: str = ""
    """The name of the primary in Sentinel."""
    database: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def kind(self) -> Kind:
        return SCHEMES[self.scheme]

    @property
    def is_tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def redacted(self) -> str:
        """The URL without user, password and options."""
        hosts = ",".join(format_address(address) for address in self.hosts)
        database = f"/{self.database}" if self.database else ""
        service = f"/{self.service}" if self.service else ""
        return f"{self.scheme}://{hosts}{self.path}{service}{database}"

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Parse a URL. Raises ValueError, whose message has no secrets."""
        scheme, separator, rest = url.rstrip().partition("://")
        if scheme not in SCHEMES or not separator:
            raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
        kind = SCHEMES[scheme]
        # Not by urlsplit, whose errors repeat parts of a password and differ between versions of Python.
        authority, location, query = _split(rest, is_file=kind in ("unix", "embedded"))
        login, _, hosts = authority.rpartition("@")
        username, _, password = login.partition(":")
        path = _unquote(location)
        segments = [segment for segment in path.split("/") if segment]
        options = _parse_options(kind, query)
        has_path = kind in ("unix", "embedded")
        if has_path and hosts:
            raise ValueError(f"must have an absolute path: {scheme}:///path")
        if kind == "unix" and not segments:
            raise ValueError("must have the path of a socket: unix:///path/to/socket")
        service = ""
        if kind == "sentinel":
            if not segments:
                raise ValueError("must have the name of a Sentinel service: …host:26379/mymaster")
            service = segments.pop(0)
        database = "" if has_path else "/".join(segments)
        if database and "db" in options:
            raise ValueError("contains two databases: one in the path, one in the option db")
        return cls(
            scheme,
            hosts=() if has_path else _parse_hosts(kind, hosts),
            path=path if has_path else "",
            service=service,
            database=_parse_database(kind, options.get("db", database or "0")),
            username=_unquote(username),
            password=_unquote(password),
        )


def _split(rest: str, *, is_file: bool) -> tuple[str, str, str | None]:
    """Return what follows `://`: user and hosts, path, and the query; None if there is no `?`."""
    if any(char < " " for char in rest) or "%00" in rest:
        raise ValueError("contains a control character; percent-encode line breaks (%0A)")
    if "#" in rest:
        raise ValueError("contains '#': percent-encode it in the password (%23)")
    location, has_query, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    if "@" in query or ("@" in path and not is_file):
        raise ValueError(
            "contains '@' after the host; percent-encode the password (/ %2F, ? %3F, @ %40)"
        )
    return authority, slash + path, query if has_query else None


def _unquote(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("contains percent-encoded bytes that are not UTF-8") from None


def format_address(address: Address) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """Return host, by default 127.0.0.1, and port of `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]*)):([0-9]{1,5})", text)
    port = int(match[3]) if match else 0
    host = (match and (match[1] or match[2])) or "127.0.0.1"
    try:
        _check_host(host)
    except UnicodeError:
        port = 0
    if not 0 < port < 65_536:
        raise ValueError("must be HOST:PORT or [IPV6]:PORT")
    return host, port


def _check_host(host: str) -> None:
    """Raise UnicodeError for a host whose name cannot be looked up."""
    try:
        ip_address(host)
    except ValueError:
        host.encode("idna")  # as it is done to look it up


def _parse_options(kind: Kind, query: str | None) -> dict[str, str]:
    if query is None:
        return {}
    if kind == "embedded":
        raise ValueError("contains '?': percent-encode it in the path (%3F); there are no options")
    pairs = parse_qsl(query, keep_blank_values=True)
    if unknown := sorted({name for name, _ in pairs} - {"db"}):
        raise ValueError(
            f"contains the unknown option {unknown[0]!r:.40}: only 'db' is supported; for TLS and "
            "passwords, use the settings redis_tls_* and redis_password"
        )
    if len(pairs) > 1:
        raise ValueError("contains the option db more than once")
    return dict(pairs)


def _parse_database(kind: Kind, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"contains {text!r:.40} instead of a database number")
    if len(text) > MAX_DATABASE_DIGITS:
        raise ValueError(f"contains database {text:.40}: there are no databases with such a number")
    if int(text) and kind in ("cluster", "embedded"):
        raise ValueError(f"contains database {text}: this kind of server has only database 0")
    return int(text)


def _parse_hosts(kind: Kind, text: str) -> tuple[Address, ...]:
    hosts = text.split(",")
    if len(hosts) > 1 and kind == "single":
        raise ValueError(
            "contains several hosts, but this scheme names one server: use redis+sentinel:// with"
            " Sentinels, or redis+cluster:// with nodes of a cluster"
        )
    if len(hosts) > 1 and not all(hosts):
        raise ValueError("contains an empty host between commas")
    return tuple(_parse_host(host, DEFAULT_PORTS.get(kind, REDIS_PORT)) for host in hosts)


def _parse_host(text: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{_unquote(text)}")
        host, port = parts.hostname or "", parts.port
        _check_host(host)
    except ValueError:
        host, port = "", 0
    is_named = bool(host) or not text or text.startswith(":")
    if port == 0 or not is_named or any(char.isspace() for char in host):
        raise ValueError(
            "contains an invalid address: must be host:port with a port from 1 to 65535, and an IPv6"
            " address in brackets; percent-encode special characters of user and password"
        )
    return host or "localhost", port or default_port
