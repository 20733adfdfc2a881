"""Enqueue many jobs in batches: one result per line, and what all of them came to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q import codec
from aragora_q.base import EnqueueResult, Job, new_job_id
from aragora_q.errors import AragoraQError, InvalidPayload, JobNotFound, QueueFull, RedisUnreachable
from aragora_q.formats import count
from aragora_q.intake.checks import (
    NO_THRESHOLDS,
    Thresholds,
    check_budget,
    check_seats,
    held_fields,
    take_thresholds,
)
from aragora_q.intake.forks import with_source
from aragora_q.intake.lines import BATCH_LINES, Item
from aragora_q.job_fields import FROM, content_id, create_job
from aragora_q.job_rules import is_id

if TYPE_CHECKING:
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.intake.quoter import Quoter
    from aragora_q.streams.queue import EnqueueItem, EnqueueOutcome, RedisStreamsQueue

SEAT_FIELDS = ("agents", "escalate", "judge", "service_tier")
MAX_KNOWN_SEATS = 1_000
"""Combinations of agents that are remembered as checked."""

TURNS_TO_SEND = 3
"""Turns of the event loop after which a batch is on its way: that of its task, and those of the queue's."""


class Checked(NamedTuple):
    """A job, as it would be sent, why it needs an approval, and a warning about its agents, or nothing."""

    job: Job
    item: EnqueueItem
    approval: Approval | None
    warning: str


@dataclass
class BulkSummary:
    """Counts of a bulk run."""

    last_line: int = 0
    unanswered_to: int = 0
    """The last line that was sent and not answered: it may be in the queue. 0: all were answered."""
    created: int = 0
    existing: int = 0
    refused: int = 0
    not_durable: int = 0
    first_refusal: str = ""
    held: int = 0
    """Jobs that wait for an approval."""
    first_held: str = ""
    warnings: int = 0
    """Debates about whose agents there is a warning."""
    first_warning: str = ""
    has_new_ids: bool = False
    """Whether a job got a new id: enqueueing its line again would enqueue a second job."""

    def how_to_continue(self) -> str:
        """Return how to enqueue the rest after the run has stopped."""
        if self.has_new_ids:
            first, last = self.last_line + 1, self.unanswered_to
            span = f"lines {first} to {last}" if last > first else f"line {first}"
            return (
                f"{f'{span} may be in the queue, too; ' if last else ''}to enqueue the rest, begin with "
                f"line {first}: a line without id that is enqueued twice becomes two jobs"
            )
        return "run the command again to enqueue the rest, no job is enqueued twice"

    def warning(self) -> str:
        """Return, for example, `about 2 debates; the first, line 1: all agents are …`."""
        return f"about {count(self.warnings, 'debate')}; the first, {self.first_warning}"

    def approvals(self) -> str:
        """Return, for example, `2 jobs are held until approved; the first, line 1: may cost …`."""
        jobs = "1 job is" if self.held == 1 else f"{self.held:,} jobs are"
        return f"{jobs} held until approved with unhold; the first, {self.first_held}"

    def refuse(self, number: int, error: InvalidPayload) -> str:
        """Count a line that is refused. Return why."""
        text = f"{error} ({error.hint})" if error.hint else str(error)
        self.first_refusal = self.first_refusal or f"line {number}: {text}"
        self.refused += 1
        return text

    def text(self) -> str:
        """Return, for example, `998 jobs enqueued, 2 existed (not changed), 1 refused`."""
        existing = f", {self.existing:,} existed (not changed)" if self.existing else ""
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{count(self.created, 'job')} enqueued{existing}{refused}"


class LineChecker:
    """Makes the jobs of lines, and checks them as `enqueue` does.

    `defaults` and `thresholds` apply to lines that lack the field. `in_experiment` is that of `check_seats`.
    `reader` is the queue as it may be read, if that is another Redis user.
    """

    def __init__(
        self,
        quoter: Quoter,
        defaults: Mapping[str, Any],
        thresholds: Thresholds,
        summary: BulkSummary,
        *,
        id_from_content: bool,
        in_experiment: bool = False,
        reader: RedisStreamsQueue | None = None,
    ) -> None:
        self.quoter = quoter
        self.summary = summary
        self._queue = quoter.queue
        self._reader = reader or quoter.queue
        self._defaults = defaults
        self._thresholds = thresholds
        self._new_id = content_id if id_from_content else self._random_id
        self._in_experiment = in_experiment
        self._warnings: dict[bytes, str] = {}

    async def check(self, number: int, line: Any) -> Checked:
        """Return the job of a line.

        Raises:
            InvalidPayload: the line is refused.
            ConfigError: its quote needs an extra that is not installed.
        """
        config = self._queue.config
        thresholds = take_thresholds(line, self._thresholds)
        if isinstance(line, dict) and FROM in line:
            try:
                line = await with_source(self._reader, line, self._defaults)
            except JobNotFound as error:
                raise InvalidPayload(f"from: {error}") from None
        job = create_job(line, self._defaults, self._new_id)
        item = self._queue.check(job)
        warning = self._check_seats(number, job.payload)
        check_budget(job, config)
        if thresholds == NO_THRESHOLDS:
            return Checked(job, item, None, warning)
        await self.quoter.check(job, thresholds.max_quote)
        approval = await self.quoter.approval(job.payload, thresholds.approve_above)
        if approval is not None:
            item = self._queue.check(job, hold=approval.reason)
        return Checked(job, item, approval, warning)

    def _random_id(self, _payload: Mapping[str, Any], _group: Any) -> str:
        self.summary.has_new_ids = True
        return new_job_id()

    def _check_seats(self, number: int, payload: Mapping[str, Any]) -> str:
        """Do as `check_seats`, for each combination once. Count and return its warning."""
        seats = codec.encode(["question" in payload, *map(payload.get, SEAT_FIELDS)])
        if seats not in self._warnings:
            if len(self._warnings) >= MAX_KNOWN_SEATS:
                self._warnings.clear()
            self._warnings[seats] = check_seats(
                payload, self._queue.config, in_experiment=self._in_experiment
            )
        if warning := self._warnings[seats]:
            self.summary.warnings += 1
            self.summary.first_warning = self.summary.first_warning or f"line {number}: {warning}"
        return warning


