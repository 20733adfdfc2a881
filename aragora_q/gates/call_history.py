"""Reads and adds to what the calls of a queue's finished debates took, over a connection to the gates."""

from __future__ import annotations

from contextlib import suppress

from aragora_q.errors import CommandRefused
from aragora_q.history import CallHistory
from aragora_q.redis import replies
from aragora_q.redis.connection import Connection
from aragora_q.redis.keys import MAX_HISTORY_ROWS


async def read_history(connection: Connection) -> CallHistory:
    """Return the history of the connection's queue, in one round trip. A key of another type has none."""
    key = connection.gate_keys.history(connection.config.queue)
    with suppress(CommandRefused):  # the next debate replaces the key
        return CallHistory.of_rows(replies.pairs(await connection.execute("HGETALL", key)))
    return CallHistory()


async def learn(connection: Connection, debate: CallHistory) -> None:
    """Add what one debate took to the history of the connection's queue, in one round trip."""
    rows = debate.rows()
    if rows:
        key = connection.gate_keys.history(connection.config.queue)
        await connection.run(
            "gate_learn",
            [(None, row) for row in rows],
            keys={"history": key},
            max_rows=MAX_HISTORY_ROWS,
        )
