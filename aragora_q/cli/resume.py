"""`aragora-q resume`: let jobs start again."""

from __future__ import annotations

from aragora_q.cli import options, output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl, Silent


def resume(
    *,
    quiet: Silent = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Let the jobs of a paused queue start again.

    Example:
      aragora-q resume

    Exit codes:
      0 it is not paused   69 Redis unreachable   75 try again   77 denied
      78 configuration

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    changed = options.run(options.pause(settings, paused=False))
    if not quiet:
        output.note(f"queue {settings.queue} {'goes on' if changed else 'was not paused'}")
