"""Build a worker process, start it, handle signals, stop it in order.

Called by `aragora-q worker` and `aragora-q demo`. Order of stopping: first the worker (no new jobs,
drain, release, unregister), while metrics, watchdog and queue still serve it; then the signal handlers,
the metrics endpoint, the queue's connections, and last an embedded server, which all of them need.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NoReturn, TypeVar

import uvloop

from aragora_q import executors, process
from aragora_q.config import messages, tables
from aragora_q.config.redis_url import format_address
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor
from aragora_q.errors import (
    SERVER_ERRORS,
    AccessDenied,
    AragoraQError,
    ConfigError,
    RedisUnreachable,
    UnsupportedServer,
)
from aragora_q.gates import call_history, client, spending
from aragora_q.observability import otel, sd_notify
from aragora_q.observability.http import serving
from aragora_q.observability.logs import get_logger, setup_logging
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.redis.server import check_eviction, check_server
from aragora_q.retry import describe
from aragora_q.streams import outbox, schedules, session
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker.debate_worker import DebateWorker

logger = get_logger(__name__)

LOADED_EARLY = (
    call_history,
    client,
    messages,
    outbox,
    schedules,
    session,
    spending,
    tables,
    tomllib,
)
"""Modules that are imported where they are used, because short commands do without. A worker has them from its
start: an upgrade may replace or remove their files while it runs."""

T = TypeVar("T")

STATUS_SECONDS = 5.0
HANDLER_CHECK_SECONDS = 1.0
"""Interval at which signal handlers that a job replaced are restored."""

BURST_OUTAGE_SECONDS = 60.0
"""How long a worker in burst mode waits for Redis, so that those of cron do not pile up."""

OUTAGE_POLL_SECONDS = 0.5

OPEN_FILES, OPEN_FILES_PER_JOB = 64, 8
"""Of a worker, and of each job: a program that starts needs pipes, and a debate connections."""


def run_worker(
    config: QueueConfig,
    *,
    worker_id: str | None = None,
    burst: bool = False,
    reload: Callable[[], QueueConfig] | None = None,
) -> signal.Signals | None:
    """Run a worker until a signal stops it, or, in burst mode, until nothing is left to do.

    `reload` reads the configuration again, at SIGHUP. Returns the signal that stopped it, if one did.
    Raises ConfigError, UnsupportedServer and AccessDenied; an unreachable Redis is waited for. Raises
    AragoraQError if a job cancels the worker; its jobs are released.
    """
    setup_logging(config.log_level, config.log_format)
    _ensure_open_files(config)
    is_running = threading.Event()
    with otel.exporting(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        running = _run(config, worker_id, is_running, burst=burst, reload=reload)
        return _run_despite_jobs(loop, loop.create_task(running), is_running)


def _run_despite_jobs(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[T], is_running: threading.Event
) -> T:
    """Run `task` to its end, also if a job's task or callback raises KeyboardInterrupt or SystemExit.

    An event loop stops for these two, whichever task raised them, and with RuntimeError for `loop.stop`.
    While `is_running` is set, signals arrive as events of the loop, so that all three can only be a job's;
    the code that awaits the job's task gets the error, too.
    """
    while True:
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise AragoraQError(
                "a job cancelled the worker's tasks",
                hint="a job may cancel the tasks that it made, not those of asyncio.all_tasks()",
            ) from None
        except (KeyboardInterrupt, SystemExit, RuntimeError) as error:
            if task.done() or loop.is_closed() or not is_running.is_set():
                raise
            logger.error(  # noqa: TRY400 - the job's report has the cause
                "a job tried to stop the event loop, the worker goes on",
                extra={"error": describe(error)},
            )


async def _run(
    config: QueueConfig,
    worker_id: str | None,
    is_running: threading.Event,
    *,
    burst: bool,
    reload: Callable[[], QueueConfig] | None,
) -> signal.Signals | None:
    executor = await executors.load_executor(config)
    stopped_by: list[signal.Signals] = []
    outages: list[str] = []
    async with running_worker(
        config,
        executor,
        worker_id=worker_id,
        burst=burst,
        on_signal=stopped_by.append,
        reload=reload,
    ) as worker:
        outage = asyncio.create_task(_stop_after_outage(worker, outages)) if burst else None
        is_running.set()
        process.stay()
        try:
            await worker.start()
        finally:
            is_running.clear()
            if outage is not None:
                outage.cancel()
    if worker.stuck_jobs:
        _end_process(stopped_by, RedisUnreachable.exit_code if outages else 0)
    if outages:
        raise RedisUnreachable(
            f"Redis unavailable for {BURST_OUTAGE_SECONDS:.0f} s: {outages[0]}",
            hint="without --burst, a worker waits for it without limit",
        )
    if not stopped_by:
        return None
    # The runner waits for the default executor's threads, and those of released jobs may not end: replace it.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
    return stopped_by[0]


async def _stop_after_outage(worker: DebateWorker, outages: list[str]) -> None:
    """When Redis was unavailable for BURST_OUTAGE_SECONDS, put the error in `outages` and stop the worker."""
    available_at = time.monotonic()
    while time.monotonic() - available_at < BURST_OUTAGE_SECONDS:
        error = worker.get_stats()["redis_error"]
        if error is None:
            available_at = time.monotonic()
        await asyncio.sleep(OUTAGE_POLL_SECONDS)
    outages.append(error or "")
    await worker.stop()


def _end_process(stopped_by: Sequence[signal.Signals], code: int) -> NoReturn:
    """End the process although attempts still run: the event loop would wait for them forever."""
    logger.warning("ending the process, although attempts still run")
    otel.finish()
    if stopped_by:
        process.end_by(stopped_by[0])
    process.end_with(code)


def _ensure_open_files(config: QueueConfig) -> None:
    """Raise the limit on open files, as far as it may be, to what `concurrency` jobs need.

    Raises ConfigError if that is too little for a worker, or for the programs of its jobs.
    """
    needed = OPEN_FILES + OPEN_FILES_PER_JOB * config.concurrency
    soft, hard = (
        sys.maxsize if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if hard < (needed if config.executor == "command" else OPEN_FILES):
        raise ConfigError(
            f"concurrency is {config.concurrency}, which needs {needed} open files; "
            f"this process may open {hard}",
            hint="raise the limit (ulimit -n, LimitNOFILE=, --ulimit nofile=) or lower concurrency",
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


@asynccontextmanager
async def running_worker(
    config: QueueConfig,
    executor: Executor,
    *,
    worker_id: str | None = None,
    burst: bool = False,
    on_signal: Callable[[signal.Signals], None] = lambda _: None,
    reload: Callable[[], QueueConfig] | None = None,
) -> AsyncIterator[DebateWorker]:
    """A worker with everything around it: queue, metrics, signals, systemd. The caller starts it."""
    queue = RedisStreamsQueue(config, consumer_name=worker_id)
    metrics = WorkerMetrics(config.queue)
    otel.add_registry(metrics.registry)
    worker: DebateWorker | None = None
    try:
        preflight = None
        try:
            await _check(queue)
        except SERVER_ERRORS as error:
            if isinstance(error, AccessDenied | UnsupportedServer):
                raise
            preflight = partial(_check, queue)
            sd_notify.notify("READY=1", "STATUS=waiting for Redis")
            logger.warning("Redis unavailable, waiting for it", extra={"error": str(error)})
        healthy = lambda: worker is None or worker.is_healthy()  # noqa: E731 - bound before the worker is
        with serving(
            metrics.registry,
            config.metrics_host,
            config.metrics_port,
            healthy,
            "stalled, unable to run jobs, or refused by a replica: see the log",
        ) as port:
            if port is not None:
                address = format_address((config.metrics_host, port))
                logger.info("metrics served", extra={"url": f"http://{address}/metrics"})
            worker = DebateWorker(
                queue,
                worker_id,
                executor=executor,
                burst=burst,
                config=config,
                metrics=metrics,
                info={"metrics_port": str(port or "")},
                preflight=preflight,
            )
            watchdog = asyncio.create_task(_notify_systemd(worker))
            try:
                with _watch_signals(worker, on_signal, reload):
                    yield worker
            finally:
                watchdog.cancel()
    finally:
        await queue.close()


async def _check(queue: RedisStreamsQueue) -> None:
    """Refuse a server that may lose jobs; warn about one that loses them in a crash."""
    facts = await check_server(queue.connection)
    check_eviction(facts, queue.connection, allowed=queue.config.allow_eviction)
    if facts.has_aof is False:
        logger.warning(
            "Redis keeps no append-only file: jobs are lost when it crashes",
            extra={"address": queue.connection.address, "remedy": "CONFIG SET appendonly yes"},
        )


@contextmanager
def _watch_signals(
    worker: DebateWorker,
    on_signal: Callable[[signal.Signals], None],
    reload: Callable[[], QueueConfig] | None,
) -> Iterator[None]:
    """First SIGTERM or SIGINT: drain. Second: release all jobs now. SIGHUP: read the settings again.

    Afterwards the previous handlers are in place again.
    """
    os.register_at_fork(after_in_child=_reset_signals)
    arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in _signals()}
    loop.add_signal_handler(signal.SIGHUP, arrived.put_nowait, signal.SIGHUP)  # sets the descriptor
    # To read it is to set it. A signal that arrives meanwhile is lost, so SIGTERM has no handler yet.
    signal.set_wakeup_fd(wakeup_fd := signal.set_wakeup_fd(-1))
    for number in previous:
        loop.add_signal_handler(number, arrived.put_nowait, number)
    installed = {number: signal.getsignal(number) for number in previous}

    async def watch() -> None:
        stops: set[asyncio.Task[None]] = set()
        while True:
            try:
                async with asyncio.timeout(HANDLER_CHECK_SECONDS):
                    number = await arrived.get()
            except TimeoutError:
                _restore_handlers(installed, arrived.put_nowait)
                signal.set_wakeup_fd(wakeup_fd)  # without it, no signal reaches the loop
                continue
            try:
                if number == signal.SIGHUP:
                    _reload(worker, reload)
                    continue
                immediately = bool(stops)
                stops.add(asyncio.create_task(worker.stop(immediately=immediately)))
                on_signal(number)
                logger.info(
                    "stopping",
                    extra={
                        "signal": number.name,
                        "how": "immediately" if immediately else "draining",
                    },
                )
                sd_notify.notify("STOPPING=1")
            except Exception:  # the signals to come must be received, whatever went wrong
                logger.exception("signal not fully handled", extra={"signal": number.name})

    watching = asyncio.create_task(watch(), name="signals")
    try:
        yield
    finally:
        watching.cancel()
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


def _signals() -> tuple[signal.Signals, ...]:
    return (*process.stop_signals(), signal.SIGHUP)


def _restore_handlers(
    installed: Mapping[signal.Signals, object], callback: Callable[[signal.Signals], None]
) -> None:
    """Install the worker's signal handlers again where a job replaced them."""
    for number, handler in installed.items():
        if signal.getsignal(number) is not handler:
            logger.error(
                "a job replaced a signal handler of the worker, restored",
                extra={"signal": number.name},
            )
            asyncio.get_running_loop().add_signal_handler(number, callback, number)


