"""Enqueue the debates of an experiment that are missing: check all, quote the whole, ask, enqueue in batches.

Used by `sweep` and `eval`, in these steps:

    check_confirmed(source, options)              # before anything is read: --yes, where it cannot be asked
    questions = read_questions(source, config)    # `source`: a file, or `-`
    arms = arms_of(fields, read_arms(path), arm_options)    # or a list of `Arm`
    experiment = Experiment(group, questions, arms, default_agents, job_fields)
    async with options.open_queue(config) as queue:
        outcome = await run(queue, experiment, sweep_options)
    report(outcome, sweep_options)                # `sweep` only: JSON, or what to do next

`run` shows the plan and its quote on stdout, unless `as_json` or `quiet`, and asks on stderr. It raises
InvalidPayload (65) if a debate is refused, TryAgain (75) if the queue is full, typer.Abort if not confirmed;
whatever has been enqueued until then is found by another run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from aragora_q.answer_form import AnswerForm
from aragora_q.base import EnqueueResult, Group
from aragora_q.cli import bulk, output, quotes
from aragora_q.cli.selection import says_where_it_stopped
from aragora_q.errors import AragoraQError, GroupSealed, InvalidPayload, TryAgain, how_to_confirm
from aragora_q.experiments import questions as question_files
from aragora_q.experiments.arms import ArmsFile, read_toml
from aragora_q.experiments.questions import Question, check_expected
from aragora_q.experiments.refusals import Refusals
from aragora_q.experiments.sweep import (
    READ_AT_ONCE,
    AgentReader,
    Change,
    Changes,
    Debate,
    Experiment,
    find,
)
from aragora_q.formats import count, dollars_or_unknown
from aragora_q.intake.bulk import BulkSummary, LineChecker
from aragora_q.intake.checks import Thresholds
from aragora_q.intake.lines import max_line_bytes
from aragora_q.intake.quoter import PRICE_HINT, Quoted, Quoter, usd_text
from aragora_q.job_fields import create_job
from aragora_q.money import cost_micros, limit_micros
from aragora_q.redis.scripts import batched

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import EnqueueItem, RedisStreamsQueue

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A longer CSV file, or file of arms, is not read."""

MAX_KNOWN = 5_000
"""Answer forms, and quotes, that are remembered."""

BATCH = 500
"""Debates that are made and sent before progress is shown."""


@dataclass(frozen=True)
class SweepOptions:
    """How an experiment is enqueued."""

    rerun: bool = False
    """Enqueue again what was enqueued before and is deleted."""
    dry_run: bool = False
    yes: bool = False
    max_quote: float | None = None
    """US dollars that all missing debates may be expected to cost; None: any."""
    approve_above: float | None = None
    """US dollars above which a debate that may cost more is held; None: none is."""
    as_json: bool = False
    quiet: bool = False


@dataclass
class Outcome:
    """What there was of an experiment, and what was enqueued."""

    experiment: Experiment
    existing: Counter[str] = field(default_factory=Counter)
    """Debates by status."""
    deleted: int = 0
    """Debates that were enqueued before and are deleted; with `rerun`, they are missing."""
    group: Group | None = None
    """As it was before; None: it has no job."""
    missing: set[str] = field(default_factory=set)
    """Ids of the debates that are to be enqueued."""
    holds: dict[str, str] = field(default_factory=dict)
    """By id, why one of these waits for an approval."""
    changes: Sequence[tuple[Change, int]] = ()
    """Agents that have changed since debates were enqueued, and the number of these debates."""
    total: quotes.Total = field(default_factory=quotes.Total)
    """The quote of what is missing."""
    basis: str = ""
    """What the quote is based on."""
    warnings: dict[str, None] = field(default_factory=dict)
    """About agents of debates that are missing; each once, with its arm."""
    dry_run: bool = False
    created: list[str] = field(default_factory=list)
    """Ids of the debates that were enqueued."""
    not_durable: int = 0

    @property
    def others(self) -> int:
        """Jobs of the group that are not of the experiment as it is written now."""
        counts = self.group.counts if self.group is not None else {}
        jobs = sum(number for status, number in counts.items() if status != "purged")
        return max(0, jobs - self.existing.total())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "group": self.experiment.group,
            "questions": len(self.experiment.questions),
            "arms": [arm.name for arm in self.experiment.arms],
            "debates": len(self.experiment),
            "existing": dict(sorted(self.existing.items())),
            "others": self.others,
            "deleted": self.deleted,
            "missing": len(self.missing),
            "changed": [{**change._asdict(), "debates": n} for change, n in self.changes],
            "quote": self.total.to_dict() if self.missing else None,
            "dry_run": self.dry_run,
            "enqueued": len(self.created),
            "held": sum(job_id in self.holds for job_id in self.created),
        }


