"""Check the server, the settings, the host, the workers and the data of a queue.

Each check returns findings and changes nothing. Used by `aragora-q doctor`, which prints them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import ENVIRONMENT_NAMES, SECRET_FILES, SECRETS, read_sources
from aragora_q.doctor.gates import MAX_CALLS, differences
from aragora_q.doctor.report import (
    EXAMPLES,
    MAX_EXAMPLES,
    PROBLEMS,
    Finding,
    IntegrityReport,
    Severity,
)
from aragora_q.doctor.schedules import of_schedules
from aragora_q.doctor.telemetry import of_telemetry
from aragora_q.doctor.webhooks import of_webhooks
from aragora_q.errors import (
    AccessDenied,
    AragoraQError,
    InvalidPayload,
    UnsupportedServer,
    nearest,
)
from aragora_q.executors.debate.agents import only_model
from aragora_q.formats import count
from aragora_q.gates.book import Book, Declaration
from aragora_q.redis import acl, replies
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.redis.server import ServerInfo, check_durability, check_server
from aragora_q.status import stalled_workers
from aragora_q.streams.queue import RedisStreamsQueue

UNIT_DIRECTORIES = (
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
    Path("/etc/systemd/system"),
)
UNIT = "aragora-q-worker@.service"
PURGE_HOURS = 48

ENDS = ("server", "keys")
"""Checks whose findings end all further checks: of a server that is refused, of keys of another type."""


async def check_all(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Run all checks except that of the data.

    A finding of one of the checks in ENDS ends the checks: the others would fail.

    Raises:
        RedisUnreachable: no server answers.
        AccessDenied: the server refused the credentials.
    """
    for finding in (*_of_host(queue.config), *await asyncio.to_thread(of_telemetry)):
        yield finding
    info = await queue.connection.execute("INFO")
    server = ServerInfo.from_info(info)
    try:
        await check_server(queue.connection)
    except UnsupportedServer as error:
        yield Finding("error", "server", str(error), error.hint)
        return
    keys = [finding async for finding in _of_keys(queue)]
    for finding in (*_of_server(queue.config, server, info), *_of_durability(queue, server), *keys):
        yield finding
    if keys:
        return
    async for finding in _of_sizes(queue):
        yield finding
    async for finding in _of_clock(queue):
        yield finding
    async for finding in _of_rights(queue):
        yield finding
    stats = await queue.get_queue_stats()
    for finding in (
        *_of_fleet(stats),
        *await _of_gates(queue, stats),
        *of_schedules(queue.config, await queue.schedules.read()),
        *await of_webhooks(queue.config, await queue.outbox.read()),
    ):
        yield finding


def _of_host(config: QueueConfig) -> Iterator[Finding]:
    yield from _of_settings(config)
    yield from _of_agents(config)
    yield from _of_environment()
    yield from _of_unit(config)


def _of_server(
    config: QueueConfig, server: ServerInfo, info: Mapping[str, Any]
) -> Iterator[Finding]:
    if server.eviction_policy is None:
        yield Finding(
            "note",
            "eviction",
            "the server does not report its maxmemory-policy",
            "check at its provider that it is noeviction: else jobs may be deleted",
        )
    if server.may_evict:
        severity: Severity = "warning" if config.allow_eviction else "error"
        yield Finding(
            severity,
            "eviction",
            f"maxmemory-policy is {server.eviction_policy}: Redis may delete jobs when memory is full",
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
        )
    if server.has_aof is False:
        yield Finding(
            "warning",
            "persistence",
            "no append-only file: jobs are lost if Redis crashes",
            "CONFIG SET appendonly yes, and in redis.conf",
        )
    for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            yield Finding(
                "error",
                "persistence",
                f"{name} is {info[name]}: Redis cannot write to its disk",
                "free disk space and check the log of Redis",
            )
    if server.used_share > 0.9:
        yield Finding(
            "error",
            "memory",
            f"{server.used_share:.0%} of maxmemory is in use",
            "purge ended jobs, add workers, or raise maxmemory",
        )
    if config.claim_idle_ms < COMMAND_TIMEOUT_SECONDS * 1000:
        yield Finding(
            "warning",
            "lease",
            f"claim_idle_ms is {config.claim_idle_ms}, but a command to "
            f"Redis may take {COMMAND_TIMEOUT_SECONDS:.0f} s: a short stall loses leases",
            "claim_idle_ms = 60000",
        )


