"""redis-py's options: timeouts, passwords, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import redis
import redis.asyncio
from redis.credentials import CredentialProvider

from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import secret_in_file
from aragora_q.errors import (
    ConfigError,
)

COMMAND_TIMEOUT_SECONDS = 10.0


CONNECT_TIMEOUT_SECONDS = 5.0


def connection_options(config: QueueConfig, endpoint: RedisUrl) -> dict[str, Any]:
    """redis-py's options for connections to the queue's server."""
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: two more answers to wait for, one more right to have
        "db": endpoint.database,
    }
    password = _password_source("redis_password", config)
    if password or endpoint.password or endpoint.username:
        options["credential_provider"] = Credentials(
            endpoint.username, password or (lambda: endpoint.password)
        )
    if endpoint.is_tls:
        options |= {
            "ssl_ca_certs": config.redis_tls_ca_file,
            "ssl_certfile": config.redis_tls_cert_file,
            "ssl_keyfile": config.redis_tls_key_file,
        }
        _check_tls(config)
    return options


def sentinel_options(config: QueueConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return redis-py's options for connections to a Sentinel."""
    password = _password_source("redis_sentinel_password", config)
    own = {
        name: value for name, value in options.items() if name not in ("db", "credential_provider")
    }
    return {**own, "credential_provider": Credentials("", password)} if password else own


def _password_source(name: str, config: QueueConfig) -> Callable[[], str] | None:
    """What gives the password at the time a connection is made: the file it came from may change."""
    configured = getattr(config, name)
    if configured is None:
        return None
    known: str = configured.get_secret_value()
    if secret_in_file(name) != known:
        return lambda: known
    return lambda: secret_in_file(name) or known


def _check_tls(config: QueueConfig) -> None:
    """Raise ConfigError for certificates that cannot be used; a connection would call it unreachable."""
    try:
        tls_context(config.redis_tls_ca_file, config.redis_tls_cert_file, config.redis_tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the certificates for Redis cannot be used: {error}",
            hint="see redis_tls_ca_file, redis_tls_cert_file and redis_tls_key_file: PEM, readable to us",
        ) from None


KEEPALIVE = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 15,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    },
}
"""A peer that went without a word is noticed in half a minute even where nothing is being sent."""


class Credentials(CredentialProvider):
    """User and password, looked up anew for every connection: a rotated password needs no restart."""

    def __init__(self, username: str, password: Callable[[], str]) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What redis-py sends with AUTH."""
        password = self._password()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a small local file is read faster than a thread is woken."""
        return self.get_credentials()


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Trusts `ca_file` alone, or without one the system's authorities; shows our certificate if any.

    redis-py's own trusts the system's in either case, and reads all of them for every connection.
    Raises OSError or ssl.SSLError for files that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


class TlsConnection(redis.asyncio.SSLConnection):
    """TCP with TLS for the event loop. Files are read anew for every connection: they may be renewed."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        files = self.ssl_context
        files.context = tls_context(files.ca_certs, files.certfile, files.keyfile)
        return super()._connection_arguments()


class SyncTlsConnection(redis.SSLConnection):
    """The same for a thread. redis-py takes whatever a new connection has to read for a stray reply
    and gives it up; with TLS 1.3 it is a session ticket. One that was closed fails when it is used.
    """

    def can_read(self, timeout: float = 0) -> bool:  # noqa: ARG002 - the base class' signature
        return False

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        context = tls_context(self.ca_certs, self.certfile, self.keyfile)
        return context.wrap_socket(sock, server_hostname=self.host)
