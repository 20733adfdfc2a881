"""Check that keys are consistent: jobs, streams, indexes, labels, groups, messages, TTLs, counters of gates.

Walks through the keys in bounded steps, may stop at a deadline, and can be resumed. Each job is checked,
and repaired, by one atomic script. Groups come last, when the states of their jobs have been repaired.
Used by `aragora-q doctor`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from aragora_q.doctor import gates
from aragora_q.doctor.groups import check_group, check_label
from aragora_q.doctor.outbox import check_deliveries, check_list
from aragora_q.doctor.report import IntegrityReport
from aragora_q.labels import decode_labels
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import QueueKeys
from aragora_q.redis.scripts import BATCH_LIMIT

INDEXES = ("delayed", "held", "completed", "failed", "cancelled")
LANES = ("stream_high", "stream_normal", "stream_low")
PHASES = (*LANES, *INDEXES, "keys", "labels", "groups", "gates")
PARTS = ("payload", "result", "history", "journal")


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
    async with connection.open_gates() as to_gates:
        for phase in PHASES[PHASES.index(first) :]:
            cursor = first_cursor if phase == first else "0"
            target = to_gates if phase == "gates" else connection
            while True:
                cursor = await _check_page(target, phase, cursor, report, repair=repair)
                if cursor == "0":
                    break
                if time.monotonic() > deadline:
                    report.stopped_at = f"{phase}:{cursor}"
                    return report
    return report


async def _check_page(
    connection: Connection, phase: str, cursor: str, report: IntegrityReport, *, repair: bool
) -> str:
    """Check what the next page of a phase names; return the next cursor, "0" after the last page."""
    if phase == "gates":
        return await gates.check_page(connection, cursor, report, repair=repair)
    if phase in LANES:
        return await _check_lane(connection, phase, cursor, report, repair=repair)
    next_cursor, page = await _next_page(connection, phase, cursor)
    if phase == "keys":
        found = _sort_keys(connection.keys, list(page), report)
    elif phase == "labels":
        found = await _sort_labels(connection, page, report)
    elif phase == "groups":
        found = _Found(groups=list(page))
    else:
        found = _Found(job_ids=list(page))
    if phase != "groups":
        found.groups = await _unlisted(connection, found.groups)
    await _check_found(connection, found, report, repair=repair)
    return next_cursor


async def _check_found(
    connection: Connection, found: _Found, report: IntegrityReport, *, repair: bool
) -> None:
    await _check_jobs(connection, found.job_ids, report, repair=repair)
    for label in found.labels:
        await check_label(connection, label, report, repair=repair)
    for name in found.lists:
        await check_list(connection, name, report, repair=repair)
    await check_deliveries(connection, found.deliveries, report, repair=repair)
    for group in found.groups:
        await check_group(connection, group, report, repair=repair)


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


@dataclass
class _Found:
    """What a page names."""

    job_ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    """Of messages for webhooks: `outbox:<w>` and `sent:<w>`."""
    deliveries: list[str] = field(default_factory=list)


async def _next_page(
    connection: Connection, phase: str, cursor: str
) -> tuple[str, dict[str, bytes]]:
    """Return the next cursor, and a page of keys, job ids or names of groups; labels by job id."""
    keys = connection.keys
    if phase == "keys":
        next_cursor, names = await connection.execute(
            "SCAN", cursor, "MATCH", keys.pattern, "COUNT", 10 * BATCH_LIMIT
        )
        return replies.text(next_cursor), {replies.text(name): b"" for name in names}
    command = "HSCAN" if phase == "labels" else "ZSCAN"
    next_cursor, members = await connection.execute(
        command, getattr(keys, phase), cursor, "COUNT", BATCH_LIMIT
    )
    found = {replies.text(name): value for name, value in replies.pairs(members)}
    return replies.text(next_cursor), found


def _sort_keys(keys: QueueKeys, names: list[str], report: IntegrityReport) -> _Found:
    """Return what keys name, without repetition; count jobs and note keys that are not the queue's."""
    job_ids, labels, groups, lists, deliveries = [], [], [], [], []
    for key in names:
        kind, _, name = key.removeprefix(keys.queue_prefix).partition(":")
        group, _, part = name.partition(":")
        if key in keys.types or (kind == "worker" and name):
            continue
        if kind == "job" and name:
            job_ids.append(_job_of(name))
            report.jobs += job_ids[-1] == name
        elif kind == "members" and name:
            labels.append(name)
        elif kind in ("outbox", "sent") and name:
            lists.append(f"{kind}:{name}")
        elif kind == "delivery" and name:
            deliveries.append(name)
        elif kind == "experiment" and name:  # it outlives its group, and comes before it
            groups.append(name)
        elif kind == "group" and group and part in ("", "then"):
            groups.append(group)
        else:
            report.foreign_keys.append(key)
    return _Found(
        *(list(dict.fromkeys(found)) for found in (job_ids, labels, groups, lists, deliveries))
    )


async def _sort_labels(
    connection: Connection, labels: dict[str, bytes], report: IntegrityReport
) -> _Found:
    """Return the labeled jobs that have no hash, so that the walk of the keys did not meet them; all groups."""
    exist = await connection.execute_all(
        ("EXISTS", connection.keys.job(job_id)) for job_id in labels
    )
    waiting = report.problems.get("entry-without-hash", ())
    missing = [
        job_id
        for job_id, exists in zip(labels, exist, strict=True)
        if exists == 0 and job_id not in waiting
    ]
    groups = {decode_labels(text).get("group"): None for text in labels.values()}
    return _Found(job_ids=missing, groups=[group for group in groups if group])


async def _unlisted(connection: Connection, groups: list[str]) -> list[str]:
    """Return the groups that the walk of the groups would not meet."""
    if not groups:
        return []
    scores = await connection.execute("ZMSCORE", connection.keys.groups, *groups)
    return [group for group, score in zip(groups, scores, strict=True) if score is None]


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
