"""`aragora-q worker`: the process that runs jobs."""

from __future__ import annotations

import signal
from functools import partial
from typing import Annotated

import typer

from aragora_q.base import WORKER_ID_PATTERN
from aragora_q.cli import output
from aragora_q.cli.options import LoadConfig, with_config

EPILOG = """\b
Examples:
  aragora-q worker --worker-id worker-1 --concurrency 3
  aragora-q worker --exec './debate.sh --brief'

\b
Exit codes:
  0 nothing is left to run (--burst)
  69 Redis unavailable for a minute (--burst)   77 access denied
  78 invalid configuration or unsupported server
  130 stopped by Ctrl-C   143 stopped by SIGTERM
"""


def _check_worker_id(value: str | None) -> str | None:
    if value is not None and not WORKER_ID_PATTERN.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r:.100} must be 1 to 48 letters, digits, '.', '_' or '-', "
            "and begin with a letter or digit"
        )
    return value


@with_config
def worker(
    load: LoadConfig,
    *,
    worker_id: Annotated[
        str | None,
        typer.Option(
            "--worker-id",
            metavar="ID",
            callback=_check_worker_id,
            help="Unique id that survives restarts. [default: from host and pid]",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", help="Jobs to run at once. [default: 3]"),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="NAME",
            help="debate (default), command, or package.module:factory.",
        ),
    ] = None,
    exec_command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Program to run for each job; implies --executor command.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            help="Port of /metrics; 0: off. [default: first free port from 9464]",
        ),
    ] = None,
    burst: Annotated[
        bool,
        typer.Option(
            "--burst",
            help="Exit when nothing is left to run: held jobs stay, jobs due after retry_max_delay, too.",
        ),
    ] = False,
) -> None:
    """Run a worker until it receives SIGTERM.

    SIGTERM or Ctrl-C: start no more jobs, let running jobs finish within the drain timeout, release
    the rest. A second signal releases them immediately. SIGHUP: reload concurrency, retry delays,
    drain timeout, budgets, limits of providers, schedules, webhooks and logging. While Redis is
    unavailable, the worker keeps retrying; with --burst, for one minute.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the launcher reloads at it
    if exec_command is not None:
        executor = executor or "command"
        if executor != "command":
            raise typer.BadParameter(
                f"--exec requires --executor command, not --executor {executor}"
            )
    reload = partial(
        load,
        concurrency=concurrency,
        executor=executor,
        exec_command=exec_command,
        metrics_port=metrics_port,
    )
    from aragora_q import launcher

    stopped_by = launcher.run_worker(reload(), worker_id=worker_id, burst=burst, reload=reload)
    if stopped_by is not None:
        raise output.StoppedBySignal(stopped_by)
