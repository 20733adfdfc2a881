"""One worker's side of the queue: register, start jobs, renew leases, report outcomes.

Made by `RedisStreamsQueue.session`, used by the worker. Every call presents the lease's owner (worker
id and instance id) and the fence; the scripts refuse callers that do not own the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from aragora_q import codec, tracing
from aragora_q.base import MAX_ERROR_CHARS, Job, JobStatus
from aragora_q.changes import actor_name
from aragora_q.config import QueueConfig
from aragora_q.contracts import (
    MAX_PUT_OFF_SECONDS,
    MAX_STARTS,
    RENEWALS_PER_LEASE,
    AskedAgent,
    Completed,
    Failed,
    FetchResult,
    Held,
    Identity,
    Lease,
    LeaseRenewer,
    Released,
    RenewalResult,
    Report,
    ReportResult,
    Retry,
    WorkerSession,
)
from aragora_q.errors import LeaseLost, PermanentError, UnsupportedServer
from aragora_q.labels import decode_labels
from aragora_q.money import cost_micros
from aragora_q.redis.connection import Connection, Item
from aragora_q.redis.options import COMMAND_TIMEOUT_SECONDS
from aragora_q.redis.scripts import BATCH_LIMIT, Value, batched
from aragora_q.status import decode_checkpoints

MAX_DEFERRALS = 50
MAX_DEFERRAL_SECONDS = 6 * 3600
"""Bounds of *retry later* per job; beyond either, the attempt is charged."""

MAX_PROGRESS_BYTES = 4_096
MAX_JOURNAL_BYTES = 4 * 1024 * 1024
MAX_CHECKPOINTS = 10_000
"""Bounds of a job's checkpoints; Redis needs about 100 bytes for each beyond its name and value."""

START_BYTES = 32 * 1024 * 1024
"""A call starts no further jobs once their payloads have this size: they come in one reply."""

MAX_CLOSED_AGENTS = 20
"""Names that a start looks for in payloads, at most. Jobs of others are put off by their first call."""

RECORD_TTL_MS = 86_400_000
"""How long a dead worker's record is kept for operators."""


