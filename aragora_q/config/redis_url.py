"""Parse and redact a `redis_url`. Pure: connects to nothing.

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

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote_to_bytes, urlsplit

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
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES or "://" not in url:
            raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
        parts = _split(url)
        if parts.fragment:
            raise ValueError("contains '#': percent-encode it in the password (%23)")
        if "@" in parts.path + parts.query and SCHEMES[scheme] != "unix":
            raise ValueError(
                "contains '@' after the host; percent-encode the password (/ %2F, ? %3F, @ %40)"
            )
        login, _, hosts = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        kind, path = SCHEMES[scheme], _unquote(parts.path)
        segments = [segment for segment in path.split("/") if segment]
        options = _parse_options(parts.query)
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
        return cls(
            scheme,
            hosts=() if has_path else _parse_hosts(hosts, DEFAULT_PORTS.get(kind, REDIS_PORT)),
            path=path if has_path else "",
            service=service,
            database=_parse_database(kind, options.get("db") or database or "0"),
            username=_unquote(username),
            password=_unquote(password),
        )


def _split(url: str) -> SplitResult:
    if any(char < " " for char in url.strip()) or "%00" in url:  # urlsplit drops line breaks
        raise ValueError("contains a control character; percent-encode line breaks (%0A)")
    return urlsplit(url)


def _unquote(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("contains percent-encoded bytes that are not UTF-8") from None


def format_address(address: Address) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_options(query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := sorted(set(options) - {"db"}):
        raise ValueError(
            f"contains the unknown option {unknown[0]!r:.40}: only 'db' is supported; for TLS and "
            "passwords, use the settings redis_tls_* and redis_password"
        )
    return options


def _parse_database(kind: Kind, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"contains the path {text!r:.40} instead of a database number")
    if len(text) > MAX_DATABASE_DIGITS:
        raise ValueError(f"contains database {text:.40}: there are no databases with such a number")
    if int(text) and kind in ("cluster", "embedded"):
        raise ValueError(f"contains database {text}: this kind of server has only database 0")
    return int(text)


def _parse_hosts(text: str, default_port: int) -> tuple[Address, ...]:
    return tuple(_parse_host(host, default_port) for host in text.split(","))


def _parse_host(text: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{_unquote(text)}")
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as it is done to look it up
    except ValueError:
        raise ValueError(
            "contains an invalid address: must be host:port with a port up to 65535"
        ) from None
    return host or "localhost", port or default_port
