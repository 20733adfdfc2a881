"""What each role may do on the server: a Redis user's rights, no wider than what its commands send.

The rights follow from the scripts themselves: Redis checks every command of a script with the
caller's. What is sent without a script is listed here. Used by `aragora-q acl` and `doctor`.
"""

from __future__ import annotations

import re
from functools import cache

from aragora_q.redis import scripts
from aragora_q.redis.keys import QueueKeys

CONNECT = ("info", "select", "cluster|slots", "asking")
"""What opening a queue takes, on one server or on a cluster."""

READ = (
    "exists", "get", "hget", "hgetall", "hmget", "lrange", "pttl", "time", "xinfo|consumers",
    "xinfo|groups", "xlen", "xpending", "xrange", "xread", "xrevrange", "zcard", "zcount", "zrange",
    "zrangebyscore", "zrevrange", "zscore",
)  # fmt: skip
"""What reading takes: status, list, wait, tail, stats, exporter."""

CONFIRM = ("wait", "hincrby")
"""What `durability = "replica"` takes; "fsync" takes WAITAOF, too, which Redis 7.0 does not know."""

EVAL = ("eval", "evalsha")
MAINTENANCE = ("reclaim", "promote", "unregister")

ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "producer": (("enqueue",), (*READ, *CONFIRM)),
    "worker": (
        ("register", "start", "renew", "list_leased", "release_orphans", "complete", "retry", "fail", "release",
         "progress", "checkpoint", "purge", *MAINTENANCE),
        ("hgetall", "xread", "xinfo|consumers", "zrange"),
    ),
    "reaper": (("maintenance_lock", *MAINTENANCE), READ),
    "purge": (("purge",), ()),
    "stats": ((), READ),
    "operator": (
        ("cancel", "pause", "requeue", "purge", "maintenance_lock", "check_job", "check_lane", *MAINTENANCE),
        (*READ, "scan", "zscan", "acl|whoami", "acl|dryrun", "command|info"),
    ),
}  # fmt: skip
"""Of each role, the scripts it runs and the commands it sends besides."""


def commands(role: str, *, fsync: bool = False) -> list[str]:
    """All commands that `role` needs, as ACL rules name them."""
    names, direct = ROLES[role]
    needed = {*CONNECT, *direct}
    for name in names:
        needed |= {*EVAL, *_called_by(name)}
    if fsync and "wait" in needed:
        needed.add("waitaof")
    return sorted(needed)


def rules(role: str, keys: QueueKeys, *, fsync: bool = False) -> str:
    """The rules of ACL SETUSER for `role` on one queue, password excepted."""
    reads_only = not ROLES[role][0]
    pattern = f"{'%R~' if reads_only else '~'}{_escaped(keys.queue_prefix)}*"
    allowed = " ".join(f"+{command}" for command in commands(role, fsync=fsync))
    return f"{pattern} -@all {allowed}"


def _escaped(text: str) -> str:
    """`text` as a pattern that matches itself alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


@cache
def _called_by(script: str) -> frozenset[str]:
    """The commands that a script may call, by itself or through functions it includes."""
    included = _functions()
    seen, todo = set[str](), [scripts.body(script)]
    found = set[str]()
    while todo:
        text = todo.pop()
        for command, sub in re.findall(r"redis\.p?call\('(\w+)'(?:, *'(\w+)')?", text):
            is_container = command in ("XGROUP", "XINFO")
            found.add(f"{command}|{sub}".lower() if is_container else command.lower())
        for name in re.findall(r"\b(\w+)\(", text):
            if name in included and name not in seen:
                seen.add(name)
                todo.append(included[name])
    return frozenset(found | {"time"})


@cache
def _functions() -> dict[str, str]:
    """Every function that scripts include, by name."""
    source = "\n".join(scripts.included())
    blocks = re.split(r"^(?=local function )", source, flags=re.MULTILINE)
    return {
        match[1]: block for block in blocks if (match := re.match(r"local function (\w+)", block))
    }
