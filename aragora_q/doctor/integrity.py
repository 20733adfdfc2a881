"""Check that a queue's keys are consistent: jobs, streams, indexes, TTLs.

Walks through the keys in bounded steps, may stop at a deadline, and can be resumed. Each job is checked,
and repaired, by one atomic script. Used by `aragora-q doctor`.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass, field

from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import QueueKeys
from aragora_q.redis.scripts import BATCH_LIMIT


@dataclass(frozen=True)
class Problem:
    """A kind of inconsistency. `code` is what `check_job.lua` and `check_lane.lua` return.

    `message` completes "a job …". `repair` is what `--repair` does or, if the problem is not
    `repairable`, what an operator can do.
    """

    code: str
    message: str
    repair: str
    repairable: bool = True


PROBLEMS = {
    problem.code: problem
    for problem in (
        Problem("not-queued", "waits, but is in no lane: it would never run", "make it due now"),
        Problem(
            "delivered-without-owner",
            "was delivered, but is not pending: it would never run",
            "move it to the tail of its lane",
        ),
        Problem(
            "orphaned-entry",
            "has an entry that was delivered, but is not pending",
            "move it to the tail of its lane",
        ),
        Problem("duplicate-entry", "has a second entry that is never read again", "delete it"),
        Problem(
            "other-lane",
            "waits in a lane that does not match its priority",
            "set the priority to match the lane",
        ),
        Problem("delayed-without-hash", "is delayed, but its hash is missing", "create its hash"),
        Problem("waits-twice", "is in a lane and also delayed", "keep it in its lane"),
        Problem(
            "listed-as-ended",
            "is live, but in an index of ended jobs: purge would delete it",
            "remove it from the index",
        ),
        Problem("expires-while-live", "is live, but its data has a TTL", "remove the TTL"),
        Problem("stale-result", "is live, but has a result of an earlier run", "delete it"),
        Problem("payload-twice", "has its payload twice", "keep the one in the stream"),
        Problem(
            "unlisted",
            "has ended, but is in no index: purge would never delete it",
            "add it to its index",
        ),
        Problem(
            "listed-twice", "has ended, but is also in another index", "keep it in its own index"
        ),
        Problem("keeps-lease", "has ended, but still has a lease", "remove the lease"),
        Problem("never-expires", "has ended, but its data has no TTL", "set the TTL"),
        Problem(
            "listed-without-data",
            "is in an index, but its data is missing",
            "remove it from the index",
        ),
        Problem(
            "delayed-without-data",
            "is delayed, but its data is missing",
            "remove it from the delayed jobs",
        ),
        Problem(
            "parts-without-hash",
            "has data without a TTL, but no hash",
            "let the data expire after the retention time",
        ),
        Problem(
            "invalid-numbers",
            "has fields that are not numbers: it cannot be shown",
            "remove these fields",
        ),
        Problem(
            "payload-lost",
            "waits, but its payload was deleted",
            "cancel it and enqueue it again",
            repairable=False,
        ),
        Problem(
            "entry-lost",
            "is running, but its stream entry was deleted",
            "let its worker finish; if the worker is gone, cancel it and enqueue it again",
            repairable=False,
        ),
        Problem(
            "result-lost",
            "is completed, but its result was deleted",
            "the result cannot be restored",
            repairable=False,
        ),
        Problem(
            "wrong-type",
            "has a key of another type where its hash should be",
            "delete that key",
            repairable=False,
        ),
        Problem(
            "unknown-status",
            "has an unknown status",
            "check whether a newer version wrote it",
            repairable=False,
        ),
    )
}
"""Every kind of problem, by code."""

INDEXES = ("delayed", "completed", "failed", "cancelled")
LANES = ("stream_high", "stream_normal", "stream_low")
PHASES = (*LANES, *INDEXES, "keys")
PARTS = ("payload", "result", "history", "journal")
EXAMPLES = 5
MAX_EXAMPLES = 10_000
"""Job ids remembered of each problem; if there are more, the report says "at least"."""


@dataclass
class IntegrityReport:
    """The result of a walk. `stopped_at` is the cursor to resume from if time ran out, otherwise empty."""

    jobs: int = 0
    """Job hashes seen."""
    problems: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Job ids by problem code. A set, because a walk may see a job more than once."""
    foreign_keys: list[str] = field(default_factory=list)
    """Keys under the queue's prefix that do not belong to the queue."""
    stopped_at: str = ""

    def add(self, code: str, job_id: str) -> None:
        """Add a problem of a job."""
        if len(self.problems[code]) < MAX_EXAMPLES:
            self.problems[code].add(job_id)


