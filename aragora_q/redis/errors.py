"""redis-py's and the server's errors, translated to ours."""

from __future__ import annotations

import errno
import re

from redis import exceptions

from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    RedisUnreachable,
    TryAgain,
    UnsupportedServer,
)

TOO_LONG = "Protocol error: invalid bulk length"
"""What a server says to a value that is longer than its `proto-max-bulk-len`."""


class FailoverUnderway(TryAgain):
    """Servers are taking over from one another, or a slot is on its way: over in seconds."""


# What each kind of refusal means, by the first word of the server's error.
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


_FAILOVER_WORDS = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")


_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")


_DENIED_OTHERWISE = (
    "ACL failure in script",
    "The user executing the script can't",
    "Protocol error: unauthenticated",  # to a long command before any password was given
)
"""What servers say, under ERR, when a script may run but not all that it calls."""


def translate(error: Exception, address: str) -> AragoraQError:
    """Our error for what redis-py raised while talking to `address`."""
    text = str(error)
    word = getattr(error, "status_code", None) or (text.split(maxsplit=1)[0] if text else "")
    if word in _TRY_AGAIN:
        kind = FailoverUnderway if word in _FAILOVER_WORDS else TryAgain
        return kind(f"Redis at {address} refuses: {word} {text.removeprefix(word).strip()}",
                    hint=_TRY_AGAIN[word])  # fmt: skip
    denied = exceptions.AuthenticationError | exceptions.NoPermissionError
    if word in _DENIED or isinstance(error, denied) or text.startswith(_DENIED_OTHERWISE):
        return AccessDenied(
            f"Redis at {address} denies access: {text}",
            hint="check user and password (REDIS_URL, REDIS_PASSWORD) and the user's ACL",
        )
    if text.startswith((*WRONG_SERVER_ERRORS, "DB index is out of range")):
        return UnsupportedServer(
            f"the server at {address} is not what redis_url says it is: {text}",
            hint="redis:// is for one server, and ends in the number of one of its databases, if any;"
            " redis+sentinel:// names Sentinels, redis+cluster:// nodes",
        )
    if text.startswith(TOO_LONG):
        return UnsupportedServer(
            f"Redis at {address} takes no value of that size (its proto-max-bulk-len): {text}",
            hint="raise it there, or lower max_payload_bytes and max_result_bytes",
        )
    if isinstance(error, exceptions.ResponseError):
        return AragoraQError(f"Redis at {address} refused a command: {text}")
    hint = "is the server running, and is redis_url (REDIS_URL) right?"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        hint = "set redis_tls_ca_file to the authority that signed the server's certificate"
    return RedisUnreachable(
        f"cannot reach Redis at {address}: {_connection_reason(text) or type(error).__name__}",
        hint=hint,
    )


def _connection_reason(text: str) -> str:
    """Why a connection failed, without addresses, numbers, and attempts at every address of a name."""
    if f"[Errno {errno.ECONNREFUSED}]" in text or text.startswith(f"Error {errno.ECONNREFUSED} "):
        return "connection refused"
    return re.sub(r"^Error \S+ connecting to \S+\. ", "", text).rstrip(".")


WRONG_SERVER_ERRORS = ("unknown command 'SENTINEL'", "This instance has cluster support disabled")
"""What servers say that are no Sentinel, or no cluster's node."""
