"""Many jobs from JSON lines: read in constant memory, sent in batches, each line answered in order.

A line is a JSON object: the fields of a debate (`question`, `agents`, …), or a `payload` of any
kind for an executor of one's own; and, of the job, `id`, `priority`, `delay_seconds`,
`max_attempts`. Without an `id` the payload's hash is the id, so that a run repeated after a fault
enqueues nothing twice. Input that begins like an array, or like an object over several lines, is
one document. Used by `enqueue`.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from aragora_q import codec as wire
from aragora_q.base import Job
from aragora_q.cli import output
from aragora_q.errors import InvalidPayload
from aragora_q.job import DebateJobPayload

if TYPE_CHECKING:
    from aragora_q.streams.queue import RedisStreamsQueue

READ_BYTES = 65_536
BATCH_LINES = 100
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
JOB_FIELDS = ("priority", "delay_seconds", "max_attempts")
PROGRESS_SECONDS = 0.2

Line = tuple[int, bytes | None]
"""Its number, and its bytes; None if it was too long to keep."""


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """What `stream` holds, as it comes: what is there is not kept waiting."""
    while chunk := stream.read1(READ_BYTES):  # type: ignore[attr-defined] # what stdin is
        yield chunk


def read_lines(chunks: Iterable[bytes], most_bytes: int) -> Iterator[list[Line]]:
    """The lines in `chunks` that are not blank."""
    number, rest, is_too_long = 0, b"", False
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        found: list[Line] = []
        for line in lines:
            number += 1
            if is_too_long or len(line) > most_bytes:
                found.append((number, None))
            elif line.strip():
                found.append((number, line))
            is_too_long = False
        if is_too_long or len(rest) > most_bytes:
            rest, is_too_long = b"", True
        yield found
    if is_too_long or rest.strip():
        yield [(number + 1, None if is_too_long else rest)]


def read_head(chunks: Iterator[bytes]) -> bytes:
    """As much of the input as tells what it is: its first line, or the beginning of a long one."""
    head = b""
    for chunk in chunks:
        head += chunk
        if b"\n" in head.lstrip() or len(head) >= READ_BYTES:
            break
    return head


def is_document(head: bytes) -> bool:
    """Whether the input that begins so is one JSON document, not JSON lines."""
    first = head.lstrip().partition(b"\n")[0].strip()
    return first.startswith(b"[") or first == b"{"


def job_of(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> Job:
    """The job that a line describes; `defaults` fill what it leaves out. Raises InvalidPayload."""
    if not isinstance(fields, dict):
        raise InvalidPayload(f"not a JSON object: {json.dumps(fields):.60}")
    of_job = {name: fields.pop(name) for name in JOB_FIELDS if name in fields}
    job_id = fields.pop("id", None)
    of_debate = {name: value for name, value in defaults.items() if name not in JOB_FIELDS}
    if "payload" in fields:
        payload = fields.pop("payload")
        if not isinstance(payload, dict):
            raise InvalidPayload(f"payload is not a JSON object: {json.dumps(payload):.60}")
        if fields:
            raise InvalidPayload(f"unknown field {next(iter(fields))!r:.100} beside payload")
    else:
        payload = DebateJobPayload.from_dict({**of_debate, **fields}).to_dict()
    of_job = {name: defaults[name] for name in JOB_FIELDS if name in defaults} | of_job
    return Job(payload=payload, id=content_id(payload) if job_id is None else job_id, **of_job)


def content_id(payload: Mapping[str, Any]) -> str:
    """A job id made of the payload: equal ones have equal ids, however they are written."""
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass
class BulkSummary:
    """How far a bulk run came."""

    last_line: int = 0
    created: int = 0
    known: int = 0
    refused: int = 0
    not_durable: int = 0
    first_refusal: str = ""

    def text(self) -> str:
        """`998 jobs enqueued, 2 known before, 1 refused`."""
        known = f", {self.known:,} known before" if self.known else ""
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{output.count(self.created, 'job')} enqueued{known}{refused}"


class BulkEnqueuer:
    """Enqueues what a stream holds, and writes one result for each of its lines.

    A result: `line`, and `id` and `created` (false: the id was known, nothing changed), or `error`.
    `durable` is there, and false, where the confirmation that was asked for did not come in time.
    """

    def __init__(
        self,
        queue: RedisStreamsQueue,
        defaults: Mapping[str, Any],
        *,
        quiet: bool,
        tally: BulkSummary,
    ) -> None:
        self._queue = queue
        self._defaults = defaults
        self._quiet = quiet
        self._known_agents: set[str] = set()
        self.tally = tally
        # Escapes may make JSON longer than the payload it says; far longer, it cannot be one.
        self._most_bytes = 4 * queue.config.max_payload_bytes + READ_BYTES

    async def run(self, stream: BinaryIO, progress: Progress) -> None:
        """Enqueue all lines. What a fault leaves undone, running it again does."""
        rest = read_chunks(stream)
        head = read_head(rest).removeprefix(codecs.BOM_UTF8)  # as some editors begin a file
        chunks = itertools.chain([head], rest)
        if is_document(head):
            await self._document(chunks)
            return
        for lines in read_lines(chunks, self._most_bytes):
            await self._batches(lines)
            progress.show(self.tally)

    async def _batches(self, lines: list[Line]) -> None:
        for start in range(0, len(lines), BATCH_LINES):
            batch = lines[start : start + BATCH_LINES]
            await self._enqueue(batch, self._parse)
        sys.stdout.flush()

    def _parse(self, raw: bytes | None) -> Any:
        if raw is None:
            raise InvalidPayload(f"longer than {self._most_bytes:,} bytes")
        return _decode(raw)

    async def _document(self, chunks: Iterable[bytes]) -> None:
        """Items of an array, or one object; they are numbered like lines."""
        parts, size = [], 0
        for chunk in chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_DOCUMENT_BYTES:
                raise InvalidPayload(
                    f"a JSON document of more than {MAX_DOCUMENT_BYTES:,} bytes",
                    hint="JSON lines, one object per line, have no such limit: jq -c '.[]'",
                )
        document = _decode(b"".join(parts))
        items = document if isinstance(document, list) else [document]
        for start in range(0, len(items), BATCH_LINES):
            batch = items[start : start + BATCH_LINES]
            await self._enqueue(list(enumerate(batch, start + 1)), lambda item: item)

    def _check_agents(self, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload for a debate with an agent that nobody knows; each is looked up once."""
        agents = payload.get("agents")
        if not isinstance(agents, list) or "question" not in payload:
            return  # no debate
        if self._queue.config.executor != "debate":
            return
        from aragora_q.executors.debate import check_agents

        unseen = set(map(str, agents)) - self._known_agents
        check_agents(unseen, self._queue.config)
        self._known_agents |= unseen

    async def _enqueue(self, lines: Sequence[tuple[int, Any]], read: Callable[[Any], Any]) -> None:
        results: list[dict[str, Any]] = []
        jobs: list[tuple[int, Job]] = []
        for number, line in lines:
            results.append({"line": number})
            try:
                job = job_of(read(line), self._defaults)
                self._queue.check(job)
                self._check_agents(job.payload)
            except InvalidPayload as error:
                results[-1]["error"] = self._refused(number, error)
            else:
                jobs.append((len(results) - 1, job))
        answers = await self._queue.enqueue_many([job for _, job in jobs])
        for (at, _), answer in zip(jobs, answers, strict=True):
            results[at] |= {"id": answer.id, "created": answer.created}
            self.tally.created += answer.created
            self.tally.known += not answer.created
            if not answer.durable:
                results[at]["durable"] = False
                self.tally.not_durable += 1
        self.tally.last_line = lines[-1][0]
        self._write(results)

    def _refused(self, number: int, error: InvalidPayload) -> str:
        text = f"{error} ({error.hint})" if error.hint else str(error)
        self.tally.first_refusal = self.tally.first_refusal or f"line {number:,}: {text}"
        self.tally.refused += 1
        return text

    def _write(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            if not self._quiet:
                output.json_line(result)
            elif "id" in result:
                output.line(result["id"])


def _decode(raw: bytes) -> Any:
    try:
        return wire.decode(raw)
    except ValueError as error:
        raise InvalidPayload(f"not JSON: {str(error).replace('at line 1 ', 'at ')}") from None


class Progress:
    """One line on a terminal's stderr that tells how far a bulk run is; nothing anywhere else."""

    def __init__(self, stream: BinaryIO) -> None:
        # Beside results that scroll over the same screen it would only be torn to pieces.
        self._is_shown = sys.stderr.isatty() and not sys.stdout.isatty()
        self._stream = stream
        self._started_at = self._shown_at = time.monotonic()
        self._size = _size(stream) if self._is_shown else 0

    def show(self, tally: BulkSummary) -> None:
        """Draw it anew, unless that was done a moment ago."""
        now = time.monotonic()
        if not self._is_shown or now - self._shown_at < PROGRESS_SECONDS:
            return
        self._shown_at = now
        share = f"{self._stream.tell() / self._size:4.0%}  " if self._size else ""
        per_second = tally.last_line / (now - self._started_at)
        sys.stderr.write(f"\r\033[K{share}{tally.text()}, {per_second:,.0f} lines/s")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take it away."""
        if self._is_shown:
            sys.stderr.write("\r\033[K")


def _size(stream: BinaryIO) -> int:
    """Bytes of a regular file; 0 for what has no size."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