class RedisWorkerSession(WorkerSession):
    """The queue as one worker uses it."""

    def __init__(
        self, connection: Connection, config: QueueConfig, identity: Identity, lease_ms: int
    ) -> None:
        self.identity = identity
        self.lease_ms = lease_ms
        self._connection = connection
        self._keys = connection.keys
        self._worker_key = {"worker": connection.keys.worker(identity.worker_id)}
        self._config = config

    async def register(self, info: Mapping[str, str], *, dead_instance_id: str = "") -> float:
        result, *details = await self._connection.run(
            "register",
            keys=self._worker_key,
            worker_prefix=self._keys.worker(""),
            worker_id=self.identity.worker_id,
            instance_id=self.identity.instance_id,
            lease_ms=self.lease_ms,
            record_ttl_ms=RECORD_TTL_MS,
            dead_instance_id=dead_instance_id,
            info=codec.encode(dict(info)),
        )
        if result == b"newer":
            raise UnsupportedServer(
                f"queue {self._config.queue} at {self._connection.address} has schema "
                f"{details[0]}, newer than this version of aragora-q understands",
                hint="upgrade this worker",
            )
        return details[0] / 1000 if result == b"taken" else 0.0

    async def registered_instance(self) -> dict[str, str]:
        record = await self._connection.execute("HGETALL", self._worker_key["worker"])
        return {name.decode(): value.decode() for name, value in record.items()}

    async def start(
        self,
        limit: int,
        *,
        first_lane: str = "high",
        closed_agents: Mapping[AskedAgent, float] = MappingProxyType({}),
    ) -> FetchResult:
        args = self._start_args(limit, first_lane, closed_agents)
        return self._fetched(await self._connection.run("start", (), keys=self._worker_key, **args))

    async def start_next(self, timeout_seconds: float, *, first_lane: str = "high") -> FetchResult:
        args = self._start_args(1, first_lane, {})
        return self._fetched(
            await self._connection.run_after_pop(
                self._keys.bell, timeout_seconds, "start", keys=self._worker_key, **args
            )
        )

    def _start_args(
        self, limit: int, first_lane: str, closed_agents: Mapping[AskedAgent, float]
    ) -> dict[str, Value]:
        closed_ms: dict[str, dict[str, int]] = {}
        for (name, tier), seconds in islice(closed_agents.items(), MAX_CLOSED_AGENTS):
            ms = max(1, round(min(seconds, MAX_PUT_OFF_SECONDS) * 1000))
            closed_ms.setdefault(name, {})[tier] = ms
        return {
            "closed": codec.encode(closed_ms) if closed_ms else b"",
            "job_prefix": self._keys.job_prefix,
            "worker_id": self.identity.worker_id,
            "lease_owner": self.identity.lease_owner,
            "instance_id": self.identity.instance_id,
            "lease_ms": self.lease_ms,
            "limit": min(limit, MAX_STARTS),
            "max_bytes": START_BYTES,
            "first_lane": first_lane,
            "max_attempts": self._config.retry_max_attempts,
            "max_crashes": self._config.max_crashes,
            "retention_ms": self._config.retention_ms,
        }

    def _fetched(self, reply: list[Any]) -> FetchResult:
        state, put_off, now_ms, *texts = reply
        rows = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        jobs = [_started(*row, self.identity.worker_id, now_ms) for row in rows]
        return FetchResult(state.decode(), jobs, put_off)

    async def wait_for_work(self, timeout_seconds: float) -> None:
        await self._connection.pop_blocking(self._keys.bell, timeout_seconds)

    async def report(self, reports: Sequence[Report]) -> list[ReportResult]:
        by_script: dict[str, list[tuple[int, Item]]] = {}
        for position, report in enumerate(reports):
            script, fields = _report_fields(report)
            item = self._keys.job(report.job.id), (report.job.id, report.job.fence, *fields)
            by_script.setdefault(script, []).append((position, item))
        results: list[ReportResult] = ["lost"] * len(reports)
        for script, placed in by_script.items():
            for batch in batched(placed, weigh=_report_bytes):
                replies = await self._report_batch(script, [item for _, item in batch])
                for (position, _), reply in zip(batch, replies, strict=True):
                    results[position] = reply.decode()
        return results

    async def _report_batch(self, script: str, items: list[Item]) -> list[Any]:
        args: dict[str, Any] = {"lease_owner": self.identity.lease_owner}
        if script in ("complete", "retry", "fail"):
            args["retention_ms"] = self._config.retention_ms
        if script == "retry":
            args["max_deferrals"] = MAX_DEFERRALS
            args["max_deferral_ms"] = MAX_DEFERRAL_SECONDS * 1000
        return await self._connection.run(script, items, **args)  # type: ignore[no-any-return]

    async def release_orphans(
        self, is_known: Callable[[Lease], bool], *, min_idle_seconds: float
    ) -> list[str]:
        released = list[str]()
        for stream in self._keys.streams:
            cursor = "-"
            while cursor:
                cursor, leases = await self._list_leased(stream, cursor, min_idle_seconds)
                if orphans := [lease for lease in leases if not is_known(lease)]:
                    released += await self._release_unread(orphans)
        return released

    async def _list_leased(
        self, stream: str, cursor: str, min_idle_seconds: float
    ) -> tuple[str, list[Lease]]:
        """Return a page of this worker's leases in a lane, and the next page's cursor."""
        next_cursor, *rows = await self._connection.run(
            "list_leased",
            keys={"stream": stream},
            job_prefix=self._keys.job_prefix,
            worker_id=self.identity.worker_id,
            lease_owner=self.identity.lease_owner,
            min_idle_ms=round(min_idle_seconds * 1000),
            after=cursor,
            limit=BATCH_LIMIT,
        )
        return next_cursor.decode(), [(job_id.decode(), int(fence)) for job_id, fence in rows]

    async def _release_unread(self, leases: list[Lease]) -> list[str]:
        released = await self._connection.run(
            "release_orphans",
            [(self._keys.job(job_id), (job_id, fence)) for job_id, fence in leases],
            lease_owner=self.identity.lease_owner,
        )
        return [job_id.decode() for job_id in released]

    def lease_renewer(self) -> LeaseRenewer:
        timeout_seconds = min(COMMAND_TIMEOUT_SECONDS, self.lease_ms / 1000 / RENEWALS_PER_LEASE)
        connection = self._connection.for_other_thread(timeout_seconds=timeout_seconds)
        return RedisLeaseRenewer(connection, self.identity, self.lease_ms)

    async def report_progress(self, job: Job, progress: Mapping[str, Any]) -> None:
        text = codec.encode(progress)
        if len(text) > MAX_PROGRESS_BYTES:
            raise ValueError(
                f"progress has {len(text)} bytes, at most {MAX_PROGRESS_BYTES} are allowed"
            )
        await self._write(job, "progress", (text,))

    async def checkpoint(self, job: Job, name: str, value: Mapping[str, Any]) -> None:
        result = await self._write(
            job,
            "checkpoint",
            (name, codec.encode(value)),
            max_bytes=MAX_JOURNAL_BYTES,
            max_checkpoints=MAX_CHECKPOINTS,
        )
        if result == b"too_many":
            raise PermanentError(
                f"job {job.id}: more than {MAX_CHECKPOINTS} checkpoints with {name!r:.100}"
            )
        if result == b"full":
            raise PermanentError(
                f"job {job.id}: checkpoints exceed {MAX_JOURNAL_BYTES} bytes with {name!r:.100}"
            )

    async def note_trace(self, job: Job, trace: str) -> None:
        await self._write(job, "note_trace", (trace,))

    async def _write(self, job: Job, script: str, fields: tuple[Any, ...], **args: Any) -> bytes:
        item = self._keys.job(job.id), (job.id, job.fence, *fields)
        [word] = await self._connection.run(
            script, [item], lease_owner=self.identity.lease_owner, **args
        )
        if word == b"lost":
            raise LeaseLost(f"job {job.id}: the lease with fence {job.fence} is lost")
        return bytes(word)

    async def checkpoints(self, job: Job) -> dict[str, dict[str, Any]]:
        journal = await self._connection.execute("HGETALL", self._keys.journal(job.id))
        return decode_checkpoints(job.id, journal)

    async def unregister(self) -> None:
        await self._connection.run(
            "unregister",
            [(None, (self.identity.worker_id, self.identity.instance_id))],
            worker_prefix=self._keys.worker(""),
            default_lease_ms=self.lease_ms,
            silent_leases=0,
        )


