"""Compare the verdicts of the arms of a group with each other.

Pure: rows go in. `to_dict` is the JSON of `compare` and of the HTTP API; docs/reference/cli-json.md describes
its fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.answer_form import text_key
from aragora_q.experiments.counts import ArmJson, arm_json
from aragora_q.experiments.rows import Question, Row, by_question, of_arms
from aragora_q.loose import text


class PairJson(TypedDict):
    """How far two arms agree on the questions for which both have a verdict."""

    arms: list[str | None]
    questions: int
    same: int
    share: float | None
    kappa: float | None
    by_wording: int


class DifferenceJson(TypedDict):
    """A question for which arms have different verdicts: that of each arm, null if it has none."""

    number: int | None
    question: str
    expected: list[Any]
    verdicts: list[ArmVerdictJson]


class ArmVerdictJson(TypedDict):
    """The verdict of an arm, and whether it is right; null if that is not known."""

    arm: str | None
    verdict: Any
    right: bool | None


class ComparisonJson(TypedDict):
    """Arms of a group side by side."""

    questions: int
    not_counted: int
    arms: list[ArmJson]
    pairs: list[PairJson]
    differences: list[DifferenceJson]


@dataclass(frozen=True)
class Pair:
    """Two arms, on the questions for which both have a verdict."""

    arms: tuple[str, str]
    questions: int
    same: int
    """Questions with the same verdict."""
    kappa: float | None
    """Cohen's kappa: agreement beyond that of chance, if each arm gave its verdicts to the questions by lot.
    None unless all questions have the same choices, and some verdicts differ."""
    by_wording: int
    """Questions in text form: their verdicts count as the same only if the words are."""

    @property
    def share(self) -> float | None:
        """The share of the questions with the same verdict."""
        return self.same / self.questions if self.questions else None


@dataclass(frozen=True)
class Difference:
    """A question for which at least two arms have different verdicts."""

    question: str
    number: int
    rows: Mapping[str, Row | None]
    """By arm; None if the arm has not this question."""

    @property
    def expected(self) -> Sequence[Any]:
        """The verdicts that are right, as the first arm with this question has them; empty: not known."""
        return next((row.expected for row in self.rows.values() if row), ())


@dataclass(frozen=True)
class Comparison:
    """Arms of a group side by side."""

    arms: Mapping[str, Sequence[Row]]
    """The debates of each arm."""
    questions: int
    """Different questions of these arms."""
    not_counted: int
    """Jobs of the group that are no debates, or are corrupted."""
    pairs: Sequence[Pair]
    differences: Sequence[Difference]

    def to_dict(self) -> ComparisonJson:
        """Return the comparison as JSON data."""
        return {
            "questions": self.questions,
            "not_counted": self.not_counted,
            "arms": [arm_json(arm, rows) for arm, rows in self.arms.items()],
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "differences": [_difference_json(each) for each in self.differences],
        }


def compare(rows: Sequence[Row], arms: Sequence[str] | None = None) -> Comparison:
    """Compare these arms of a group, in this order; None: all of them, in the order of the rows.

    Raises:
        InvalidPayload: the group has no such arm.
    """
    rows = of_arms(rows, arms) if arms else rows
    debates = [row for row in rows if row.is_debate]
    wanted: dict[str, list[Row]] = {arm: [] for arm in arms or ()}
    for row in debates:
        wanted.setdefault(row.arm, []).append(row)
    questions: dict[Question, dict[str, Row]] = {}
    for arm, own in by_question(wanted).items():
        for question, row in own.items():
            questions.setdefault(question, {})[arm] = row
    return Comparison(
        wanted,
        len(questions),
        len(rows) - len(debates),
        [_pair(pair, questions.values()) for pair in combinations(wanted, 2)],
        sorted(_differences(wanted, questions), key=lambda each: each.number),
    )


def is_same(one: Row, other: Row) -> bool:
    """Return True if two verdicts are equal; those of different answer forms if their words are."""
    if one.is_closed == other.is_closed:
        return one.key == other.key
    return text_key(text(one.verdict)) == text_key(text(other.verdict))


def _pair(arms: tuple[str, str], questions: Iterable[Mapping[str, Row]]) -> Pair:
    both = [
        (own[arms[0]], own[arms[1]])
        for own in questions
        if all(arm in own and own[arm].key is not None for arm in arms)
    ]
    same = sum(is_same(*pair) for pair in both)
    by_wording = sum(not (one.is_closed and other.is_closed) for one, other in both)
    return Pair(arms, len(both), same, _kappa(both, same), by_wording)


def _kappa(both: Sequence[tuple[Row, Row]], same: int) -> float | None:
    choices = {tuple(sorted(row.choices)) for pair in both for row in pair}
    if len(choices) != 1 or not all(choices):
        return None
    first, second = (Counter(row.key for row in rows) for rows in zip(*both, strict=True))
    by_chance = sum(first[key] * second[key] for key in first) / len(both) ** 2
    if by_chance == 1:
        return None
    return (same / len(both) - by_chance) / (1 - by_chance)


def _differences(
    arms: Iterable[str], questions: Mapping[Question, Mapping[str, Row]]
) -> Iterable[Difference]:
    for (question, *_), own in questions.items():
        answered = [row for row in own.values() if row.key is not None]
        if any(not is_same(answered[0], row) for row in answered[1:]):
            number = min(row.number for row in own.values())
            yield Difference(question, number, {arm: own.get(arm) for arm in arms})


def _pair_json(pair: Pair) -> PairJson:
    return {
        "arms": [arm or None for arm in pair.arms],
        "questions": pair.questions,
        "same": pair.same,
        "share": pair.share,
        "kappa": pair.kappa,
        "by_wording": pair.by_wording,
    }


def _difference_json(each: Difference) -> DifferenceJson:
    return {
        "number": each.number or None,
        "question": each.question,
        "expected": list(each.expected),
        "verdicts": [
            {
                "arm": arm or None,
                "verdict": row.verdict if row else None,
                "right": row.is_right if row else None,
            }
            for arm, row in each.rows.items()
        ],
    }
