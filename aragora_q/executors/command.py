"""The `command` executor: run an operator's program, in any language, once per attempt.

Built by `load_executor` for `worker --exec CMD`. The program reads the job as JSON from stdin, writes
its result to stdout and messages to fd 3, and its exit code decides what happens to the job;
docs/executors.md is the contract. `process_group.py` starts and stops the program; `startup.py` says why
it cannot be started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aragora_q import codec, tracing
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import SECRETS, environment_name
from aragora_q.context import AttemptContext, Executor, current_attempt
from aragora_q.errors import (
    AragoraQError,
    CommandFailed,
    ConfigError,
    GateClosed,
    HoldJob,
    LeaseLost,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors import startup
from aragora_q.executors.process_group import ProcessGroup, read_lines
from aragora_q.executors.spending import Report, Spending, read_cooldown, read_spent
from aragora_q.ledger import LEDGER
from aragora_q.observability.logs import get_logger
from aragora_q.rate_limit import RateLimit

logger = get_logger(__name__)

EXIT_RETRY_LATER = os.EX_TEMPFAIL
PERMANENT_EXIT_CODES = (os.EX_DATAERR, 2)

SECRET_ENV = frozenset(
    {"REDIS_URL", "CREDENTIALS_DIRECTORY"}
    | {f"OTEL_EXPORTER_OTLP{kind}_HEADERS" for kind in ("", "_TRACES", "_METRICS", "_LOGS")}
    | {f"{environment_name(name)}{suffix}" for name in SECRETS for suffix in ("", "_FILE")}
)
"""Variables with secrets of aragora-q, such as API keys of the receiver of spans: passed to the program only if
`exec_env_allowlist` names them."""

ENDPOINT_ENV = frozenset(
    f"OTEL_EXPORTER_OTLP{kind}_ENDPOINT" for kind in ("", "_TRACES", "_METRICS", "_LOGS")
)
"""Variables to which the same applies if the address has a password, or a query, which may be a key."""

SYSTEMD_ENV = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"}
)
"""Variables that systemd sets for this process only: never passed to the program."""

TRACE_ENV = frozenset({"TRACEPARENT", "TRACESTATE"})
"""The trace context of this process, never passed to the program, which gets that of its attempt."""

MAX_LOG_LINE_BYTES = 2_000
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_CHECKPOINT_NAME_CHARS = 200
LOG_LINES_PER_SECOND = 50
PROGRESS_PER_SECOND = 10


def create(config: QueueConfig) -> Executor:
    """Build the executor that runs `config.exec_command` once per attempt.

    The program inherits this process' environment, except SYSTEMD_ENV, TRACE_ENV and those SECRET_ENV that
    `config.exec_env_allowlist` does not name; ARAGORA_JOB_ID, ARAGORA_JOB_ATTEMPT and
    ARAGORA_JOB_FENCE are added, and TRACE_ENV of the attempt, if it is traced. It runs in its own process
    group. When the attempt is cancelled (job cancelled, timed out or lease lost, worker stopping), or the
    gates refuse the job after what the program reported of its spending, the group gets SIGTERM, and
    SIGKILL after `process_group.GRACE_SECONDS`.

    The executor returns the JSON object that the program wrote to stdout. It raises:
        PermanentError: exit code 2 or 65, exit code 0 without a JSON object, or more output than
            `config.max_result_bytes` or MAX_MESSAGE_BYTES allow. The job fails.
        RetryLater: exit code 75. The job is retried uncharged, after at least the seconds that the
            program sent as `retry_after`.
        CommandFailed: any other exit code, or a signal. The job is retried until its attempts are used up.
        GateClosed, HoldJob, PermanentError: the gates refuse the job. If the program ends with a result
            nevertheless, or by itself (other than with exit code 75), that counts.
        WorkerUnable: the program cannot be started. The job is released, uncharged.
        LeaseLost: the job is no longer this attempt's; noticed when progress or a checkpoint is sent.

    Raises:
        ConfigError: `config.exec_command` is empty, has unbalanced quotes, or cannot be executed.

    """
    argv = _parse_command(config.exec_command)
    allowed = set(config.exec_env_allowlist.replace(",", " ").split())
    secret = SECRET_ENV | {
        name for name in ENDPOINT_ENV if set("@?").intersection(os.environ.get(name, ""))
    }
    excluded = secret - allowed | SYSTEMD_ENV | TRACE_ENV
    env = {name: value for name, value in os.environ.items() if name not in excluded}
    startup.allow_waiting()
    if fault := startup.find_fault(argv[0]):
        raise ConfigError(
            f"exec_command: {fault}", hint="run it by hand on this machine, as the worker's user"
        )
    log_limit = RateLimit(LOG_LINES_PER_SECOND)

    async def run_command(job: Job) -> Mapping[str, Any]:
        return await _CommandRun(job, log_limit).execute(argv, env, config.max_result_bytes)

    return run_command


def _not_runnable(program: str) -> str:
    if "/" not in program or not os.path.exists(program):  # noqa: PTH110 - the text as it was given
        return "not found or not executable"
    if os.path.isdir(program):  # noqa: PTH112
        return "is a directory"
    return "is not executable: run chmod +x, or call its interpreter"


def _parse_command(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise ConfigError(
            f"exec_command: {error}", hint="it is split into arguments as a shell does"
        ) from None
    if not argv:
        raise ConfigError(
            "executor is command, but exec_command is empty", hint="set it, or use --exec 'PROGRAM'"
        )
    try:
        directory = Path.cwd()
    except FileNotFoundError:
        directory = None  # deleted: a relative path leads nowhere
    path = shutil.which(argv[0])
    if path is None or (directory is None and not os.path.isabs(path)):  # noqa: PTH117
        raise ConfigError(
            f"exec_command: {argv[0]!r:.200} {_not_runnable(argv[0])}",
            hint=f"searched on PATH; a path with a slash is relative to {directory}"
            if directory
            else "the current directory was deleted: start the worker in another, or give a full path",
        )
    return [os.path.abspath(path), *argv[1:]]  # noqa: PTH100 - symbolic links keep their names


class _CommandRun:
    """One run of the program: send the job, read its output, interpret its exit code."""

    def __init__(self, job: Job, log_limit: RateLimit) -> None:
        self._job = job
        self._attempt: AttemptContext = current_attempt()
        self._log_limit = log_limit
        self._progress_limit = RateLimit(PROGRESS_PER_SECOND)
        self._spending = Spending(self._attempt, job.started_at)
        self._last_stderr_line = ""
        self._retry_after_seconds = 0.0

    async def execute(
        self, argv: list[str], env: Mapping[str, str], max_result_bytes: int
    ) -> Mapping[str, Any]:
        """Run the program to its end and return its result; see `create` for what it raises."""
        checkpoints = await self._attempt.checkpoints()
        await self._spending.resume(checkpoints)
        checkpoints.pop(LEDGER, None)
        stdin = codec.encode(self._job_fields(checkpoints), spare_levels=0)
        program = await self._start(argv, {**env, **self._job_env()}, stdin)
        result = asyncio.create_task(_read_result(program.stdout, max_result_bytes))
        readers: set[asyncio.Task[Any]] = {
            result,
            asyncio.create_task(self._log_stderr(program.stderr)),
            asyncio.create_task(self._read_messages(program.messages)),
        }
        booking = asyncio.create_task(self._spending.book())
        asking = asyncio.create_task(self._spending.ask())
        try:
            exit_code = await program.wait({*readers, booking, asking})
        except (GateClosed, HoldJob, PermanentError) as error:
            if error is not self._spending.refusal:
                raise
            if program.exited.done():  # by itself: its exit code says what happens
                exit_code = await program.wait({*readers, booking})
                if exit_code == EXIT_RETRY_LATER:  # and the gates say when
                    raise
            else:
                await program.stop(readers)
                if not _is_complete(program, result):
                    raise
                exit_code = 0
        finally:
            try:
                await program.stop(readers)
            finally:
                await self._spending.finish(booking, asking)
        if exit_code and (fault := startup.interpreter_fault(argv[0], exit_code)):
            raise WorkerUnable(fault)
        self._raise_for_exit_code(exit_code)
        return _parse_result(result.result())

    async def _start(self, argv: list[str], env: Mapping[str, str], stdin: bytes) -> ProcessGroup:
        try:
            return await ProcessGroup.start(argv, env, stdin)
        except OSError as error:
            raise WorkerUnable(startup.explain(argv[0], error)) from error

    def _job_fields(self, checkpoints: Mapping[str, Any]) -> dict[str, Any]:
        job = self._job
        return {
            "id": job.id,
            "payload": job.payload,
            "priority": job.priority,
            "attempt": job.attempts,
            "max_attempts": job.max_attempts,
            "is_last_attempt": self._attempt.is_last_attempt,
            "crashes": job.crashes,
            "fence": job.fence,
            "worker_id": job.worker_id,
            "group": job.group,
            "tenant": job.tenant,
            "tags": dict(job.tags),
            "created_at": job.created_at,
            "waited_seconds": job.waited_seconds,
            "checkpoints": checkpoints,
        }

    def _job_env(self) -> dict[str, str]:
        return {
            "ARAGORA_JOB_ID": self._job.id,
            "ARAGORA_JOB_ATTEMPT": str(self._job.attempts),
            "ARAGORA_JOB_FENCE": str(self._job.fence),
            **_trace_env(self._job),
        }

    def _raise_for_exit_code(self, exit_code: int | None) -> None:
        """Return for exit code 0; raise the error that any other code means."""
        if exit_code == 0:
            return
        if exit_code is None:
            raise CommandFailed(
                "exit code unknown: this process ignores SIGCHLD or took it elsewhere"
            )
        cause = (
            f"exit code {exit_code}" if exit_code > 0 else f"killed by {_signal_name(-exit_code)}"
        )
        message = f"{cause}: {self._last_stderr_line}" if self._last_stderr_line else cause
        if exit_code == EXIT_RETRY_LATER:
            raise RetryLater(message, delay_seconds=self._retry_after_seconds)
        if exit_code in PERMANENT_EXIT_CODES:
            raise PermanentError(message)
        raise CommandFailed(message)

    async def _log_stderr(self, stderr: asyncio.StreamReader) -> None:
        async for line in read_lines(stderr, MAX_LOG_LINE_BYTES):
            text = line.decode(errors="replace").strip()
            if text:
                self._last_stderr_line = text
                self._log_line(logging.INFO, "command output", text)

    async def _read_messages(self, messages: asyncio.StreamReader) -> None:
        try:
            async for line in read_lines(messages, MAX_MESSAGE_BYTES):
                if len(line) > MAX_MESSAGE_BYTES:
                    raise PermanentError(f"a line on fd 3 is longer than {MAX_MESSAGE_BYTES} bytes")
                if line.strip():
                    await self._handle_message(line)
        finally:
            self._spending.end()

    async def _handle_message(self, line: bytes) -> None:
        """Act on one line of fd 3. An invalid line is logged as a warning; the job goes on."""
        try:
            message = codec.decode(line)
        except ValueError:
            message = None
        match message:
            case {"progress": dict() as progress, **rest} if not rest:
                await self._report_progress(progress)
            case {"checkpoint": str() as name, "value": dict() as value, **rest} if (
                not rest and 0 < len(name) <= MAX_CHECKPOINT_NAME_CHARS and name != LEDGER
            ):
                await self._attempt.checkpoint(name, value)
            case {"retry_after": int() | float() as seconds, **rest} if not rest and not isinstance(
                seconds, bool
            ):
                self._retry_after_seconds = seconds
            case {"spent": dict() as fields, **rest} if not rest:
                await self._report_money("spent", read_spent, fields)
            case {"cooldown": dict() as fields, **rest} if not rest:
                await self._report_money("cooldown", read_cooldown, fields)
            case _:
                self._log_line(
                    logging.WARNING,
                    "ignored a line on fd 3: not a valid progress, checkpoint, retry_after, spent or cooldown",
                    line[:MAX_LOG_LINE_BYTES].decode(errors="replace"),
                )

    async def _report_money(
        self, kind: str, read: Callable[[Mapping[str, Any]], Report], fields: Mapping[str, Any]
    ) -> None:
        try:
            report = read(fields)
        except ValueError as error:
            self._log_line(logging.WARNING, f"ignored a {kind} message on fd 3", str(error))
        else:
            await self._spending.add(report)

    async def _report_progress(self, progress: Mapping[str, Any]) -> None:
        """Report progress; drop it when it exceeds the rate limit or cannot be sent."""
        if not self._progress_limit.allow():
            return
        try:
            await self._attempt.report_progress(progress)
        except LeaseLost:
            raise
        except (AragoraQError, ValueError) as error:
            self._log_line(logging.WARNING, "progress not reported", str(error))

    def _log_line(self, level: int, event: str, text: str) -> None:
        if not self._log_limit.allow():
            return
        fields: dict[str, Any] = {"job": self._job.id, "attempt": self._job.attempts, "text": text}
        if suppressed := self._log_limit.pop_suppressed():
            fields["lines_suppressed"] = suppressed
        logger.log(level, event, extra=fields)


def _trace_env(job: Job) -> dict[str, str]:
    """Return the context of the attempt's span; without tracing, the job's, if this is its first start."""
    passed_on = "" if job.is_restart else job.trace
    context = tracing.current() if tracing.current_ids() else passed_on
    return {name.upper(): value for name, value in tracing.headers(context).items()}


async def _read_result(stdout: asyncio.StreamReader, max_bytes: int) -> bytes:
    try:
        await stdout.readexactly(max_bytes + 1)
    except asyncio.IncompleteReadError as end:
        return end.partial
    raise PermanentError(f"stdout is longer than max_result_bytes ({max_bytes})")


def _is_complete(program: ProcessGroup, result: asyncio.Task[bytes]) -> bool:
    """Return True if a program that was stopped ended with a result nevertheless: it was paid for."""
    if not (program.exited.done() and program.exited.result() == 0):
        return False
    try:
        _parse_result(result.result())
    except (PermanentError, asyncio.CancelledError, asyncio.InvalidStateError):
        return False
    return True


def _parse_result(stdout: bytes) -> Mapping[str, Any]:
    try:
        result = codec.decode(stdout)
    except ValueError as error:
        raise PermanentError(
            f"exit code 0, but stdout ({stdout[:100]!r}) is not JSON: {error}"
        ) from None
    if not isinstance(result, dict):
        raise PermanentError(f"exit code 0, but stdout is not a JSON object: {stdout[:100]!r}")
    return result


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
