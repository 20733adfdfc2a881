"""`aragora-q compare GROUP`: the arms of a group side by side, and where they differ."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from aragora_q.cli import output, reports
from aragora_q.cli.group_rows import ArmNames, GroupName, read_group
from aragora_q.cli.options import AsJson, with_queue
from aragora_q.formats import dollars

if TYPE_CHECKING:
    from aragora_q.experiments.comparison import Comparison, Difference
    from aragora_q.experiments.counts import ArmJson
    from aragora_q.report.document import Report, Section, Table
    from aragora_q.report.document import Row as TableRow
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_NAME_CHARS = 18
"""Longer names of arms are shortened in the middle where arms stand side by side."""

MAX_CELL_CHARS = 200

MAX_DIFFERENCES = 100
"""Questions that text lists, at most; JSON has all of them."""

EPILOG = """\b
Examples:
  aragora-q compare trivia
  aragora-q compare trivia --arm vote --arm debate -f md
  aragora-q compare trivia --json | jq '.pairs[] | {arms, share}'

\b
Exit codes:
  0 ok, also if some debates have not ended   3 no such group
  65 not a name, no such arm, or data of some jobs in Redis is corrupted;
  all others are compared
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_queue
async def compare(
    queue: RedisStreamsQueue,
    *,
    name: GroupName,
    arms: ArmNames = None,
    form: reports.ReportFormat = reports.Format.TEXT,
    as_json: AsJson = False,
) -> int:
    """Show the arms of a group side by side: verdicts, agreement, cost, time, and where they differ.

    Two arms are compared on the questions for which both have a verdict. Verdicts in text form are the
    same only if their words are: answers that mean the same may differ.
    """
    from aragora_q.experiments import comparison

    rows, exit_code = await read_group(queue, name)
    found = comparison.compare(rows, arms)
    if as_json:
        output.json_line({"group": name, **found.to_dict()})
        return exit_code
    reports.write_report(_report(name, found), form)
    return exit_code


def _report(name: str, found: Comparison) -> Report:
    from aragora_q.report.document import Notice, Report, Section

    debates = sum(map(len, found.arms.values()))
    counts = [
        output.count(debates, "debate"),
        output.count(len(found.arms), "arm"),
        output.count(found.questions, "question"),
    ]
    intro = [Notice(f"{', '.join(counts)}.")]
    if found.not_counted:
        intro.append(
            Notice(f"Not counted: {output.count(found.not_counted, 'job')} without a debate.")
        )
    sections = [Section("Arms", list(_arm_tables(found)))] if found.arms else []
    return Report(f"Group {name}", intro, [*sections, *_agreement(found), *_differences(found)])


def _arm_tables(found: Comparison) -> Iterator[Table]:
    """Yield tables of the arms, each with as many as fit next to each other."""
    from aragora_q.experiments.counts import arm_json
    from aragora_q.report.document import Row, Table

    names = _short_names(found.arms)
    arms = {names[arm]: dict(_numbers(arm_json(arm, rows))) for arm, rows in found.arms.items()}
    for columns in _batches(arms):
        labels, *_ = columns.values()
        rows = [Row([label, *(cells[label] for cells in columns.values())]) for label in labels]
        shown = [row for row in rows if any(row.cells[1:])]
        yield Table(("", *columns), shown, frozenset(columns))


def _batches(arms: dict[str, dict[str, str]]) -> Iterator[dict[str, dict[str, str]]]:
    width = output.width() - max(map(len, next(iter(arms.values()))))
    batch: dict[str, dict[str, str]] = {}
    used = 0
    for name, cells in arms.items():
        needed = max(map(len, (name, *cells.values()))) + 2
        if batch and used + needed > width:
            yield batch
            batch, used = {}, 0
        batch[name] = cells
        used += needed
    yield batch


def _short_names(arms: Collection[str]) -> dict[str, str]:
    """Return names for people, shortened if they stay different."""
    from aragora_q.experiments.rows import name_of

    whole = {arm: name_of(arm) for arm in arms}
    half = MAX_NAME_CHARS // 2
    short = {
        arm: name if len(name) <= MAX_NAME_CHARS else f"{name[:half]}…{name[-half + 1 :]}"
        for arm, name in whole.items()
    }
    return short if len(set(short.values())) == len(short) else whole


