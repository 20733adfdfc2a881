"""`aragora-q top`: watch the queue in the terminal, and act on jobs."""

from __future__ import annotations

from aragora_q.cli.options import LoadConfig, with_config

EPILOG = """\b
Examples:
  aragora-q top

\b
Exit codes:
  0 ok   69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_config
def top(load: LoadConfig) -> None:
    """Watch the queue in the terminal, and act on jobs."""
    load()
    raise NotImplementedError