class UnknownCursor(ValueError):
    """A walk cannot be resumed from this cursor, because no walk returned it."""


async def examine(
    connection: Connection,
    *,
    repair: bool = False,
    resume_at: str = "",
    budget_seconds: float = 60.0,
) -> IntegrityReport:
    """Walk through lanes, indexes and keys, and check every job they name.

    `repair` repairs the problems that are repairable. The walk stops at the first step that ends after
    `budget_seconds`; `resume_at` continues from the `stopped_at` of an earlier report.

    Raises:
        UnknownCursor: `resume_at` is not a cursor of a walk. Nothing was checked.
    """
    report, deadline = IntegrityReport(), time.monotonic() + budget_seconds
    first, _, first_cursor = (resume_at or f"{PHASES[0]}:0").partition(":")
    if first not in PHASES or not re.fullmatch(
        r"\d+(-\d+)?" if first in LANES else r"\d+", first_cursor
    ):
        raise UnknownCursor(f"{resume_at!r} is not a cursor that a check has printed")
    for phase in PHASES[PHASES.index(first) :]:
        cursor = first_cursor if phase == first else "0"
        while True:
            if phase in LANES:
                cursor = await _check_lane(connection, phase, cursor, report, repair=repair)
            else:
                cursor, job_ids = await _next_jobs(connection, phase, cursor, report)
                await _check_jobs(connection, job_ids, report, repair=repair)
            if cursor == "0":
                break
            if time.monotonic() > deadline:
                report.stopped_at = f"{phase}:{cursor}"
                return report
    return report


async def _check_lane(
    connection: Connection, lane: str, after: str, report: IntegrityReport, *, repair: bool
) -> str:
    """Check a page of a lane's delivered entries; return the next cursor."""
    cursor, *problems = await connection.run(
        "check_lane",
        keys={"stream": getattr(connection.keys, lane)},
        job_prefix=connection.keys.job_prefix,
        after=after,
        limit=BATCH_LIMIT,
        repair=int(repair),
    )
    for job_id, code in problems:
        report.add(code.decode(), replies.text(job_id))
    return replies.text(cursor)


async def _next_jobs(
    connection: Connection, phase: str, cursor: str, report: IntegrityReport
) -> tuple[str, list[str]]:
    """Return the next cursor, and the ids of jobs to check."""
    keys = connection.keys
    if phase != "keys":
        next_cursor, members = await connection.execute(
            "ZSCAN", getattr(keys, phase), cursor, "COUNT", BATCH_LIMIT
        )
        return replies.text(next_cursor), [member for member, _ in replies.scored(members)]
    next_cursor, names = await connection.execute(
        "SCAN", cursor, "MATCH", keys.pattern, "COUNT", 10 * BATCH_LIMIT
    )
    job_ids = []
    for key in map(replies.text, names):
        if key.startswith(keys.job_prefix):
            name = key.removeprefix(keys.job_prefix)
            job_ids.append(_job_of(name))
            report.jobs += job_ids[-1] == name
        elif not _belongs_to_queue(keys, key):
            report.foreign_keys.append(key)
    return replies.text(next_cursor), list(dict.fromkeys(job_ids))


async def _check_jobs(
    connection: Connection, job_ids: list[str], report: IntegrityReport, *, repair: bool
) -> None:
    for first in range(0, len(job_ids), BATCH_LIMIT):
        batch = job_ids[first : first + BATCH_LIMIT]
        results = await connection.run(
            "check_job",
            [(connection.keys.job(job_id), (job_id,)) for job_id in batch],
            retention_ms=connection.config.retention_ms,
            repair=int(repair),
        )
        for job_id, codes in zip(batch, results, strict=True):
            for code in codes.decode().split():
                report.add(code, job_id)


def _job_of(name: str) -> str:
    job_id, _, part = name.rpartition(":")
    return job_id if part in PARTS and job_id else name


def _belongs_to_queue(keys: QueueKeys, key: str) -> bool:
    return key in keys.types or key.startswith(keys.worker(""))
