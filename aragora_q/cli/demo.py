"""`aragora-q demo`: one debate from question to recorded result, on a server and a worker of its own.

All parts are real: embedded Valkey, the queue, the worker that `launcher` builds, the executor.
Only their place is the demo's: a queue of its own, so that no other job is touched.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import Agents, ConfigFile, RedisUrl

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

QUESTION = "Should a small team start with microservices or with a monolith?"
ROUNDS = 2
SERVER = "embedded://"
QUEUE = "demo"
AGENT_WIDTH = 16
LAST_EVENT_SECONDS = 5.0
"""How long after the worker is done the news of the end may take to reach the screen."""


def demo(
    *,
    question: Annotated[
        str, typer.Argument(metavar="[QUESTION]", help="What to debate.", show_default=False)
    ] = QUESTION,
    agents: Agents = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Rounds of critique and revision.")
    ] = ROUNDS,
    redis_url: RedisUrl = None,
    config: ConfigFile = None,
) -> None:
    """Watch a debate; needs no server, no keys, no set-up.

    Starts a private Valkey (its data stays under ~/.local/state/aragora-q, the server stops by
    itself), enqueues the debate, runs a worker until it is done, and shows result and queue.

    Example:
      aragora-q demo "Tea or coffee?"

    Exit codes:
      0 the debate completed   1 it failed   65 bad question
      78 wrong configuration
      130 Ctrl-C: the debate was cancelled

    """
    settings = options.load_config(
        config,
        redis_url=redis_url or SERVER,
        queue=QUEUE,
        executor="debate",
        concurrency=1,
        metrics_port=0,
        drain_timeout_seconds=0,
        log_level="error",
    )
    raise typer.Exit(options.run(_demo(settings, question, options.names(agents), rounds)))


async def _demo(settings: QueueConfig, question: str, agents: list[str], rounds: int) -> int:
    from aragora_q import executors
    from aragora_q.executors import debate
    from aragora_q.job import create_debate_job
    from aragora_q.observability.logs import setup_logging

    setup_logging(settings.log_level, settings.log_format)
    what_to_expect = f"{', '.join(agents)}: as you asked"
    if not agents:
        agents, what_to_expect = debate.choose_agents(settings, output.note)
    job = create_debate_job(question, agents, rounds)
    screen = _Screen()
    screen.head(question, what_to_expect)
    executor = await executors.create_default_executor(settings)
    async with options.opened(settings) as queue:
        screen.step(f"server ready: {queue.connection.address}")
        await queue.enqueue(job)
        screen.step(f"enqueued: job {job.id}")
        stopped_by = await _run(settings, executor, queue, job.id, screen)
        if stopped_by is not None:
            await queue.cancel(job.id)
            screen.step("cancelled")
            raise output.StoppedBySignal(stopped_by)
        ended = await queue.get_job(job.id)
        stats = await queue.get_queue_stats()
    if ended is None:  # somebody deleted it
        return 1
    _show_end(ended, stats)
    _show_next(settings, ended, agents)
    return int(ended.result is None)


async def _run(
    settings: QueueConfig, executor: Any, queue: RedisStreamsQueue, job_id: str, screen: _Screen
) -> signal.Signals | None:
    """Run a worker until the queue is empty, and show what it does; returns the signal that stopped it."""
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
    """Show the job's events until it has ended."""
    from aragora_q.cli.waiting import ENDINGS

    async for event in queue.events(after="0-0"):
        name = event["event"]
        if job_id not in event.get("ids", "").split() or name == "enqueued":
            continue
        if name == "progress":
            screen.progress(json.loads(event["data"]))
        else:
            screen.step(f"{name} by worker {event['worker']}" if "worker" in event else name)
        if name in ENDINGS:
            return


class _Screen:
    """What happens, as it happens: one line for each event, with the seconds since the beginning."""

    def __init__(self) -> None:
        self._begun_at = time.monotonic()
        self._phase = ""

    def head(self, question: str, what_to_expect: str) -> None:
        """Say what will be debated, and by whom."""
        for row in output.wrapped(question):
            output.write(output.styled(row, "1"))
        output.lines(output.wrapped(what_to_expect))
        output.line()

    def step(self, text: str) -> None:
        """Something happened."""
        seconds = f"{time.monotonic() - self._begun_at:5.1f} s"
        output.write(f"{output.styled(seconds, '2')}  {output.safe_text(text)}")
        sys.stdout.flush()

    def progress(self, progress: Mapping[str, Any]) -> None:
        """An agent has done its part; a new phase may have begun with it."""
        from aragora_q.cli import views

        phase = views.debate_phase(progress)
        if phase != self._phase:
            self._phase = phase
            self.step(phase)
        who = f"{progress.get('seat', 0) + 1} {progress.get('agent', '')}"
        row = f"{'':9}{output.truncate(who, AGENT_WIDTH):<{AGENT_WIDTH}}  "
        output.line(row + output.truncate(str(progress.get("said", "")), output.width() - len(row)))
        sys.stdout.flush()


def _show_end(job: Job, stats: Mapping[str, Any]) -> None:
    from aragora_q.cli import views

    output.line()
    if job.result is not None:
        output.lines(views.result_rows(job.result))
    else:
        output.lines(views.job_lines(job))
    waiting = sum(stats["waiting"].values())
    output.line(
        f"queue      {waiting} waiting, {stats['running']} running, "
        f"{stats['completed']} completed, {stats['failed']} failed"
    )


def _show_next(settings: QueueConfig, job: Job, agents: list[str]) -> None:
    """Commands that go on from here, ready to be pasted; a URL's password is left out."""
    from aragora_q.config.redis_url import RedisUrl

    seats = shlex.quote(",".join(agents))
    url = shlex.quote(RedisUrl.parse(settings.redis_url).shown)
    output.line()
    output.write(output.styled("Try next:", "1"))
    output.lines(
        f"  {command}"
        for command in (
            f"export REDIS_URL={url} ARAGORA_QUEUE_NAME={QUEUE}",
            f"aragora-q status {job.id}",
            f'aragora-q enqueue "Tea or coffee?" -a {seats}',
            "aragora-q worker --burst",
            "aragora-q stats",
        )
    )
