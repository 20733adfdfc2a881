"""Arrange the jobs of a group as one document: contents and overview, then a chapter for each job.

The chapters are made one at a time, so that a document is as long as its group, but never whole in memory. Must
not know how it is laid out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from aragora_q.base import Job, JobStatus
from aragora_q.formats import YES_NO, count, dollars_or_unknown, duration, price, shortened
from aragora_q.job_rules import is_debate
from aragora_q.loose import text
from aragora_q.report import accounts
from aragora_q.report.calls import Calls
from aragora_q.report.content import MAX_TITLE_CHARS, build_report
from aragora_q.report.debate import Debate
from aragora_q.report.document import Facts, Front, Notice, Report, Row, Section, Table, Tone, Topic

MAX_CELL_CHARS = 80
"""Questions and verdicts are shortened in the overview; the chapters have them in full."""

MAX_ERROR_CHARS = 200
"""Longest error in the overview."""

NUMBERS = frozenset({"Agreement", "Cost", "Calls", "Time"})


class Entry(Protocol):
    """What the overview says of a job. A row of an experiment is one."""

    @property
    def id(self) -> str:
        """Id of the job."""

    @property
    def question(self) -> str:
        """Blank if the job is not a debate."""

    @property
    def arm(self) -> str:
        """Blank if the job is not of an experiment."""

    @property
    def status(self) -> JobStatus:
        """Status of the job."""

    @property
    def error(self) -> str:
        """What went wrong."""

    @property
    def verdict(self) -> Any:
        """None if there is none."""

    @property
    def dissent(self) -> Sequence[str]:
        """Other verdicts that seats hold or voted for."""

    @property
    def agreement(self) -> float | None:
        """Share of the seats behind the verdict."""

    @property
    def cost_usd(self) -> float | None:
        """None: not known."""

    @property
    def unpriced_calls(self) -> int:
        """Calls whose price is not known."""

    @property
    def calls(self) -> int:
        """Calls that were made."""

    @property
    def taken_over(self) -> int:
        """Calls that were taken over from another debate, at no cost."""

    @property
    def seconds(self) -> float | None:
        """Running time."""

    @property
    def expected(self) -> Sequence[Any]:
        """The verdicts that are right; empty: that is not known."""

    @property
    def is_right(self) -> bool | None:
        """None: that is not known."""


@dataclass(frozen=True)
class Title:
    """What a document is about, and how things were when it was made."""

    group: str
    state: str
    created_at: float
    """Time of the first enqueue, in Unix seconds."""
    now: float
    tags: Mapping[str, str]
    """Only jobs that have them are in it."""


def build_front(title: Title, entries: Sequence[Entry]) -> Front:
    """Return what stands before the chapters, which are those of `entries`, in their order."""
    head = ("Debate", "Arm", "Status", "Verdict", "Agreement", "Right", "Cost", "Calls", "Time")
    rows = [_row(number, entry) for number, entry in enumerate(entries, start=1)]
    return Front(
        f"Group {title.group}",
        [Facts([row for row in _facts(title, entries) if row[1]])],
        list(_contents(entries)),
        Section("Overview", [Table(head, rows, NUMBERS, "Notes")]),
    )


def build_chapter(number: int, entry: Entry, job: Job | None, calls: Calls) -> Report:
    """Return a chapter. `job` is None if it is gone, or corrupted: then `entry` has the error."""
    if job is None:
        found = Report("", [Notice(entry.error or "Deleted in the meantime.", Tone.BAD)], [])
    elif is_debate(job):
        found = build_report(job, calls)
    else:
        found = _other(job)
    title = found.title or _name(entry, MAX_TITLE_CHARS)
    arm = f" · {entry.arm}" if entry.arm else ""
    return replace(
        found,
        title=f"{number}. {title}{arm}",
        intro=[*_judged(entry), *found.intro],
        chapter=number,
    )


def _name(entry: Entry, limit: int) -> str:
    return shortened(entry.question, limit) or f"Job {entry.id}"


def _facts(title: Title, entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    statuses = Counter(entry.status for entry in entries)
    states = ", ".join(f"{statuses[each]:,} {each.value}" for each in JobStatus if statuses[each])
    judged = [entry.is_right for entry in entries if entry.is_right is not None]
    known = [entry.cost_usd for entry in entries if entry.cost_usd is not None]
    live = sum(not entry.status.is_terminal for entry in entries)
    cost = price(sum(known) if known else None, sum(entry.unpriced_calls for entry in entries))
    yield "only with", ", ".join(f"tag {name}={value}" for name, value in title.tags.items())
    yield "jobs", f"{len(entries):,}: {states}"
    yield "questions", f"{len({entry.question for entry in entries if entry.question}):,}"
    yield "arms", ", ".join(dict.fromkeys(entry.arm for entry in entries if entry.arm))
    yield "right", f"{judged.count(True):,} of {len(judged):,}" if judged else ""
    yield "cost", f"{cost}, without {count(live, 'live job')}" if cost and live else cost
    yield "calls", f"{sum(entry.calls for entry in entries):,}"
    yield "group", title.state
    yield "first enqueued", accounts.time_of(title.created_at)
    yield "as of", accounts.time_of(title.now)


def _contents(entries: Sequence[Entry]) -> Iterator[Topic]:
    """Yield a line for each question: its chapters follow each other."""
    numbered = enumerate(entries, start=1)
    for name, group in groupby(numbered, key=lambda each: _name(each[1], MAX_TITLE_CHARS)):
        yield Topic(name, [(number, entry.arm) for number, entry in group])


def _row(number: int, entry: Entry) -> Row:
    is_completed = entry.status is JobStatus.COMPLETED
    has_calls = entry.calls or entry.taken_over
    cells = [
        _name(entry, MAX_CELL_CHARS),
        entry.arm,
        "" if is_completed else entry.status.value,
        _verdict(entry) if is_completed else "",
        "" if entry.agreement is None else f"{entry.agreement:.0%}",
        YES_NO[entry.is_right],
        _cost(entry) if has_calls else "",
        f"{entry.calls:,}" if has_calls else "",
        "" if entry.seconds is None else duration(entry.seconds),
    ]
    dissent = shortened("; ".join(entry.dissent), MAX_CELL_CHARS)
    note = f"dissent: {dissent}" if dissent else ""
    return Row(cells, note if is_completed else shortened(entry.error, MAX_ERROR_CHARS), number)


def _cost(entry: Entry) -> str:
    """Return what a debate cost; short, because rows are: `>= $0.04` if the price of a call is not known."""
    at_least = ">= " if entry.unpriced_calls and entry.cost_usd is not None else ""
    return at_least + dollars_or_unknown(entry.cost_usd)


def _verdict(entry: Entry) -> str:
    if entry.verdict is None:
        return "none" if entry.question else ""
    return shortened(text(entry.verdict), MAX_CELL_CHARS)


def _judged(entry: Entry) -> Iterator[Notice]:
    expected = " or ".join(text(each) for each in entry.expected)
    if entry.is_right is not None:
        found = "Right" if entry.is_right else "Not right"
        yield Notice(
            f"{found}: expected {expected}.", Tone.GOOD if entry.is_right else Tone.CAUTION
        )


def _other(job: Job) -> Report:
    notices = [Notice("Not a debate: its payload has no question and agents.")]
    if job.error:
        notices.insert(0, Notice(job.error, Tone.BAD))
    record = accounts.record_of(Debate(job))
    return Report("", notices, [Section("Record", [record])])
