"""`RedisStreamsQueue`: the queue on Redis Streams, for clients and caretakers.

Every change of a job is one script, in batches; every read goes to the status tracker. A worker's
side of the queue is `session.py`. Used by the command line, the worker and library users.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aragora_q import codec as wire
from aragora_q.base import WORKER_ID_PATTERN, EnqueueResult, Job, JobStatus
from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.contracts import Identity, PromotionResult, ReclaimResult, WorkerSession, WorkQueue
from aragora_q.errors import InvalidPayload, JobNotFound, NotDurable, QueueFull
from aragora_q.job import check_job
from aragora_q.redis.connection import FAILOVER_SECONDS, Connection
from aragora_q.redis.scripts import BATCH_LIMIT, batched
from aragora_q.redis.server import check_durability, check_server
from aragora_q.status import JobStatusTracker
from aragora_q.streams import listing
from aragora_q.streams.session import RedisWorkerSession

DEAD_WORKER_LEASES = 3
"""A worker silent for this many leases is forgotten; its jobs were reclaimed after one."""

EnqueueItem = tuple[str, tuple[str, bytes, int, int, int]]
"""What `enqueue.lua` takes of a job: its key; id, payload, priority, delay in ms, attempts."""

REAPER = "reaper"
"""Consumer that a cron pass takes entries over with; deleted again when it is empty."""


class RedisStreamsQueue(WorkQueue):
    """One queue on one Redis, Valkey or cluster. Safe to share among tasks of an event loop."""

    def __init__(
        self, config: QueueConfig | None = None, *, consumer_name: str | None = None
    ) -> None:
        self.config = config or get_queue_config()
        self.consumer_name = consumer_name or default_worker_id()
        self.connection = Connection(self.config)
        self.tracker = JobStatusTracker(self.connection)
        self._durability_is_checked = False
        self._keys = self.connection.keys

    async def enqueue(self, job: Job) -> str:
        [enqueued] = await self._enqueue_batch([self._enqueue_item(job)])
        if not enqueued.durable:
            raise NotDurable(job.id, self.config.durability)
        return job.id

    async def enqueue_many(self, jobs: Sequence[Job]) -> list[EnqueueResult]:
        enqueued: list[EnqueueResult] = []
        sending: asyncio.Task[list[EnqueueResult]] | None = None
        try:
            for batch in batched(map(self._enqueue_item, jobs), weigh=_payload_bytes):
                if sending is not None:
                    enqueued += await sending
                sending = asyncio.create_task(self._enqueue_batch(batch))
                await asyncio.sleep(0)  # off it goes: the server takes it while the next is encoded
        finally:
            if sending is not None:
                enqueued += await sending
        return enqueued

    async def _enqueue_batch(self, items: Sequence[EnqueueItem]) -> list[EnqueueResult]:
        if self.config.durability != "none" and not self._durability_is_checked:
            facts = await check_server(self.connection)
            check_durability(facts, self.connection, self.config.durability)
            self._durability_is_checked = True
        words, durable = await self.connection.run_with_durability(
            "enqueue", items, self.config.durability, max_backlog=self.config.max_backlog
        )
        if b"full" in words:
            raise QueueFull(
                f"queue {self.config.queue} holds its limit of {self.config.max_backlog} waiting jobs; "
                f"{words.count(b'full')} of {len(words)} were not enqueued",
                hint="add workers, wait, or raise max_backlog",
            )
        if b"refused" in words:
            job_id = items[words.index(b"refused")][1][0]
            raise InvalidPayload(
                f"job {job_id}: refused by the queue itself: id, payload or a number is out of bounds"
            )
        return [
            EnqueueResult(job_id, created=word == b"created", durable=durable)
            for (_, (job_id, *_)), word in zip(items, words, strict=True)
        ]

    def check(self, job: Job) -> None:
        """Raise InvalidPayload for whatever `enqueue` would refuse of `job` itself; nothing is sent."""
        _, (_, payload, *_) = self._enqueue_item(job)
        job.raw_payload = payload  # need not be encoded again

    def _enqueue_item(self, job: Job) -> EnqueueItem:
        check_job(job)
        payload = job.raw_payload or _encode_payload(job)
        if len(payload) > self.config.max_payload_bytes:
            raise InvalidPayload(
                f"job {job.id}: payload has {len(payload)} bytes, max_payload_bytes is "
                f"{self.config.max_payload_bytes}",
                hint="pass a reference to the data instead of the data",
            )
        delay_ms = round(job.delay_seconds * 1000)
        attempts = job.max_attempts or self.config.retry_max_attempts
        return self._keys.job(job.id), (job.id, payload, job.priority, delay_ms, attempts)

    async def get_status(self, job_id: str) -> JobStatus | None:
        return await self.tracker.get_status(job_id)

    async def get_job(self, job_id: str) -> Job | None:
        return await self.tracker.get_job(job_id)

    async def get_queue_stats(self) -> dict[str, Any]:
        return await self.tracker.queue_stats()

    async def cancel(self, job_id: str) -> bool:
        [word] = await self.connection.run(
            "cancel",
            [(self._keys.job(job_id), (job_id,))],
            retention_ms=self.config.retention_ms,
        )
        if word == b"unknown":
            raise JobNotFound(job_id, self.config.queue)
        return bool(word == b"cancelled")

    async def requeue(self, job_ids: Sequence[str]) -> list[str]:
        """Give failed and cancelled jobs a new life. One word each: `requeued`, `unknown`,
        `malformed` (a dead letter that never was a job), or the status the job has instead.
        """
        words: list[str] = []
        for batch in batched(job_ids):
            items = [(self._keys.job(job_id), (job_id,)) for job_id in batch]
            words += [word.decode() for word in await self.connection.run("requeue", items)]
        return words

    async def recent_ids(self, limit: int) -> list[str]:
        """Ids of the newest jobs of any status: `limit` at most of each place where jobs are."""
        return await listing.recent_ids(self.connection, limit)

    def job_ids(self, status: JobStatus) -> AsyncIterator[str]:
        """Ids of the jobs that have `status`, newest first."""
        return listing.job_ids(self.connection, status)

    async def pause(self, *, paused: bool = True) -> bool:
        """Let no job start until `pause(paused=False)`; running ones go on. False: it was so already."""
        return bool(await self.connection.run("pause", paused=int(paused)) == b"changed")

    async def events(self, after: str | None = None) -> AsyncIterator[dict[str, str]]:
        """The queue's transitions as they happen, without end; each event names its `id` to resume after."""
        key = self._keys.events
        if after is None:
            newest = await self.connection.execute("XREVRANGE", key, "+", "-", "COUNT", 1)
            after = newest[0][0].decode() if newest else "0-0"
        while True:
            reply = await self.connection.read_blocking(
                {key: after}, float("inf"), count=BATCH_LIMIT
            )
            for entry_id, fields in reply.get(key, ()):
                after = entry_id
                yield {"id": entry_id, **fields}

    def session(self, identity: Identity, *, lease_seconds: float | None = None) -> WorkerSession:
        if not WORKER_ID_PATTERN.fullmatch(identity.worker_id):
            raise InvalidPayload(
                f"worker id {identity.worker_id!r:.100} is not 1 to 48 of letters, digits and ._-, "
                "a letter or digit first"
            )
        lease_ms = (
            self.config.claim_idle_ms if lease_seconds is None else round(lease_seconds * 1000)
        )
        return RedisWorkerSession(self.connection, identity, lease_ms)

    async def promote(self) -> PromotionResult:
        moved, next_due_ms = await self.connection.run(
            "promote",
            job_prefix=self._keys.job_prefix,
            retention_ms=self.config.retention_ms,
            limit=BATCH_LIMIT,
        )
        return PromotionResult(moved, next_due_ms / 1000 if next_due_ms >= 0 else None)

    async def reclaim(
        self, reclaimer: str = REAPER, *, dry_run: bool = False, deadline: float | None = None
    ) -> list[ReclaimResult]:
        return [
            found
            for stream in self._keys.streams
            async for found in self._reclaim_lane(
                stream, reclaimer, dry_run=dry_run, deadline=deadline or math.inf
            )
        ]

    async def _reclaim_lane(
        self,
        stream: str,
        reclaimer: str,
        *,
        dry_run: bool,
        deadline: float,
    ) -> AsyncIterator[ReclaimResult]:
        cursor = "-"
        while cursor and time.monotonic() < deadline:
            _, next_cursor, *rows = await self.connection.run(
                "reclaim",
                keys={"stream": stream},
                job_prefix=self._keys.job_prefix,
                worker_prefix=self._keys.worker(""),
                reclaimer=reclaimer,
                claim_idle_ms=self.config.claim_idle_ms,
                max_crashes=self.config.max_crashes,
                retention_ms=self.config.retention_ms,
                limit=BATCH_LIMIT,
                cursor=cursor,
                dry_run=int(dry_run),
            )
            for job_id, decision, owner, idle_ms, crashes in rows:
                yield ReclaimResult(
                    job_id.decode(errors="replace"),
                    decision.decode(),
                    owner.decode(),
                    idle_ms / 1000,
                    crashes,
                )
            cursor = next_cursor.decode()

    async def purge(
        self, status: JobStatus, *, older_than_seconds: float | None = None, dry_run: bool = False
    ) -> tuple[int, bool]:
        older_than_ms = (
            self.config.retention_ms
            if older_than_seconds is None
            else round(older_than_seconds * 1000)
        )
        deleted, more = await self.connection.run(
            "purge",
            keys={"index": getattr(self._keys, status.value)},
            job_prefix=self._keys.job_prefix,
            status=status.value,
            older_than_ms=older_than_ms,
            limit=BATCH_LIMIT,
            dry_run=int(dry_run),
        )
        return deleted, bool(more)

    @asynccontextmanager
    async def single_flight(self, ttl_seconds: float) -> AsyncIterator[bool]:
        """Be the only cron pass at work: gives False if another one is. The lock ends by itself."""
        token = secrets.token_hex(8)

        async def ask(action: str) -> bool:
            word = await self.connection.run(
                "maintenance_lock", action=action, token=token, ttl_ms=round(ttl_seconds * 1000)
            )
            return bool(word == b"ok")

        if not await ask("begin"):
            yield False
            return
        try:
            yield True
        except BaseException:
            await ask("abandon")
            raise
        await ask("end")

    async def remove_dead_workers(self) -> int:
        named = await self.tracker.consumers() | await self.tracker.worker_ids()
        deleted = 0
        for batch in batched(sorted(named)):
            deleted += await self.connection.run(
                "unregister",
                [(None, (name, "")) for name in batch],
                worker_prefix=self._keys.worker(""),
                default_lease_ms=self.config.claim_idle_ms,
                silent_leases=DEAD_WORKER_LEASES,
            )
        return deleted

    async def close(self) -> None:
        await self.connection.close()


async def create_redis_queue(
    config: QueueConfig | None = None, *, consumer_name: str | None = None
) -> RedisStreamsQueue:
    """A queue on the configured server, which has answered and is new enough.

    Raises ConfigError, UnsupportedServer, RedisUnreachable, AccessDenied, TryAgain. Close it with
    `await queue.close()`.
    """
    queue = RedisStreamsQueue(config, consumer_name=consumer_name)
    queue.connection.failover_seconds = FAILOVER_SECONDS
    try:
        await check_server(queue.connection)
    except BaseException:
        await queue.close()
        raise
    return queue


def default_worker_id() -> str:
    """`host-pid-xxxx`: tells workers apart that nobody named."""
    host = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname()
    )
    return f"{host[:30].strip('._-') or 'host'}-{os.getpid()}-{secrets.token_hex(2)}"


def _payload_bytes(item: EnqueueItem) -> int:
    return len(item[1][1])


def _encode_payload(job: Job) -> bytes:
    try:
        return wire.encode(job.payload)
    except ValueError as error:
        raise InvalidPayload(f"job {job.id}: payload is not JSON: {error}") from None
