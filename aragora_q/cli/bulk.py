"""Enqueue many jobs from JSON lines, in batches and constant memory, with one result per line.

A line is a JSON object with the fields of a debate (`question`, `agents`, …) or, for other executors,
any `payload`; optionally also `id`, and JOB_FIELDS of the job. Without `id`, the job gets a new one; on
request, the hash of payload and group, so that a repeated run enqueues no job twice. Input that begins like
an array, or like an object over several lines, is read as one JSON document. Used by `enqueue` and `quotes`;
`requeue` and `group seal` use the readers.
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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import typer

from aragora_q import codec
from aragora_q.base import MAX_USD, EnqueueResult, Job, new_job_id
from aragora_q.cli import output
from aragora_q.errors import AragoraQError, InvalidPayload, RedisUnreachable, did_you_mean
from aragora_q.job import DebateJobPayload

if TYPE_CHECKING:
    from aragora_q.cli.quoter import Quoter
    from aragora_q.config.settings import QueueConfig
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.streams.queue import EnqueueItem, EnqueueOutcome

READ_BYTES = 65_536
BATCH_LINES = 100
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
JOB_FIELDS = ("priority", "delay_seconds", "max_attempts", "group", "tenant", "tags")
LINE_FIELDS = (*DebateJobPayload.__dataclass_fields__, "payload", "id", *JOB_FIELDS)
APPROVE_ABOVE, MAX_QUOTE = "approve_above_usd", "max_quote_usd"
"""Fields of a line that are not of the job: what it may cost without an approval, and be expected to cost."""
PROGRESS_SECONDS = 0.2
AGENTS_HINT = (
    "for example --agents claude,gpt,claude; or, for all debates, default_agents = "
    '["claude", "gpt", "claude"] in aragora-q.toml'
)
NewId = Callable[[Mapping[str, Any], Any], str]
"""Makes a job id for a payload and a group; the group may be None, or not yet checked."""
SEAT_FIELDS = ("agents", "escalate", "judge", "service_tier")
MAX_KNOWN_SEATS = 1_000
"""Combinations of agents that are remembered as checked."""


class Thresholds(NamedTuple):
    """US dollars at which `enqueue` holds or refuses a debate; None: at no amount."""

    approve_above: float | None
    """It is held if it can cost more."""
    max_quote: float | None
    """It is refused if it is expected to cost more."""


NO_THRESHOLDS = Thresholds(None, None)


class Checked(NamedTuple):
    """A job, as it would be sent, and why it needs an approval."""

    job: Job
    item: EnqueueItem
    approval: Approval | None


Item = tuple[int, Callable[[], Any]]
"""The number of a line, and a function that decodes it."""


class Line(NamedTuple):
    """A line of the input; `text` is None if the line is too long."""

    number: int
    text: bytes | None


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
    """Yield the contents of `stream` as soon as they arrive. Raises typer.BadParameter."""
    try:
        while (chunk := stream.read1(READ_BYTES)) or not _is_at_end(stream):  # type: ignore[attr-defined] # buffered streams have it
            if chunk:
                yield chunk
    except OSError as error:
        source = "standard input" if stream is sys.stdin.buffer else stream.name
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None


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
    """Yield the lines that each chunk completes, without blank ones."""
    number, rest, is_too_long = 0, b"", False
    for chunk in chunks:
        *texts, rest = (rest + chunk).split(b"\n")
        lines: list[Line] = []
        for text in texts:
            number += 1
            if is_too_long or len(text) > max_bytes:
                lines.append(Line(number, None))
            elif text.strip():
                lines.append(Line(number, text))
            is_too_long = False
        if is_too_long or len(rest) > max_bytes:
            rest, is_too_long = b"", True
        yield lines
    if is_too_long or rest.strip():
        yield [Line(number + 1, None if is_too_long else rest)]


def max_line_bytes(config: QueueConfig) -> int:
    """Return the length of the longest line that is read.

    Escapes may make the JSON of a valid payload longer than the limit, but not by this much.
    """
    return 4 * config.max_payload_bytes + READ_BYTES


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

    Raises:
        InvalidPayload: the input is in another encoding than UTF-8, or a document is too large.
    """
    rest = read_chunks(stream)
    head = read_head(rest)
    chunks = itertools.chain([head], rest)
    if is_document(head):
        yield from _in_batches(
            [(n, partial(_as_it_is, item)) for n, item in _document_items(chunks)]
        )
        return
    for lines in read_lines(chunks, max_bytes):
        yield from _in_batches([(n, partial(_parse, text, max_bytes)) for n, text in lines])


