"""Read jobs from JSON lines, and print one result per line.

A line is a JSON object with the fields of a debate (`question`, `agents`, …) or, for other executors,
any `payload`; optionally also `id`, and JOB_FIELDS of the job. Without `id`, the job gets a new one; on
request, the hash of payload and group, so that a repeated run enqueues no job twice. Input that begins like
an array, or like an object over several lines, is read as one JSON document. Used by `enqueue` and `quotes`;
`requeue` and `group seal` use the readers.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import select
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from aragora_q import codec
from aragora_q.cli import output
from aragora_q.errors import InvalidPayload
from aragora_q.intake.lines import (
    BATCH_LINES,
    READ_BYTES,
    Item,
    Line,
    LineSplitter,
    decode,
    in_batches,
    max_line_bytes,
    undecoded,
)

if TYPE_CHECKING:
    from aragora_q.intake.bulk import BulkEnqueuer

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
PROGRESS_SECONDS = 0.2


@contextmanager
def open_source(source: str) -> Iterator[BinaryIO]:
    """Open a file; `-` is standard input. Raises typer.BadParameter."""
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None
    with stream:
        yield stream


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the contents of `stream` as soon as they arrive, and an empty chunk before waiting for more.

    Raises:
        typer.BadParameter: it cannot be read.
    """
    try:
        while True:
            if not _is_readable(stream):
                yield b""
            chunk = stream.read1(READ_BYTES)  # type: ignore[attr-defined] # buffered streams have it
            if not chunk and _is_at_end(stream):
                return
            yield chunk
    except OSError as error:
        source = "standard input" if stream is sys.stdin.buffer else stream.name
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None


def _is_readable(stream: BinaryIO) -> bool:
    """Return True if reading does not wait: there is something, or the end."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return True  # in memory
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _is_at_end(stream: BinaryIO) -> bool:
    """Return False if nothing was there only because another process made the stream non-blocking; undo it."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return True  # in memory
    if os.get_blocking(descriptor):
        return True
    os.set_blocking(descriptor, True)
    return False


def read_lines(chunks: Iterable[bytes], max_bytes: int) -> Iterator[list[Line]]:
    """Yield the lines that each chunk completes, without blank ones; for an empty chunk, none."""
    splitter = LineSplitter(max_bytes)
    for chunk in chunks:
        yield splitter.feed(chunk) if chunk else []
    yield splitter.end()


def read_head(chunks: Iterator[bytes]) -> bytes:
    """Read the first line of the input, or the beginning of a long one, without a byte order mark.

    Raises:
        InvalidPayload: the input is in another encoding than UTF-8.
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if b"\n" in head.lstrip() or len(head) >= READ_BYTES:
            break
    if encoding := codec.other_encoding(head):
        raise InvalidPayload(
            f"the input is {encoding}: JSON must be UTF-8",
            hint=f"convert it: iconv -f {encoding} -t UTF-8",
        )
    return head.removeprefix(codecs.BOM_UTF8)  # written by some editors


def read_items(stream: BinaryIO, max_bytes: int) -> Iterator[list[Item]]:
    """Yield the lines of a stream, or the items of one JSON document, in batches.

    A batch that is not full means that the input has paused or ended.

    Raises:
        InvalidPayload: the input is in another encoding than UTF-8, or a document is too large.
    """
    rest = read_chunks(stream)
    head = read_head(rest)
    chunks = itertools.chain([head], rest)
    if is_document(head):
        yield from in_batches(
            [(n, partial(_as_it_is, item)) for n, item in _document_items(chunks)]
        )
        return
    waiting: list[Item] = []
    for lines in read_lines(chunks, max_bytes):
        waiting += undecoded(lines, max_bytes)
        while len(waiting) >= BATCH_LINES:
            yield waiting[:BATCH_LINES]
            del waiting[:BATCH_LINES]
        if not lines:
            yield waiting
            waiting = []
    yield waiting


def _as_it_is(item: Any) -> Any:
    return item


def _document_items(chunks: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the items of an array, or one object; they are numbered like lines."""
    parts, size = [], 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidPayload(
                f"JSON document is larger than {MAX_DOCUMENT_BYTES:,} bytes",
                hint="convert it to JSON lines, which have no limit: jq -c '.[]'",
            )
    document = decode(b"".join(parts))
    yield from enumerate(document if isinstance(document, list) else [document], 1)


def is_document(head: bytes) -> bool:
    """Return True if input with this beginning is one JSON document, not JSON lines."""
    first = head.lstrip().partition(b"\n")[0].strip()
    return first.startswith(b"[") or first == b"{"


def read_object(stream: BinaryIO, max_bytes: int) -> dict[str, Any]:
    """Read input that is one JSON object, on one line or many.

    Raises:
        InvalidPayload: it is anything else, or longer than `max_bytes`.
    """
    chunks = read_chunks(stream)
    text = read_head(chunks)
    for chunk in chunks:
        text += chunk
        if len(text) > max_bytes:
            raise InvalidPayload(f"longer than {max_bytes:,} bytes")
    if not text.strip():
        raise InvalidPayload("must be one JSON object, is empty")
    lines = [line for line in text.split(b"\n") if line.strip()]
    if len(lines) > 1 and _is_json(lines[0]):
        raise InvalidPayload(f"must be one JSON object, has {len(lines)} lines of JSON")
    value = decode(text)
    if not isinstance(value, dict):
        raise InvalidPayload(f"must be one JSON object, got {json.dumps(value):.60}")
    return value


def _is_json(raw: bytes) -> bool:
    try:
        codec.decode(raw)
    except ValueError:
        return False
    return True


async def enqueue_stream(
    enqueuer: BulkEnqueuer, stream: BinaryIO, progress: Progress, *, quiet: bool
) -> None:
    """Enqueue all lines, and print their results.

    Raises:
        InvalidPayload: the input is in another encoding than UTF-8.
    """
    summary = enqueuer.summary

    def answer(results: Sequence[dict[str, Any]]) -> None:
        if quiet:
            output.lines(result["id"] for result in results if "created" in result)
        else:
            output.json_lines(results)
        output.flush()
        progress.show(summary.text(), summary.last_line)

    await enqueuer.enqueue_all(read_items(stream, max_line_bytes(enqueuer.config)), answer)


class Progress:
    """The progress of a bulk run, on one line of stderr if only stderr is a terminal."""

    def __init__(self, stream: BinaryIO) -> None:
        # Results that scroll over the same screen would break the line.
        self._is_visible = sys.stderr.isatty() and not sys.stdout.isatty()
        self._stream = stream
        self._started_at = self._shown_at = time.monotonic()
        self._size = _size(stream) if self._is_visible else 0

    def show(self, text: str, lines: int) -> None:
        """Print `text` and the pace of `lines`, at most every PROGRESS_SECONDS."""
        now = time.monotonic()
        if not self._is_visible or now - self._shown_at < PROGRESS_SECONDS:
            return
        self._shown_at = now
        share = f"{self._stream.tell() / self._size:4.0%}  " if self._size else ""
        per_second = lines / (now - self._started_at)
        sys.stderr.write(f"\r\033[K{share}{text}, {per_second:,.0f} lines/s")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove it."""
        if self._is_visible:
            sys.stderr.write("\r\033[K")


def _size(stream: BinaryIO) -> int:
    """Return the size of a regular file in bytes; 0 for a pipe or terminal."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
