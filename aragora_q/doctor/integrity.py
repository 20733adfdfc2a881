"""Whether all that lies in Redis under a queue agrees with itself: jobs, streams, indexes, TTLs.

Walks in bounded steps, may stop at a deadline and go on later. Each job is judged, and mended, by
one atomic script. Used by `aragora-q doctor`.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass, field

from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import BATCH_LIMIT

PROBLEMS = {
    "not-queued": (True, "waits in no lane: nobody would ever run it", "make it due now"),
    "delivered-without-owner": (True, "was delivered, and nobody holds it", "put it at its lane's tail"),
    "orphaned-entry": (True, "has an entry that was read, and nobody holds", "put it at its lane's tail"),
    "duplicate-entry": (True, "has an entry too many, which no read brings again", "remove it"),
    "other-lane": (True, "waits in another lane than its priority says", "set the priority to its lane's"),
    "delayed-without-hash": (True, "is delayed, its hash was deleted", "make its hash again"),
    "waits-twice": (True, "waits in a lane and is delayed, too", "keep it in its lane"),
    "listed-as-ended": (True, "is live, but listed as ended: purge would delete it", "unlist it"),
    "expires-while-live": (True, "is live, but its data has a TTL", "remove the TTL"),
    "payload-twice": (True, "has its payload twice", "keep the one in the stream"),
    "unlisted": (True, "has ended, but is in no list: purge would never find it", "list it"),
    "listed-twice": (True, "has ended, and is in another list, too", "keep it in its own list"),
    "keeps-lease": (True, "has ended, but keeps a lease", "remove the lease"),
    "never-expires": (True, "has ended, but its data has no TTL", "set the TTL"),
    "listed-without-data": (True, "is listed, but its data is gone", "unlist it"),
    "delayed-without-data": (True, "is delayed, but its data is gone", "forget it"),
    "parts-without-hash": (True, "has lasting data, but no hash", "let it expire after the retention time"),
    "invalid-numbers": (True, "has words where numbers belong: no command can show it", "remove them"),
    "payload-lost": (False, "waits, but its payload was deleted", "cancel it, and enqueue it anew"),
    "entry-lost": (False, "runs, but its stream entry was deleted",
                   "let its worker finish; if that is gone, cancel it and enqueue it anew"),
    "result-lost": (False, "is completed, but its result was deleted", "nothing can be done"),
    "wrong-type": (False, "has a key of another type where its hash should be", "delete that key"),
    "unknown-status": (False, "has a status that we do not know", "was it written by a newer version?"),
}  # fmt: skip
"""By word of `lua/examine.lua` and `lua/sift.lua`: whether it is mended without loss, what it means,
what mends it."""

INDEXES = ("delayed", "completed", "failed", "cancelled")
LANES = ("stream_high", "stream_normal", "stream_low")
PHASES = (*LANES, *INDEXES, "keys")
PARTS = ("payload", "result", "history", "journal")
EXAMPLES = 5
MAX_EXAMPLES = 10_000
"""Jobs remembered of each problem: more are only said to be more."""


@dataclass
class IntegrityReport:
    """What a walk found. `stopped_at` is where to go on when the time ran out, else empty."""

    jobs: int = 0
    problems: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of jobs by word of PROBLEMS. A walk may meet a job more than once."""
    strangers: list[str] = field(default_factory=list)
    """Keys under the queue's prefix that are none of ours."""
    stopped_at: str = ""

    def note(self, word: str, job_id: str) -> None:
        """A problem of a job."""
        if len(self.problems[word]) < MAX_EXAMPLES:
            self.problems[word].add(job_id)


class UnknownCursor(ValueError):
    """A walk cannot go on from there: no walk has ever stopped at such a place."""


async def examine(
    connection: Connection,
    *,
    repair: bool = False,
    resume_at: str = "",
    budget_seconds: float = 60.0,
) -> IntegrityReport:
    """Walk through indexes and keys, and judge every job they name; `repair` mends what can be.

    Raises UnknownCursor for a `resume_at` that no walk gave.
    """
    seen, deadline = IntegrityReport(), time.monotonic() + budget_seconds
    phase, _, cursor = (resume_at or f"{PHASES[0]}:0").partition(":")
    if phase not in PHASES or not re.fullmatch(r"\d+(-\d+)?" if phase in LANES else r"\d+", cursor):
        raise UnknownCursor(f"{resume_at!r} is no place to go on from")
    for each in PHASES[PHASES.index(phase) :]:
        at = cursor if each == phase else "0"
        while True:
            if each in LANES:
                at = await _sift(connection, each, at, seen, repair=repair)
            else:
                at, job_ids = await _step(connection, each, at, seen)
                await _judge(connection, job_ids, seen, repair=repair)
            if at == "0":
                break
            if time.monotonic() > deadline:
                seen.stopped_at = f"{each}:{at}"
                return seen
    return seen


async def _sift(
    connection: Connection, lane: str, after: str, seen: IntegrityReport, *, repair: bool
) -> str:
    """Look through a page of what a lane has delivered; the next cursor."""
    at, *left_behind = await connection.run(
        "check_lane",
        keys={"stream": getattr(connection.keys, lane)},
        job_prefix=connection.keys.job_prefix,
        after=after,
        limit=BATCH_LIMIT,
        repair=int(repair),
    )
    for name, word in left_behind:
        seen.note(word.decode(), _text(name))
    return _text(at)


async def _step(
    connection: Connection, phase: str, cursor: str, seen: IntegrityReport
) -> tuple[str, list[str]]:
    """The next cursor, and ids of jobs to judge."""
    keys = connection.keys
    if phase != "keys":
        at, rows = await connection.execute(
            "ZSCAN", getattr(keys, phase), cursor, "COUNT", BATCH_LIMIT
        )
        members = (
            rows[::2] if rows and not isinstance(rows[0], tuple | list) else [r[0] for r in rows]
        )
        return _text(at), [_text(member) for member in members]
    stem = _escaped(keys.queue_prefix)
    at, found = await connection.execute(
        "SCAN", cursor, "MATCH", f"{stem}*", "COUNT", 10 * BATCH_LIMIT
    )
    job_ids = []
    for key in map(_text, found):
        if key.startswith(keys.job_prefix):
            job_ids.append(_job_of(key.removeprefix(keys.job_prefix)))
            seen.jobs += job_ids[-1] == key.removeprefix(keys.job_prefix)
        elif not _is_ours(key.removeprefix(keys.queue_prefix)):
            seen.strangers.append(key)
    return _text(at), list(dict.fromkeys(job_ids))


async def _judge(
    connection: Connection, job_ids: list[str], seen: IntegrityReport, *, repair: bool
) -> None:
    for first in range(0, len(job_ids), BATCH_LIMIT):
        batch = job_ids[first : first + BATCH_LIMIT]
        answers = await connection.run(
            "check_job",
            [(connection.keys.job(job_id), (job_id,)) for job_id in batch],
            retention_ms=connection.config.retention_ms,
            repair=int(repair),
        )
        for job_id, words in zip(batch, answers, strict=True):
            for word in words.decode().split():
                seen.note(word, job_id)


def _job_of(name: str) -> str:
    job_id, _, part = name.rpartition(":")
    return job_id if part in PARTS and job_id else name


def _is_ours(name: str) -> bool:
    plain = {
        "stream",
        "stream:high",
        "stream:low",
        "counters",
        "control",
        "workers",
        "events",
        *INDEXES,
    }
    return name in plain or name.startswith("worker:")


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in text)


def _text(value: bytes | str | int) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
