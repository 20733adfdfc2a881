"""What a `redis_url` says: which kind of server, where, as whom. Pure: nothing is dialled.

Parsed by `connection.py`, and by `config.py` to refuse a wrong one where it was written. Its errors
never repeat user, password or options.

    redis://[user[:password]@]host[:port][/database]                one server
    rediss://…                                                      the same over TLS, verified
    unix://[user[:password]@]/path/to/socket[?db=database]          one server on a unix socket
    redis+sentinel://[…@]host[:port][,host[:port]…]/service[/db]    the primary that Sentinels name
    redis+cluster://[…@]host[:port][,host[:port]…]                  a Redis or Valkey Cluster
    rediss+sentinel://, rediss+cluster://                           over TLS
    embedded://[/directory]                                         a private server of our own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

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

Address = tuple[str, int]


@dataclass(frozen=True)
class RedisUrl:
    """A parsed `redis_url`. `hosts` are the server, the Sentinels, or the first cluster nodes to ask."""

    scheme: str
    hosts: tuple[Address, ...] = ()
    path: str = ""
    """The unix socket, or the directory of an embedded server."""
    service: str = ""
    """What Sentinels call the primary."""
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
    def shown(self) -> str:
        """The URL as it may be shown to anybody: without user, password and options."""
        hosts = ",".join(format_address(address) for address in self.hosts)
        database = f"/{self.database}" if self.database else ""
        service = f"/{self.service}" if self.service else ""
        return f"{self.scheme}://{hosts}{self.path}{service}{database}"

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Raises ValueError, which says what is wrong and what would be right."""
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES or "://" not in url:
            raise ValueError(f"must begin with one of {', '.join(f'{s}://' for s in SCHEMES)}")
        parts = urlsplit(url)
        if parts.fragment:
            raise ValueError("has a '#': write it %23 within a password")
        if "@" in parts.path + parts.query and SCHEMES[scheme] != "unix":
            raise ValueError(
                "has an '@' behind its host: in a password, write / as %2F, ? as %3F, @ as %40"
            )
        login, _, places = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        kind, path = SCHEMES[scheme], unquote(parts.path)
        words = [word for word in path.split("/") if word]
        options = _options(parts.query)
        has_path = kind in ("unix", "embedded")
        if has_path and places:
            raise ValueError(f"must name an absolute path: {scheme}:///path")
        if kind == "unix" and not words:
            raise ValueError("must name a socket: unix:///path/to/socket")
        service = _service(words) if kind == "sentinel" else ""
        numbers = [] if has_path else words
        return cls(
            scheme,
            hosts=() if has_path else _hosts(places, DEFAULT_PORTS.get(kind, REDIS_PORT)),
            path=path if has_path else "",
            service=service,
            database=_database(kind, options.get("db") or "/".join(numbers) or "0"),
            username=unquote(username),
            password=unquote(password),
        )


def format_address(address: Address) -> str:
    """`host:port`, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    if unknown := sorted(set(options) - {"db"}):
        raise ValueError(
            f"has the option {unknown[0]!r:.40}, of which there is only 'db': timeouts are fixed, "
            "TLS and passwords have settings of their own"
        )
    return options


def _service(words: list[str]) -> str:
    """Takes the service's name off the path's words."""
    if not words:
        raise ValueError("must name the service that Sentinels watch: …host:26379/mymaster")
    return words.pop(0)


def _database(kind: Kind, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"has a path {text!r:.40} where only a database number may stand")
    if int(text) and kind in ("cluster", "embedded"):
        raise ValueError(f"names database {text}, but there is only database 0 there")
    return int(text)


def _hosts(places: str, default_port: int) -> tuple[Address, ...]:
    return tuple(_host(place, default_port) for place in places.split(","))


def _host(place: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{unquote(place)}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is malformed: host:port is wanted, the port up to 65535") from None
    return host or "localhost", port or default_port
