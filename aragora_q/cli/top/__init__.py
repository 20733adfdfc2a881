"""`aragora-q top`: the overview of the queue in a terminal, with keys that act on jobs.

`reading` reads what is shown, `texts` lays it out, `actions` are what keys do to jobs and to the queue. `app`,
`screens` and `table` make the screen, with Textual; `screen_text` is the last thing that a text passes before
it reaches the terminal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import typer

from aragora_q import process
from aragora_q.cli import options, output
from aragora_q.cli.filters import GivenFilter, with_filter
from aragora_q.cli.options import LoadConfig, with_config
from aragora_q.errors import ConfigError

if TYPE_CHECKING:
    from aragora_q.cli.top.app import TopApp
    from aragora_q.config.settings import QueueConfig

NO_SCREEN = ("", "dumb", "unknown")
"""Values of TERM of terminals that only print lines."""

EPILOG = """\b
Examples:
  aragora-q top
  aragora-q top --status failed --tenant acme
  ssh -t host aragora-q top

\b
Exit codes:
  0 ended with q or Ctrl-C   2 not in a terminal
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration, or textual is not installed
"""


@with_filter("top")
@with_config
def top(load: LoadConfig, *, given: GivenFilter) -> None:
    """Watch the queue in the terminal, and act on jobs.

    Shows what needs attention, counts, throughput, spending, workers and jobs, every 2 seconds and at every
    event. Keys pause the queue, and cancel, requeue, hold and unhold jobs; ? lists all of them.
    """
    _check_terminal()
    settings = load()
    options.run(_top(settings, given))


def _check_terminal() -> None:
    """Raise typer.BadParameter if this is not a terminal that can show a screen; prefer its own size."""
    elsewhere = "elsewhere use aragora-q stats --watch"
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise typer.BadParameter(
            f"top needs a terminal for its input, output and errors; {elsewhere}"
        )
    terminal = os.environ.get("TERM", "")
    if terminal in NO_SCREEN:
        raise typer.BadParameter(f"a terminal of type {terminal!r} has no screen; {elsewhere}")
    if all(os.get_terminal_size()):  # else, as at a serial line, the variables are all there is
        for name in ("COLUMNS", "LINES"):  # they would hide that the terminal has another size
            os.environ.pop(name, None)


async def _top(settings: QueueConfig, given: GivenFilter) -> None:
    try:
        from aragora_q.cli.top.app import TopApp
    except ModuleNotFoundError as error:
        if error.name != "textual":
            raise
        raise ConfigError(
            "top needs the package textual", hint='pip install "aragora-q[top]"'
        ) from None
    from aragora_q.cli.top.reading import Reader

    async with options.open_queue(settings) as queue, queue.connection.open_gates() as gates:
        app = TopApp(Reader(queue, gates), await given.resolve(queue), options.operator())
        process.stay()
        with _stopped_by_signals(app):
            await app.run_async(mouse=False)  # the terminal's own selection copies ids
    if app.stopped_by is not None:
        raise output.StoppedBySignal(app.stopped_by)
    if app.fault is not None:
        raise app.fault


@contextmanager
def _stopped_by_signals(app: TopApp) -> Iterator[None]:
    """Let signals end the screen in order, so that the terminal is as it was before."""
    loop = asyncio.get_running_loop()
    numbers = (*process.stop_signals(), signal.SIGHUP)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        numbers = process.stop_signals()
    for number in numbers:
        loop.add_signal_handler(number, partial(app.stop, number))
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
