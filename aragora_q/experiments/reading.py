"""Read the debates of a group as rows of a table, batch by batch, so that results are not in memory together.

Used by the commands `table`, `compare` and `eval`, and by the console. Reads only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from aragora_q.base import JobStatus
from aragora_q.errors import GroupNotFound, InvalidPayload
from aragora_q.experiments.notes import note_of
from aragora_q.experiments.rows import Row, row_of, row_of_corrupted
from aragora_q.labels import JobFilter

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.streams.queue import RedisStreamsQueue

JOBS_AT_ONCE = 50
"""Jobs that are in memory together, with payload and result."""


class _Found(NamedTuple):
    """A row with what places it: when the job was enqueued, and the place of its arm in that sweep."""

    row: Row
    created_at: float
    place: int


async def read_rows(queue: RedisStreamsQueue, group: str) -> list[Row]:
    """Return the rows of a group: by number of the question, then by arm, in the order of their first enqueue.

    Arms that were enqueued together are in the order in which they were written. Jobs without a number come
    last, in the order of their enqueue. A job whose data is corrupted has a row that says so.

    Raises:
        GroupNotFound: the group has no job.
        InvalidPayload: `group` is not a name.
    """
    found = [each async for each in _found(queue, group)]
    if not found and await queue.tracker.get_group(group) is None:
        raise GroupNotFound(group, queue.config.queue)
    arms: dict[str, tuple[float, int]] = {}
    for row, created_at, place in found:
        arms[row.arm] = min(arms.get(row.arm, (math.inf, 0)), (created_at, place))

    def order(each: _Found) -> tuple[float, tuple[float, int], str, float, str]:
        row = each.row
        return (row.number or math.inf, arms[row.arm], row.arm, each.created_at, row.id)

    return [each.row for each in sorted(found, key=order)]


async def iterate_rows(queue: RedisStreamsQueue, group: str) -> AsyncIterator[Row]:
    """Iterate over the rows of a group as they are read, in any order; over none if it is not known.

    Raises:
        InvalidPayload: `group` is not a name.
    """
    async for found in _found(queue, group):
        yield found.row


async def _found(queue: RedisStreamsQueue, group: str) -> AsyncIterator[_Found]:
    questions: dict[str, str] = {}  # each of them once in memory, however many arms it has
    async for page in queue.find(JobFilter(group=group)):
        for start in range(0, len(page), JOBS_AT_ONCE):
            batch = page[start : start + JOBS_AT_ONCE]
            jobs = await queue.tracker.get_jobs(batch)
            for job_id, job in zip(batch, jobs, strict=True):
                if isinstance(job, InvalidPayload):
                    yield _Found(await _corrupted(queue, job_id, job), math.inf, 0)
                elif job is not None:
                    yield _read(job, questions)


def _read(job: Job, questions: dict[str, str]) -> _Found:
    question = job.payload.get("question")
    if isinstance(question, str):
        job.payload["question"] = questions.setdefault(question, question)
    note = note_of(job.payload)
    return _Found(row_of(job), job.created_at or math.inf, note.place if note else 0)


async def _corrupted(queue: RedisStreamsQueue, job_id: str, error: InvalidPayload) -> Row:
    statuses = await queue.tracker.get_statuses([job_id])
    labels = await queue.tracker.labels([job_id])
    status = statuses[job_id]
    known = JobStatus(status) if status in list(JobStatus) else JobStatus.FAILED
    return row_of_corrupted(job_id, known, labels[job_id].get("tags", {}), str(error))