def _of_durability(queue: RedisStreamsQueue, server: ServerInfo) -> Iterator[Finding]:
    """Whether the server can confirm enqueues as the settings require."""
    config, replicas = queue.config, server.replicas
    try:
        check_durability(server, queue.connection, config.durability)
    except UnsupportedServer as error:
        yield Finding("error", "durability", str(error), error.hint)
        return
    if config.durability != "replica" or replicas is None:
        return
    needed = config.durability_replicas
    if replicas < needed:
        yield Finding(
            "error",
            "durability",
            f"durability_replicas is {needed}, but the primary has {count(replicas, 'replica')}: no enqueue is "
            "confirmed",
            "start the replicas that are away; a lower durability_replicas confirms less",
        )
    elif replicas > needed:
        yield Finding(
            "note",
            "durability",
            f"the primary has {replicas} replicas, of which {needed} must confirm an enqueue: a failover to "
            "another one may lose it",
            f"durability_replicas = {replicas}",
        )


async def _of_keys(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Find keys that another program wrote where the queue has its own."""
    found: list[tuple[str, str, Any]] = []
    async with queue.connection.open_gates() as gates:
        for connection, types in (
            (queue.connection, queue.connection.keys.types),
            (gates, gates.gate_keys.types),
        ):
            kinds = await connection.execute_all([("TYPE", key) for key in types])
            found += zip(types, types.values(), kinds, strict=True)
    for key, expected, reply in found:
        kind = replies.text(reply)
        if not isinstance(reply, Exception) and kind not in ("none", expected):
            yield Finding(
                "error",
                "keys",
                f"{key} is a {kind}, must be a {expected}: commands that use it fail",
                f"stop what wrote it, then redis-cli RENAME {key} to a name outside the queue",
            )


async def _of_sizes(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Check that the server accepts values as large as the settings allow."""
    for name in ("max_payload_bytes", "max_result_bytes"):
        max_bytes = getattr(queue.config, name)
        if refusal := await queue.connection.size_refusal(max_bytes):
            yield Finding(
                "error",
                "sizes",
                f"{name} is {max_bytes:,}, but {refusal}",
                f"CONFIG SET proto-max-bulk-len {max_bytes}, and in redis.conf, or lower {name}",
            )


async def _of_clock(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    began = time.time()
    seconds, micros = await queue.connection.execute("TIME")
    took = time.time() - began
    offset = int(seconds) + int(micros) / 1e6 - (began + took / 2)
    if abs(offset) > 1 + took:
        yield Finding(
            "warning",
            "clock",
            f"the clock of Redis differs from this host's by {offset:+.1f} s",
            "run NTP on both hosts: leases use the clock of Redis, log lines this host's",
        )
    if took > 0.1:
        yield Finding(
            "warning",
            "latency",
            f"Redis took {took * 1000:.0f} ms to answer TIME",
            "check SLOWLOG, the network, and the load of the server",
        )


async def _of_rights(queue: RedisStreamsQueue) -> AsyncIterator[Finding]:
    """Check which roles the user has the rights for. Uses ACL DRYRUN, which needs an administrator."""
    try:
        user = replies.text(await queue.connection.execute("ACL", "WHOAMI"))
        allowed = {
            command: await _is_allowed(queue, user, command)
            for command in sorted({c for role in acl.ROLES for c in acl.commands(role)})
        }
    except AccessDenied:
        yield Finding(
            "note",
            "rights",
            "this user may not check its own rights",
            "run doctor as an administrator, or compare with aragora-q acl",
        )
        return
    except AragoraQError as error:
        yield Finding("note", "rights", f"rights cannot be checked: {error}")
        return
    for role in acl.ROLES:
        missing = [command for command in acl.commands(role) if not allowed[command]]
        may = [f"to run {', '.join(missing)}"] if missing else []
        may += [
            f"to {command} {key}"
            for command, key, *values in acl.uses_of_gates(role, queue.connection.keys)
            if not await _may_use(queue, user, command, key, *values)
        ]
        if may and role != "operator":
            yield Finding(
                "note",
                "rights",
                f"user {user} cannot be a {role}: not allowed {', nor '.join(may)}",
                f"aragora-q acl {role} prints the rights it needs",
            )


async def _may_use(queue: RedisStreamsQueue, user: str, *use: str) -> bool:
    """Return False if the user may run a command, but not on its key."""
    reply = await queue.connection.execute("ACL", "DRYRUN", user, *use)
    return "no permissions to access" not in replies.text(reply)


async def _is_allowed(queue: RedisStreamsQueue, user: str, command: str) -> bool:
    name = command.upper().split("|")
    known = await queue.connection.execute("COMMAND", "INFO", command)
    arity = abs(known[command]["arity"])
    operands = [queue.connection.keys.control] * (arity - len(name))
    try:
        reply = await queue.connection.execute("ACL", "DRYRUN", user, *name, *operands)
    except AccessDenied:
        raise
    except AragoraQError:
        return True  # the command is allowed; only these dummy operands are wrong
    return "no permissions to run" not in replies.text(reply)


def _of_fleet(stats: Mapping[str, Any]) -> Iterator[Finding]:
    alive = [w for w in stats["workers"] if w["is_alive"]]
    silent = [w for w in stats["workers"] if not w["is_alive"]]
    waiting = sum(stats["waiting"].values())
    jobs = "1 job is" if waiting == 1 else f"{waiting:,} jobs are"
    if waiting and not stats["worker_counts"]["alive"]:
        yield Finding(
            "error",
            "workers",
            f"{jobs} waiting, but no worker is alive",
            "start one: aragora-q worker, or systemctl start 'aragora-q-worker@1'",
        )
    for worker in silent:
        if worker["jobs_leased"]:
            leased = worker["jobs_leased"]
            yield Finding(
                "warning",
                "workers",
                f"worker {worker['worker_id']} has sent no heartbeat for "
                f"{worker['heartbeat_age_seconds']:.0f} s and has leased {leased} "
                f"job{'' if leased == 1 else 's'}",
                "any live worker, or aragora-q reap, reclaims them",
            )
    for worker in stalled_workers(stats):
        yield Finding(
            "warning",
            "workers",
            f"the event loop of worker {worker['worker_id']} did not respond for "
            f"{worker['event_loop_lag_seconds']:.0f} s: its jobs stand still, and no other worker gets them",
            "a job blocks it, perhaps in a call that is not async: see the worker's log; restart the worker",
        )
    versions = {w.get("version", "?") for w in alive}
    if len(versions) > 1:
        yield Finding(
            "note",
            "workers",
            f"workers run different versions: {', '.join(sorted(versions))}",
            "finish the upgrade",
        )
    if stats["paused"]:
        yield Finding(
            "warning", "paused", "the queue is paused: no job starts", "run aragora-q resume"
        )
    purged_at = stats["last_purge_at"]
    ended = stats["completed"] + stats["failed"] + stats["cancelled"]
    if ended and (purged_at is None or stats["now"] - purged_at > PURGE_HOURS * 3_600_000):
        when = "has never run" if purged_at is None else f"has not run for {PURGE_HOURS} h"
        yield Finding(
            "note",
            "purge",
            f"purge {when}; {ended:,} ended job{' is' if ended == 1 else 's are'} kept",
            "workers purge every hour; without workers, run aragora-q purge from cron",
        )


async def _of_gates(queue: RedisStreamsQueue, stats: Mapping[str, Any]) -> list[Finding]:
    """Find budgets, limits of providers and prices that live workers declare differently."""
    async with queue.connection.open_gates() as gates:
        declarations = await Book(gates).declarations()
    declaring = {worker for each in declarations for worker in each.workers}
    alive = {
        f"{queue.config.queue}/{each['worker_id']}" for each in stats["workers"] if each["is_alive"]
    }
    if silent := alive - declaring:  # they may have no prices, and others some
        declarations.append(Declaration(tuple(sorted(silent)), {}, {}, ""))
    remedy = "give all workers the same configuration; until then, the lowest limit counts"
    return [Finding("warning", "gates", text, remedy) for text in differences(declarations)]


def _of_settings(config: QueueConfig) -> Iterator[Finding]:
    layers = read_sources(type(config).model_fields)
    for path in layers.files:
        names = {name for name in SECRETS if layers.settings.get(name)}
        secrets = [n for n in names if layers.settings[n].origin.startswith(f"{path}:")]
        if secrets and path.stat().st_mode & 0o044:
            yield Finding(
                "warning",
                "secrets",
                f"{path} contains {', '.join(secrets)} and is readable by other users",
                f"chmod 600 {path}, or use a credential or REDIS_PASSWORD_FILE",
            )
    for name, agent in config.agents.items():
        if agent.api_key_env and not os.environ.get(agent.api_key_env):
            yield Finding(
                "warning",
                "agents",
                f"the API key of agent {name} ({agent.api_key_env}) is not set on this host",
                "set it on the hosts that run workers",
            )


def _of_agents(config: QueueConfig) -> Iterator[Finding]:
    names = config.default_agents or tuple(config.agents)
    if config.executor != "debate" or not names:
        return
    try:
        model = only_model(names, config)
    except InvalidPayload as error:
        yield Finding("error", "agents", str(error), error.hint)
        return
    if len(config.default_agents) == 1:
        yield Finding(
            "warning",
            "agents",
            f"default_agents is one agent, {names[0]}: it does not debate, but is asked once",
            "name two or more agents",
        )
    elif model is not None:
        which = "default_agents" if config.default_agents else "the configured agents"
        yield Finding(
            "warning",
            "agents",
            f"{which} are one model, {model}: it will agree with itself, also where it is wrong",
            "configure agents of several models",
        )


def _of_environment() -> Iterator[Finding]:
    """Find variables with names similar to a setting's. Unknown `ARAGORA_QUEUE_*` names are refused earlier."""
    known = [*ENVIRONMENT_NAMES.values(), *SECRET_FILES]
    for name in sorted(os.environ):
        is_similar = name.startswith(("REDIS_", "ARAGORA_Q_", "ARAGORA_REDIS_"))
        if not is_similar or name in known:
            continue
        near = nearest(name.replace("ARAGORA_REDIS_", "REDIS_"), known, cutoff=0.8)
        if near or name.startswith("ARAGORA_"):
            yield Finding(
                "warning",
                "environment",
                f"{name} is set, but is not a setting",
                f"did you mean {near}?" if near else "see aragora-q config show",
            )


def _of_unit(config: QueueConfig) -> Iterator[Finding]:
    """Check that systemd does not kill a worker before its drain is over."""
    stop_seconds, where = None, None
    for directory in UNIT_DIRECTORIES:
        unit = directory / UNIT
        for path in (unit, *sorted(unit.with_name(f"{UNIT}.d").glob("*.conf"))):
            try:
                values = re.findall(r"^TimeoutStopSec=(.*)$", path.read_text(), re.MULTILINE)
            except OSError:
                continue
            if values:
                stop_seconds, where = _seconds(values[-1]), path
    if stop_seconds is not None and stop_seconds <= config.drain_timeout_seconds:
        yield Finding(
            "warning",
            "unit",
            f"{where}: TimeoutStopSec is {stop_seconds:.0f} s, but a drain may "
            f"take {config.drain_timeout_seconds:.0f} s",
            "set TimeoutStopSec to drain_timeout_seconds + 30",
        )


def _seconds(text: str) -> float | None:
    """Parse a time span as in systemd.time(7), with the usual units; None for `infinity`."""
    units = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
    spans = re.findall(r"(\d+)\s*([a-z]*)", text.strip())
    return sum(int(n) * units.get(unit, 1) for n, unit in spans) if spans else None


def of_data(report: IntegrityReport, *, repaired: bool) -> Iterator[Finding]:
    """Return the problems of a report as findings. A problem that has been repaired is a note."""
    for code, names in report.problems.items():
        problem = PROBLEMS[code]
        detail = f"{_number(names, problem.of)} {problem.message} ({_examples(names)})"
        if not problem.repairable:
            yield Finding("error", "data", detail, problem.repair)
        elif repaired:
            yield Finding("note", "data", detail, f"repaired: {problem.repair}")
        else:
            yield Finding("error", "data", detail, f"--repair would {problem.repair}")
    if report.busy_groups:
        yield Finding(
            "note",
            "data",
            f"{_number(report.busy_groups, 'group')} changed while its jobs were counted "
            f"({_examples(report.busy_groups)})",
            "run doctor again when fewer of its jobs start and end",
        )
    if report.uncompared_counters:
        yield Finding(
            "note",
            "data",
            f"more than {MAX_CALLS:,} calls are under way: their reservations were not checked",
            "run doctor again when fewer calls are under way",
        )
    if report.foreign_keys:
        some = ", ".join(sorted(report.foreign_keys)[:EXAMPLES])
        yield Finding(
            "note",
            "data",
            f"{len(report.foreign_keys)} keys under the queue's or the gates' prefix do not belong there: "
            f"{some}",
            "delete them if no other program needs them",
        )


def _examples(names: Collection[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(sorted(names)[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


def _number(names: Collection[str], of: str) -> str:
    at_least = "at least " if len(names) == MAX_EXAMPLES else ""
    return f"{at_least}{len(names):,} {of}{'' if len(names) == 1 else 's'}:"