class RedisLeaseRenewer:
    """Heartbeats and renewals over a connection of the lease keeper's thread."""

    def __init__(self, connection: Connection, identity: Identity, lease_ms: int) -> None:
        self._connection = connection
        self._identity = identity
        self._lease_ms = lease_ms

    async def renew(
        self,
        leases: Sequence[Lease],
        *,
        starting_seconds: float | None = None,
        loop_lag_seconds: float = 0.0,
    ) -> RenewalResult:
        """As `LeaseRenewer.renew`. The heartbeat is sent even when nothing is leased."""
        keys, identity = self._connection.keys, self._identity
        state, lost = b"ok", dict[str, Any]()
        starting_ms = -1 if starting_seconds is None else round(starting_seconds * 1000)
        for first in range(0, max(1, len(leases)), BATCH_LIMIT):
            batch = leases[first : first + BATCH_LIMIT]
            is_last = first + BATCH_LIMIT >= len(leases)  # by then, what is still idle is unknown
            state, *replies = await self._connection.run(
                "renew",
                [(keys.job(job_id), (job_id, fence)) for job_id, fence in batch],
                keys={"worker": keys.worker(identity.worker_id)},
                job_prefix=keys.job_prefix,
                worker_prefix=keys.worker(""),
                worker_id=identity.worker_id,
                lease_owner=identity.lease_owner,
                instance_id=identity.instance_id,
                lease_ms=self._lease_ms,
                running=" ".join(job_id for job_id, _ in leases[:BATCH_LIMIT]),
                record_ttl_ms=RECORD_TTL_MS,
                starting_ms=starting_ms if is_last else -1,
                loop_lag_ms=round(loop_lag_seconds * 1000),
            )
            for (job_id, _), reply in zip(batch, replies, strict=False):
                if reply != b"owned":
                    lost[job_id] = reply.decode()
        return RenewalResult(state.decode(), lost)  # type: ignore[arg-type]

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


def _started(job_id: bytes, payload: bytes, details: bytes, worker_id: str, now_ms: int) -> Job:
    *numbers, texts = details.split(b" ", 9)
    (
        fence,
        attempts,
        max_attempts,
        crashes,
        created_ms,
        priority,
        added_ms,
        restarts,
        trace_bytes,
    ) = map(int, numbers)
    trace, labels = texts[:trace_bytes], texts[trace_bytes:]
    return Job(
        {},  # decoded by the attempt, which reports a malformed one
        job_id.decode(),
        priority,
        max_attempts,
        status=JobStatus.PROCESSING,
        attempts=attempts,
        crashes=crashes,
        fence=fence,
        worker_id=worker_id,
        created_at=created_ms / 1000,
        started_at=now_ms / 1000,
        waited_seconds=max(0, now_ms - added_ms) / 1000,  # its entry's id may be ahead of the clock
        trace=tracing.carried(trace.decode(errors="replace")) if trace else "",
        is_restart=restarts == 1,
        raw_payload=payload,
        **(decode_labels(labels) if labels else {}),
    )


def _report_bytes(placed: tuple[int, Item]) -> int:
    _, (_, fields) = placed
    return sum([len(value) for value in fields if isinstance(value, bytes)])


def _report_fields(report: Report) -> tuple[str, tuple[Any, ...]]:
    """Return the script that records an outcome, and its fields after job id and fence."""
    payload = report.job.raw_payload
    match report.outcome:
        case Completed(result):
            return "complete", (b"\n".join((payload, result)),)
        case Retry(error, delay_seconds, charged, is_gated):
            delay_ms = max(0, round(delay_seconds * 1000))
            charge = "gate" if is_gated else int(charged)
            return "retry", (payload, delay_ms, charge, error[:MAX_ERROR_CHARS])
        case Failed(error, result):
            return "fail", (payload, error[:MAX_ERROR_CHARS], result or b"")
        case Released():
            return "release", (payload,)
        case Held(cause, reason, by, until_seconds, usd):
            until_ms = "" if until_seconds is None else max(0, round(until_seconds * 1000))
            micros = "" if usd is None else cost_micros(usd)
            fields = cause, actor_name(by), reason[:MAX_ERROR_CHARS], until_ms, micros
            return "suspend", (payload, *fields)