def check_confirmed(source: str, options: SweepOptions) -> None:
    """Raise typer.BadParameter if the command cannot ask: --yes is required then."""
    can_ask = sys.stdin.isatty() and source != "-"
    if not (options.yes or options.dry_run or can_ask):
        raise typer.BadParameter(
            "this would enqueue debates: add --yes to confirm, or --dry-run to see what they cost"
        )


def read_questions(source: str, config: QueueConfig) -> list[Question]:
    """Return the questions of a file; `-` is standard input.

    Raises:
        InvalidPayload: a line is refused.
        typer.BadParameter: the file cannot be read.
    """
    with _named(source):
        if source.lower().endswith(".csv"):
            return question_files.read_csv(_read_file(source))
        with bulk.open_source(source) as stream:
            batches = bulk.read_items(stream, max_line_bytes(config))
            return question_files.read_json_lines(batches)


def read_arms(source: str | None) -> ArmsFile | None:
    """Return what the file of arms has, if there is one.

    Raises:
        InvalidPayload: it is refused.
        typer.BadParameter: it cannot be read.
    """
    if source is None:
        return None
    with _named(source):
        return read_toml(_read_file(source))


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Name the file in InvalidPayload that is raised in the block."""
    try:
        yield
    except InvalidPayload as error:
        name = "standard input" if source == "-" else source
        raise InvalidPayload(f"{name}: {error}", hint=error.hint) from None


def _read_file(source: str) -> bytes:
    with bulk.open_source(source) as stream:
        chunks, size = [], 0
        for chunk in bulk.read_chunks(stream):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise InvalidPayload(f"longer than {MAX_FILE_BYTES:,} bytes")
    return b"".join(chunks)


async def run(queue: RedisStreamsQueue, experiment: Experiment, options: SweepOptions) -> Outcome:
    """Check and quote an experiment, ask, and enqueue what is missing. See the module."""
    shows = not (options.as_json or options.quiet)
    planner = _Planner(queue, experiment, options)
    outcome = await planner.plan()
    if shows:
        _show(outcome)
    if outcome.missing:
        _check_quote(outcome.total, options.max_quote)
        _check_group(outcome)
        if options.dry_run:
            return outcome
        if not options.yes:
            _ask(outcome, queue.config.queue)
        await _enqueue(planner, outcome, shows_bar=shows or not sys.stdout.isatty())
    if outcome.not_durable:
        raise TryAgain(
            f"{count(outcome.not_durable, 'debate')} accepted, but not confirmed in time "
            f"(durability {queue.config.durability})",
            hint=f"another run adds what was lost; if this persists, {how_to_confirm(queue.config.durability)}",
        )
    return outcome


class _Planner:
    """Makes the debates of an experiment, and finds out which are missing and what they take."""

    def __init__(
        self, queue: RedisStreamsQueue, experiment: Experiment, options: SweepOptions
    ) -> None:
        self.queue = queue
        self.experiment = experiment
        self._options = options
        self._agents = AgentReader(queue.config)
        self._quoter = Quoter(queue, lambda text: None if options.quiet else _warn(text))
        self._quotes: dict[str, Quoted] = {}
        self._forms: dict[str, AnswerForm] = {}

    async def plan(self) -> Outcome:
        """Find the debates that are missing, check them as `enqueue` does, and quote them.

        Those that are there may have agents or limits that are no longer configured so.

        Raises:
            InvalidPayload: debates are refused.
        """
        experiment, options = self.experiment, self._options
        outcome, changes = Outcome(experiment, dry_run=options.dry_run), Changes()
        refusals = Refusals()
        thresholds = Thresholds(options.approve_above, None)
        checker = LineChecker(
            self._quoter, {}, thresholds, BulkSummary(), id_from_content=False, in_experiment=True
        )
        shows_bar = not (options.quiet or options.as_json)
        with output.ProgressBar(len(experiment), is_shown=shows_bar) as bar:
            for number, batch in enumerate(batched(experiment, READ_AT_ONCE)):
                found = await find(self.queue, experiment.group, [each.id for each in batch])
                bar.show(number * READ_AT_ONCE, f"{count(len(experiment), 'debate')} checked")
                for debate, status in zip(batch, found.statuses, strict=True):
                    with refusals.collect(debate.where):
                        line = experiment.line(debate)
                        payload = create_job(line, {}, _has_id).payload
                        self._check_expected(debate, payload)
                        recorded = found.recorded.get(debate.id)
                        outcome.deleted += status is None and recorded is not None
                        if status is None and (recorded is None or options.rerun):
                            checked = await checker.check(debate.question.line, line)
                            outcome.missing.add(debate.id)
                            if checked.warning:
                                outcome.warnings[f"arm {debate.arm.name}: {checked.warning}"] = None
                            if checked.approval is not None:
                                outcome.holds[debate.id] = checked.approval.reason
                            outcome.total.add(debate.question.line, await self._quote(payload))
                            continue
                        if status is not None:
                            outcome.existing[status] += 1
                        if recorded is not None:
                            changes.note(debate.arm.name, recorded, self._agents.of(payload))
        refusals.check("debate")
        outcome.group = await self.queue.tracker.get_group(experiment.group)
        outcome.changes = changes.to_list()
        total = outcome.total
        outcome.basis = self._quoter.basis(total.debates, total.agents_without_history)
        return outcome

    def item(self, debate: Debate, hold: str) -> EnqueueItem:
        """Return a debate that was checked, as it is sent."""
        job = create_job(self.experiment.line(debate), {}, _has_id)
        agents = self._agents.of(job.payload).record()
        return self.queue.check(job, hold=hold, agents=agents)

    def _check_expected(self, debate: Debate, payload: Mapping[str, Any]) -> None:
        if not debate.question.expected:
            return
        parts = payload.get("answer_form", "text"), payload.get("options")
        key = json.dumps(parts)
        if key not in self._forms:
            if len(self._forms) >= MAX_KNOWN:
                self._forms.clear()
            self._forms[key] = AnswerForm.parse(*parts)
        check_expected(self._forms[key], debate.question.expected)

    async def _quote(self, payload: Mapping[str, Any]) -> Quoted:
        """Return the quote of a debate, or of one whose texts are about as long: quotes count bytes only."""
        texts = {name: payload.get(name) for name in ("question", "options")}
        rest = {n: v for n, v in payload.items() if n not in (*texts, "metadata")}
        sizes = [_rounded(len(json.dumps(text, ensure_ascii=False))) for text in texts.values()]
        key = json.dumps([sizes, rest])
        if key not in self._quotes:
            if len(self._quotes) >= MAX_KNOWN:
                self._quotes.clear()
            self._quotes[key] = await self._quoter.quote(payload)
        return self._quotes[key]


def _has_id(*_: object) -> str:
    raise AssertionError("a debate of an experiment has an id")


def _rounded(size: int) -> int:
    """Return a size, rounded up by at most 3 %."""
    spare = max(0, size.bit_length() - 6)
    return -(-size >> spare) << spare


def _warn(text: str) -> None:
    output.info(f"warning: {text}")


def _check_quote(total: quotes.Total, max_usd: float | None) -> None:
    """Raise InvalidPayload if all debates are expected to cost more, or a price is not known."""
    if max_usd is None:
        return
    limit, usd = f"--max-quote is {max_usd:.12g}", total.expected.usd
    if usd is None or total.unpriced:
        raise InvalidPayload(
            f"{limit}, but the quote is unknown: {total.first_unpriced}", hint=PRICE_HINT
        )
    if cost_micros(usd) > limit_micros(max_usd):
        raise InvalidPayload(
            f"{limit}, but {count(total.quoted, 'debate')} are expected to cost {usd_text(usd)} USD",
            hint="raise it, or ask fewer questions, arms or agents; nothing was enqueued",
        )


def _check_group(outcome: Outcome) -> None:
    """Raise GroupSealed if the group takes no more debates."""
    name, group = outcome.experiment.group, outcome.group
    if group is not None and group.sealed_at is not None:
        state = "cancelled" if group.cancelled_at is not None else "sealed"
        raise GroupSealed(
            f"group {name} is {state} and takes no more jobs: {count(len(outcome.missing), 'debate')} "
            "of the experiment are missing",
            hint="nothing was enqueued; give the experiment another group",
        )


def _show(outcome: Outcome) -> None:
    """Print what there is, and the quote of what is missing."""
    experiment = outcome.experiment
    questions, arms = (
        count(len(experiment.questions), "question"),
        count(len(experiment.arms), "arm"),
    )
    output.line(
        f"Experiment {experiment.group}: {questions} in {arms}: {count(len(experiment), 'debate')}"
    )
    parts = [f"{number:,} {status}" for status, number in sorted(outcome.existing.items())]
    parts += [f"{outcome.deleted:,} deleted"] if outcome.deleted else []
    parts.append(f"{len(outcome.missing):,} to enqueue")
    output.line(", ".join(parts))
    for text in _change_texts(outcome.changes):
        output.line(text)
    if outcome.changes:
        output.info(
            "debates that are there are not asked again; to ask the changed agents, use a new group"
        )
    if outcome.missing:
        output.line()
        quotes.print_total(outcome.total, outcome.basis)
        if outcome.holds:
            output.info(f"{count(len(outcome.holds), 'debate')} would be held until approved")
    if outcome.others:
        output.info(
            f"the group has {count(outcome.others, 'other job')}: debates whose question or arm is not in "
            "these files, or was written in another way"
        )
    for text in outcome.warnings:
        _warn(text)


def _change_texts(changes: Iterable[tuple[Change, int]]) -> Iterable[str]:
    for change, number in changes:
        who = f"agent {change.agent}" if change.agent else "the agents"
        debates = count(number, "debate")
        yield f"changed: arm {change.arm}, {who}: {change.before} -> {change.after} ({debates} before)"


def _ask(outcome: Outcome, queue: str) -> None:
    """Ask for confirmation on stderr. Raises typer.Abort."""
    total = outcome.total
    usd = [dollars_or_unknown(each.usd) for each in (total.expected, total.least, total.most)]
    cost = f"expected to cost {usd[0]} ({usd[1]} to {usd[2]})"
    if total.expected.usd is None:
        cost = "whose cost is unknown"
    debates, group = count(len(outcome.missing), "debate"), outcome.experiment.group
    typer.confirm(
        output.safe_text(f"Enqueue {debates}, {cost}, in group {group}, queue {queue}?"),
        abort=True,
        err=True,
    )


async def _enqueue(planner: _Planner, outcome: Outcome, *, shows_bar: bool) -> None:
    """Enqueue what is missing.

    Raises:
        AragoraQError: not all of it is enqueued; `outcome` has what is.
    """
    missing = (each for each in outcome.experiment if each.id in outcome.missing)
    with (
        says_where_it_stopped(lambda: len(outcome.created)),
        output.ProgressBar(len(outcome.missing), is_shown=shows_bar) as bar,
    ):
        done = 0
        for batch in batched(missing, BATCH):
            items = [planner.item(each, outcome.holds.get(each.id, "")) for each in batch]
            try:
                results = await planner.queue.enqueue_checked(items)
            except AragoraQError as error:
                _note(outcome, error.results)
                raise
            _note(outcome, results)
            for result in results:
                if isinstance(result, InvalidPayload):
                    raise result
            done += len(batch)
            bar.show(done, f"{done:,} of {count(len(outcome.missing), 'debate')} enqueued")


def _note(outcome: Outcome, results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, EnqueueResult):
            outcome.not_durable += not result.durable
            if result.created:
                outcome.created.append(result.id)


def report(outcome: Outcome, options: SweepOptions) -> None:
    """Print what was done: JSON, ids, or text with what to do next."""
    if options.as_json:
        output.json_line(outcome.to_dict())
        return
    if options.quiet:
        output.lines(outcome.created)
        return
    group = outcome.experiment.group
    if outcome.created:
        held = sum(job_id in outcome.holds for job_id in outcome.created)
        note = f", {held:,} of them held until approved with unhold" if held else ""
        output.line(f"{count(len(outcome.created), 'debate')} enqueued in group {group}{note}")
    words = {"failed": "failed", "cancelled": "were cancelled"}
    ended = [each for each in words if outcome.existing[each]]
    if ended:
        statuses = " ".join(f"--status {each}" for each in ended)
        which = " or ".join(words[each] for each in ended)
        output.info(
            f"debates that {which} are not enqueued again; to run them again: "
            f"aragora-q requeue --group {group} {statuses}"
        )
    if outcome.deleted and not options.rerun:
        output.info(
            f"{count(outcome.deleted, 'debate')} enqueued before and deleted since; "
            "--rerun buys them again"
        )
    if outcome.created:
        output.info(f"aragora-q wait --group {group}; then: aragora-q table {group}")
