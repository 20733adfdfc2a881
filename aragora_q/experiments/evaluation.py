"""How good the arms of an experiment are: each number, with its formula and where it is from.

Used by the command `eval` and by the console. A debate is *counted* if it is known whether it is right: its
question has expected verdicts, and it completed or failed; one that failed or has no verdict is not right.
Pure but for `inference`; must not know how results are laid out.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from operator import itemgetter
from statistics import fmean
from typing import Any

from aragora_q.base import JobStatus
from aragora_q.experiments import inference
from aragora_q.experiments.counts import arm_json, mean
from aragora_q.experiments.inference import Interval
from aragora_q.experiments.rows import ENDED, Cast, Change, Question, Row, by_question, name_of
from aragora_q.formats import count, dollars, p_value, points
from aragora_q.money import USD_DIGITS

BINS = 10
"""Of a calibration, as many as Guo et al. have by default."""

LEVEL = 0.05
"""Adjusted p-values below it count as a difference."""

OVERCONFIDENT = 0.1
"""Mean agreement above accuracy by more than this is pointed out."""

EQUAL = 0.8
"""Costs per question of which one is below this share of the other are pointed out: those of two arms, and
what was expected and what came."""

MAX_DIFFERENCES = 10
"""Differences that have a sentence each, the clearest first."""

MAX_NAMED = 3
"""Pairs of arms that one sentence names."""


@dataclass(frozen=True)
class Bin:
    """Counted debates whose agreement is above `low`, up to `high`."""

    low: float
    high: float
    debates: int
    agreement: float | None
    """The mean of their agreement; None without any."""
    accuracy: float | None
    """The share of them that is right."""


@dataclass(frozen=True)
class Calibration:
    """How far agreement is from the share of right verdicts, if it is read as their probability.

    Agreement is the share of seats behind the verdict. Debates of a single seat, which always agrees with
    itself, are left out.
    """

    debates: int
    """Counted debates of several seats with a verdict and an agreement."""
    agreement: float
    """The mean of their agreement."""
    accuracy: float
    """The share of them that is right."""
    ece: float
    """Expected calibration error: over the bins, the mean of |accuracy - agreement|, weighted by debates (Guo
    et al. 2017, equation 3). 0 is best."""
    bins: list[Bin]
    """Ten, of equal width; 1/10 belongs to the first one."""


@dataclass(frozen=True)
class Flips:
    """What the rounds did to the seats' answers, over all counted debates."""

    seats: int
    """First answers: seats times debates."""
    first_right: int
    right_to_wrong: int
    wrong_to_right: int
    first_accuracy: float
    """`first_right` / `seats`: what the agents know alone."""
    last_accuracy: float
    """The same of the seats' answers at the end of the debate, before any vote. A seat that dropped out keeps
    its answer."""


@dataclass(frozen=True)
class Rate:
    """How often ballots chose the answer in a certain place, and how often chance does."""

    ballots: int
    chosen: int
    rate: float
    """`chosen` / `ballots`."""
    chance: float
    """The mean of 1 / (answers shown), over the same ballots."""


@dataclass(frozen=True)
class ArmResult:
    """An arm of an experiment. None: not known."""

    arm: str | None
    """None: debates that are not of an experiment."""
    debates: int
    completed: int
    failed: int
    cancelled: int
    live: int
    """Debates that have not ended."""
    answered: int
    """Debates with a verdict."""
    counted: int
    """Debates that are known to be right or not."""
    right: int
    """Those whose verdict is one that is expected."""
    accuracy: float | None
    """`right` / `counted`."""
    interval: Interval | None
    """Of the accuracy, over questions."""
    cost_usd: float | None
    """The sum of all known prices."""
    cost_per_question_usd: float | None
    """The mean cost of the debates that completed or failed and whose calls all have a known price."""
    expected_per_question_usd: float | None
    """What the same debates were expected to cost, on average; None if it is not known of one of them."""
    unpriced_calls: int
    """Calls that are in no cost."""
    taken_over: int
    """Calls that another debate paid; they are in no cost."""
    calls: int
    calls_per_question: float | None
    """The mean of the debates that completed or failed."""
    tokens: int
    median_seconds: float | None
    """Running time of completed debates."""
    p90_seconds: float | None
    """The same, the 90th percentile by nearest rank: 90 % took no longer."""
    agreement: float | None
    """The mean agreement of debates with a verdict."""
    calibration: Calibration | None
    flips: Flips | None
    abstentions: int
    """Seats that backed no answer, over all debates."""
    label: Rate | None
    """Ballots for the answer with the alphabetically first label; None: no ballot was asked for."""
    place: Rate | None
    """Ballots for the answer that was shown first."""
    own: Rate | None
    """Ballots for the voter's own answer. A voter may have good reasons for it."""


