"""`aragora-q worker`: the process that runs debates."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from aragora_q.base import WORKER_ID_PATTERN
from aragora_q.cli import options, output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl


def _check_worker_id(value: str | None) -> str | None:
    if value is not None and not WORKER_ID_PATTERN.fullmatch(value):
        raise typer.BadParameter("1 to 48 of letters, digits and ._-, a letter or digit first")
    return value


def worker(
    *,
    worker_id: Annotated[
        str | None,
        typer.Option(
            "--worker-id",
            metavar="ID",
            callback=_check_worker_id,
            help="A stable id of its own; default: made of host and pid.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", help="Debates run at once; default 3."),
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
            "--exec", metavar="CMD", help="Run every job with this program (--executor command)."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            help="Port of /metrics; 0: none; default: the first free one from 9464.",
        ),
    ] = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="Stop when nothing is left to do.")
    ] = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Run debates until told to stop.

    SIGTERM or Ctrl-C: take no more jobs, let the running ones finish (at most the configured drain
    time), hand back the rest. A second signal hands back at once. While Redis is away, it waits.
    SIGHUP: read concurrency, retry delays, drain time and logging again.

    Example:
      aragora-q worker --worker-id worker-1 --concurrency 3
      aragora-q worker --exec './debate.sh --brief'

    Exit codes:
      143 stopped by SIGTERM   130 by Ctrl-C   0 a burst is done
      77 access denied   78 wrong configuration or unsuitable server

    """
    if exec_command is not None:
        executor = executor or "command"
        if executor != "command":
            raise typer.BadParameter(f"--exec is for --executor command, not {executor}")
    load = partial(
        options.load_config,
        config,
        redis_url=redis_url,
        queue=queue,
        concurrency=concurrency,
        executor=executor,
        exec_command=exec_command,
        metrics_port=metrics_port,
    )
    from aragora_q import launcher

    stopped_by = launcher.run_worker(load(), worker_id=worker_id, burst=burst, reload=load)
    if stopped_by is not None:
        raise output.StoppedBySignal(stopped_by)
