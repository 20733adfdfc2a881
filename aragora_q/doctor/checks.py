"""What is wrong around a queue: the server, the settings, the machine, the fleet, the data.

Each check gives findings; none changes anything, except `check_data` when it is to repair. Used by
`aragora-q doctor`, which prints them.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import ENVIRONMENT_NAMES, SECRETS, read_sources
from aragora_q.doctor import integrity as consistency
from aragora_q.doctor.integrity import PROBLEMS, IntegrityReport
from aragora_q.errors import AccessDenied, AragoraQError, UnsupportedServer
from aragora_q.redis import acl as access
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.redis.server import ServerInfo, check_server
from aragora_q.streams.queue import RedisStreamsQueue

Severity = Literal["error", "warning", "note"]

UNIT_DIRECTORIES = (
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
    Path("/etc/systemd/system"),
)
UNIT = "aragora-q-worker@.service"
PURGE_HOURS = 48


@dataclass(frozen=True)
class Finding:
    """`severity` error: jobs are lost or stand still; warning: they may be; note: worth knowing."""

    severity: Severity
    check: str
    detail: str
    remedy: str = ""


async def check_all(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Everything but the data. Raises RedisUnreachable and AccessDenied when nothing can be asked.

    A finding of the check `server` is the last: on such a server nothing else can be judged.
    """
    for found in (*_of_settings(queue.config), *_of_environment(), *_of_unit(queue.config)):
        yield found
    info = await queue.connection.execute("INFO")
    facts = ServerInfo.from_info(info)
    try:
        await check_server(queue.connection)
    except UnsupportedServer as error:
        yield Finding("error", "server", str(error), error.hint)
        return
    for found in _of_server(queue.config, facts, info):
        yield found
    async for found in _of_sizes(queue):
        yield found
    async for found in _of_clock(queue):
        yield found
    async for found in _of_rights(queue):
        yield found
    for found in _of_fleet(await queue.get_queue_stats()):
        yield found


def _of_server(
    config: QueueConfig, facts: ServerInfo, info: Mapping[str, Any]
) -> Iterator[Finding]:
    if facts.eviction_policy != "noeviction":
        severity: Severity = "warning" if config.allow_eviction else "error"
        yield Finding(severity, "eviction",
                      f"maxmemory-policy is {facts.eviction_policy}: Redis may delete jobs when it is full",
                      "CONFIG SET maxmemory-policy noeviction, and in redis.conf")  # fmt: skip
    if not facts.has_aof:
        yield Finding("warning", "persistence", "no append-only file: a crash of Redis loses jobs",
                      "CONFIG SET appendonly yes, and in redis.conf")  # fmt: skip
    for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            yield Finding("error", "persistence", f"{name} is {info[name]}: Redis cannot write to its disk",
                          "free disk space, and look into Redis' log")  # fmt: skip
    if facts.max_bytes and facts.used_bytes > 0.9 * facts.max_bytes:
        yield Finding("error", "memory", f"{facts.used_bytes / facts.max_bytes:.0%} of maxmemory is in use",
                      "purge, let workers drain, or raise maxmemory")  # fmt: skip
    if config.claim_idle_ms < COMMAND_TIMEOUT_SECONDS * 1000:
        yield Finding("warning", "lease", f"claim_idle_ms is {config.claim_idle_ms}, and a command to "
                      f"Redis may take {COMMAND_TIMEOUT_SECONDS:.0f} s: a short stall costs leases",
                      "claim_idle_ms = 60000")  # fmt: skip


