"""`aragora-q token`: make a token for the console."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from aragora_q.cli import output
from aragora_q.cli.options import LoadConfig, with_config

EPILOG = """\b
Examples:
  aragora-q token alice --role operator --file /etc/aragora-q/tokens
  aragora-q token ci --role producer > ci.token

\b
Exit codes:
  0 ok   2 usage   78 invalid configuration, or the file cannot be written
"""


@with_config
def token(
    load: LoadConfig,
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Who gets the token.")
    ],
    role: Annotated[
        Literal["viewer", "producer", "operator"],
        typer.Option("--role", help="What the token allows: read; enqueue, too; act, too."),
    ] = "viewer",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="File of tokens. [default: setting web_tokens_file]"
        ),
    ] = None,
) -> None:
    """Make a token for the console, and print it, once, on standard output.

    The file gets a line with the name, the role and the token's SHA-256; a running console reads it
    at once. To revoke the token, remove the line.
    """
    from aragora_q.errors import ConfigError
    from aragora_q.web.roles import Role
    from aragora_q.web.tokens import NAME, NAME_RULE, new_token, token_line

    if not NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r:.100} {NAME_RULE}", param_hint="NAME")
    path = file or load().web_tokens_file
    if path is None:
        raise ConfigError(
            "no file of tokens is named", hint="use --file FILE, or set web_tokens_file"
        )
    made = new_token()
    try:
        _append(Path(path), token_line(name, Role(role), made))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot write {path}: {reason}") from None
    output.line(made)
    output.info(f"{name} is {role} with this token, which is not stored; its line is in {path}")


def _append(path: Path, line: str) -> None:
    """Append a line to a file that only this user may read; make it if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        ends_in_line = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
        stream.write(f"{'' if ends_in_line else os.linesep}{line}\n".encode())
