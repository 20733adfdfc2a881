"""Translate errors of redis-py and of the server into ours, without secrets. One table, one place."""

from __future__ import annotations

import errno
import re

from redis import exceptions

from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    CommandRefused,
    RedisUnreachable,
    TryAgain,
    UnsupportedServer,
)

TOO_LONG = "Protocol error: invalid bulk length"
"""How a server refuses a value longer than its proto-max-bulk-len."""

WRONG_SERVER_ERRORS = ("unknown command 'SENTINEL'", "This instance has cluster support disabled")
"""Errors of servers that are not a Sentinel, or not a node of a cluster."""

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

_FAILOVER_WORDS = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")

_KILLED = "Script killed by user"

_DENIED_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED")
_DENIED_TEXTS = (
    "ACL failure in script",
    "The user executing the script can't",
    "Protocol error: unauthenticated",  # the answer to a long command before AUTH
)
"""Refusals under the word ERR: the user may run the script, but not every command that it calls."""


_INCOMPLETE = re.compile("key ?usage|Key Identifier|Basic Constraints|invalid CA", re.IGNORECASE)
"""What OpenSSL says of certificates without the extensions that Python 3.13 and newer require."""


class FailoverUnderway(TryAgain):
    """A replica is taking over, or a slot is being moved: over in seconds."""


def translate(error: Exception, address: str) -> AragoraQError:
    """Return our error for what redis-py raised while talking to the server at `address`."""
    text = str(error)
    word = getattr(error, "status_code", None) or (text.split(maxsplit=1)[0] if text else "")
    refusal = _passing(word, text, address) or _denied(error, word, text, address)
    if refusal:
        return refusal
    if text.startswith((*WRONG_SERVER_ERRORS, "DB index is out of range")):
        return UnsupportedServer(
            f"the server at {address} is not what redis_url says: {text}",
            hint="redis://host:port[/db] names one server; redis+sentinel:// names Sentinels,"
            " redis+cluster:// nodes",
        )
    if text.startswith(TOO_LONG):
        return UnsupportedServer(
            f"Redis at {address} refuses a value of that size (its proto-max-bulk-len): {text}",
            hint="raise it there, or lower max_payload_bytes and max_result_bytes",
        )
    if isinstance(error, exceptions.ResponseError):
        hint = "aragora-q doctor names the key" if text.startswith("WRONGTYPE") else ""
        return CommandRefused(f"Redis at {address} refused a command: {text}", hint=hint)
    hint = (
        "check that the server runs and that redis_url (REDIS_URL) names it;"
        " REDIS_URL=embedded:// needs no server"
    )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "set redis_tls_ca_file to the authority that signed the server's certificate"
        if _INCOMPLETE.search(text):
            hint = (
                "Python 3.13 and newer require keyUsage and basicConstraints of the authority, and key"
                " identifiers: make its and the server's certificate again (docs/operations.md, TLS)"
            )
    reason = _connection_reason(text) or type(error).__name__
    return RedisUnreachable(f"cannot reach Redis at {address}: {reason}", hint=hint)


def _passing(word: str, text: str, address: str) -> TryAgain | None:
    """Return the error for a refusal that passes."""
    if word in _TRY_AGAIN:
        kind = FailoverUnderway if word in _FAILOVER_WORDS else TryAgain
        reason = f"{word} {text.removeprefix(word).strip()}"
        return kind(f"Redis at {address} refuses: {reason}", hint=_TRY_AGAIN[word])
    if _KILLED in text:  # only a script that has written nothing can be killed
        return TryAgain(f"Redis at {address} refuses: {text}", hint="call again")
    return None


def _denied(error: Exception, word: str, text: str, address: str) -> AccessDenied | None:
    """Return the error for a refusal of the credentials or of a command that they do not permit."""
    kinds = exceptions.AuthenticationError | exceptions.NoPermissionError
    is_denied = word in _DENIED_WORDS or isinstance(error, kinds)
    if not is_denied and not text.startswith(_DENIED_TEXTS):
        return None
    hint = "check user and password (REDIS_URL, REDIS_PASSWORD) and the user's ACL"
    if word == "DENIED":
        hint = "set a password on the server, or turn off its protected-mode"
    return AccessDenied(f"Redis at {address} denies access: {text}", hint=hint)


def _connection_reason(text: str) -> str:
    """Shorten redis-py's text: no address, no errno, no list of every address of a name."""
    if f"[Errno {errno.ECONNREFUSED}]" in text or text.startswith(f"Error {errno.ECONNREFUSED} "):
        return "connection refused"
    return re.sub(r"^Error \S+ connecting to \S+\. ", "", text).rstrip(".")