class _Line(NamedTuple):
    """The number of a line, what it has as `id`, and its job, or why it is refused."""

    number: int
    given_id: Any
    found: Checked | InvalidPayload


_Answer = tuple[list[dict[str, Any]], AragoraQError | None]
"""The results of lines, and the error that ends the run, if there is one."""


class BulkEnqueuer:
    """Enqueues the jobs of lines, with one result per line.

    A result has `line`, and either `id` and `created` (false: the id already existed, nothing
    changed), or `error`, and `id` if the line has a valid one. It has `durable`, false, if the requested
    confirmation did not arrive in time. When the queue is full or Redis fails, the run ends; lines already
    read that are not known to be in the queue say so in `error`.
    """

    def __init__(self, checker: LineChecker) -> None:
        self._queue = checker.quoter.queue
        self._checker = checker
        self.summary = checker.summary
        self.config = self._queue.config

    async def enqueue(self, items: Sequence[Item]) -> _Answer:
        """Enqueue the jobs of lines. Return their results, and the error that ends the run, if there is one."""
        return await self._send(await self._check(items))

    async def enqueue_all(
        self,
        batches: Iterable[Sequence[Item]],
        answer: Callable[[Sequence[dict[str, Any]]], None],
    ) -> None:
        """Enqueue the jobs of lines, and pass the results of each batch to `answer`, in their order.

        The server works on one batch while the next is read and checked; but after one that is not full, more
        may take long to come, and it is answered at once.

        Raises:
            AragoraQError: what ends the run. The lines that were sent are answered.
        """
        under_way: asyncio.Task[_Answer] | None = None

        async def answer_last() -> None:
            nonlocal under_way
            sent, under_way = under_way, None
            if sent is not None:
                results, failure = await sent
                answer(results)
                if failure is not None:
                    raise failure

        try:
            for items in batches:
                lines = await self._check(items)
                await answer_last()
                under_way = asyncio.create_task(self._send(lines)) if lines else None
                for _ in range(TURNS_TO_SEND):
                    await asyncio.sleep(0)
                if len(items) < BATCH_LINES:
                    await answer_last()
            await answer_last()
        except Exception:  # of a line, or of reading it
            await answer_last()
            raise
        finally:
            if under_way is not None:
                under_way.cancel()
                await asyncio.wait([under_way])

    async def _check(self, items: Sequence[Item]) -> list[_Line]:
        lines: list[_Line] = []
        for number, parse in items:
            given_id = None
            found: Checked | InvalidPayload
            try:
                line = parse()
                given_id = line.get("id") if isinstance(line, dict) else None
                found = await self._checker.check(number, line)
            except InvalidPayload as error:
                found = error
            lines.append(_Line(number, given_id, found))
        return lines

    async def _send(self, lines: Sequence[_Line]) -> _Answer:
        """Enqueue the jobs of lines that were checked."""
        summary = self.summary
        valid = [(line.number, line.found) for line in lines if isinstance(line.found, Checked)]
        enqueued: Sequence[EnqueueOutcome | None]
        failure: AragoraQError | None = None
        last = summary.unanswered_to = lines[-1].number
        try:
            enqueued = await self._queue.enqueue_checked([job.item for _, job in valid])
        except AragoraQError as error:
            enqueued, failure = error.results, error
        if not isinstance(failure, RedisUnreachable):
            summary.unanswered_to = 0
        outcomes = {number: outcome for (number, _), outcome in zip(valid, enqueued, strict=True)}
        results = []
        for number, given_id, found in lines:
            result: dict[str, Any] = {"line": number}
            if isinstance(found, Checked):
                outcome, approval = outcomes[number], found.approval
            else:
                outcome, approval = found, None
            if isinstance(outcome, EnqueueResult):
                self._note_enqueued(result, outcome, approval)
            else:
                result |= {"id": given_id} if is_id(given_id) else {}
                result["error"] = self._why_not(number, outcome, failure)
            results.append(result)
        undecided = (number for number, outcome in outcomes.items() if outcome is None)
        summary.last_line = next(undecided, last + 1) - 1
        return results, failure

    def _why_not(
        self, number: int, refusal: InvalidPayload | None, failure: AragoraQError | None
    ) -> str:
        """Return why a line is not known to be in the queue: it is refused, or the run ends."""
        if refusal is not None:
            return self.summary.refuse(number, refusal)
        if isinstance(failure, QueueFull):  # whose message counts the lines of the batch
            limit = self.config.max_backlog
            return f"not enqueued: the queue has reached its limit of {limit} waiting jobs"
        return str(failure)

    def _note_enqueued(
        self, result: dict[str, Any], job_result: EnqueueResult, approval: Approval | None
    ) -> None:
        result["id"], result["created"] = job_result.id, job_result.created
        if approval is not None and job_result.created:
            result |= held_fields(approval)
            self.summary.held += 1
            line = f"line {result['line']}: {job_result.id} {approval.reason}"
            self.summary.first_held = self.summary.first_held or line
        self.summary.created += job_result.created
        self.summary.existing += not job_result.created
        if not job_result.durable:
            result["durable"] = False
            self.summary.not_durable += 1
