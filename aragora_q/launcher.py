"""Build a worker process, start it, handle signals, stop it in order.

Called by `aragora-q worker` and `aragora-q demo`. Order of stopping: first the worker (no new jobs,
drain, release, unregister), while metrics, watchdog and queue still serve it; then the signal handlers,
the metrics endpoint, the queue's connections, and last an embedded server, which all of them need.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NoReturn

import uvloop

from aragora_q import executors
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Executor
from aragora_q.errors import SERVER_ERRORS, AccessDenied, ConfigError, UnsupportedServer
from aragora_q.observability import sd_notify
from aragora_q.observability.http import serving
from aragora_q.observability.logs import get_logger, setup_logging
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.redis.server import check_eviction, check_server
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.worker.debate_worker import DebateWorker

logger = get_logger(__name__)

STATUS_SECONDS = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_worker(
    config: QueueConfig,
    *,
    worker_id: str | None = None,
    burst: bool = False,
    reload: Callable[[], QueueConfig] | None = None,
) -> signal.Signals | None:
    """Run a worker until a signal stops it, or, in burst mode, until nothing is left to do.

    `reload` reads the configuration again, at SIGHUP. Returns the signal that stopped it, if one did.
    Raises ConfigError, UnsupportedServer and AccessDenied; an unreachable Redis is waited for.
    """
    setup_logging(config.log_level, config.log_format)
    return uvloop.run(_run(config, worker_id, burst=burst, reload=reload))


async def _run(
    config: QueueConfig,
    worker_id: str | None,
    *,
    burst: bool,
    reload: Callable[[], QueueConfig] | None,
) -> signal.Signals | None:
    executor = await executors.load_executor(config)
    stopped_by: list[signal.Signals] = []
    async with running_worker(
        config,
        executor,
        worker_id=worker_id,
        burst=burst,
        on_signal=stopped_by.append,
        reload=reload,
    ) as worker:
        await worker.start()
    if worker.stuck_jobs:
        _end_process(stopped_by)
    if not stopped_by:
        return None
    # uvloop.run waits for the default executor's threads, and those of released jobs may not end: replace it.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
    return stopped_by[0]


def _end_process(stopped_by: Sequence[signal.Signals]) -> NoReturn:
    """End the process although attempts still run: the event loop would wait for them forever."""
    logger.warning("ending the process, although attempts still run")
    sys.stdout.flush()
    for number in stopped_by:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(128 + stopped_by[0] if stopped_by else 0)  # process 1 survives its own signals


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
            "stalled, or refused by a replica: see the log",
        ) as port:
            if port is not None:
                logger.info(
                    "metrics served", extra={"url": f"http://{config.metrics_host}:{port}/metrics"}
                )
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
            signals = _watch_signals(worker, on_signal, reload)
            watchdog = asyncio.create_task(_notify_systemd(worker))
            try:
                yield worker
            finally:
                for task in (signals, watchdog):
                    task.cancel()
                for number in SIGNALS:
                    asyncio.get_running_loop().remove_signal_handler(number)
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


def _watch_signals(
    worker: DebateWorker,
    on_signal: Callable[[signal.Signals], None],
    reload: Callable[[], QueueConfig] | None,
) -> asyncio.Task[None]:
    """First SIGTERM or SIGINT: drain. Second: release all jobs now. SIGHUP: read the settings again."""
    os.register_at_fork(after_in_child=_reset_signals)
    arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, arrived.put_nowait, number)

    async def watch() -> None:
        stops: set[asyncio.Task[None]] = set()
        while True:
            number = await arrived.get()
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

    return asyncio.create_task(watch(), name="signals")


def _reset_signals() -> None:
    """In a process that a job forks: a signal to it must not be taken for one to the worker."""
    with suppress(ValueError):  # forked in a thread, which may not change signal handlers
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _reload(worker: DebateWorker, reload: Callable[[], QueueConfig] | None) -> None:
    """Apply the settings that may change while jobs run; if one is invalid, change none."""
    sd_notify.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        if reload is not None:
            config = reload()
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
        if stats["redis_error"]:
            status += f", waiting for Redis: {stats['redis_error']}"
        lines = [f"STATUS={status}"]
        if stats["is_draining"]:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(pause_seconds * 3_000_000)}")
        if not worker.has_stalled():  # a restart helps no worker that Redis refuses
            lines.append("WATCHDOG=1")
        sd_notify.notify(*lines)
        await asyncio.sleep(pause_seconds)
