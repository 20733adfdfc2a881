"""The rights of each role: a Redis user's ACL rules, limited to the commands that the role sends.

Redis checks every command in a script against the caller's rights, so the rights of a role follow from
its scripts. Commands sent without a script are listed here. Used by `aragora-q acl` and `doctor`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from aragora_q.redis import scripts
from aragora_q.redis.keys import GateKeys, QueueKeys

CONNECT = ("info", "select", "cluster|slots", "asking", "role")
"""Needed to open a queue, on one server, on a cluster or behind Sentinels."""

READ = (
    "eval_ro", "evalsha_ro", "exists", "get", "hget", "hgetall", "hmget", "lrange", "pttl", "time",
    "xinfo|consumers", "xinfo|groups", "xlen", "xpending", "xrange", "xread", "xrevrange", "zcard",
    "zcount", "zmscore", "zrange", "zrangebylex", "zrangebyscore", "zrevrange", "zscore",
)  # fmt: skip
"""Needed by the commands that read: status, list (with scripts that find jobs), wait, tail, stats, exporter."""

CONFIRM = ("wait", "hincrby")
"""Needed for `durability = "replica"`. "fsync" also needs WAITAOF, which Redis 7.0 does not have."""

EVAL, EVAL_RO = ("eval", "evalsha"), ("eval_ro", "evalsha_ro")
GATES = ("gate_acquire", "gate_settle", "gate_renew", "gate_declare")
MAINTENANCE = (
    "claim_maintenance", "reclaim", "promote", "list_held", "unhold", "unregister", "gate_room", "gate_states",
)  # fmt: skip


class Role(NamedTuple):
    """The scripts that a role runs, and the commands that it sends without a script."""

    scripts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


ROLES = {
    "producer": Role(("enqueue", "seal"), (*READ, *CONFIRM)),
    "worker": Role(
        ("register", "start", "renew", "list_leased", "release_orphans", "complete", "retry", "fail", "release",
         "suspend", "progress", "checkpoint", "purge", *MAINTENANCE, *GATES),
        ("blpop", "hget", "hgetall", "pttl", "xinfo|consumers", "zcard", "zrange"),
    ),
    "reaper": Role(("maintenance_lock", "gate_declare", *MAINTENANCE), READ),
    "purge": Role(("purge", "purge_jobs"), READ),
    "stats": Role((), READ),
    "operator": Role(
        ("cancel", "cancel_group", "hold", "pause", "requeue", "seal", "purge", "purge_jobs",
         "maintenance_lock", "check_job", "check_lane", "check_members", "check_group", "gate_declare",
         "gate_override", "gate_counters", "gate_check", *MAINTENANCE),
        (*READ, "scan", "hscan", "zscan", "acl|whoami", "acl|dryrun", "command|info"),
    ),
}  # fmt: skip


def commands(role: str, *, fsync: bool = False) -> list[str]:
    """Return all commands that `role` needs, as ACL rules name them. `fsync` adds WAITAOF."""
    names, direct = ROLES[role]
    needed = {*CONNECT, *direct}
    for name in names:
        run = EVAL_RO if scripts.load(name).is_read_only else EVAL
        needed |= {*run, *_called_by(name)}
    if fsync and "wait" in needed:
        needed.add("waitaof")
    return sorted(needed)


def rules(role: str, keys: QueueKeys, *, fsync: bool = False) -> str:
    """Return the rules for ACL SETUSER that let a user be `role` on one queue, without a password.

    The gates belong to all queues of the prefix: only roles that pass calls or set limits write there.
    """
    names = ROLES[role].scripts
    writes_gates = any(n.startswith("gate_") and not scripts.load(n).is_read_only for n in names)
    gates = GateKeys(keys.prefix, keys.cluster).pattern
    pattern = f"{'~' if names else '%R~'}{keys.pattern} {'~' if writes_gates else '%R~'}{gates}"
    allowed = " ".join(f"+{command}" for command in commands(role, fsync=fsync))
    return f"{pattern} -@all {allowed}"


@cache
def _called_by(script: str) -> frozenset[str]:
    """Return the commands that a script may call, directly or through functions it includes."""
    included = _functions()
    seen, sources = set[str](), [scripts.body(script)]
    called = {"time"}
    while sources:
        source = sources.pop()
        for command, sub in re.findall(r"redis\.p?call\('(\w+)'(?:, *'(\w+)')?", source):
            is_container = command in ("XGROUP", "XINFO")
            called.add(f"{command}|{sub}".lower() if is_container else command.lower())
        for name in re.findall(r"\b(\w+)\(", source):
            if name in included and name not in seen:
                seen.add(name)
                sources.append(included[name])
    return frozenset(called)


@cache
def _functions() -> dict[str, str]:
    """Return every function that scripts include, by name."""
    source = "\n".join(scripts.included())
    blocks = re.split(r"^(?=local function )", source, flags=re.MULTILINE)
    return {
        match[1]: block for block in blocks if (match := re.match(r"local function (\w+)", block))
    }
