"""The report of an evaluation, for a person: what `aragora-q eval` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aragora_q.experiments.evaluation import (
    ArmResult,
    Calibration,
    Evaluation,
    Flips,
    Pair,
)
from aragora_q.experiments.inference import Interval
from aragora_q.experiments.rows import name_of
from aragora_q.formats import count, dollars_or_unknown, duration, p_value, points
from aragora_q.report.document import Notice, Report, Row, Section, Table, Tone

MAX_PAIRS = 60
"""Pairs of arms that the report lists: those of eleven arms, and a few. JSON has all of them."""

EXACT = "95% interval: exact binomial where all debates of an arm are right, or none is; else bootstrap."


def report_of(group: str, found: Evaluation) -> Report:
    """Return the report of an evaluation, for a person."""
    counts = [
        count(found.questions, "question"),
        count(len(found.arms), "arm"),
        count(found.debates, "debate"),
    ]
    intro = [Notice(f"{', '.join(counts)}. A debate is right if its verdict is an expected one.")]
    intro += [Notice(text, Tone.CAUTION) for text in found.warnings]
    exact = [Notice(EXACT)] if any(_is_exact(arm) for arm in found.arms) else []
    sections = [Section("Arms", [_accuracies(found.arms), *exact, _counts(found.arms)])]
    if any(pair.questions for pair in found.pairs):
        sections.append(_comparisons(found.pairs))
    if found.findings:
        sections.append(Section("What follows", [Notice(text) for text in found.findings]))
    calibrated = [(name_of(each.arm), each.calibration) for each in found.arms if each.calibration]
    sections += [_calibrations(calibrated)] if calibrated else []
    flipped = [(name_of(each.arm), each.flips) for each in found.arms if each.flips]
    sections += [_flips(flipped)] if flipped else []
    sections += [_biases(found.arms)] if any(arm.answered for arm in found.arms) else []
    return Report(f"Evaluation of group {group}", intro, sections if found.arms else [])


def _accuracies(arms: Sequence[ArmResult]) -> Table:
    head = ("Arm", "Right", "Accuracy", "95% interval", "Cost each", "Calls", "Median", "P90")
    rows = [
        Row(
            [
                name_of(arm.arm),
                f"{arm.right:,}/{arm.counted:,}" if arm.counted else "",
                _percent(arm.accuracy),
                _interval(arm.interval),
                _cost(arm, arm.cost_per_question_usd),
                "" if arm.calls_per_question is None else f"{arm.calls_per_question:.1f}",
                "" if arm.median_seconds is None else duration(arm.median_seconds),
                "" if arm.p90_seconds is None else duration(arm.p90_seconds),
            ]
        )
        for arm in arms
    ]
    return Table(head, rows, frozenset(head[1:]))


def _is_exact(arm: ArmResult) -> bool:
    return arm.interval is not None and arm.interval.method == "exact"


def _cost(arm: ArmResult, usd: float | None) -> str:
    return dollars_or_unknown(usd) if arm.calls or usd is not None else ""


def _counts(arms: Sequence[ArmResult]) -> Table:
    head = (
        "Arm", "Debates", "Answered", "Failed", "Cancelled", "Live", "Abstained", "Calls", "Tokens",
        "Cost",
    )  # fmt: skip
    rows = [
        Row(
            [
                name_of(arm.arm),
                f"{arm.debates:,}",
                f"{arm.answered:,}",
                *(
                    f"{number:,}" if number else ""
                    for number in (arm.failed, arm.cancelled, arm.live, arm.abstentions)
                ),
                f"{arm.calls:,}",
                f"{arm.tokens:,}",
                _cost(arm, arm.cost_usd),
            ]
        )
        for arm in arms
    ]
    return Table(head, rows, frozenset(head[1:]))


def _comparisons(pairs: Sequence[Pair]) -> Section:
    head = (
        "Arm", "Against", "Both", "Won", "Lost", "Points", "95% interval", "p", "Adjusted",
    )  # fmt: skip
    rows = [
        Row(
            [
                name_of(pair.arm),
                name_of(pair.baseline),
                f"{pair.questions:,}",
                f"{pair.only_arm:,}",
                f"{pair.only_baseline:,}",
                "" if pair.difference is None else points(pair.difference),
                _interval_of_points(pair.interval),
                "" if pair.p is None else p_value(pair.p),
                "" if pair.p_adjusted is None else p_value(pair.p_adjusted),
            ]
        )
        for pair in pairs[:MAX_PAIRS]
    ]
    more = len(pairs) - len(rows)
    left_out = f" Not listed: {count(more, 'more pair')}; see --json." if more else ""
    note = (
        "Both: questions counted in both arms. Won, lost: only this arm is right, only the other one. "
        "p: exact McNemar test; adjusted for the number of pairs by Holm."
        f"{left_out}"
    )
    return Section(
        "Differences of accuracy", [Table(head, rows, frozenset(head[2:])), Notice(note)]
    )


def _calibrations(found: Sequence[tuple[str, Calibration]]) -> Section:
    head = ("Arm", "Debates", "Agreement", "Right", "ECE")
    rows = [
        Row(
            [
                name,
                f"{each.debates:,}",
                _percent(each.agreement),
                _percent(each.accuracy),
                f"{each.ece:.3f}",
            ]
        )
        for name, each in found
    ]
    bins = [
        Row([f"{100 * edge.low:.0f} to {100 * edge.high:.0f}%", *cells])
        for number, edge in enumerate(found[0][1].bins)
        if any(cells := [_bin(each, number) for _, each in found])
    ]
    names = [name for name, _ in found]
    note = (
        "ECE: how far agreement is from the share of right verdicts, on average; 0 is best. Below: that "
        "share, and of how many debates, by agreement."
    )
    return Section(
        "Calibration of agreement",
        [
            Table(head, rows, frozenset(head[1:])),
            Notice(note),
            Table(["Agreement", *names], bins, frozenset(names)),
        ],
    )


def _bin(calibration: Calibration, number: int) -> str:
    each = calibration.bins[number]
    return f"{_percent(each.accuracy)} of {each.debates:,}" if each.debates else ""


def _flips(found: Sequence[tuple[str, Flips]]) -> Section:
    head = ("Arm", "Answers", "Right first", "Right last", "Right to wrong", "Wrong to right")
    rows = [
        Row(
            [
                name,
                f"{each.seats:,}",
                _percent(each.first_accuracy),
                _percent(each.last_accuracy),
                f"{each.right_to_wrong:,}",
                f"{each.wrong_to_right:,}",
            ]
        )
        for name, each in found
    ]
    return Section(
        "Answers of seats, before and after the rounds", [Table(head, rows, frozenset(head[1:]))]
    )


def _biases(arms: Sequence[ArmResult]) -> Section:
    head = ("Arm", "Ballots", "First label", "First place", "Own answer", "By chance")
    rows = [
        Row([name_of(arm.arm), f"{arm.label.ballots:,}", *_rates(arm), _percent(arm.label.chance)])
        for arm in arms
        if arm.label
    ]
    text = "No ballots: each verdict of a closed form is a vote, so no voter chose among labeled answers."
    return Section(
        "Biases of voters", [Table(head, rows, frozenset(head[1:])) if rows else Notice(text)]
    )


def _rates(arm: ArmResult) -> Iterator[str]:
    for each in (arm.label, arm.place, arm.own):
        yield _percent(each.rate if each else None)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.low:.0f} to {interval.high:.0%}"


def _interval_of_points(interval: Interval | None) -> str:
    return "" if interval is None else f"{points(interval.low)} to {points(interval.high)}"
