"""The rights of each role: a Redis user's ACL rules, limited to the commands that the role sends.

Redis checks every command in a script against the caller's rights, so the rights of a role follow from
its scripts. Commands sent without a script are listed here. Used by `aragora-q acl` and `doctor`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from aragora_q.redis import scripts
from aragora_q.redis.keys import GateKeys, QueueKeys

CONNECT = ("info", "select", "cluster|slots", "asking", "role")
"""Needed to open a queue, on one server, on a cluster or behind Sentinels."""

READ = (
    "eval_ro", "evalsha_ro", "exists", "get", "getrange", "hget", "hgetall", "hlen", "hmget", "lrange", "pttl",
    "strlen", "time", "xinfo|consumers", "xinfo|groups", "xlen", "xpending", "xrange", "xread", "xrevrange",
    "zcard", "zcount", "zmscore", "zrange", "zrangebylex", "zrangebyscore", "zrevrange", "zscore",
)  # fmt: skip
"""Needed by the commands that read: status, list (with scripts that find jobs), wait, tail, stats, exporter."""

CONFIRM = ("wait", "hincrby")
"""Needed for `durability = "replica"`. "fsync" also needs WAITAOF, which Redis 7.0 does not have."""

EVAL, EVAL_RO = ("eval", "evalsha"), ("eval_ro", "evalsha_ro")
GATES = ("gate_acquire", "gate_ask", "gate_settle", "gate_renew", "gate_declare", "gate_learn")
MAINTENANCE = (
    "claim_maintenance", "reclaim", "promote", "list_held", "unhold", "unregister", "gate_room", "gate_states",
    "sample",
)  # fmt: skip
SCHEDULES = ("enqueue", "plan_schedules")
"""What a process runs that enqueues jobs at the times of schedules."""
DELIVERY = ("claim_deliveries", "settle_deliveries")


GatesUse = Literal["none", "sums", "read", "write"]
"""How keys of the gates are used. `sums`: only what a queue and its groups spent, and its history, is read."""


class Role(NamedTuple):
    """The scripts that a role runs, and the commands that it sends without a script, also to the gates."""

    scripts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    reads_of_gates: GatesUse = "none"


ROLES = {
    "producer": Role(("enqueue", "seal"), (*READ, *CONFIRM), "sums"),
    "worker": Role(
        ("register", "start", "renew", "list_leased", "release_orphans", "complete", "retry", "fail", "release",
         "suspend", "progress", "checkpoint", "note_trace", "purge",
         *SCHEDULES, *MAINTENANCE, *DELIVERY, *GATES),
        ("blpop", "get", "hget", "hgetall", "pttl", "time", "xinfo|consumers", "zcard", "zrange"),
    ),
    "reaper": Role(("maintenance_lock", "gate_declare", *SCHEDULES, *MAINTENANCE), READ),
    "purge": Role(("purge", "purge_jobs"), READ),
    "stats": Role((), READ, "read"),
    "operator": Role(
        ("cancel", "cancel_group", "hold", "pause", "requeue", "seal", "purge", "purge_jobs",
         "maintenance_lock", "check_job", "check_lane", "check_members", "check_group", "check_outbox",
         "check_deliveries", "gate_declare", "gate_override", "gate_counters", "gate_check", "change_schedule",
         "change_webhook", "redeliver", *SCHEDULES, *MAINTENANCE, *DELIVERY),
        (*READ, "scan", "hscan", "zscan", "acl|whoami", "acl|dryrun", "command|info"),
    ),
}  # fmt: skip


def commands(role: str, *, fsync: bool = False) -> list[str]:
    """Return all commands that `role` needs, as ACL rules name them. `fsync` adds WAITAOF."""
    names, direct, _ = ROLES[role]
    needed = {*CONNECT, *direct}
    for name in names:
        run = EVAL_RO if scripts.load(name).is_read_only else EVAL
        needed |= {*run, *_called_by(name)}
    if fsync and "wait" in needed:
        needed.add("waitaof")
    return sorted(needed)


def rules(role: str, keys: QueueKeys, *, fsync: bool = False) -> str:
    """Return the rules for ACL SETUSER that let a user be `role` on one queue, without a password."""
    reads_only = not ROLES[role].scripts
    patterns = [f"{'%R~' if reads_only else '~'}{keys.pattern}"]
    gates = GateKeys(keys.prefix, cluster=keys.cluster)
    match _use_of_gates(role):
        case "sums":
            patterns += [f"%R~{pattern}" for pattern in gates.patterns_of_sums(keys.queue)]
        case "read":
            patterns.append(f"%R~{gates.pattern}")
        case "write":
            patterns.append(f"~{gates.pattern}")
    allowed = " ".join(f"+{command}" for command in commands(role, fsync=fsync))
    return f"{' '.join(patterns)} -@all {allowed}"


def uses_of_gates(role: str, keys: QueueKeys) -> list[tuple[str, ...]]:
    """Return commands that show, when they are tried, whether a user may use the gates' keys as `role` does."""
    gates = GateKeys(keys.prefix, cluster=keys.cluster)
    uses: dict[GatesUse, list[tuple[str, ...]]] = {
        "none": [],
        "sums": [("GET", gates.spend_of_group(keys.queue, "g"))],
        "read": [("GET", gates.anchor)],
        "write": [("SET", gates.anchor, "")],
    }
    return uses[_use_of_gates(role)]


def _use_of_gates(role: str) -> GatesUse:
    names, _, reads = ROLES[role]
    own = [scripts.load(name) for name in names if name.startswith("gate_")]
    if any(not script.is_read_only for script in own):
        return "write"
    return "read" if own else reads


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
