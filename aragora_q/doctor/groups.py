"""Check the lists of labels and the counts of groups, page by page, each page by one script.

Used by the walk in `integrity.py`.
"""

from __future__ import annotations

from aragora_q.doctor.report import IntegrityReport
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection

PAGE = 500
"""Jobs that one call looks at, about."""

ATTEMPTS = 3
"""Times that a group is counted before it is called busy."""


async def check_label(
    connection: Connection, label: str, report: IntegrityReport, *, repair: bool
) -> None:
    """Check that the jobs that are listed at a label have it; `repair` removes others from the list."""
    cursor = "0"
    while True:
        reply = await connection.run(
            "check_members", label=label, cursor=cursor, limit=PAGE, repair=int(repair)
        )
        cursor, *problems = map(replies.text, reply)
        if cursor == "wrong-type":
            report.add("label-wrong-type", label)
            return
        for job_id, code in replies.pairs(problems):
            report.add(code, job_id)
        if cursor == "0":
            return


async def check_group(
    connection: Connection, name: str, report: IntegrityReport, *, repair: bool
) -> None:
    """Compare a group with its jobs. One that changes while they are counted is counted again, or busy."""
    progress, attempt = "", 1
    while True:
        reply = await connection.run(
            "check_group",
            group=name,
            progress=progress,
            limit=PAGE,
            retention_ms=connection.config.retention_ms,
            repair=int(repair),
        )
        state, text = map(replies.text, reply)
        if state == "more":
            progress = text
            continue
        for code in text.split():
            report.add(code, name)
        if state == "done":
            return
        if attempt == ATTEMPTS:
            report.busy_groups.add(name)
            return
        progress, attempt = "", attempt + 1