def _in_batches(items: list[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), BATCH_LINES):
        yield items[start : start + BATCH_LINES]


def _as_it_is(item: Any) -> Any:
    return item


def _parse(raw: bytes | None, max_bytes: int) -> Any:
    if raw is None:
        raise InvalidPayload(f"line is longer than {max_bytes:,} bytes")
    return _decode(raw)


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
    document = _decode(b"".join(parts))
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
    value = _decode(text)
    if not isinstance(value, dict):
        raise InvalidPayload(f"must be one JSON object, got {json.dumps(value):.60}")
    return value


def create_job(
    fields: Mapping[str, Any],
    defaults: Mapping[str, Any],
    new_id: NewId,
) -> Job:
    """Create a job from the fields of a line. Raises InvalidPayload.

    `defaults` apply to missing fields, and to missing tags; `new_id` makes the id if the line has none.
    """
    if not isinstance(fields, dict):
        raise InvalidPayload(f"not a JSON object: {json.dumps(fields):.60}")
    if unknown := next((name for name in fields if name not in LINE_FIELDS), None):
        raise InvalidPayload(
            f"unknown field {unknown!r:.100}; the fields of a line are {', '.join(LINE_FIELDS)}",
            hint=did_you_mean(unknown, LINE_FIELDS),
        )
    job_fields = {name: fields.pop(name) for name in JOB_FIELDS if name in fields}
    job_id = fields.pop("id", None)
    debate_defaults = {name: value for name, value in defaults.items() if name not in JOB_FIELDS}
    if "payload" in fields:
        payload = fields.pop("payload")
        if not isinstance(payload, dict):
            raise InvalidPayload(f"payload is not a JSON object: {json.dumps(payload):.60}")
        if fields:
            raise InvalidPayload(
                f"unknown field {next(iter(fields))!r:.100}: besides payload, a line may have id, "
                f"{', '.join(JOB_FIELDS)}"
            )
    else:
        fields = {**debate_defaults, **fields}
        if "agents" not in fields:
            raise InvalidPayload(
                "agents are missing: neither the job nor setting default_agents names them",
                hint=AGENTS_HINT,
            )
        payload = DebateJobPayload.from_dict(fields).to_dict()
    if isinstance(job_fields.get("tags"), dict):
        job_fields["tags"] = {**defaults.get("tags", {}), **job_fields["tags"]}
    job_fields = {name: defaults[name] for name in JOB_FIELDS if name in defaults} | job_fields
    if job_id is None:
        job_id = new_id(payload, job_fields.get("group"))
    return Job(payload=payload, id=job_id, **job_fields)


def check_seats(payload: Mapping[str, Any], config: QueueConfig) -> str:
    """Check the names of a debate. Return a warning about its agents, or nothing.

    They are all one model, or none has the service tier that the job asks for.

    Raises:
        InvalidPayload: a name does not resolve.
    """
    if not is_debate(payload, config):
        return ""
    from aragora_q.executors import debate

    debate.check_payload_agents(payload, config)
    agents, tier = payload["agents"], payload.get("service_tier")
    warnings = []
    if model := debate.only_model(agents, config):
        warnings.append(f"all agents are {model}, and share its errors: agreement means little")
    if tier is not None and not debate.has_tier(agents, tier, config):
        warnings.append(f"no agent has the service tier {tier}: they are asked as they are")
    return "; ".join(warnings)


def check_budget(job: Job, config: QueueConfig) -> None:
    """Raise InvalidPayload if a debate needs more than its own limits, or a budget's, ever have room for."""
    if not is_debate(job.payload, config):
        return
    from aragora_q.executors import debate

    debate.check_payload_budget(job.payload, config)
    if config.budgets:
        from aragora_q.gates.policy import Need, check_floor

        check_floor(config, job, [Need(*each) for each in debate.least_costs(job.payload, config)])


def approval_above(
    max_usd: float | None, payload: Mapping[str, Any], config: QueueConfig
) -> Approval | None:
    """Return why a job needs an approval: it may cost more than `max_usd`; None if it needs none."""
    if max_usd is None:
        return None
    from aragora_q.executors.debate import approval_above, quote

    if not is_debate(payload, config):
        return quote.Approval("cannot be priced: it is not a debate", None)
    return approval_above(max_usd, payload, config)


def take_thresholds(fields: Any, default: Thresholds = NO_THRESHOLDS) -> Thresholds:
    """Remove `approve_above_usd` and `max_quote_usd` from the fields of a line, and return them, or `default`.

    Raises:
        InvalidPayload: one is not an amount.
    """
    return Thresholds(
        _take_usd(fields, APPROVE_ABOVE, default.approve_above),
        _take_usd(fields, MAX_QUOTE, default.max_quote),
    )


