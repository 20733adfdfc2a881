"""Translate errors of redis-py and of the server into ours, without secrets. One table, one place."""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from redis import exceptions

from aragora_q.config.redis_url import DEFAULT_REDIS_URL
from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    CommandRefused,
    NotPrimary,
    RedisUnreachable,
    TryAgain,
    UnsupportedServer,
)

TOO_LONG = "Protocol error: invalid bulk length"
"""How a server refuses a value longer than its proto-max-bulk-len."""

OLD_SERVER = (
    "is not supported: Redis 7.0+ or Valkey 7.2+ is required (scripts use the allow-oom flag)"
)
OLD_SERVER_HINT = "upgrade the server, or use embedded://"

WRONG_SERVER_ERRORS = ("unknown command 'SENTINEL'", "This instance has cluster support disabled")
"""Errors of servers that are not a Sentinel, or not a node of a cluster."""

SPEAKS_NO_TLS = "the server speaks no TLS at this port"
SPEAKS_TLS = "the server speaks TLS at this port"

_TRY_AGAIN = {
    "OOM": "Redis is full (maxmemory): let workers drain, purge, or raise maxmemory",
    "LOADING": "Redis is loading its data set: wait",
    "READONLY": "this server is a replica: point redis_url at the primary",
    "MASTERDOWN": "the replica has lost its primary: wait for failover",
    "CLUSTERDOWN": "the cluster does not cover all slots: check its nodes",
    "TRYAGAIN": "a slot is being moved: wait",
    "UNBLOCKED": "the primary has become a replica, or the key was deleted: wait",
    "BUSY": "a script blocks the server: wait, or SCRIPT KILL",
    "MISCONF": "Redis cannot write to its disk: free space, check its log",
    "NOREPLICAS": "too few replicas are in sync: check replication",
}
"""What to do about a refusal that passes, by the first word of the server's error."""