@dataclass(frozen=True)
class Pair:
    """Two arms, on the questions on which both are counted."""

    arm: str | None
    baseline: str | None
    questions: int
    both_right: int
    only_arm: int
    """Questions on which only `arm` is right."""
    only_baseline: int
    neither: int
    difference: float | None
    """Accuracy of `arm` - accuracy of `baseline` = (`only_arm` - `only_baseline`) / `questions`."""
    interval: Interval | None
    """Of the difference; the bootstrap draws questions, each with the outcomes of both arms."""
    p: float | None
    """Exact McNemar test: the chance of such a difference, or a larger one, between equally good arms."""
    p_adjusted: float | None
    """The same by Holm, for all pairs with common questions."""


@dataclass(frozen=True)
class Evaluation:
    """An experiment, counted."""

    debates: int
    questions: int
    """Different questions."""
    has_statistics: bool
    """False: SciPy is not installed; there are no intervals and no tests."""
    arms: list[ArmResult]
    """In the order in which the rows name them."""
    pairs: list[Pair]
    """Each arm against each one before it."""
    findings: list[str]
    """What follows, and what does not, in sentences."""
    warnings: list[str]
    """What makes the numbers say less, in sentences."""

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON data."""
        return asdict(self)


def evaluate(rows: Iterable[Row]) -> Evaluation:
    """Count the debates of a group. Intervals and tests are there if SciPy is installed."""
    read = list(rows)
    debates = [row for row in read if row.is_debate]
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in debates:
        by_arm[row.arm].append(row)
    questions = by_question(by_arm)
    arms = [_arm(arm, own) for arm, own in by_arm.items()]
    outcomes = {arm: _outcomes(own) for arm, own in questions.items()}
    pairs = _pairs(outcomes)
    return Evaluation(
        debates=len(debates),
        questions=len({key for own in questions.values() for key in own}),
        has_statistics=inference.is_installed(),
        arms=arms,
        pairs=pairs,
        findings=list(_findings(arms, pairs)),
        warnings=list(_warnings(len(read) - len(debates), debates, arms, questions)),
    )


Outcomes = Mapping[Question, bool]


def _outcomes(rows: Mapping[Question, Row]) -> Outcomes:
    """Return which of an arm's debates are right, of those that are counted."""
    return {key: row.is_right for key, row in rows.items() if row.is_right is not None}


def _arm(arm: str, rows: Sequence[Row]) -> ArmResult:
    found = arm_json(arm, rows)
    counted = [row for row in rows if row.is_right is not None]
    priced = [row for row in rows if row.full_cost_usd is not None]
    is_quoted = all(row.quote_usd is not None for row in priced)
    cast = [each for row in rows for each in row.cast]
    return ArmResult(
        arm=found["arm"],
        debates=found["debates"],
        completed=found["completed"],
        failed=found["failed"],
        cancelled=found["cancelled"],
        live=found["live"],
        answered=found["verdicts"],
        counted=found["expected"],
        right=found["right"],
        accuracy=mean(row.is_right for row in counted),
        interval=_share_interval(found["right"], found["expected"]),
        cost_usd=found["cost_usd"],
        cost_per_question_usd=found["cost_usd_per_debate"],
        expected_per_question_usd=(
            mean((row.quote_usd for row in priced), USD_DIGITS) if is_quoted else None
        ),
        unpriced_calls=found["unpriced_calls"],
        taken_over=found["taken_over"],
        calls=found["calls"],
        calls_per_question=mean(row.calls for row in rows if row.status in ENDED),
        tokens=found["tokens"],
        median_seconds=found["median_seconds"],
        p90_seconds=_p90(row.seconds for row in rows if row.status is JobStatus.COMPLETED),
        agreement=found["agreement"],
        calibration=_calibration(counted),
        flips=_flips([change for row in counted for change in row.changes]),
        abstentions=sum(row.abstentions for row in rows),
        label=_rate(cast, lambda each: each.label == 1),
        place=_rate(cast, lambda each: each.place == 1),
        own=_rate(cast, lambda each: each.is_own),
    )


