"""The `command` executor: a program of the operator's, in any language, runs each job.

Made by `load_executor` for `worker --exec CMD`. The program gets the job as JSON on stdin and
answers on stdout with the result, on fd 3 with what happens on the way, and with its exit code;
docs/executors.md is the contract. How it is started and ended is `program.py`'s business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aragora_q import codec as wire
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import SECRETS, environment_name
from aragora_q.context import AttemptContext, Executor, current_attempt
from aragora_q.errors import (
    AragoraQError,
    CommandFailed,
    ConfigError,
    LeaseLost,
    PermanentError,
    RetryLater,
)
from aragora_q.executors.process_group import ProcessGroup, lines, read_all
from aragora_q.rate_limit import RateLimit

logger = logging.getLogger(__name__)

EXIT_RETRY_LATER = os.EX_TEMPFAIL
PERMANENT_EXIT_CODES = (os.EX_DATAERR, 2)

HIDDEN = frozenset(
    {"REDIS_URL", "CREDENTIALS_DIRECTORY"}
    | {f"{environment_name(name)}{end}" for name in SECRETS for end in ("", "_FILE")}
)
"""Our secrets: the program gets them only if `exec_env_allowlist` names them."""

PRIVATE = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})
"""What systemd says to this process and to no other."""

MAX_LOG_LINE_BYTES = 2_000
MAX_REPORT_BYTES = 4 * 1024 * 1024
MAX_CHECKPOINT_NAME_CHARS = 200
LOG_LINES_PER_SECOND = 50
PROGRESS_PER_SECOND = 10


def create(config: QueueConfig) -> Executor:
    """The executor that runs `config.exec_command`. Raises ConfigError if that is no program."""
    argv = _program_and_arguments(config.exec_command)
    allowed = set(config.exec_env_allowlist.replace(",", " ").split())
    dropped = HIDDEN - allowed | PRIVATE
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    log_lines = RateLimit(LOG_LINES_PER_SECOND)

    async def run_command(job: Job) -> Mapping[str, Any]:
        return await _Run(job, log_lines).result_of(argv, env, config.max_result_bytes)

    return run_command


def _program_and_arguments(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(
            f"exec_command: {error}", hint="it is split into words as a shell does"
        ) from None
    if not words:
        raise ConfigError("executor is command, but exec_command is empty", hint="--exec 'PROGRAM'")
    path = shutil.which(words[0])
    if path is None:
        raise ConfigError(
            f"exec_command: {words[0]!r:.200} is no executable program",
            hint=f"looked for on PATH, or from {Path.cwd()}",
        )
    return [os.path.abspath(path), *words[1:]]  # noqa: PTH100 - symbolic links keep their names


class _Run:
    """One run of the program: what it is told, what it says, how that is understood."""

    def __init__(self, job: Job, log_lines: RateLimit) -> None:
        self._job = job
        self._attempt: AttemptContext = current_attempt()
        self._log_lines = log_lines
        self._progress = RateLimit(PROGRESS_PER_SECOND)
        self._last_line = ""
        self._retry_after_seconds = 0.0

    async def result_of(
        self, argv: list[str], env: Mapping[str, str], max_result_bytes: int
    ) -> Mapping[str, Any]:
        """What the program makes of the job; raises what its exit code and output mean."""
        job = wire.encode(await self._as_json())
        program = await ProcessGroup.start(argv, {**env, **self._variables()}, job)
        reading = asyncio.create_task(_read_result(program.stdout, max_result_bytes))
        work: set[asyncio.Task[Any]] = {
            reading,
            asyncio.create_task(self._log(program.stderr)),
            asyncio.create_task(self._read_messages(program.reports)),
        }
        try:
            code = await program.finish(work)
        finally:
            await program.stop(work)
        self._judge(code)
        return _decoded(reading.result())

    async def _as_json(self) -> dict[str, Any]:
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
            "created_at": job.created_at,
            "waited_seconds": job.waited_seconds,
            "checkpoints": await self._attempt.checkpoints(),
        }

    def _variables(self) -> dict[str, str]:
        return {
            "ARAGORA_JOB_ID": self._job.id,
            "ARAGORA_JOB_ATTEMPT": str(self._job.attempts),
            "ARAGORA_JOB_FENCE": str(self._job.fence),
        }

    def _judge(self, code: int) -> None:
        """Raise what an exit code other than 0 stands for."""
        if code == 0:
            return
        how = f"exit code {code}" if code > 0 else f"killed by {_signal_name(-code)}"
        text = f"{how}: {self._last_line}" if self._last_line else how
        if code == EXIT_RETRY_LATER:
            raise RetryLater(text, delay_seconds=self._retry_after_seconds)
        if code in PERMANENT_EXIT_CODES:
            raise PermanentError(text)
        raise CommandFailed(text)

    async def _log(self, stderr: asyncio.StreamReader) -> None:
        async for line in lines(stderr, MAX_LOG_LINE_BYTES):
            text = line.decode(errors="replace").strip()
            if text:
                self._last_line = text
                self._say(logging.INFO, "command says", text)

    async def _read_messages(self, reports: asyncio.StreamReader) -> None:
        async for line in lines(reports, MAX_REPORT_BYTES):
            if len(line) > MAX_REPORT_BYTES:
                raise PermanentError(f"a line on fd 3 is longer than {MAX_REPORT_BYTES} bytes")
            if line.strip():
                await self._handle_message(line)

    async def _handle_message(self, line: bytes) -> None:
        """Act on a line of fd 3. One that makes no sense is a warning, not the end of a job."""
        try:
            message = wire.decode(line)
        except ValueError:
            message = None
        match message:
            case {"progress": dict() as progress, **rest} if not rest:
                await self._report_progress(progress)
            case {"checkpoint": str() as name, "value": dict() as value, **rest} if (
                not rest and 0 < len(name) <= MAX_CHECKPOINT_NAME_CHARS
            ):
                await self._attempt.checkpoint(name, value)
            case {"retry_after": int() | float() as seconds, **rest} if not rest:
                self._retry_after_seconds = seconds
            case _:
                self._say(
                    logging.WARNING,
                    "line on fd 3 is no progress, checkpoint or retry_after",
                    line[:MAX_LOG_LINE_BYTES].decode(errors="replace"),
                )

    async def _report_progress(self, progress: Mapping[str, Any]) -> None:
        if not self._progress.allows():
            return
        try:
            await self._attempt.report_progress(progress)
        except LeaseLost:
            raise
        except (AragoraQError, ValueError) as error:  # seen by nobody, and no harm done
            self._say(logging.WARNING, "progress not shown", str(error))

    def _say(self, level: int, event: str, text: str) -> None:
        if not self._log_lines.allows():
            return
        facts: dict[str, Any] = {"job": self._job.id, "attempt": self._job.attempts, "text": text}
        if suppressed := self._log_lines.pop_suppressed():
            facts["lines_suppressed"] = suppressed
        logger.log(level, event, extra=facts)


async def _read_result(stdout: asyncio.StreamReader, max_bytes: int) -> bytes:
    data = await read_all(stdout, max_bytes)
    if len(data) > max_bytes:
        raise PermanentError(f"stdout is longer than max_result_bytes ({max_bytes})")
    return data


def _decoded(stdout: bytes) -> Mapping[str, Any]:
    try:
        result = wire.decode(stdout)
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