def _numbers(arm: ArmJson) -> Iterator[tuple[str, str]]:
    """Yield what is said of an arm; blank where there is nothing to say."""
    verdicts, seconds = arm["verdicts"], arm["median_seconds"]
    yield "debates", f"{arm['debates']:,}"
    yield "not ended", _number(arm["live"])
    yield "failed", _number(arm["failed"])
    yield "cancelled", _number(arm["cancelled"])
    yield "with a verdict", _share(verdicts, arm["debates"])
    yield "right", _share(arm["right"], arm["expected"])
    yield "consensus", _share(arm["consensus"], verdicts)
    yield "with dissent", _share(arm["dissent"], verdicts)
    yield "mean agreement", "" if arm["agreement"] is None else f"{arm['agreement']:.0%}"
    yield "mean rounds", "" if arm["rounds"] is None else f"{arm['rounds']:.1f}"
    yield "cost", _price(arm["cost_usd"])
    yield "cost per debate", _price(arm["cost_usd_per_debate"])
    yield "unpriced calls", _number(arm["unpriced_calls"])
    yield "calls", _number(arm["calls"])
    yield "taken over", _number(arm["taken_over"])
    yield "tokens", _number(arm["tokens"])
    yield "median time", "" if seconds is None else output.duration(seconds)


def _number(number: int) -> str:
    return f"{number:,}" if number else ""


def _share(number: int, total: int) -> str:
    return f"{number:,} ({number / total:.0%})" if total else ""


def _price(usd: float | None) -> str:
    return "" if usd is None else dollars(usd)


def _agreement(found: Comparison) -> Iterator[Section]:
    from aragora_q.experiments.rows import name_of
    from aragora_q.report.document import Block, Notice, Row, Section, Table

    pairs = [pair for pair in found.pairs if pair.questions]
    if not pairs:
        return
    head = ("Arms", "Questions", "Same verdict", "Kappa")
    rows = [
        Row(
            [
                ", ".join(map(name_of, pair.arms)),
                f"{pair.questions:,}",
                _share(pair.same, pair.questions),
                "" if pair.kappa is None else f"{pair.kappa:.2f}",
            ]
        )
        for pair in pairs
    ]
    blocks: list[Block] = [Table(head, rows, frozenset(head[1:]))]
    if any(pair.by_wording for pair in pairs):
        blocks.append(
            Notice("Verdicts in text form are compared by their words, not by what they mean.")
        )
    yield Section("The same verdict", blocks)


def _differences(found: Comparison) -> Iterator[Section]:
    from aragora_q.report.document import Block, Notice, Section, Table

    if not found.differences:
        return
    shown = found.differences[:MAX_DIFFERENCES]
    rows = [row for each in shown for row in _difference_rows(each)]
    head = ("No.", "Question", "Verdict", "Right", "Arms")
    blocks: list[Block] = [Table(head, rows, frozenset({"No."}))]
    if more := len(found.differences) - len(shown):
        blocks.append(Notice(f"{more:,} more with --json."))
    questions = output.count(found.questions, "question")
    yield Section(f"Where they differ: {len(found.differences):,} of {questions}", blocks)


def _difference_rows(each: Difference) -> Iterator[TableRow]:
    """Yield a row for each verdict; the question stands in the first."""
    from aragora_q.experiments.rows import name_of
    from aragora_q.loose import text
    from aragora_q.report.document import Row

    verdicts: dict[tuple[str, str], list[str]] = {}
    for arm, row in each.rows.items():
        if row is not None:
            shown = (
                "no verdict"
                if row.key is None
                else output.truncate(text(row.verdict), MAX_CELL_CHARS)
            )
            is_right = "yes" if row.is_right else ""
            verdicts.setdefault((shown, is_right), []).append(name_of(arm))
    about = [str(each.number or ""), output.truncate(each.question, MAX_CELL_CHARS)]
    for (verdict, is_right), arms in verdicts.items():
        yield Row([*about, verdict, is_right, ", ".join(arms)])
        about = ["", ""]