def _p90(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[math.ceil(0.9 * len(known)) - 1] if known else None


def _share_interval(chosen: int, of: int) -> Interval | None:
    if not inference.is_installed():
        return None
    return inference.mean_interval({1: chosen, 0: of - chosen}, least=0, most=1)


def _calibration(counted: Sequence[Row]) -> Calibration | None:
    found = [
        (row.agreement, row.is_right is True)
        for row in counted
        if row.agreement is not None and len(row.changes) != 1
    ]
    if not found:
        return None
    binned: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for agreement, is_right in found:
        number = math.ceil(round(agreement * BINS, 6))  # 0.7 * 10 is 7.000000000000001
        binned[min(max(number, 1), BINS)].append((agreement, is_right))
    bins = [_bin(number, binned[number]) for number in range(1, BINS + 1)]
    gaps = [
        each.debates * abs(each.accuracy - each.agreement)
        for each in bins
        if each.accuracy is not None and each.agreement is not None
    ]
    return Calibration(
        debates=len(found),
        agreement=fmean(agreement for agreement, _ in found),
        accuracy=fmean(is_right for _, is_right in found),
        ece=math.fsum(gaps) / len(found),
        bins=bins,
    )


def _bin(number: int, found: Sequence[tuple[float, bool]]) -> Bin:
    return Bin(
        (number - 1) / BINS,
        number / BINS,
        len(found),
        mean(agreement for agreement, _ in found),
        mean(is_right for _, is_right in found),
    )


def _flips(changes: Sequence[Change]) -> Flips | None:
    if not changes:
        return None
    kinds = Counter(changes)
    first_right = sum(each.was_right for each in changes)
    lost, won = kinds[Change(True, False)], kinds[Change(False, True)]
    return Flips(
        seats=len(changes),
        first_right=first_right,
        right_to_wrong=lost,
        wrong_to_right=won,
        first_accuracy=first_right / len(changes),
        last_accuracy=(first_right - lost + won) / len(changes),
    )


def _rate(cast: Sequence[Cast], is_chosen: Callable[[Cast], bool]) -> Rate | None:
    if not cast:
        return None
    chosen = sum(map(is_chosen, cast))
    return Rate(
        ballots=len(cast),
        chosen=chosen,
        rate=chosen / len(cast),
        chance=fmean(1 / each.answers for each in cast),
    )


def _pairs(outcomes: Mapping[str, Outcomes]) -> list[Pair]:
    pairs = [_pair(arm, baseline, outcomes) for baseline, arm in combinations(outcomes, 2)]
    adjusted = iter(inference.holm([pair.p for pair in pairs if pair.p is not None]))
    return [pair if pair.p is None else replace(pair, p_adjusted=next(adjusted)) for pair in pairs]


def _pair(arm: str, baseline: str, outcomes: Mapping[str, Outcomes]) -> Pair:
    own, other = outcomes[arm], outcomes[baseline]
    common = own.keys() & other.keys()
    counts = Counter((own[key], other[key]) for key in common)
    only_arm, only_baseline = counts[True, False], counts[False, True]
    interval, p = None, None
    if common and inference.is_installed():
        differences = {1: only_arm, -1: only_baseline, 0: counts[True, True] + counts[False, False]}
        interval = inference.mean_interval(differences, least=-1, most=1)
        p = inference.mcnemar(only_arm, only_baseline)
    return Pair(
        arm=arm or None,
        baseline=baseline or None,
        questions=len(common),
        both_right=counts[True, True],
        only_arm=only_arm,
        only_baseline=only_baseline,
        neither=counts[False, False],
        difference=(only_arm - only_baseline) / len(common) if common else None,
        interval=interval,
        p=p,
        p_adjusted=None,
    )


def _findings(arms: Sequence[ArmResult], pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield what follows from the numbers, and what does not."""
    tested = [pair for pair in pairs if pair.p_adjusted is not None]
    shown = [pair for pair in tested if pair.p_adjusted is not None and pair.p_adjusted < LEVEL]
    clearest = sorted(shown, key=lambda pair: (pair.p_adjusted, -abs(pair.difference or 0.0)))
    for pair in clearest[:MAX_DIFFERENCES]:
        yield _difference(pair)
    if (more := len(shown) - MAX_DIFFERENCES) > 0:
        yield f"{count(more, 'more pair')} of arms differ, less clearly: see the adjusted p-values."
    if others := [pair for pair in tested if pair not in shown]:
        yield from _no_difference(others, len(shown))
    yield from _costs(arms)
    for each in arms:
        found = each.calibration
        if found and found.agreement - found.accuracy > OVERCONFIDENT:
            yield (
                f"{name_of(each.arm)}: mean agreement is {found.agreement:.0%}, but "
                f"{found.accuracy:.0%} of the verdicts are right: agreement is not the probability that a "
                "verdict is right."
            )


def _difference(pair: Pair) -> str:
    difference, interval = pair.difference or 0.0, pair.interval
    better, worse = pair.arm, pair.baseline
    low, high = (interval.low, interval.high) if interval else (difference, difference)
    if difference < 0:
        better, worse, low, high = worse, better, -high, -low
    return (
        f"{name_of(better)} is right more often than {name_of(worse)}: by {points(abs(difference), '')} "
        f"points (95% interval: {points(low, '')} to {points(high, '')}) on "
        f"{count(pair.questions, 'question')}; adjusted {p_value(pair.p_adjusted or 0.0, 'p')}."
    )


def _no_difference(pairs: Sequence[Pair], shown: int) -> Iterator[str]:
    questions = sorted({pair.questions for pair in pairs})
    span = f"{questions[0]:,} to {questions[-1]:,}" if len(questions) > 1 else f"{questions[0]:,}"
    names = [f"{name_of(pair.arm)} and {name_of(pair.baseline)}" for pair in pairs[:MAX_NAMED]]
    if more := len(pairs) - MAX_NAMED:
        names += [f"{more} more pairs"] if more > 1 else [] if more < 0 else ["1 more pair"]
    plural = "questions do" if questions[-1] != 1 else "question does"
    yield (
        f"{span} {plural} not separate {'; '.join(names)}. That does not show that they are equally good."
    )
    needed = inference.needed_to_differ(len(pairs), LEVEL)  # Holm: those shown count no longer
    tests = shown + len(pairs)
    of = "one comparison" if tests == 1 else f"{tests} comparisons"
    which = f", {shown} of which show a difference, another" if shown else ", a difference"
    yield (
        f"In {of}{which} shows from {needed} questions on which only one of the two arms is right, if "
        "it is always the same arm; from more, if not."
    )


def _costs(arms: Sequence[ArmResult]) -> Iterator[str]:
    costs = [(each.arm, usd) for each in arms if (usd := each.cost_per_question_usd) is not None]
    dear, most = max(costs, key=itemgetter(1), default=(None, 0.0))
    cheaper = [(arm, usd) for arm, usd in costs if usd < EQUAL * most]
    named = [f"{usd / most:.0%} of that in {name_of(arm)}" for arm, usd in cheaper[:MAX_NAMED]]
    if more := len(cheaper) - len(named):
        named.append(f"less in {count(more, 'more arm')}")
    if named:
        yield (
            f"A question costs {dollars(most)} in {name_of(dear)}; {', '.join(named)}: more calls alone can "
            "make answers better, so compare accuracy at equal cost."
        )
    for each in arms:
        usd, quoted = each.cost_per_question_usd, each.expected_per_question_usd
        if usd is not None and quoted is not None and min(usd, quoted) < EQUAL * max(usd, quoted):
            yield (
                f"{name_of(each.arm)}: a question was expected to cost {dollars(quoted)}, and costs "
                f"{dollars(usd)}."
            )


def _warnings(
    unreadable: int,
    debates: Sequence[Row],
    arms: Sequence[ArmResult],
    questions: Mapping[str, Mapping[Question, Row]],
) -> Iterator[str]:
    """Yield what makes the numbers say less."""
    if unreadable:
        yield f"{count(unreadable, 'job')} of the group: not a debate, or cannot be read; left out."
    if live := sum(each.live for each in arms):
        yield f"{count(live, 'debate')} not ended: the numbers will change."
    yield from _uncounted(debates, arms)
    if texts := sum(not row.is_closed for row in debates if row.is_right is not None):
        yield (
            f"{count(texts, 'debate')} with answers in free text: right only if the wording is that of an "
            "expected verdict, so accuracy is too low and flips may be changes of wording. Prefer answer_form "
            "choice, number or boolean."
        )
    counted = {arm: frozenset(_outcomes(own)) for arm, own in questions.items()}
    if len({own for own in counted.values() if own}) > 1:
        counts = ", ".join(f"{name_of(arm)} {len(own):,}" for arm, own in counted.items())
        yield (
            f"the arms are not counted on the same questions ({counts}): compare arms by pairs, which count "
            "only questions of both."
        )
    if any(len(each) > 1 for each in _expected(questions.values()).values()):
        yield "a question has other expected verdicts in one arm than in another."
    twice = [each for each in arms if each.debates > len(questions[each.arm or ""])]
    yield from _about(
        "debates of a question that the arm has twice, written in another way; pairs count the latest",
        twice,
        lambda each: each.debates - len(questions[each.arm or ""]),
    )
    yield from _about(
        "calls without a known price: in no cost, and their debates in no cost per question",
        arms,
        lambda each: each.unpriced_calls,
    )
    yield from _about(
        "calls taken over from other debates: in no cost and no time, which are too low by them",
        arms,
        lambda each: each.taken_over,
    )
    if not inference.is_installed():
        yield f"no intervals and no tests: SciPy is not installed ({inference.HOW_TO_INSTALL})."


def _uncounted(debates: Sequence[Row], arms: Sequence[ArmResult]) -> Iterator[str]:
    """Yield which debates are not counted, or count as not right, because they have no verdict."""
    yield from _about("cancelled, and not counted", arms, lambda each: each.cancelled)
    undecided = [row for row in debates if row.is_right is not None and row.verdict is None]
    failed = Counter(row.arm or None for row in undecided if row.status is JobStatus.FAILED)
    yield from _about("failed, and counted as not right", arms, lambda each: failed[each.arm])
    completed = Counter(row.arm or None for row in undecided if row.status is JobStatus.COMPLETED)
    yield from _about(
        "completed without a verdict, and counted as not right",
        arms,
        lambda each: completed[each.arm],
    )
    ended = [row for row in debates if row.status in ENDED]
    unknown = [row for row in ended if row.is_right is None]
    if unusable := sum(bool(row.expected) for row in unknown):
        yield (
            f"{count(unusable, 'debate')} without a vote, or with expected verdicts of another answer form: "
            "accuracy, calibration and flips do not count them."
        )
    without = len(unknown) - unusable
    if without and without == len(ended):
        yield (
            "no debate that has ended has expected verdicts, so accuracy is not known: add `expected` to the "
            "questions, and give their file to eval."
        )
    elif without:
        yield (
            f"{count(without, 'debate')} without expected verdicts: accuracy, calibration and flips do not "
            "count them."
        )


def _about(
    what: str, arms: Sequence[ArmResult], number: Callable[[ArmResult], int]
) -> Iterator[str]:
    found = [f"{number(each):,} of {name_of(each.arm)}" for each in arms if number(each)]
    if found:
        yield f"{what}: {', '.join(found)}."


def _expected(arms: Iterable[Mapping[Question, Row]]) -> Mapping[Question, set[str]]:
    found: dict[Question, set[str]] = defaultdict(set)
    for own in arms:
        for key, row in own.items():
            if row.expected:
                verdicts = sorted(json.dumps(each, sort_keys=True) for each in row.expected)
                found[key].add(json.dumps(verdicts))
    return found
