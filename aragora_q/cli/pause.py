"""`aragora-q pause`: let no job start."""

from __future__ import annotations

from aragora_q.cli import options, output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl, Silent


def pause(
    *,
    quiet: Silent = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Let no job of the queue start, on any worker, until `resume`; running ones go on.

    Enqueueing goes on, too. It stays paused over restarts of workers and server.

    Example:
      aragora-q pause && deploy && aragora-q resume

    Exit codes:
      0 it is paused   69 Redis unreachable   75 try again   77 denied
      78 configuration

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    changed = options.run(options.pause(settings, paused=True))
    if not quiet:
        output.note(f"queue {settings.queue} {'is paused' if changed else 'was paused already'}")
