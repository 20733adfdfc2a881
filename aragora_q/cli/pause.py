"""`aragora-q pause`: stop starting jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aragora_q.cli import options, output
from aragora_q.cli.options import Quiet, Reason, with_queue

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

EPILOG = """\b
Examples:
  aragora-q pause --reason "deploy" && deploy && aragora-q resume

\b
Exit codes:
  0 the queue is paused   69 Redis unreachable   75 try again
  77 access denied   78 invalid configuration
"""


@with_queue
async def pause(queue: RedisStreamsQueue, *, reason: Reason = "", quiet: Quiet = False) -> None:
    """Stop starting jobs of the queue on all workers until `resume`; running jobs continue.

    Jobs can still be enqueued. The queue stays paused when workers or the server restart.
    """
    changed = await queue.pause(paused=True, by=options.operator(), reason=reason)
    if not quiet:
        output.info(
            f"queue {queue.config.queue} {'is paused' if changed else 'was already paused'}"
        )