def _take_usd(fields: Any, name: str, default: float | None) -> float | None:
    value = fields.pop(name, None) if isinstance(fields, dict) else None
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_USD:
        raise InvalidPayload(f"{name} must be US dollars from 0 to {MAX_USD:,}, got {value!r:.100}")
    return float(value)


def held_fields(approval: Approval | None, *, created: bool = True) -> dict[str, Any]:
    """Return the fields that say that a new job waits for an approval, if it does."""
    return {"held": True, "most_usd": approval.usd} if approval and created else {}


def is_debate(payload: Mapping[str, Any], config: QueueConfig) -> bool:
    """Return True if the configured executor takes the JSON of a job as a debate."""
    is_payload = "question" in payload and isinstance(payload.get("agents"), list)
    return config.executor == "debate" and is_payload


def content_id(payload: Mapping[str, Any], group: Any) -> str:
    """Return a job id derived from the payload and, if there is one, the group.

    The order of keys and white space do not matter.
    """
    content = payload if group is None else [group, payload]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass
class BulkSummary:
    """Counts of a bulk run."""

    last_line: int = 0
    unanswered_to: int = 0
    """The last line that was sent and not answered: it may be in the queue. 0: all were answered."""
    created: int = 0
    existing: int = 0
    refused: int = 0
    not_durable: int = 0
    first_refusal: str = ""
    held: int = 0
    """Jobs that wait for an approval."""
    first_held: str = ""
    warnings: int = 0
    """Debates about whose agents there is a warning."""
    first_warning: str = ""
    has_new_ids: bool = False
    """Whether a job got a new id: enqueueing its line again would enqueue a second job."""

    def how_to_continue(self) -> str:
        """Return how to enqueue the rest after the run has stopped."""
        if self.has_new_ids:
            first, last = self.last_line + 1, self.unanswered_to
            span = f"lines {first} to {last}" if last > first else f"line {first}"
            return (
                f"{f'{span} may be in the queue, too; ' if last else ''}to enqueue the rest, begin with "
                f"line {first}: a line without id that is enqueued twice becomes two jobs"
            )
        return "run the command again to enqueue the rest, no job is enqueued twice"

    def warning(self) -> str:
        """Return, for example, `about 2 debates; the first, line 1: all agents are …`."""
        return f"about {output.count(self.warnings, 'debate')}; the first, {self.first_warning}"

    def approvals(self) -> str:
        """Return, for example, `2 jobs are held until approved; the first, line 1: may cost …`."""
        jobs = "1 job is" if self.held == 1 else f"{self.held:,} jobs are"
        return f"{jobs} held until approved with unhold; the first, {self.first_held}"

    def refuse(self, number: int, error: InvalidPayload) -> str:
        """Count a line that is refused. Return why."""
        text = f"{error} ({error.hint})" if error.hint else str(error)
        self.first_refusal = self.first_refusal or f"line {number}: {text}"
        self.refused += 1
        return text

    def text(self) -> str:
        """Return, for example, `998 jobs enqueued, 2 existed (not changed), 1 refused`."""
        existing = f", {self.existing:,} existed (not changed)" if self.existing else ""
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{output.count(self.created, 'job')} enqueued{existing}{refused}"


