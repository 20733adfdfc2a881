"""`aragora-q token`: make a token for the console."""

from __future__ import annotations

from typing import Annotated

import typer

from aragora_q.cli.options import LoadConfig, with_config

EPILOG = """\b
Examples:
  aragora-q token alice --role operator

\b
Exit codes:
  0 ok   2 usage   78 invalid configuration, or the file cannot be written
"""


@with_config
def token(
    load: LoadConfig,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="For whom it is.")],
) -> None:
    """Make a token for the console, and print it once."""
    load()
    raise NotImplementedError(name)
