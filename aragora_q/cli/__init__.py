"""The command line: the list of commands, and how errors and signals become exit codes.

A command is a module of this package. It defines a function of its name, or a Typer app for
`budget`, `config`, `group`, `models`, `providers`, `schedule` and `webhook` (with an underscore appended if
the name is a Python builtin), and EPILOG, the examples and exit codes at the end of its help. The module is
imported when the command is called; `--help` reads only COMMANDS. Commands never import each other; they
share `options`, `output`, `debates`, `filters`, `group_rows`, `selection`, `sweeping`, `bulk`, `quotes` and
`waiting`. Called by `__main__`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aragora_q import __version__, process
from aragora_q.cli import output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl
from aragora_q.errors import AragoraQError, validation_rule

COMMANDS = {
    "enqueue": "Enqueue a debate, or many jobs from JSON lines.",
    "sweep": "Enqueue a file of questions by arms, quoted as a whole.",
    "worker": "Run a worker until it receives SIGTERM.",
    "status": "Show jobs in full.",
    "show": "Render a debate, or all of a group as one document.",
    "receipt": "Write the receipt of an ended job, or verify one.",
    "wait": "Wait until jobs have ended, and show their results.",
    "list": "List jobs, newest first.",
    "tail": "Follow the events of the queue.",
    "cancel": "Cancel jobs, pending or running.",
    "hold": "Keep jobs from starting until they are unheld.",
    "unhold": "Let held jobs run.",
    "group": "List, show, seal and cancel groups of jobs.",
    "table": "Write the debates of a group as CSV, JSON lines, Markdown.",
    "compare": "Show arms of an experiment side by side.",
    "eval": "Measure arms on questions with known answers.",
    "requeue": "Run failed or cancelled jobs again.",
    "pause": "Stop starting jobs; running jobs continue.",
    "resume": "Start jobs of a paused queue again.",
    "budget": "List, show, set and reset budgets.",
    "providers": "List, pause and resume providers of models.",
    "schedule": "List, run, pause and resume schedules.",
    "webhook": "List, test and redeliver messages of webhooks.",
    "changes": "Show what operators did, and why.",
    "stats": "Show backlog, workers and throughput.",
    "spend": "Show what paid calls cost, by day, agent, model, tenant.",
    "reap": "Reclaim jobs of dead workers (for cron).",
    "purge": "Delete expired jobs (for cron).",
    "web": "Serve the console: pages, HTTP API, metrics, health.",
    "token": "Make a token for the console.",
    "top": "Watch the queue in the terminal, and act on jobs.",
    "exporter": "Serve the queue's metrics to Prometheus.",
    "healthcheck": "Check the health of a worker, exporter or console.",
    "config": "Show and check the configuration.",
    "models": "Download a small model for debates without a provider.",
    "acl": "Print the Redis ACL rule for a role.",
    "doctor": "Check server, settings and data; repair data.",
    "bench": "Measure throughput and latency against a baseline.",
    "demo": "Run a demo debate without server, keys or setup.",
}
"""Every command and its line in the output of `--help`, in order."""

WRITE_ERRORS = (errno.EBADF, errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a standard output that is closed or full."""

RESOURCE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS)
"""Errors of a limit on open files, processes, threads or memory."""

RESOURCE_HINT = (
    "see ulimit -a; systemd's LimitNOFILE=, TasksMax= and MemoryMax=; the limits of the container"
)

CLOSED_PIPE = 141
"""Exit code of a program whose output pipe was closed: 128 + SIGPIPE."""

SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def main() -> int:
    """Run the command line and return its exit code.

    If a signal stopped the command, the process exits by that signal instead.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # for locales without UTF-8
    try:
        code = _run()
        output.flush()
    except (OSError, MemoryError, RuntimeError) as error:
        if _is_resource_error(error):
            output.error(f"a system limit is reached: {error}", RESOURCE_HINT)
            return 1
        if not isinstance(error, OSError) or error.errno not in WRITE_ERRORS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
        if error.errno == errno.EPIPE:
            return CLOSED_PIPE
        output.error(
            f"cannot write to standard output: {error.strerror}",
            "output is lost; a command that works on many jobs stopped there: run it again",
        )
        return 1
    return code


def _is_resource_error(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in RESOURCE_ERRORS
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


def _run() -> int:
    try:
        code = typer.main.get_command(app)(prog_name="aragora-q", standalone_mode=False)
    except output.StoppedBySignal as stop:
        process.end_by(stop.number)  # shells report 130 or 143, systemd reports a clean exit
    except SystemExit as stop:  # raised by Typer for a closed pipe
        raise stop.__context__ or stop from None
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt | EOFError):
            output.info("")  # ends the line of the question
        output.info("aborted: nothing was changed")
        return 1
    except typer.TyperException as error:
        _report_usage_error(error)
        return 2
    return code if isinstance(code, int) else 0


def _report_usage_error(error: typer.TyperException) -> None:
    text, context = error.format_message(), getattr(error, "ctx", None)
    if text.startswith("Usage: "):  # help, printed because no arguments were given
        sys.stderr.write(f"{text}\n")
        return
    if validation_errors := getattr(error.__cause__, "errors", None):
        fault, *_ = validation_errors()
        rule = validation_rule(fault["msg"])
        value = f"{fault['input']!r:.100}"
        text = text.replace(error.message, rule if value in rule else f"{value} {rule}")
    if match := re.match(r"Invalid value(?: for (.+?))?: ", text):
        option = match[1].replace("'", "") + ": " if match[1] else ""
        text = option + text[match.end() :]
    path = context.command_path if context else "aragora-q"
    quote = "put a text with blanks in quotes; " if text.startswith("Got unexpected extra") else ""
    output.error(output.without_urls(text), f"{quote}{path} --help")


SHARED = ("_redis_url", "_queue", "_config")
"""Parameters of the group whose options are those of the command."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are called; for `--help` it has stubs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command named by the first of `args`, and its arguments.

        Options before the command become its first arguments: one that is repeated after it wins.
        """
        name, stub, rest = super().resolve_command(ctx, args)
        if not name:
            return name, stub, rest
        command = _load(name)
        given = {
            parameter.opts[0]: ctx.params[parameter.name]
            for parameter in self.params
            if parameter.name in SHARED and ctx.params.get(parameter.name) is not None
        }
        return name, command, _passed_on(given, ctx, name, command, rest)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except AragoraQError as error:
            if ctx.params["_debug"]:
                traceback.print_exc()
            output.error(str(error), error.hint)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            raise output.StoppedBySignal(getattr(stop, "number", signal.SIGINT)) from None


def _passed_on(
    given: dict[str, Any], ctx: Any, name: str, command: Any, args: list[str]
) -> list[str]:
    """Return the arguments of a command, or of the subcommand that they name, with options before them."""
    subcommands = getattr(command, "commands", None)
    if subcommands is not None:
        if complete := getattr(command, "with_subcommand", None):
            args = complete(args)
        first, *rest = args or [""]
        if first not in subcommands:
            return args  # help, or an error
        path = f"{name} {first}"
        return [first, *_passed_on(given, ctx, path, subcommands[first], rest)]
    known = {option for parameter in command.params for option in parameter.opts}
    if not known.issuperset(given) and not ctx.resilient_parsing:  # which completes a command line
        ctx.fail(f"{name} takes no {next(option for option in given if option not in known)}")
    return [*(f"{option}={value}" for option, value in given.items() if option in known), *args]


def _load(name: str) -> Any:
    """Import the command `name`."""
    module = import_module(f"aragora_q.cli.{name}")
    target = getattr(module, f"{name}_", None) or getattr(module, name)
    if not isinstance(target, typer.Typer):
        command, target = target, typer.Typer(add_completion=False, **SETTINGS)
        target.command(name, epilog=getattr(module, "EPILOG", None))(command)
    loaded: Any = typer.main.get_command(target)
    for group_or_command in (loaded, *getattr(loaded, "commands", {}).values()):
        for parameter in group_or_command.params:
            if parameter.param_type_name == "argument":  # in help: ID, not ID <list[str]>
                parameter.display_type_rich = lambda **_: None
    return loaded


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, **SETTINGS)


def _show_version(*, requested: bool) -> None:
    if requested:
        output.line(f"aragora-q {__version__}")
        raise typer.Exit


@app.callback(epilog="Run aragora-q COMMAND --help for options, examples and exit codes.")
def _globals(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Print a traceback with every error.")
    ] = False,
    _redis_url: RedisUrl = None,
    _queue: QueueName = None,
    _config: ConfigFile = None,
) -> None:
    """A job queue on Redis Streams for multi-agent LLM debates."""
