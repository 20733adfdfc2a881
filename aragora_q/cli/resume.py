"""`aragora-q resume`: start jobs of a paused queue again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import options, output
from aragora_q.cli.options import Quiet, Reason, with_queue

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q resume

\b
Exit codes:
  0 the queue is not paused   69 Redis unreachable   75 try again
  77 access denied   78 invalid configuration
"""


@with_queue
async def resume(queue: RedisStreamsQueue, *, reason: Reason = "", quiet: Quiet = False) -> None:
    """Start jobs of a paused queue again."""
    changed = await queue.pause(paused=False, by=options.operator(), reason=reason)
    if not quiet:
        output.info(f"queue {queue.config.queue} {'is resumed' if changed else 'was not paused'}")
