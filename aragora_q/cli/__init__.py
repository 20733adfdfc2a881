"""The command line: which commands there are, and how every one of them ends.

A command is a file of this package with a function (or, for `config` and `models`, a Typer app) of
its name; if Python has that name already, with an underscore after it. It is imported when it is
called: `--help` knows of commands only what COMMANDS says. Commands never import each other; what they share is
`options`, `output`, `views` and `waiting`. Called by `__main__`.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aragora_q import __version__
from aragora_q.cli import output
from aragora_q.errors import AragoraQError

COMMANDS = {
    "enqueue": "Put a debate into the queue, or many from JSON lines.",
    "worker": "Run debates until told to stop.",
    "status": "Show all that is known of jobs.",
    "wait": "Wait until jobs have ended, and show their results.",
    "list": "List jobs by status, newest first.",
    "tail": "Follow what happens in the queue.",
    "cancel": "Cancel jobs, waiting or running.",
    "requeue": "Run failed or cancelled jobs again.",
    "pause": "Let no job start; running ones go on.",
    "resume": "Let jobs start again.",
    "stats": "Show backlog, workers and throughput of the queue.",
    "reap": "Take over the jobs of dead workers; for cron.",
    "purge": "Delete jobs that ended before the retention time; for cron.",
    "exporter": "Serve the queue's metrics to Prometheus.",
    "healthcheck": "Check the health of a running worker or exporter.",
    "config": "Show and check the configuration.",
    "models": "Download a small local model, for debates without a provider.",
    "acl": "Print the Redis user that a role needs.",
    "doctor": "Find what is wrong with server, settings and data, and mend it.",
    "bench": "Measure throughput and latency against a baseline.",
    "demo": "Watch a debate; needs no server, no keys, no set-up.",
}
"""Every command and its line of help, in the order of `--help`."""

WRITE_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What goes wrong when standard output cannot be written."""

CLOSED_PIPE = 141
"""What a shell reports of a program that a closed pipe has ended."""

SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def main() -> int:
    """Run the command line; returns its exit code, or ends by the signal that stopped a worker."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # not all speak UTF-8
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
        if error.errno == errno.EPIPE:
            return CLOSED_PIPE
        output.error(
            f"cannot write the output: {error.strerror}",
            "what the command did is done: only what it had to say is lost",
        )
        return 1
    return code


def _open_closed_streams() -> None:
    """Open /dev/null where the caller closed standard input, output or error (`>&-`).

    Else the next file or socket to be opened would take its place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - stays open


def _run() -> int:
    try:
        code = typer.main.get_command(app)(prog_name="aragora-q", standalone_mode=False)
    except output.StoppedBySignal as stop:
        # Ended by the signal itself: 130 or 143 to shells, and to systemd a clean exit.
        sys.stdout.flush()
        signal.signal(stop.number, signal.SIG_DFL)
        os.kill(os.getpid(), stop.number)
        # Process 1 of a container gets here: no signal kills it. Nor does it wait for threads of jobs.
        os._exit(128 + stop.number)
    except SystemExit as stop:  # Typer's answer to a closed pipe
        raise stop.__context__ or stop from None
    except typer.Abort:
        output.note("nothing done")
        return 1
    except typer.TyperException as error:
        _report_usage_error(error)
        return 2
    return code if isinstance(code, int) else 0


def _report_usage_error(error: typer.TyperException) -> None:
    text, context = error.format_message(), getattr(error, "ctx", None)
    if text.startswith("Usage: "):  # help, for want of arguments
        sys.stderr.write(f"{text}\n")
        return
    if pydantic_says := getattr(error.__cause__, "errors", None):
        [fault, *_] = pydantic_says()
        rule = fault["msg"].removeprefix("Value error, ").replace("Input", "input").rstrip(".")
        value = f"{fault['input']!r:.100}"
        text = text.replace(error.message, rule if value in rule else f"{value}: {rule}")
    for prefix in ("Invalid value: ", "Invalid value for "):
        text = text.removeprefix(prefix)
    path = context.command_path if context else "aragora-q"
    output.error(text, f"{path} --help")


class LazyGroup(TyperGroup):
    """Holds a stub with a line of help for each command; the command itself is imported when called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that `args` begin with."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name else stub, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; whatever goes wrong becomes a message and an exit code here."""
        try:
            return super().invoke(ctx)
        except AragoraQError as error:
            if ctx.params["_debug"]:
                traceback.print_exc()
            output.error(str(error), error.hint)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise output.StoppedBySignal(signal.SIGINT) from None


def _load(name: str) -> Any:
    """The command `name`, its help as its docstring has it: examples and exit codes come last."""
    module = import_module(f"aragora_q.cli.{name}")
    target = getattr(module, f"{name}_", None) or getattr(module, name)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    text, _, examples = target.__doc__.partition("\n\n    Example")
    epilog = f"\n    Example{examples}".replace("\n\n", "\n\n    \b\n").replace(
        "\n", "\n    \b\n", 1
    )
    alone = typer.Typer(add_completion=False, **SETTINGS)
    alone.command(name, help=text, epilog=epilog)(target)
    return typer.main.get_command(alone)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, **SETTINGS)


def _show_version(*, asked: bool) -> None:
    if asked:
        output.line(f"aragora-q {__version__}")
        raise typer.Exit


@app.callback(epilog="aragora-q COMMAND --help tells more, with examples and exit codes.")
def _globals(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error came from.")
    ] = False,
) -> None:
    """A queue on Redis Streams for debates among language models."""


def _stub() -> None:
    """Stands for a command until it is called."""


for _name, _line in COMMANDS.items():
    app.command(_name, help=_line)(_stub)
