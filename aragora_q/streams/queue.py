"""`RedisStreamsQueue`: the queue on Redis Streams, for clients and maintenance.

Every change of a job is one script, called in batches; every read goes to the status tracker. A worker's
part of the queue is `session.py`. Used by the command line, the worker and library users.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import (
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aragora_q import codec, tracing
from aragora_q.base import (
    HOLD_CAUSES,
    LIVE,
    MAX_ERROR_CHARS,
    WORKER_ID_PATTERN,
    EnqueueResult,
    Group,
    HoldCause,
    Job,
    JobStatus,
    QueueStats,
)
from aragora_q.changes import Change, actor, read_changes
from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.errors import (
    AragoraQError,
    GroupNotFound,
    GroupSealed,
    InvalidPayload,
    JobNotFound,
    NotDurable,
    QueueFull,
    did_you_mean,
)
from aragora_q.finishing import finish
from aragora_q.job_rules import check_job, check_phase, forked_from
from aragora_q.labels import JobFilter, check_notify, decode_labels, encode_labels
from aragora_q.loose import json_object
from aragora_q.money import MICROS
from aragora_q.redis import replies
from aragora_q.redis.connection import FAILOVER_SECONDS, Connection, Durability
from aragora_q.redis.keys import MAX_CHANGES
from aragora_q.redis.scripts import BATCH_LIMIT, Value, batched
from aragora_q.redis.server import check_durability, check_server
from aragora_q.status import JobStatusTracker
from aragora_q.streams import finding
from aragora_q.work_queue import WorkQueue

if TYPE_CHECKING:
    from aragora_q.contracts import (
        HeldJob,
        HeldPage,
        Identity,
        MaintenanceClaim,
        PromotionResult,
        PurgeResult,
        ReclaimResult,
        WorkerSession,
    )
    from aragora_q.gates.client import RedisGates
    from aragora_q.history import CallHistory
    from aragora_q.streams.outbox import RedisOutbox
    from aragora_q.streams.schedules import RedisSchedules

DEAD_WORKER_LEASES = 3
"""A worker without a heartbeat for this many leases is removed; its jobs were reclaimed after one."""

SPEND_SECONDS = 1.0
"""How long a sample waits for the gates, which may be on another server, to read what was spent."""

REAPER = "reaper"
"""Consumer that a cron pass claims entries with; deleted again when it is empty."""


class EnqueueFields(NamedTuple):
    """What `enqueue.lua` takes of a job, in its order."""

    id: str
    payload: bytes
    terms: str
    """Priority, delay in ms and attempts."""
    labels: str
    extras: bytes
    """JSON of what few jobs have, and a job that follows a group cannot; empty: nothing. `hold`: why it is held
    until someone approves it. `agents`: what its experiment records of it: a digest of its agents, a space, and
    JSON that says what they are. `source`: the job whose finished calls it may take over. `tick`: the time of a
    schedule that it is enqueued for, as JSON."""


EnqueueItem = tuple[str, EnqueueFields]
"""One item of an `enqueue.lua` call: the key of the job's hash, and the job's fields."""

EnqueueOutcome = EnqueueResult | InvalidPayload
"""Of one job: that it is in the queue, or why it was refused."""


class RedisStreamsQueue(WorkQueue):
    """One queue on one Redis or Valkey server or cluster.

    Nothing is sent before the first call, so a wrong address raises RedisUnreachable only then;
    `create_redis_queue` checks the server first. All tasks of one event loop may share a queue. Close it
    with `close`.

    `config` defaults to `get_queue_config()`. `consumer_name` is the worker id of workers that are not
    given one; it defaults to `host-pid-<4 hex digits>`. `connection` replaces the one to `config.redis_url`;
    the queue closes it.

    Example:
        >>> import asyncio
        >>> from aragora_q import Job, QueueConfig, RedisStreamsQueue
        >>> async def main() -> None:
        ...     queue = RedisStreamsQueue(QueueConfig(queue="examples"))
        ...     results = await queue.enqueue_many([Job({"n": n}) for n in range(3)])
        ...     print([result.created for result in results])
        ...     print(await queue.cancel(results[0].id))
        ...     await queue.close()
        >>> asyncio.run(main())
        [True, True, True]
        True
    """

    def __init__(
        self,
        config: QueueConfig | None = None,
        *,
        consumer_name: str | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.config = config or get_queue_config()
        self.consumer_name = consumer_name or default_worker_id()
        self.connection = connection or Connection(self.config)
        self.before_close = set()
        self._closing: asyncio.Task[None] | None = None
        self.tracker = JobStatusTracker(self.connection)
        """Reads jobs, statuses and history."""
        self._durability_is_checked = False
        self._span_attributes = {
            "messaging.system": "aragora_q",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": self.config.queue,
        }
        self._keys = self.connection.keys

    @cached_property
    def schedules(self) -> RedisSchedules:  # type: ignore[override] # it is never set
        """What has become of the times of schedules."""
        from aragora_q.streams.schedules import RedisSchedules

        return RedisSchedules(self.connection, self.check, self._send, _refusal)

    @cached_property
    def outbox(self) -> RedisOutbox:  # type: ignore[override] # likewise
        """Messages for webhooks."""
        from aragora_q.streams.outbox import RedisOutbox

        return RedisOutbox(self.connection)

    async def may_write(self) -> bool:
        """Return True if the Redis user of this queue may change it."""
        return bool(await self.connection.run("may_write"))

    async def enqueue(self, job: Job) -> str:
        [result] = await self._enqueue_batch([self.check(job)])
        if isinstance(result, InvalidPayload):
            raise result
        if not result.durable:
            raise NotDurable(job.id, self.config.durability)
        return job.id

    async def enqueue_many(self, jobs: Iterable[Job], *, hold: str = "") -> list[EnqueueResult]:
        """As `JobQueue.enqueue_many`. With `hold`, the reason, jobs are held until someone approves them."""
        taken = itertools.count()
        items = (self.check(job, hold=hold) for job, _ in zip(jobs, taken, strict=False))
        try:
            first = list(itertools.islice(items, 2))
            in_trace = len(first) == 1 or bool(tracing.current())
            outcomes = await self._enqueue_batches(itertools.chain(first, items), in_trace=in_trace)
        except AragoraQError as error:
            count = len(jobs) if isinstance(jobs, Sized) else next(taken)
            error.results = _without_refusals(_padded(error.results, count))
            raise
        for outcome in outcomes:
            if isinstance(outcome, InvalidPayload):
                outcome.results = _without_refusals(outcomes)
                raise outcome
        return cast("list[EnqueueResult]", outcomes)

    async def enqueue_checked(
        self, items: Sequence[EnqueueItem], *, is_whole: bool = False
    ) -> list[EnqueueOutcome]:
        """As `enqueue_many`, of what `check` returned, so that nothing is encoded twice.

        Without `is_whole`, the items may be a part of many jobs, such as lines of a file: no job carries a
        trace unless the caller has one. If a job is refused, for example because its group is sealed, its
        error is returned in its place, also in the `results` of an error that ends the call.
        """
        try:
            # The current span may be that of a request, which this program made; the caller's is in `received`.
            in_trace = (is_whole and len(items) == 1) or bool(tracing.received.get())
            return await self._enqueue_batches(items, in_trace=in_trace)
        except AragoraQError as error:
            error.results = _padded(error.results, len(items))
            raise

    async def _enqueue_batches(
        self, items: Iterable[EnqueueItem], *, in_trace: bool
    ) -> list[EnqueueOutcome]:
        """Enqueue jobs. An error has the results of those that were sent, or of fewer."""
        results: list[EnqueueOutcome] = []
        sending: asyncio.Task[list[EnqueueOutcome]] | None = None
        try:
            try:
                for batch in batched(items, weigh=_payload_bytes):
                    if sending is not None:
                        results += await sending
                    sending = asyncio.create_task(self._enqueue_batch(batch, in_trace=in_trace))
                    # Let the task send, so that the server works while the next batch is encoded.
                    await asyncio.sleep(0)
            finally:
                if sending is not None:
                    results += await sending
        except AragoraQError as error:
            error.results = cast("list[EnqueueResult | None]", [*results, *error.results])
            raise
        return results

    async def _enqueue_batch(
        self, items: Sequence[EnqueueItem], *, in_trace: bool = True
    ) -> list[EnqueueOutcome]:
        statuses, durable = await self._send(items, self.config.durability, in_trace=in_trace)
        outcomes = [
            EnqueueResult(fields.id, status == b"created", durable)
            if status in (b"created", b"exists")
            else _refusal(fields, status)
            for (_, fields), status in zip(items, statuses, strict=True)
        ]
        if b"full" in statuses:
            refused = f"{statuses.count(b'full')} of {len(statuses)}"
            error = QueueFull(self.config.queue, self.config.max_backlog, refused)
            error.results = cast(
                "list[EnqueueResult | None]",
                [
                    None if status == b"full" else outcome
                    for status, outcome in zip(statuses, outcomes, strict=True)
                ],
            )
            raise error
        return outcomes

    async def _send(
        self,
        items: Sequence[EnqueueItem],
        durability: Durability = "none",
        *,
        in_trace: bool = True,
    ) -> tuple[list[bytes], bool]:
        """Send jobs in a span; return the script's answer for each, and whether the write is confirmed.

        With `in_trace`, the jobs carry the context of the span. Without, each begins its own trace when it
        starts, so that a sampler decides about each of them, not about all at once.
        """
        config, connection, durable = self.config, self.connection, True
        with self._span() as span:
            if span.is_sampled:
                span.set(_message_attributes(items))
            trace = tracing.current() if in_trace else ""
            if durability == "none":
                statuses = await connection.run(
                    "enqueue", items, max_backlog=config.max_backlog, trace=trace
                )
            else:
                if not self._durability_is_checked:
                    server = await check_server(connection)
                    check_durability(server, connection, durability)
                    self._durability_is_checked = True
                statuses, durable = await connection.run_with_durability(
                    "enqueue", items, durability, max_backlog=config.max_backlog, trace=trace
                )
            if span.is_sampled:
                _note_results(span, statuses)
        return statuses, durable

    def _span(self) -> AbstractContextManager[tracing.Span]:
        """Return the span of an enqueue."""
        return tracing.span(f"enqueue {self.config.queue}", "producer", self._span_attributes)

    def check(self, job: Job, *, hold: str = "", agents: str = "", tick: str = "") -> EnqueueItem:
        """Return `job` as `enqueue` would send it now; nothing is sent.

        `hold` is why it is to be held, from the start, until someone approves it with `unhold`. `agents` is
        what the experiment that is the job's group records of it; see `recorded_agents`. `tick` is the time of
        a schedule, as JSON.

        Raises:
            InvalidPayload: the job breaks a rule, names a webhook that is not in the configuration, or its
                payload is larger than `max_payload_bytes`.
        """
        check_job(job)
        if job.notify:
            self._check_notify(f"job {job.id}", job.notify)
        try:
            payload = codec.encode(job.payload)
        except ValueError as error:
            raise InvalidPayload(f"job {job.id}: payload is not JSON: {error}") from None
        if len(payload) > self.config.max_payload_bytes:
            raise InvalidPayload(
                f"job {job.id}: payload has {len(payload)} bytes, max_payload_bytes is "
                f"{self.config.max_payload_bytes}",
                hint="pass a reference to the data instead of the data",
            )
        delay_ms = round(job.delay_seconds * 1000) if job.delay_seconds else 0
        max_attempts = job.max_attempts or self.config.retry_max_attempts
        terms = f"{job.priority} {delay_ms} {max_attempts}"
        source, extras = forked_from(job.payload), b""
        if hold or agents or source or tick:
            reason = hold[:MAX_ERROR_CHARS].encode(errors="replace")
            each = {"hold": reason, "agents": agents, "source": source, "tick": tick}
            extras = codec.encode({name: value for name, value in each.items() if value})
        fields = EnqueueFields(job.id, payload, terms, encode_labels(job), extras)
        return self._keys.job(job.id), fields

    def _check_notify(self, subject: str, names: Sequence[str]) -> None:
        """Raise InvalidPayload if these webhooks break a rule, or are not in the configuration."""
        check_notify(names)
        known = self.config.webhooks
        if unknown := next((name for name in names if name not in known), None):
            raise InvalidPayload(
                f"{subject}: notify: {unknown} is not a webhook of this configuration",
                hint=did_you_mean(unknown, known)
                or (f"known webhooks: {', '.join(sorted(known))}" if known else "")
                or "declare it in the table [webhooks], also where jobs are enqueued",
            )

    async def get_status(self, job_id: str) -> JobStatus | None:
        return await self.tracker.get_status(job_id)

    async def get_job(self, job_id: str) -> Job | None:
        return await self.tracker.get_job(job_id)

    async def get_queue_stats(self) -> QueueStats:
        return await self.tracker.queue_stats()

    async def cancel(self, job_id: str, *, by: str = "", reason: str = "") -> bool:
        [result] = await self.cancel_many([job_id], by=by, reason=reason)
        if result == "unknown":
            raise JobNotFound(job_id, self.config.queue)
        return result == "cancelled"

    async def requeue(
        self, job_ids: Sequence[str], *, by: str = "", reason: str = "", from_phase: str = ""
    ) -> list[str]:
        """Return failed and cancelled jobs to the queue with their attempts reset.

        With `from_phase`, debates make the calls of that phase and of later ones again: `propose`, `vote`,
        `judge`, `synthesize`, a round as `r1`, or one of its phases as `r1.review`, `r1.revise` or
        `r1.discuss`. What they cost stays counted.

        Returns one result per job: `requeued`, `unknown` (or past retention), `malformed` (the dead
        letter of a malformed entry, which has nothing to run), `not-reached` (the debate has no call of that
        phase), or the status of a job that has neither failed nor been cancelled. Finished work and history
        are kept; `by` and `reason` are added to it.
        """
        if from_phase:
            check_phase(from_phase)
        return await self._run_for_each(
            "requeue", job_ids, **actor(by, reason), from_phase=from_phase
        )

    async def cancel_many(
        self, job_ids: Sequence[str], *, by: str = "", reason: str = "", group: str = ""
    ) -> list[str]:
        """Cancel live jobs, in few round trips; `by` and `reason` are added to the history of each.

        `group` is the one that is cancelled as a whole, if it is: `changes` then has one line for both.

        Returns one result per job: `cancelled`, `unknown` (or past retention), or the status that it had
        already: `completed`, `failed`, `was-cancelled`.
        """
        return await self._run_for_each(
            "cancel",
            job_ids,
            retention_ms=self.config.retention_ms,
            group=group,
            **actor(by, reason),
        )

    async def hold(self, job_id: str, *, reason: str = "", by: str = "") -> bool:
        [result] = await self.hold_many([job_id], reason=reason, by=by)
        if result == "unknown":
            raise JobNotFound(job_id, self.config.queue)
        return result in ("held", "asked", "was-held", "was-asked")

    async def hold_many(
        self, job_ids: Sequence[str], *, reason: str = "", by: str = ""
    ) -> list[str]:
        """Hold live jobs as `hold` does, in few round trips.

        Returns one result per job: `held`, `asked` (it is running: held when its attempt ends), `was-held`,
        `was-asked`, `unknown` (or past retention), or the status of a job that has ended.
        """
        return await self._run_for_each(
            "hold", job_ids, cause="person", until_ms="", **actor(by, reason)
        )

    async def unhold(self, job_id: str, *, by: str = "", reason: str = "") -> bool:
        [result] = await self.unhold_many([job_id], by=by, reason=reason)
        if result == "unknown":
            raise JobNotFound(job_id, self.config.queue)
        return result == "unheld"

    async def unhold_many(
        self,
        job_ids: Sequence[str],
        causes: Collection[HoldCause] = HOLD_CAUSES,
        *,
        by: str = "",
        reason: str = "",
    ) -> list[str]:
        return await self._run_for_each(
            "unhold", job_ids, causes=" ".join(causes), **actor(by, reason)
        )

    async def get_jobs(self, job_ids: Sequence[str], *, max_bytes: int) -> list[Job | None]:
        read = await self.tracker.read_jobs(job_ids, max_bytes=max_bytes)
        jobs = [job if isinstance(job, Job) else None for job in read.jobs]
        return [
            replace(job, payload={}, result=None) if job and job.id in read.cut else job
            for job in jobs
        ]

    async def get_group(self, name: str) -> Group | None:
        try:
            return await self.tracker.get_group(name)
        except InvalidPayload:
            return None

    async def get_statuses(self, job_ids: Sequence[str]) -> Mapping[str, str | None]:
        return await self.tracker.get_statuses(job_ids)

    async def recorded_agents(
        self, group: str, job_ids: Sequence[str]
    ) -> dict[str, Mapping[str, Any]]:
        """Return what an experiment has recorded of its debates' agents, by id; others are left out.

        The record of a job is written when the job is created, and kept when it is deleted, until
        EXPERIMENT_DAYS after the last enqueue of its experiment.
        """
        key, ids = self._keys.experiment(group), list(job_ids)
        if not ids:
            return {}
        digests = await self.connection.execute("HMGET", key, *ids)
        names = [f"agents:{replies.text(each)}" for each in {*digests} - {None}]
        texts = await self.connection.execute("HMGET", key, *names) if names else []
        agents = {name: json_object(text) for name, text in zip(names, texts, strict=True)}
        return {
            job_id: agents[f"agents:{replies.text(digest)}"]
            for job_id, digest in zip(ids, digests, strict=True)
            if digest is not None
        }

    async def count_held(self) -> int:
        return int(await self.connection.execute("ZCARD", self._keys.held))

    async def list_held(
        self, causes: Collection[HoldCause], after: str = "", *, limit: int = BATCH_LIMIT
    ) -> HeldPage:
        from aragora_q.contracts import HeldPage

        next_after, *rows = await self.connection.run(
            "list_held",
            job_prefix=self._keys.job_prefix,
            causes=" ".join(causes),
            after=after,
            limit=limit,
        )
        return HeldPage([_held_job(row) for row in rows], replies.text(next_after))

    async def seal_group(
        self,
        group: str,
        then: Job | None = None,
        *,
        notify: Sequence[str] = (),
        by: str = "",
        reason: str = "",
    ) -> bool:
        """Seal a group: it takes no more jobs, and ends when its last job has ended.

        Its end is reported to the webhooks in `notify`.

        `then` is enqueued when the group has ended, however its jobs ended; once, even if jobs are requeued
        or purged later. If all jobs have ended already, it is enqueued now. Returns False if the group was
        sealed before, with the same `then` and `notify`.

        Raises:
            GroupNotFound: the group has no job.
            GroupSealed: the group was sealed before, with another `then` or `notify`, or without.
            InvalidPayload: `then` breaks a rule, has a group, or its id is taken, or a webhook is not in the
                configuration. Not sealed.
        """
        self._check_notify(f"group {group}", notify)
        stored = EnqueueFields("", b"", "0 0 0", "", b"")
        span_of_then: AbstractContextManager[tracing.Span] = nullcontext(tracing.NO_SPAN)
        if then is not None:
            stored, span_of_then = self._check_follower(then), self._span()
        priority, delay_ms, max_attempts = stored.terms.split()
        with span_of_then as span:
            span.set({"messaging.message.id": stored.id})
            result = await self.connection.run(
                "seal",
                group=group,
                retention_ms=self.config.retention_ms,
                notify=" ".join(sorted(notify)),
                then_id=stored.id,
                then_payload=stored.payload,
                then_priority=priority,
                then_delay_ms=delay_ms,
                then_max_attempts=max_attempts,
                then_labels=stored.labels,
                then_trace=tracing.current(),
                **actor(by, reason),
            )
            if result not in (b"sealed", b"was-sealed"):
                span.fail(result.decode())
        if result == b"unknown":
            raise GroupNotFound(group, self.config.queue)
        if result == b"other-then":
            raise GroupSealed(f"group {group} was sealed before, without this job to follow it")
        if result == b"other-notify":
            raise GroupSealed(f"group {group} was sealed before, with other webhooks, or without")
        if result == b"taken":
            raise InvalidPayload(
                f"job {stored.id} exists: the job that follows a group needs a new id",
                hint="give it an id that no job has",
            )
        if result == b"refused":
            raise _refusal(stored, b"refused")
        return bool(result == b"sealed")

    def _check_follower(self, job: Job) -> EnqueueFields:
        """Return the job that is to follow a group as `check` does. Raises InvalidPayload."""
        if job.group is not None:
            raise InvalidPayload(f"job {job.id}: the job that follows a group cannot be in a group")
        _, fields = self.check(job)
        if forked_from(job.payload):
            raise InvalidPayload(
                f"job {job.id}: the job that follows a group cannot take over calls (forked_from)"
            )
        return fields

    async def purge_many(
        self, job_ids: Sequence[str], *, by: str = "", reason: str = ""
    ) -> list[str]:
        """Delete jobs that have ended, in few round trips.

        Returns one result per job: `purged`, `unknown`, or the status of a job that has not ended.
        """
        return await self._run_for_each("purge_jobs", job_ids, **actor(by, reason))

    async def _run_for_each(
        self, script: str, job_ids: Sequence[str], **operands: Any
    ) -> list[str]:
        """Run a script that takes jobs by id, batch by batch; return its result for each."""
        results: list[str] = []
        for batch in batched(job_ids):
            items = [(self._keys.job(job_id), (job_id,)) for job_id in batch]
            replies = await self.connection.run(script, items, **operands)
            results += [status.decode() for status in replies]
        return results

    async def cancel_group(self, group: str, *, by: str = "", reason: str = "") -> int:
        """Cancel a group: it takes no more jobs, its live jobs and the job that follows it are cancelled.

        `by` and `reason` are kept with the group, and added to the history of each job.
        Returns the number of jobs cancelled. If the call fails, call it again.

        Raises:
            GroupNotFound: the group has no job.
        """
        result = await self.connection.run(
            "cancel_group",
            group=group,
            retention_ms=self.config.retention_ms,
            **actor(by, reason),
        )
        if result == b"unknown":
            raise GroupNotFound(group, self.config.queue)
        total = 0
        while True:
            cancelled = 0
            async for page in self.find(JobFilter(group=group, statuses=LIVE)):
                results = await self.cancel_many(page, by=by, reason=reason, group=group)
                cancelled += results.count("cancelled")
            total += cancelled
            if not cancelled:  # otherwise a job that moved meanwhile may have been missed
                return total

    def find(self, wanted: JobFilter, *, with_expired: bool = False) -> AsyncIterator[list[str]]:
        """Iterate over the ids of all jobs that match a filter, in pages and in any order.

        The jobs of a page may be cancelled, requeued or purged before the next page is read. A live job that is
        retried, promoted or released meanwhile may be missed or found twice; one that starts or ends is found.
        `with_expired` includes ended jobs past retention that were not purged yet.

        Raises:
            InvalidPayload: a name in the filter breaks a rule.
        """
        wanted.check()
        return finding.pages(self.connection, wanted, with_expired=with_expired)

    async def find_newest(self, wanted: JobFilter, limit: int) -> list[str]:
        """Return the ids of the newest jobs that match a filter, newest first, at most `limit`.

        The time of a job is that of its end, or of its latest start, or of its enqueue. If the filter has a
        group, a tenant or tags, it is the time of the enqueue.

        Raises:
            InvalidPayload: a name in the filter breaks a rule.
        """
        wanted.check()
        return await finding.newest(self.connection, wanted, limit)

    async def find_page(
        self, wanted: JobFilter, cursor: str = "", limit: int = finding.JOBS_ON_PAGE
    ) -> finding.JobPage:
        """Return one page of the jobs that match a filter, newest first, in one round trip.

        The page after `cursor`, that of another page, or the first. The server looks at a bounded number of
        jobs: if few match, a page may have fewer than `limit` jobs, or none, and yet a cursor to go on with.
        Jobs that do not change are on one page, those that are added after the first page are on none. A job
        that moves meanwhile may be missed, or, if it is delayed or held again, found twice.

        Running jobs come first. Then the order is by the time a job was put in its lane, is due, was held or
        ended; or by its enqueue, if that is the smallest index of the labels in the filter.

        Raises:
            InvalidPayload: a name in the filter breaks a rule, or `cursor` does not come from a page.
        """
        wanted.check()
        return await finding.page(self.connection, wanted, cursor, limit)

    async def count(self, wanted: JobFilter, *, with_expired: bool = False) -> int:
        """Return the number of jobs that match a filter.

        Raises:
            InvalidPayload: a name in the filter breaks a rule.
        """
        wanted.check()
        return await finding.count(self.connection, wanted, with_expired=with_expired)

    async def pause(self, *, paused: bool = True, by: str = "", reason: str = "") -> bool:
        """Stop starting jobs until `pause(paused=False)`; running jobs continue.

        Statistics show `by` and `reason`. Returns False if the queue was in that state already.
        """
        result = await self.connection.run("pause", paused=int(paused), **actor(by, reason))
        return bool(result == b"changed")

    async def changes(self, limit: int = MAX_CHANGES, *, since_ms: int = 0) -> list[Change]:
        """Return what operators did, newest first: see `read_changes`."""
        async with self.connection.open_gates() as gates:
            return await read_changes(self.connection, gates, limit, since_ms=since_ms)

    async def events(self, after: str | None = None) -> AsyncIterator[dict[str, str]]:
        """Iterate over the queue's transitions as they happen, without end.

        Each has `event`, `ids` (job ids, separated by spaces) and `id`, from which to resume with `after`.
        Without `after`, starts with the next event. Only the latest events are kept: a reader that
        resumes too late misses some.
        """
        async for batch in self.event_batches(after):
            for event in batch:
                yield event

    async def event_batches(self, after: str | None = None) -> AsyncIterator[list[dict[str, str]]]:
        """Iterate over the same events as `events`, as they arrive: those of one reply together."""
        after = after or await self.newest_event_id()
        while True:
            if batch := await self.read_events(after):
                after = batch[-1]["id"]
                yield batch

    async def read_events(self, after: str) -> list[dict[str, str]]:
        """Return the next events, at most BATCH_LIMIT; none if there are none within READ_SECONDS."""
        key = self._keys.events
        reply = await self.connection.read_blocking({key: after}, float("inf"), count=BATCH_LIMIT)
        return [{"id": entry_id, **fields} for entry_id, fields in reply.get(key, ())]

    async def newest_event_id(self) -> str:
        """Return the id of the latest event, after which `events` misses nothing that happens from now on."""
        newest = await self.connection.execute("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def kept_event_ids(self) -> tuple[str, str]:
        """Return the ids of the oldest and of the latest event that the server keeps; 0-0 for none."""
        key = self._keys.events
        found = await self.connection.read_all(
            [("XRANGE", key, "-", "+", "COUNT", 1), ("XREVRANGE", key, "+", "-", "COUNT", 1)]
        )
        oldest, newest = (reply[0][0].decode() if reply else "0-0" for reply in found)
        return oldest, newest

    async def call_history(self) -> CallHistory:
        """Return what calls of the queue's finished debates took: the basis of quotes."""
        from aragora_q.gates.call_history import read_history

        async with self.connection.open_gates() as gates:
            return await read_history(gates)

    def gates(self, worker_id: str) -> RedisGates:
        from aragora_q.gates.client import RedisGates

        return RedisGates(self.connection.for_gates(), self.config, worker_id)

    def session(self, identity: Identity, *, lease_seconds: float | None = None) -> WorkerSession:
        from aragora_q.streams.session import RedisWorkerSession

        if not WORKER_ID_PATTERN.fullmatch(identity.worker_id):
            raise InvalidPayload(
                f"invalid worker id {identity.worker_id!r:.100}: use 1 to 48 letters, digits and ._-, "
                "starting with a letter or digit"
            )
        lease_ms = (
            self.config.claim_idle_ms if lease_seconds is None else round(lease_seconds * 1000)
        )
        return RedisWorkerSession(self.connection, self.config, identity, lease_ms)

    async def promote(self) -> PromotionResult:
        from aragora_q.contracts import PromotionResult

        moved, next_due_ms = await self.connection.run(
            "promote",
            job_prefix=self._keys.job_prefix,
            retention_ms=self.config.retention_ms,
            limit=BATCH_LIMIT,
        )
        return PromotionResult(moved, next_due_ms / 1000 if next_due_ms >= 0 else None)

    async def claim_maintenance(self, worker_id: str, ttl_seconds: float) -> MaintenanceClaim:
        from aragora_q.contracts import MaintenanceClaim

        granted, registered_workers, since_purge_ms = await self.connection.run(
            "claim_maintenance", worker_id=worker_id, ttl_ms=round(ttl_seconds * 1000)
        )
        since_purge = since_purge_ms / 1000 if since_purge_ms >= 0 else None
        return MaintenanceClaim(bool(granted), registered_workers, since_purge)

    async def reclaim(
        self,
        reclaimer: str = REAPER,
        *,
        dry_run: bool = False,
        deadline: float | None = None,
        results: list[ReclaimResult] | None = None,
    ) -> list[ReclaimResult]:
        """As `WorkQueue.reclaim`. With a `deadline`, continues where the last such pass ran out of time.

        Each pass makes at least one step, so that passes that are always short of time get on, too.
        """
        is_bounded = deadline is not None and not dry_run
        lane, cursor = await self._reclaim_position() if is_bounded else (0, "-")
        results = [] if results is None else results
        while lane < len(self._keys.streams):
            cursor = await self._reclaim_page(lane, cursor, reclaimer, results, dry_run=dry_run)
            if not cursor:
                lane, cursor = lane + 1, "-"
            if deadline is not None and time.monotonic() >= deadline:
                break
        if is_bounded:
            is_done = lane == len(self._keys.streams)
            await self._save_reclaim_position("" if is_done else f"{lane} {cursor}")
        return results

    async def _reclaim_position(self) -> tuple[int, str]:
        saved = await self.connection.execute("HGET", self._keys.control, "reclaim_cursor")
        lane, _, cursor = (saved or b"").decode(errors="replace").partition(" ")
        is_valid = lane in ("0", "1", "2") and re.fullmatch(r"\(\d+-\d+|-", cursor)
        return (int(lane), cursor) if is_valid else (0, "-")

    async def _save_reclaim_position(self, position: str) -> None:
        await self.connection.execute("HSET", self._keys.control, "reclaim_cursor", position)

    async def _reclaim_page(
        self, lane: int, cursor: str, reclaimer: str, results: list[ReclaimResult], *, dry_run: bool
    ) -> str:
        """Reclaim one page of a lane, add to `results`, and return the next page's cursor."""
        from aragora_q.contracts import ReclaimResult

        _, next_cursor, *rows = await self.connection.run(
            "reclaim",
            keys={"stream": self._keys.streams[lane]},
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
        results += [
            ReclaimResult(
                job_id.decode(errors="replace"),
                decision.decode(),
                owner.decode(),
                idle_ms / 1000,
                crashes,
            )
            for job_id, decision, owner, idle_ms, crashes in rows
        ]
        return str(next_cursor.decode())

    async def purge(
        self,
        status: JobStatus,
        *,
        older_than_seconds: float | None = None,
        dry_run: bool = False,
        by: str = "",
        reason: str = "",
    ) -> PurgeResult:
        from aragora_q.contracts import PurgeResult

        older_than_ms = (
            self.config.retention_ms
            if older_than_seconds is None
            else round(older_than_seconds * 1000)
        )
        deleted, has_more = await self.connection.run(
            "purge",
            keys={"index": getattr(self._keys, status.value)},
            job_prefix=self._keys.job_prefix,
            status=status.value,
            older_than_ms=older_than_ms,
            limit=BATCH_LIMIT,
            dry_run=int(dry_run),
            **actor(by, reason),
        )
        return PurgeResult(deleted, has_more=bool(has_more))

    @asynccontextmanager
    async def single_flight(self, ttl_seconds: float) -> AsyncIterator[bool]:
        """Hold the lock that allows one cron pass at a time; yields False if another pass holds it.

        The lock expires after `ttl_seconds`, so that a killed pass does not block others for long.
        """
        token = secrets.token_hex(8)

        async def send(action: str) -> bool:
            reply = await self.connection.run(
                "maintenance_lock", action=action, token=token, ttl_ms=round(ttl_seconds * 1000)
            )
            return bool(reply == b"ok")

        if not await send("begin"):
            yield False
            return
        try:
            yield True
        except BaseException:
            await send("abandon")
            raise
        await send("end")

    async def remove_dead_workers(self) -> int:
        names = await self.tracker.consumers() | await self.tracker.worker_ids()
        deleted = 0
        for batch in batched(sorted(names)):
            deleted += await self.connection.run(
                "unregister",
                [(None, (name, "")) for name in batch],
                worker_prefix=self._keys.worker(""),
                default_lease_ms=self.config.claim_idle_ms,
                silent_leases=DEAD_WORKER_LEASES,
            )
        return deleted

    async def sample(self) -> float:
        seconds, _ = await self.connection.execute("TIME")
        day = int(seconds) // 86_400
        spent, spent_before = await self._spent_on(day, day - 1)
        due_ms = await self.connection.run(
            "sample",
            silent_ms=self.config.claim_idle_ms,
            day=day,
            spent=spent,
            spent_before=spent_before,
        )
        return float(due_ms) / 1000

    async def _spent_on(self, *days: int) -> list[Value]:
        """Return the micro-dollars that this queue spent on days since 1970; "-" if they cannot be read."""
        from datetime import date, timedelta

        from aragora_q.gates.spending import Spending

        try:
            async with asyncio.timeout(SPEND_SECONDS), self.connection.open_gates() as gates:
                reader = Spending(gates)
                dates = [date(1970, 1, 1) + timedelta(days=day) for day in days]
                return [(await reader.of_queue(self.config.queue, day)).micro_usd for day in dates]
        except (AragoraQError, TimeoutError, ValueError):
            return ["-"] * len(days)

    async def close(self) -> None:
        self.connection.check_loop()
        closing = self._closing
        if closing is None or closing.done() or closing.get_loop().is_closed():
            closing = self._closing = asyncio.create_task(self._close(), name="close queue")
        await asyncio.shield(closing)

    async def _close(self) -> None:
        try:
            await finish(self._stop_workers)
        finally:
            await self.connection.close()

    async def _stop_workers(self) -> None:
        """Stop the workers that use this queue. Raises the first error of one, when all have stopped."""
        stops = [stop() for stop in self.before_close]
        for ended in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


async def create_redis_queue(
    config: QueueConfig | None = None, *, consumer_name: str | None = None
) -> RedisStreamsQueue:
    """Connect to the configured server, check its version, and return the queue.

    `config` defaults to `get_queue_config()`: environment and configuration files. `consumer_name` is
    the worker id of workers that are not given one. Close the queue with `await queue.close()`. Where
    there are several servers, calls of this queue retry for 8 s during a failover.

    Raises:
        ConfigError: a setting, such as `redis_url`, is wrong.
        UnsupportedServer: older than Redis 7.0 or Valkey 7.2, or not what `redis_url` says.
        RedisUnreachable: no server answers.
        AccessDenied: the server refused the credentials.
        TryAgain: the server cannot serve the call now, for example while it loads its data.

    Example:
        >>> import asyncio
        >>> from aragora_q import create_debate_job, create_redis_queue
        >>> async def main() -> None:
        ...     queue = await create_redis_queue()
        ...     job_id = await queue.enqueue(create_debate_job("Tea or coffee?", ["demo", "demo"]))
        ...     print(await queue.get_status(job_id))
        ...     await queue.close()
        >>> asyncio.run(main())
        pending
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
    """Return `host-pid-xxxx`, a worker id that differs for every process and call."""
    host = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname()
    )
    return f"{host[:30].strip('._-') or 'host'}-{os.getpid()}-{secrets.token_hex(2)}"


def _held_job(row: Sequence[bytes]) -> HeldJob:
    from aragora_q.contracts import HeldJob

    job_id, cause, by, micros, until_ms = map(replies.text, row)
    return HeldJob(
        job_id,
        cast("HoldCause", cause),
        by,
        int(micros) / MICROS if micros else None,
        int(until_ms) / 1000 if until_ms else None,
    )


def _payload_bytes(item: EnqueueItem) -> int:
    _, fields = item
    return len(fields.payload)


def _padded(results: Sequence[EnqueueResult | None], count: int) -> Sequence[EnqueueResult | None]:
    """Return the results of `count` jobs, of which the last ones were not sent."""
    return [*results, *[None] * (count - len(results))]


def _without_refusals(outcomes: Sequence[EnqueueOutcome | None]) -> list[EnqueueResult | None]:
    return [None if isinstance(outcome, InvalidPayload) else outcome for outcome in outcomes]


def _message_attributes(items: Sequence[EnqueueItem]) -> tracing.Attributes:
    if len(items) == 1:
        return {"messaging.message.id": items[0][1].id}
    return {"messaging.batch.message_count": len(items)}


def _note_results(span: tracing.Span, statuses: Sequence[bytes]) -> None:
    """Add to a span what became of the jobs that were sent."""
    refused = [status.decode() for status in statuses if status not in replies.NOT_REFUSED]
    created = statuses.count(b"created")
    span.set({"aragora_q.jobs_created": created, "aragora_q.jobs_refused": len(refused)})
    if refused:
        span.fail(refused[0])


def _refusal(fields: EnqueueFields, status: bytes) -> InvalidPayload:
    """Return the error of a job that the server's script refused."""
    if status == b"sealed":
        group = decode_labels(fields.labels.encode())["group"]
        return GroupSealed(
            f"job {fields.id}: group {group} is sealed: it takes no more jobs",
            hint="enqueue it in another group",
        )
    if status in (b"unknown_source", b"no_calls"):
        why = (
            "was not found, or has expired"
            if status == b"unknown_source"
            else "has no finished calls"
        )
        source = codec.decode(fields.extras)["source"]
        return InvalidPayload(
            f"job {fields.id}: forked_from: debate {source} {why}: there is nothing to take over",
            hint="enqueue it without",
        )
    return InvalidPayload(
        f"job {fields.id}: refused by the server's script: id, payload or a number is out of bounds"
    )