async def _of_sizes(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Whether the server takes what the settings allow."""
    for name in ("max_payload_bytes", "max_result_bytes"):
        most = getattr(queue.config, name)
        if refusal := await queue.connection.refusal_of(most):
            yield Finding("error", "sizes", f"{name} is {most:,}, and {refusal}",
                          f"CONFIG SET proto-max-bulk-len {most}, and in redis.conf, or lower it")  # fmt: skip


async def _of_clock(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    began = time.time()
    seconds, micros = await queue.connection.execute("TIME")
    took = time.time() - began
    offset = int(seconds) + int(micros) / 1e6 - (began + took / 2)
    if abs(offset) > 1 + took:
        yield Finding("warning", "clock", f"Redis' clock is {offset:+.1f} s from ours",
                      "run NTP on both: leases go by Redis' clock, log lines by ours")  # fmt: skip
    if took > 0.1:
        yield Finding("warning", "latency", f"Redis took {took * 1000:.0f} ms to say what time it is",
                      "look at SLOWLOG, the network, and what else runs on the server")  # fmt: skip


async def _of_rights(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Which roles the user may play: asked with ACL DRYRUN, which takes an administrator's rights."""
    try:
        user = _text(await queue.connection.execute("ACL", "WHOAMI"))
        allowed = {
            command: await _may(queue, user, command)
            for command in sorted({c for role in access.ROLES for c in access.commands(role)})
        }
    except AccessDenied:
        yield Finding("note", "rights", "this user may not ask what it may do",
                      "to check a user, run doctor as an administrator, or read aragora-q acl")  # fmt: skip
        return
    except AragoraQError as error:
        yield Finding("note", "rights", f"rights cannot be asked for: {error}")
        return
    for role in access.ROLES:
        missing = [command for command in access.commands(role) if not allowed[command]]
        if missing and role != "operator":
            yield Finding("note", "rights", f"user {user} cannot be a {role}: may not {', '.join(missing)}",
                          f"aragora-q acl {role} prints the rights it takes")  # fmt: skip


async def _may(queue: RedisStreamsQueue, user: str, command: str) -> bool:
    words = command.upper().split("|")
    known = await queue.connection.execute("COMMAND", "INFO", command)
    least = abs(known[command]["arity"])
    key = queue.connection.keys.control
    padded = [*words, *([key] * (least - len(words)))]
    try:
        verdict = await queue.connection.execute("ACL", "DRYRUN", user, *padded)
    except AccessDenied:
        raise
    except AragoraQError:
        return True  # it got as far as the operands, which are ours, not the operator's
    return "no permissions to run" not in _text(verdict)


def _of_fleet(stats: Mapping[str, Any]) -> Iterator[Finding]:
    alive = [w for w in stats["workers"] if w["is_alive"]]
    silent = [w for w in stats["workers"] if not w["is_alive"]]
    waiting = sum(stats["waiting"].values())
    wait = "1 job waits" if waiting == 1 else f"{waiting:,} jobs wait"
    if waiting and not alive:
        yield Finding("error", "workers", f"{wait}, and no worker is alive",
                      "start one: aragora-q worker, or systemctl start 'aragora-q-worker@1'")  # fmt: skip
    for worker in silent:
        if worker["jobs_leased"]:
            yield Finding("warning", "workers", f"worker {worker['worker_id']} is silent for "
                          f"{worker['heartbeat_age_seconds']:.0f} s and holds {worker['holds']} "
                          f"job{'' if worker['holds'] == 1 else 's'}",
                          "any live worker, or aragora-q reap, takes them over")  # fmt: skip
    versions = {w.get("version", "?") for w in alive}
    if len(versions) > 1:
        yield Finding("note", "workers", f"workers run versions {', '.join(sorted(versions))}",
                      "finish the upgrade")  # fmt: skip
    if stats["paused"]:
        yield Finding("warning", "paused", "the queue is paused: no job starts", "aragora-q resume")
    purged_at = stats["last_purge_at"]
    ended = stats["completed"] + stats["failed"] + stats["cancelled"]
    if ended and (purged_at is None or stats["now"] - purged_at > PURGE_HOURS * 3_600_000):
        when = "never ran" if purged_at is None else f"has not run for {PURGE_HOURS} h"
        yield Finding("note", "purge", f"ended jobs are kept: {ended:,}, and purge {when}",
                      "a worker purges every hour; else aragora-q purge, from cron")  # fmt: skip


def _of_settings(config: QueueConfig) -> Iterator[Finding]:
    layers = read_sources(type(config).model_fields)
    for path in layers.files:
        names = {name for name in SECRETS if layers.settings.get(name)}
        holds = [n for n in names if layers.settings[n].origin.startswith(f"{path}:")]
        if holds and path.stat().st_mode & 0o044:
            yield Finding("warning", "secrets", f"{path} holds {', '.join(holds)} and others may read it",
                          f"chmod 600 {path}, or use a credential or REDIS_PASSWORD_FILE")  # fmt: skip
    for name, agent in config.agents.items():
        if agent.api_key_env and not os.environ.get(agent.api_key_env):
            yield Finding("warning", "agents", f"the key of agent {name}, {agent.api_key_env}, is not set here",
                          "set it where workers run")  # fmt: skip


def _of_environment() -> Iterator[Finding]:
    """Names that look like ours and are not. `ARAGORA_QUEUE_*` ones are refused before we get here."""
    known = [*ENVIRONMENT_NAMES.values(), *(f"{ENVIRONMENT_NAMES[name]}_FILE" for name in SECRETS)]
    for name in sorted(os.environ):
        looks_ours = name.startswith(("REDIS_", "ARAGORA_Q_", "ARAGORA_REDIS_"))
        if not looks_ours or name in known:
            continue
        near = difflib.get_close_matches(
            name.replace("ARAGORA_REDIS_", "REDIS_"), known, n=1, cutoff=0.8
        )
        if near or name.startswith("ARAGORA_"):
            yield Finding("warning", "environment", f"{name} is set, and nothing reads it",
                          f"did you mean {near[0]}?" if near else "see aragora-q config show")  # fmt: skip


def _of_unit(config: QueueConfig) -> Iterator[Finding]:
    """Whether systemd would kill a worker before its drain is over."""
    stop_seconds, where = None, None
    for directory in UNIT_DIRECTORIES:
        unit = directory / UNIT
        for path in (unit, *sorted(unit.with_name(f"{UNIT}.d").glob("*.conf"))):
            try:
                found = re.findall(r"^TimeoutStopSec=(.*)$", path.read_text(), re.MULTILINE)
            except OSError:
                continue
            if found:
                stop_seconds, where = _seconds(found[-1]), path
    if stop_seconds is not None and stop_seconds <= config.drain_timeout_seconds:
        yield Finding("warning", "unit", f"{where}: TimeoutStopSec is {stop_seconds:.0f} s, and a drain may "
                      f"take {config.drain_timeout_seconds:.0f} s",
                      "TimeoutStopSec = drain_timeout_seconds + 30")  # fmt: skip


def _seconds(text: str) -> float | None:
    """A time span of systemd.time(7), as far as units spell it; None for `infinity`."""
    units = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
    spans = re.findall(r"(\d+)\s*([a-z]*)", text.strip())
    return sum(int(n) * units.get(unit, 1) for n, unit in spans) if spans else None


def of_data(seen: IntegrityReport, *, repaired: bool) -> Iterator[Finding]:
    """What `consistency.examine` found, as findings; what has been mended is a note."""
    for word, job_ids in seen.problems.items():
        is_mendable, meaning, remedy = PROBLEMS[word]
        some = ", ".join(sorted(job_ids)[: consistency.EXAMPLES])
        more = len(job_ids) - consistency.EXAMPLES
        evidence = (
            f"{_jobs(len(job_ids))} {meaning} ({some}{f' and {more:,} more' if more > 0 else ''})"
        )
        if is_mendable and repaired:
            yield Finding("note", "data", evidence, f"mended: {remedy}")
        elif is_mendable:
            yield Finding("error", "data", evidence, f"--repair would {remedy}")
        else:
            yield Finding("error", "data", evidence, remedy)
    if seen.strangers:
        some = ", ".join(sorted(seen.strangers)[: consistency.EXAMPLES])
        yield Finding("note", "data", f"keys under our prefix that are not ours, {len(seen.strangers)}: {some}",
                      "delete them, if nobody else needs them")  # fmt: skip


def _jobs(number: int) -> str:
    least = "at least " if number == consistency.MAX_EXAMPLES else ""
    return f"{least}{number:,} job{'' if number == 1 else 's'}:"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