_REPLICA_WORDS = ("READONLY", "MASTERDOWN")
_FAILOVER_WORDS = ("LOADING", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")
_NOT_PRIMARY_WORDS = (*_REPLICA_WORDS, "LOADING", "CLUSTERDOWN", "UNBLOCKED", "NOREPLICAS")
"""After these, another server may be the primary, also under the same name."""

_KILLED = "Script killed by user"

_DENIED_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED")
_DENIED_TEXTS = (
    "ACL failure in script",
    "The user executing the script can't",
    "Protocol error: unauthenticated",  # the answer to a long command before AUTH
)
"""Refusals under the word ERR: the user may run the script, but not every command that it calls."""

_UNSUPPORTED = re.compile(
    r"unknown (redis )?(sub)?command|undeclared key|non local key|not (allowed|supported|permitted|available)"
    r"|unsupported|disabled|forbidden|CROSSSLOT",
    re.IGNORECASE,
)
"""Parts of errors of servers that lack a command, or forbid it: renamed, disabled by a provider, emulated."""

_CONNECTION_HINTS = {
    "No such master": "check the service, the last part of redis_url: the Sentinels do not know it",
    "no other is elected": "wait for the failover; if it does not end, read the logs of the Sentinels",
    "look-up": "check the host in redis_url, and the name servers of this host (/etc/resolv.conf)",
    SPEAKS_NO_TLS: "use redis:// instead of rediss://, or the port where the server speaks TLS",
    SPEAKS_TLS: "use rediss:// instead of redis://",
    "certificate has expired": "renew the server's certificate, or correct the clock of this host",
    "not yet valid": "correct the clock of this host, or wait until the certificate is valid",
    "certificate is not valid for": "the certificate must contain the host by which the server is reached"
    " (subjectAltName): use that host in redis_url, or make another certificate",
    "certificate purpose": "make a certificate for servers (extendedKeyUsage = serverAuth)",
    **dict.fromkeys(
        ("key usage", "keyusage", "Key Identifier", "Basic Constraints", "invalid CA"),
        "Python 3.13 and newer require keyUsage and basicConstraints of the authority, and key identifiers:"
        " make its and the server's certificate again (docs/operations.md, TLS)",
    ),
    "CERTIFICATE_VERIFY_FAILED": "set redis_tls_ca_file to the authority that signed the server's certificate",
    "certificate required": "set redis_tls_cert_file and redis_tls_key_file: the server requires a certificate",
    "ALERT": "check the certificate of this client (redis_tls_cert_file) and the server's tls settings",
    "unexpected reply": "check that redis_url names a Redis server, not another one or a proxy",
    "Protocol error": "check that redis_url names a Redis server, not another one or a proxy",
}
"""What to do about a failure to connect; the first entry that its text contains counts."""

_UNREACHABLE = "check that the server runs and that redis_url (REDIS_URL) names it"
_UNREACHABLE_DEFAULT = (
    "start a server there, set REDIS_URL, or use REDIS_URL=embedded:// without one"
)

_CLOSED = ("connection closed", "connection reset", "connection lost", "broken pipe")
_PLAIN_CLOSED = "a server that expects TLS closes connections, too: then use rediss://"
_TLS_CLOSED = (
    "a server that requires a certificate closes connections, too: then set redis_tls_cert_file"
)
"""What else closes a connection, by whether it was one with TLS."""


class FailoverUnderway(TryAgain):
    """A replica is taking over, or a slot is being moved: over in seconds."""


class CommandUnsupported(UnsupportedServer, CommandRefused):
    """The server lacks a command or forbids it. Final at the start; a worker that ran before waits."""


class Server(NamedTuple):
    """The server that an error came from, as messages call it, where it is not the one in redis_url."""

    name: str
    is_sentinel: bool = False


def name_server(error: Exception, server: Server | None) -> None:
    """Note that `error` came from `server`, for `translate`."""
    if server is not None:
        error.aragora_server = server  # type: ignore[attr-defined]


def says_not_primary(error: Exception) -> bool:
    """Return True if a server refuses because it is not the primary, or not any more."""
    return _first_word(error) in _NOT_PRIMARY_WORDS


def is_denial(error: Exception) -> bool:
    """Return True if a server refuses the credentials, or what they do not permit."""
    kinds = exceptions.AuthenticationError | exceptions.NoPermissionError
    if isinstance(error, kinds) or _first_word(error) in _DENIED_WORDS:
        return True
    text = str(error)  # a script may put its own place before the reason: `user_script:57: ERR …`
    return any(each in text for each in _DENIED_TEXTS)


def translate(error: Exception, address: str) -> AragoraQError:
    """Return our error for what redis-py raised while talking to the server at `address`."""
    server: Server = getattr(error, "aragora_server", Server(f"Redis at {address}"))
    if refusal := _passing(error, server) or _final(error, server, address):
        return refusal
    reason = connection_reason(error)
    usual = _UNREACHABLE_DEFAULT if address == DEFAULT_REDIS_URL else _UNREACHABLE
    hint = next((hint for part, hint in _CONNECTION_HINTS.items() if part in reason), usual)
    if reason.lower().startswith(_CLOSED):
        hint = f"{hint}; {_TLS_CLOSED if address.startswith('rediss') else _PLAIN_CLOSED}"
    return RedisUnreachable(f"cannot reach {server.name}: {reason}", hint=hint)


def _first_word(error: Exception) -> str:
    text = str(error)
    return getattr(error, "status_code", None) or (text.split(maxsplit=1)[0] if text else "")


def _passing(error: Exception, server: Server) -> TryAgain | None:
    """Return the error for a refusal that passes."""
    text, word = str(error), _first_word(error)
    if word in _TRY_AGAIN:
        kind = TryAgain
        if word in _REPLICA_WORDS:
            kind = NotPrimary
        elif word in _FAILOVER_WORDS:
            kind = FailoverUnderway
        reason = f"{word} {text.removeprefix(word).strip()}"
        return kind(f"{server.name} refuses: {reason}", hint=_TRY_AGAIN[word])
    if _KILLED in text:  # only a script that has written nothing can be killed
        return TryAgain(f"{server.name} refuses: {text}", hint="call again")
    return None


def _final(error: Exception, server: Server, address: str) -> AragoraQError | None:
    """Return the error for a refusal that lasts until an operator acts."""
    text = str(error)
    if is_denial(error):
        return AccessDenied(
            f"{server.name} denies access: {text}", hint=_denial_hint(error, server)
        )
    if text.startswith((*WRONG_SERVER_ERRORS, "DB index is out of range")):
        return UnsupportedServer(
            f"the server at {address} is not what redis_url says: {text}",
            hint="redis://host:port[/db] names one server; redis+sentinel:// names Sentinels,"
            " redis+cluster:// nodes",
        )
    if text.startswith(TOO_LONG):
        return UnsupportedServer(
            f"{server.name} refuses a value of that size (its proto-max-bulk-len): {text}",
            hint="raise it there, or lower max_payload_bytes and max_result_bytes",
        )
    if not isinstance(error, exceptions.ResponseError):
        return None
    if lack := _lack(error, server):
        return lack
    is_key = text.startswith("WRONGTYPE")
    hint = "another program wrote to a key of the queue: aragora-q doctor names the key"
    return CommandRefused(f"{server.name} refused a command: {text}", hint=hint if is_key else "")


def _lack(error: Exception, server: Server) -> UnsupportedServer | None:
    """Return the error if the server cannot run our scripts, or a command; else None."""
    text = str(error)
    if "Error compiling script" in text:  # its first line, which names the flags
        return UnsupportedServer(f"{server.name} {OLD_SERVER}", hint=OLD_SERVER_HINT)
    if _UNSUPPORTED.search(text) or _first_word(error) == "CROSSSLOT":
        return CommandUnsupported(
            f"{server.name} does not run a command that aragora-q needs: {text}",
            hint="the server or its provider renamed or disabled it (rename-command), or it is a cluster"
            " (redis+cluster://): use Redis 7.0+ or Valkey 7.2+ with all commands",
        )
    return None


def _denial_hint(error: Exception, server: Server) -> str:
    if _first_word(error) == "DENIED":
        return "set a password on the server, or turn off its protected-mode"
    if server.is_sentinel:
        return (
            "check redis_sentinel_username and redis_sentinel_password (REDIS_SENTINEL_USERNAME,"
            " REDIS_SENTINEL_PASSWORD), and the user's ACL in the Sentinels"
        )
    return (
        "check user and password (REDIS_URL, REDIS_PASSWORD) and the user's rights:"
        " `aragora-q acl ROLE` prints those that a role needs"
    )


def connection_reason(error: Exception) -> str:
    """Return why a server cannot be reached, without what redis-py adds: addresses and numbers."""
    text = str(error)
    if '"\\x15" as reply type' in text:  # how a TLS alert begins
        return SPEAKS_TLS
    if "WRONG_VERSION_NUMBER" in text:
        return SPEAKS_NO_TLS
    if found := re.search(r"\[SSL: [^(]*[^( ]", text):
        return found[0]
    if f"[Errno {errno.ECONNREFUSED}]" in text or text.startswith(f"Error {errno.ECONNREFUSED} "):
        return "connection refused"
    text = re.sub(r"^Error \S+ connecting to \S+\. ", "", text)
    return text.rstrip(".") or type(error).__name__