def _reset_signals() -> None:
    """In a process that a job forks: a signal to it must not be taken for one to the worker."""
    with suppress(ValueError):  # forked in a thread, which may not change signal handlers
        signal.set_wakeup_fd(-1)
        for number in _signals():
            signal.signal(number, signal.SIG_DFL)


def _reload(worker: DebateWorker, reload: Callable[[], QueueConfig] | None) -> None:
    """Apply the settings that may change while jobs run; if one is invalid, change none."""
    sd_notify.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        if reload is not None:
            config = reload()
            _ensure_open_files(config)
            worker.reconfigure(config)
            setup_logging(config.log_level, config.log_format)
            logger.info("settings reloaded", extra={"concurrency": config.concurrency})
    except ConfigError as error:
        logger.error("settings not reloaded", extra={"error": str(error)})  # noqa: TRY400 - the line contains the cause
    finally:
        sd_notify.notify("READY=1")


async def _notify_systemd(worker: DebateWorker) -> None:
    """Send READY once, STATUS periodically, and the watchdog's ping while the worker is healthy."""
    sd_notify.notify("READY=1")
    watchdog_seconds = sd_notify.watchdog_seconds()
    pause_seconds = (
        min(STATUS_SECONDS, watchdog_seconds / 3) if watchdog_seconds else STATUS_SECONDS
    )
    while True:
        stats = worker.get_stats()
        status = f"{stats['active_jobs']}/{stats['max_concurrent']} running"
        if stats["oldest_job_seconds"]:
            status += f", oldest {stats['oldest_job_seconds']:.0f} s"
        if stats["trouble"]:
            status += f", cannot run jobs: {stats['trouble']}"
        if stats["redis_error"]:
            status += f", waiting for Redis: {stats['redis_error']}"
        lines = [f"STATUS={status}"]
        if stats["is_draining"]:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(pause_seconds * 3_000_000)}")
        if not worker.has_stalled():  # a restart helps no worker that Redis refuses
            lines.append("WATCHDOG=1")
        sd_notify.notify(*lines)
        await asyncio.sleep(pause_seconds)