class LineChecker:
    """Makes the jobs of lines, and checks them as `enqueue` does.

    `defaults` and `thresholds` apply to lines that lack the field.
    """

    def __init__(
        self,
        quoter: Quoter,
        defaults: Mapping[str, Any],
        thresholds: Thresholds,
        summary: BulkSummary,
        *,
        id_from_content: bool,
    ) -> None:
        self.quoter = quoter
        self.summary = summary
        self._queue = quoter.queue
        self._defaults = defaults
        self._thresholds = thresholds
        self._new_id = content_id if id_from_content else self._random_id
        self._warnings: dict[str, str] = {}

    async def check(self, number: int, line: Any) -> Checked:
        """Return the job of a line.

        Raises:
            InvalidPayload: the line is refused.
            ConfigError: its quote needs an extra that is not installed.
        """
        config = self._queue.config
        thresholds = take_thresholds(line, self._thresholds)
        job = create_job(line, self._defaults, self._new_id)
        item = self._queue.check(job)
        self._check_seats(number, job.payload)
        check_budget(job, config)
        await self.quoter.check(job, thresholds.max_quote)
        approval = approval_above(thresholds.approve_above, job.payload, config)
        if approval is not None:
            item = self._queue.check(job, hold=approval.reason)
        return Checked(job, item, approval)

    def _random_id(self, _payload: Mapping[str, Any], _group: Any) -> str:
        self.summary.has_new_ids = True
        return new_job_id()

    def _check_seats(self, number: int, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload for a debate with an unknown agent. Each combination is checked once."""
        seats = json.dumps(["question" in payload, *map(payload.get, SEAT_FIELDS)])
        if seats not in self._warnings:
            if len(self._warnings) >= MAX_KNOWN_SEATS:
                self._warnings.clear()
            self._warnings[seats] = check_seats(payload, self._queue.config)
        if warning := self._warnings[seats]:
            self.summary.warnings += 1
            self.summary.first_warning = self.summary.first_warning or f"line {number}: {warning}"


class BulkEnqueuer:
    """Enqueues the jobs in a stream and writes one result per line.

    A result has `line`, and either `id` and `created` (false: the id already existed, nothing
    changed), or `error`. It has `durable`, false, if the requested confirmation did not arrive in time.
    When the queue is full or Redis fails, the run ends; lines already read that are not known to be in the
    queue have that error.
    """

    def __init__(self, checker: LineChecker, *, quiet: bool) -> None:
        self._queue = checker.quoter.queue
        self._checker = checker
        self._quiet = quiet
        self.summary = checker.summary

    async def run(self, stream: BinaryIO, progress: Progress) -> None:
        """Enqueue all lines. Raises InvalidPayload if the input is in another encoding than UTF-8."""
        for items in read_items(stream, max_line_bytes(self._queue.config)):
            await self._enqueue_batch(items)
            output.flush()
            progress.show(self.summary.text(), self.summary.last_line)

    async def _enqueue_batch(self, items: Sequence[Item]) -> None:
        results: list[dict[str, Any]] = []
        valid: list[tuple[dict[str, Any], Checked]] = []
        for number, parse in items:
            results.append({"line": number})
            try:
                valid.append((results[-1], await self._checker.check(number, parse())))
            except InvalidPayload as error:
                results[-1]["error"] = self.summary.refuse(number, error)
        enqueued: Sequence[EnqueueOutcome | None] = ()
        failure: AragoraQError | None = None
        self.summary.unanswered_to = items[-1][0]
        try:
            enqueued = await self._queue.enqueue_checked([each.item for _, each in valid])
        except AragoraQError as error:
            enqueued, failure = error.results, error
        if not isinstance(failure, RedisUnreachable):
            self.summary.unanswered_to = 0
        for (result, checked), outcome in zip(valid, enqueued, strict=True):
            self._note_outcome(result, outcome, failure, checked.approval)
        undecided = (line for (line, _), done in zip(valid, enqueued, strict=True) if done is None)
        first = next(undecided, None)
        self.summary.last_line = first["line"] - 1 if first else items[-1][0]
        self._print(results)
        if failure is not None:
            raise failure

    def _note_outcome(
        self,
        result: dict[str, Any],
        outcome: EnqueueOutcome | None,
        failure: AragoraQError | None,
        approval: Approval | None,
    ) -> None:
        if outcome is None:
            result["error"] = str(failure)
        elif isinstance(outcome, InvalidPayload):
            result["error"] = self.summary.refuse(result["line"], outcome)
        else:
            self._note_enqueued(result, outcome, approval)

    def _note_enqueued(
        self, result: dict[str, Any], job_result: EnqueueResult, approval: Approval | None
    ) -> None:
        result |= {"id": job_result.id, "created": job_result.created}
        result |= held_fields(approval, created=job_result.created)
        if approval is not None and job_result.created:
            self.summary.held += 1
            line = f"line {result['line']}: {job_result.id} {approval.reason}"
            self.summary.first_held = self.summary.first_held or line
        self.summary.created += job_result.created
        self.summary.existing += not job_result.created
        if not job_result.durable:
            result["durable"] = False
            self.summary.not_durable += 1

    def _print(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            if not self._quiet:
                output.json_line(result)
            elif "id" in result:
                output.line(result["id"])


def _decode(raw: bytes) -> Any:
    try:
        return codec.decode(raw.removeprefix(codecs.BOM_UTF8))  # files with it, one after the other
    except ValueError as error:
        raise InvalidPayload(f"invalid JSON: {str(error).replace('at line 1 ', 'at ')}") from None


def _is_json(raw: bytes) -> bool:
    try:
        codec.decode(raw)
    except ValueError:
        return False
    return True


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
