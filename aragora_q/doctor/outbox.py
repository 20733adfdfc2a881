"""Check the messages for webhooks: each is in one list, and each list has only messages that exist.

Used by the walk in `integrity.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from aragora_q.doctor.report import IntegrityReport
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.scripts import batched

PAGE = 500
"""Messages that one call looks at, about."""


async def check_list(
    connection: Connection, name: str, report: IntegrityReport, *, repair: bool
) -> None:
    """Check that the messages in a list, `outbox:<w>` or `sent:<w>`, exist; `repair` removes others."""
    kind, _, webhook = name.partition(":")
    cursor = "0"
    while True:
        reply = await connection.run(
            "check_outbox",
            list=kind,
            webhook=webhook,
            cursor=cursor,
            limit=PAGE,
            repair=int(repair),
        )
        cursor, *lost = map(replies.text, reply)
        if cursor == "wrong-type":
            report.add("outbox-wrong-type", name)
            return
        for delivery_id in lost:
            report.add("message-lost", delivery_id)
        if cursor == "0":
            return


async def check_deliveries(
    connection: Connection, ids: Sequence[str], report: IntegrityReport, *, repair: bool
) -> None:
    """Check that messages are listed, and expire."""
    for batch in batched(ids):
        results = await connection.run(
            "check_deliveries", [(None, (each,)) for each in batch], repair=int(repair)
        )
        for delivery_id, codes in zip(batch, results, strict=True):
            for code in codes.decode().split():
                report.add(code, delivery_id)
