"""The jobs that `cancel` and others work on: ids, ids from stdin, or all that match a filter, in batches.

`wait` takes ids from stdin, too.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.base import JobStatus
from aragora_q.cli import output
from aragora_q.cli.filters import GivenFilter
from aragora_q.cli.options import check_ids
from aragora_q.errors import InvalidPayload, JobNotFound

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        show_default=False,
        callback=check_ids,
        help="Job ids; or - to read ids, or the JSON lines of `list`, from stdin.",
    ),
]


@dataclass
class Selection:
    """What a command was asked to work on, and how."""

    verb: str
    """Imperative, such as `cancel`."""
    statuses: frozenset[JobStatus]
    """What a filter means without --status."""
    ids: list[str] | None
    given: GivenFilter
    dry_run: bool
    yes: bool
    as_json: bool
    quiet: bool
    exit_code: int = field(default=0, init=False)

    @property
    def prints_each(self) -> bool:
        """True if each job has a line of output; otherwise there is a summary."""
        return bool(self.ids) or self.as_json or self.quiet

    def to_print(
        self, queue: RedisStreamsQueue, job_ids: Sequence[str], results: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield the jobs that have a line of output, and their results. Unknown ids are errors."""
        for job_id, result in zip(job_ids, results, strict=True):
            if result != "unknown":
                if self.prints_each:
                    yield job_id, result
            elif self.ids:  # else it was purged meanwhile
                error = JobNotFound(job_id, queue.config.queue)
                output.error(str(error), error.hint)
                self.exit_code = error.exit_code

    async def run(
        self,
        queue: RedisStreamsQueue,
        work: Callable[[list[str]], Awaitable[int]],
        *,
        until_none_is_left: bool = False,
    ) -> int:
        """Call `work` with the ids, in batches; return the sum of what it returns: jobs that it changed.

        A filter is confirmed first, with its count; with `dry_run`, the count is printed and that is all. A
        live job may move while jobs are found, and be missed: `until_none_is_left` repeats until nothing is
        changed. With --status, jobs that started or were enqueued after the first time are not meant.

        Raises:
            typer.Abort: not confirmed.
        """
        if self.ids:
            return await self._run_ids(queue, work)
        wanted = await self.given.resolve(queue, self.statuses)
        shows_bar = sys.stderr.isatty() and not (sys.stdout.isatty() and self.prints_each)
        total = await queue.count(wanted) if self.dry_run or not self.yes or shows_bar else 0
        if self.dry_run:
            self._print_count(total)
            return 0
        if not self.yes:
            confirm(self.verb, total, self.given.in_words(wanted), queue.config.queue)
        began = await queue.tracker.server_time()
        seen = changed = 0
        with (
            says_where_it_stopped(lambda: changed),
            output.ProgressBar(total, is_shown=shows_bar) as bar,
        ):
            while True:
                changed_before = changed
                async for page in queue.find(wanted):
                    changed += await work(page)
                    output.flush()
                    seen += len(page)
                    bar.show(seen, f"{seen:,} of {output.count(max(seen, total), 'job')}")
                if changed == changed_before or not until_none_is_left:
                    return changed
                if wanted.statuses != self.statuses:
                    wanted = replace(wanted, until=min(wanted.until or began, began))

    def _print_count(self, total: int) -> None:
        if self.as_json:
            output.json_line({"dry_run": True, "jobs": total})
        elif not self.quiet:
            output.info(f"would {self.verb}: {output.count(total, 'job')}")

    async def _run_ids(
        self, queue: RedisStreamsQueue, work: Callable[[list[str]], Awaitable[int]]
    ) -> int:
        changed = 0
        for batch in [self.ids or []] if self.ids != ["-"] else stdin_ids(queue.config):
            changed += await work(batch)
            output.flush()
        return changed


@contextmanager
def says_where_it_stopped(changed: Callable[[], int]) -> Iterator[None]:
    """Say what to do if an error or a signal ends the block early. A last page may not be in `changed`."""
    try:
        yield
    except BaseException:
        done = output.count(changed(), "job")
        output.info(f"stopped after at least {done}; run the command again for the rest")
        raise


def confirm(verb: str, total: int, which: str, queue: str) -> None:
    """Ask before the jobs of a filter are changed, if there are any. Raises typer.Abort."""
    if not total:
        return
    jobs = output.count(total, "job")
    typer.confirm(f"{verb.capitalize()} {jobs} {which}, in queue {queue}?", abort=True, err=True)


def stdin_ids(settings: QueueConfig) -> Iterator[list[str]]:
    """Yield the ids on stdin, as they arrive. Raises InvalidPayload for a line without one."""
    from aragora_q.cli import bulk
    from aragora_q.intake.lines import READ_BYTES

    max_bytes = 4 * (settings.max_payload_bytes + settings.max_result_bytes) + READ_BYTES
    for lines in bulk.read_lines(bulk.read_chunks(sys.stdin.buffer), max_bytes):
        for line in lines:
            if line.text is None:
                raise InvalidPayload(f"line {line.number} is longer than {max_bytes:,} bytes")
        yield [_line_id(line.number, line.text or b"") for line in lines]


def _line_id(number: int, line: bytes) -> str:
    """Return the job id in a line: the line itself, or its `id` if it is a JSON object.

    Raises InvalidPayload if the line is not text, or an object without `id`.
    """
    from aragora_q import codec

    try:
        text = codec.text(line).strip()
        return str(codec.decode(text.encode())["id"]) if text.startswith("{") else text
    except KeyError:
        raise InvalidPayload(f"line {number}: the JSON object has no id") from None
    except ValueError as error:
        raise InvalidPayload(
            f"line {number}: neither a job id nor a JSON object with an id: {error}"
        ) from None
