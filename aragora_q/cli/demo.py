"""`aragora-q demo`: run one debate on an embedded server and show it as it happens.

All parts are real: embedded Valkey, the queue, the worker that `launcher` builds, the executor. The
demo uses a separate queue, so it does not touch other jobs.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import DEMO_QUEUE, DEMO_SERVER, Agents, ConfigFile, RedisUrl, traced

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.config.settings import QueueConfig
    from aragora_q.context import Executor
    from aragora_q.streams.queue import RedisStreamsQueue

PROGRAM = "aragora-q"
QUESTION = "Should a small team start with microservices or with a monolith?"
ROUNDS = 2
AGENT_WIDTH = 16
LAST_EVENT_SECONDS = 5.0
"""Longest wait for the job's last event after the worker has stopped."""

EPILOG = """\b
Examples:
  aragora-q demo "Tea or coffee?"

\b
Exit codes:
  0 the debate completed   1 the debate failed   65 invalid question or agents
  78 invalid configuration   130 Ctrl-C: the debate was cancelled
"""


@traced
def demo(
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="Question to debate.", show_default=False)
    ] = QUESTION,
    agents: Agents = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Rounds of review and revision at most.")
    ] = ROUNDS,
    redis_url: RedisUrl = None,
    config: ConfigFile = None,
) -> int:
    """Run a demo debate without server, keys or setup.

    Starts a private Valkey, enqueues the debate, runs a worker until the debate has ended, and shows
    the result and the queue. The server stops afterwards; its data stays in
    ~/.local/state/aragora-q.

    Default agents, the first that are available: those of your configuration; models whose API key
    is set, which cost a few cents; a small local model, if the extra `local` is installed;
    demo agents, which call no model.
    """
    settings = options.load_config(
        config,
        redis_url=redis_url or DEMO_SERVER,
        queue=DEMO_QUEUE,
        executor="debate",
        concurrency=1,
        metrics_port=0,
        drain_timeout_seconds=0,
        log_level="error",
    )
    return options.run(_demo(settings, question, options.split_names(agents), rounds))


async def _demo(settings: QueueConfig, question: str, agents: list[str], rounds: int) -> int:
    from aragora_q import executors
    from aragora_q.executors import debate
    from aragora_q.job import create_debate_job
    from aragora_q.observability.logs import setup_logging

    setup_logging(settings.log_level, settings.log_format)
    description = f"agents {', '.join(agents)}, from --agents"
    if not agents:
        agents, description = debate.choose_agents(settings, output.info)
    job = create_debate_job(question, agents, rounds)
    screen = _Screen()
    screen.print_header(question, description)
    executor = await executors.create_default_executor(settings)
    async with options.open_queue(settings) as queue:
        screen.print_step(f"server ready: {queue.connection.address}")
        await queue.enqueue(job)
        screen.print_step(f"enqueued: job {job.id}")
        stopped_by = await _run(settings, executor, queue, job.id, screen)
        if stopped_by is not None:
            await queue.cancel(job.id)
            screen.print_step("cancelled")
            raise output.StoppedBySignal(stopped_by)
        ended = await queue.get_job(job.id)
        stats = await queue.get_queue_stats()
    if ended is None:  # deleted in the meantime
        return 1
    _print_result(ended, stats)
    _print_next_steps(settings, ended, agents)
    return int(ended.result is None)


async def _run(
    settings: QueueConfig,
    executor: Executor,
    queue: RedisStreamsQueue,
    job_id: str,
    screen: _Screen,
) -> signal.Signals | None:
    """Run a worker until the queue is empty, showing its events. Return the signal that stopped it."""
    from aragora_q import launcher

    stopped_by: list[signal.Signals] = []
    follow = asyncio.create_task(_follow(queue, job_id, screen))
    try:
        async with launcher.running_worker(
            settings, executor, burst=True, on_signal=stopped_by.append
        ) as worker:
            await worker.start()
        if not stopped_by:
            async with asyncio.timeout(LAST_EVENT_SECONDS):
                await follow
    finally:
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)
    return stopped_by[0] if stopped_by else None


async def _follow(queue: RedisStreamsQueue, job_id: str, screen: _Screen) -> None:
    """Print the job's events until it has ended."""
    from aragora_q.events import ENDINGS

    async for event in queue.events(after="0-0"):
        name = event["event"]
        if job_id not in event.get("ids", "").split() or name == "enqueued":
            continue
        if name == "progress":
            screen.print_progress(json.loads(event["data"]))
        else:
            screen.print_step(f"{name} by worker {event['worker']}" if "worker" in event else name)
        if name in ENDINGS:
            return


class _Screen:
    """Prints one line per event, with the seconds since the start."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._phase = ""

    def print_header(self, question: str, description: str) -> None:
        """Print the question and a description of the agents."""
        for row in output.wrapped(question):
            output.write(output.styled(row, "1"))
        output.lines(output.wrapped(description))
        output.line()

    def print_step(self, text: str) -> None:
        """Print an event."""
        seconds = f"{time.monotonic() - self._started_at:5.1f} s"
        output.write(f"{output.styled(seconds, '2')}  {output.safe_text(text)}")
        output.flush()

    def print_progress(self, progress: Mapping[str, Any]) -> None:
        """Print the contribution of an agent, after the phase if that is new."""
        from aragora_q import job_text

        phase = job_text.debate_phase(progress)
        if phase != self._phase:
            self._phase = phase
            self.print_step(phase)
        agent = f"{progress.get('seat', 0) + 1} {progress.get('agent', '')}"
        row = f"{'':9}{output.truncate(agent, AGENT_WIDTH):<{AGENT_WIDTH}}  "
        output.line(row + output.truncate(str(progress.get("said", "")), output.width() - len(row)))
        output.flush()


def _print_result(job: Job, stats: Mapping[str, Any]) -> None:
    from aragora_q.cli import layout

    output.line()
    if job.result is not None:
        output.lines(layout.result_rows(job))
    else:
        output.lines(layout.job_lines(job, stats["now"] / 1000))
    waiting = sum(stats["waiting"].values())
    output.line(
        f"queue      {waiting} waiting, {stats['running']} running, "
        f"{stats['completed']} completed, {stats['failed']} failed"
    )


def _print_next_steps(settings: QueueConfig, job: Job, agents: list[str]) -> None:
    """Print commands to paste next. The password of a URL is omitted."""
    from aragora_q.config.redis_url import RedisUrl

    names = shlex.quote(",".join(agents))
    url = shlex.quote(RedisUrl.parse(settings.redis_url).redacted)
    program = _program()
    output.line()
    output.write(output.styled("Try next:", "1"))
    output.lines(
        f"  {command}"
        for command in (
            f"export REDIS_URL={url} ARAGORA_QUEUE_NAME={DEMO_QUEUE}",
            f"{program} show {job.id}",
            f'{program} enqueue "Tea or coffee?" -a {names}',
            f"{program} worker --burst",
            f"{program} stats",
            f"{program} web",
        )
    )


def _program() -> str:
    """Return the word that runs this command: its path, if the shell does not find it by name."""
    called = Path(sys.argv[0])
    is_missing = called.name == PROGRAM and shutil.which(PROGRAM) is None
    return shlex.quote(sys.argv[0]) if is_missing else PROGRAM
