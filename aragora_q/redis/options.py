"""redis-py's connection options: timeouts, credentials, TLS.

redis-py's defaults do not suit a queue: it retries every command ten times (one lost reply becomes
eleven XADDs) and times reads out before a blocking read ends. So retries are off and timeouts are ours.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from redis.credentials import CredentialProvider

from aragora_q.config import QueueConfig
from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.sources import secret_in_file
from aragora_q.errors import AccessDenied, ConfigError

COMMAND_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0

KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Detects a peer that disappeared within 30 s, also while nothing is being sent."""


def connection_options(config: QueueConfig, redis_url: RedisUrl) -> dict[str, Any]:
    """Return redis-py's options for connections to the queue's server.

    Raises:
        ConfigError: a certificate or key cannot be used.

    """
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: it costs two replies and one more right
        "db": redis_url.database,
    }
    password = _password_source("redis_password", config)
    if password or redis_url.password or redis_url.username:
        options["credential_provider"] = Credentials(
            redis_url.username, password or (lambda: redis_url.password)
        )
    if redis_url.is_tls:
        options |= {
            "ssl_ca_certs": config.redis_tls_ca_file,
            "ssl_certfile": config.redis_tls_cert_file,
            "ssl_keyfile": config.redis_tls_key_file,
        }
        _check_tls(config)
    return options


def sentinel_options(config: QueueConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for connections to a Sentinel, from those for the queue's server."""
    shared = {
        name: value for name, value in options.items() if name not in ("db", "credential_provider")
    }
    username = config.redis_sentinel_username or ""
    password = _password_source("redis_sentinel_password", config)
    if not username and not password:
        return shared
    return {**shared, "credential_provider": Credentials(username, password or (lambda: ""))}


def _password_source(name: str, config: QueueConfig) -> Callable[[], str] | None:
    """Return what reads the password when a connection is made: its file may have changed.

    A worker that runs waits until the file can be used again, as it waits for a server.
    """
    configured = getattr(config, name)
    if configured is None:
        return None
    known: str = configured.get_secret_value()

    def read() -> str:
        try:
            return secret_in_file(name) or known
        except ConfigError as error:
            raise AccessDenied(str(error), hint="correct the file; it is read again") from None

    return read if _is_from_file(name, known) else lambda: known


@cache
def _is_from_file(name: str, secret: str) -> bool:
    """Return True if a secret was read from its file. Remembered: the file may have changed since."""
    try:
        return secret_in_file(name) == secret
    except ConfigError:
        return True


def _check_tls(config: QueueConfig) -> None:
    """Check each file now: a connection would report it as an unreachable server, without its name."""
    names = ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")
    files = {name: path for name in names if (path := getattr(config, name))}
    for name, path in files.items():
        try:
            Path(path).read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{name} = {path!r}: cannot be read: {reason}",
                hint="correct the path, or let this user read the file",
            ) from None
    ca_file, *own_files = map(files.get, names)
    try:
        named: tuple[str, ...] = names[:1]
        tls_context(ca_file, None, None)
        named = names[1:]
        tls_context(ca_file, *own_files)
    except (OSError, ValueError) as error:
        used = " and ".join(f"{name} = {files[name]!r}" for name in named if name in files)
        raise ConfigError(
            f"{used}: {_pem_fault(error)}",
            hint="docs/operations.md, TLS, shows how to make certificates",
        ) from None


def _pem_fault(error: Exception) -> str:
    """Return what is wrong with a certificate or key: OpenSSL says "PEM lib"."""
    text = str(error)
    if "MISMATCH" in text:
        return "the key is not that of the certificate"
    if "NO_CERTIFICATE" in text:
        return "holds no certificate in PEM format"
    return "no certificate and its key in PEM format" if isinstance(error, ssl.SSLError) else text


class Credentials(CredentialProvider):
    """User and password, read for every connection: a rotated password needs no restart."""

    def __init__(self, username: str, password: Callable[[], str]) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the arguments of AUTH."""
        password = self._password()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same. Blocks: a small local file is read faster than a thread starts."""
        return self.get_credentials()


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts `ca_file` only, or the system's authorities without one.

    redis-py's context trusts the system's authorities in either case. Raises OSError or ssl.SSLError
    for files that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file:
        context.load_cert_chain(cert_file, key_file, _refuse_passphrase)
    return context


def _refuse_passphrase() -> str:
    """Keep OpenSSL from asking for a passphrase at the terminal."""
    raise ValueError("the key has a passphrase: remove it (openssl pkey -in KEY -out NEW)")
