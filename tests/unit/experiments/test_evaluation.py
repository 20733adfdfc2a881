"""Numbers of an evaluation, its sentences and its warnings, from rows that are made by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aragora_q.base import JobStatus
from aragora_q.experiments import inference
from aragora_q.experiments.evaluation import evaluate
from aragora_q.experiments.rows import Cast, Change, Row
from aragora_q.formats import points

pytest.importorskip("scipy", reason="the extra eval is not installed, as in make test-pythons")


def row(arm, number, is_right, **fields):
    """A row of a completed debate about a question with a known answer."""
    known = {
        "id": f"{arm}{number}",
        "arm": arm,
        "number": number,
        "question": f"Question {number}?",
        "status": JobStatus.COMPLETED,
        "tags": {},
        "is_closed": True,
        "verdict": "tea" if is_right else "rum",
        "expected": ["tea"],
        "is_right": is_right,
        "agreement": 1.0,
        "cost_usd": 0.01,
        "calls": 1,
        "seconds": 1.0,
    }
    return Row(**known | fields)


def test_calibration_by_hand():
    """Guo et al., equation 3: 4 debates at 0.3 (one right), 5 at 0.7 (4 right), one at 1 that is wrong."""
    agreements = [(0.3, True), *[(0.3, False)] * 3, *[(0.7, True)] * 4, (0.7, False), (1.0, False)]
    rows = [row("a", n, right, agreement=value) for n, (value, right) in enumerate(agreements)]
    calibration = evaluate(rows).arms[0].calibration
    filled = {(each.low, each.high): each.debates for each in calibration.bins if each.debates}
    assert filled == {(0.2, 0.3): 4, (0.6, 0.7): 5, (0.9, 1.0): 1}
    assert calibration.ece == pytest.approx((4 * 0.05 + 5 * 0.1 + 1 * 1.0) / 10)
    assert len(calibration.bins) == 10


def test_one_seat_has_no_calibration():
    """It always agrees with itself: such debates say nothing of agreement, also among others of an arm."""
    seat = Change(was_right=True, is_right=True)
    alone = [row("a", n, True, changes=[seat]) for n in range(3)]
    several = row("b", 1, False, agreement=0.5, changes=[seat] * 2)
    one, mixed = evaluate([*alone, several, row("b", 2, True, changes=[seat])]).arms
    assert one.calibration is None
    assert mixed.calibration is not None
    assert (mixed.calibration.debates, mixed.calibration.ece) == (1, 0.5)


def test_costs_and_times():
    """Unknown prices are not 0: they are in no mean, and said; latency is that of completed debates."""
    rows = [row("a", n, True, cost_usd=n / 100, seconds=float(n)) for n in range(1, 11)]
    rows.append(row("a", 11, True, cost_usd=0.5, unpriced_calls=2, seconds=None))
    rows.append(row("a", 12, None, status=JobStatus.PROCESSING, verdict=None, cost_usd=None))
    rows.append(row("b", 1, True, cost_usd=None, unpriced_calls=1))
    rows.append(row("c", 1, True, cost_usd=0.0))
    a, b, c = evaluate(rows).arms
    assert (a.cost_usd, a.cost_per_question_usd) == (pytest.approx(1.05), pytest.approx(0.055))
    assert (a.median_seconds, a.p90_seconds) == (5.5, 9.0)
    assert (b.cost_usd, b.cost_per_question_usd, b.unpriced_calls) == (None, None, 1)
    assert (c.cost_usd, c.cost_per_question_usd) == (0.0, 0.0)
    warnings = " ".join(evaluate(rows).warnings)
    assert "in no cost, and their debates in no cost per question: 2 of a, 1 of b" in warnings
    assert "1 debate not ended" in warnings


def test_what_was_expected_and_what_came():
    """Arms of equal expected cost may cost more: that is said, of debates of which both are known."""
    rows = [
        *(row("as quoted", n, True, cost_usd=0.02, quote_usd=0.024) for n in (1, 2)),
        *(row("dearer", n, True, cost_usd=0.04, quote_usd=0.02 + n / 1000) for n in (1, 2)),
        *(
            row("not quoted", n, True, cost_usd=0.04, quote_usd=n / 100 if n > 1 else None)
            for n in (1, 2)
        ),
    ]
    found = evaluate(rows)
    assert [each.expected_per_question_usd for each in found.arms] == [0.024, 0.0215, None]
    text = "\n".join(found.findings)
    assert "dearer: a question was expected to cost $0.0215, and costs $0.04." in text
    assert text.count("expected to cost") == 1
    assert "A question costs $0.04 in dearer; 50% of that in as quoted:" in text


def test_arms_with_other_questions_are_compared_on_those_of_both():
    """Accuracy is of all counted debates of an arm, the pair of questions of both; the numbers may differ."""
    one = [row("one", n, n > 5) for n in range(1, 11)]
    other = [row("other", n + 100, True, question=f"Question {n}?") for n in range(6, 16)]
    found = evaluate([*one, *other])
    assert [each.accuracy for each in found.arms] == [0.5, 1.0]
    [pair] = found.pairs
    assert (pair.questions, pair.difference, pair.p) == (5, 0.0, 1.0)
    assert (pair.interval.method, pair.interval.low) == ("exact", -pair.interval.high)
    assert any("not counted on the same questions" in each for each in found.warnings)
    apart = evaluate([row("one", 1, True), row("other", 2, True)])
    [pair] = apart.pairs
    assert (pair.questions, pair.difference, pair.p_adjusted, pair.interval) == (
        0,
        None,
        None,
        None,
    )


def test_questions_that_differ_between_arms_are_said():
    """Other expected verdicts, or a question twice in an arm; the same text with other options is neither."""
    rows = [
        row(arm, 1, True, expected=each) for arm, each in (("one", [1, "b"]), ("two", ["b", 1]))
    ]
    assert evaluate(rows).warnings == []
    rows = [row("one", 1, True), row("two", 1, True, expected=["milk"])]
    assert any("other expected verdicts" in each for each in evaluate(rows).warnings)
    rows = [row("one", 1, True), row("one", 1, False, id="later"), row("two", 1, True)]
    found = evaluate(rows)
    assert any("has twice" in each and "1 of one" in each for each in found.warnings)
    assert (found.arms[0].counted, found.pairs[0].only_arm) == (2, 1)
    rows = [
        row(arm, number, True, question="Which?", expected=[f"option {number}"])
        for arm in ("one", "two")
        for number in (1, 2)
    ]
    assert evaluate(rows).warnings == []


def test_what_is_not_counted_is_said():
    """Failed debates are not right; cancelled, running and those without expected verdicts are not counted."""
    nothing = {"verdict": None, "agreement": None}
    rows = [
        row("a", 1, True),
        row("a", 2, False, status=JobStatus.FAILED, **nothing),
        row("a", 3, None, status=JobStatus.CANCELLED, **nothing),
        row("a", 4, None, status=JobStatus.RETRYING, **nothing),
        row("a", 5, None, expected=()),
        row("a", 6, False, is_closed=False),
        row("a", 7, None, question="", status=JobStatus.FAILED),
        row("a", 8, False, **nothing),
        row("a", 9, None, status=JobStatus.FAILED, expected=(), **nothing),
        row("a", 10, None, **nothing),
    ]
    found = evaluate(rows)
    [arm] = found.arms
    assert (arm.debates, arm.completed, arm.failed, arm.cancelled, arm.live) == (9, 5, 2, 1, 1)
    assert (arm.answered, arm.counted, arm.right) == (3, 4, 1)
    text = "\n".join(found.warnings)
    for part in (
        "1 job of the group: not a debate",
        "1 debate not ended",
        "cancelled, and not counted: 1 of a",
        "failed, and counted as not right: 1 of a",
        "completed without a verdict, and counted as not right: 1 of a",
        "2 debates without expected verdicts",
        "1 debate without a vote, or with expected verdicts of another answer form",
        "1 debate with answers in free text",
    ):
        assert part in text
    assert found.pairs == []


def test_a_group_without_debates_or_expected_verdicts():
    """Nothing is known, and that is what it says; the JSON has null."""
    assert evaluate([]).to_dict() == {
        "debates": 0, "questions": 0, "has_statistics": True,
        "arms": [], "pairs": [], "findings": [], "warnings": [],
    }  # fmt: skip
    rows = [row(arm, n, None, expected=()) for arm in ("", "b") for n in range(3)]
    found = evaluate(rows)
    assert {(arm.accuracy, arm.interval, arm.calibration, arm.flips) for arm in found.arms} == {
        (None, None, None, None)
    }
    assert found.pairs[0].p is None
    assert found.arms[0].arm is None
    assert any("no debate that has ended has expected verdicts" in each for each in found.warnings)


def test_findings_say_what_follows_and_what_does_not():
    """A clear difference is one, with its interval; arms whose difference may be chance are not separated."""
    clear = [
        *(row("bad", n, n > 12) for n in range(50)),
        *(row("good", n, True) for n in range(50)),
    ]
    [finding, *_] = evaluate(clear).findings
    assert finding.startswith("good is right more often than bad: by 26 points (95% interval: ")
    [pair] = evaluate(clear).pairs
    assert (pair.arm, pair.difference, pair.p) == ("good", 0.26, pytest.approx(2 / 2**13))
    turned = evaluate(reversed(clear))
    assert turned.findings[0] == finding
    assert turned.pairs[0].difference == -0.26
    unclear = [*(row("x", n, n > 3) for n in range(50)), *(row("y", n, True) for n in range(50))]
    first, second = evaluate(unclear).findings
    assert first.startswith("50 questions do not separate y and x.")
    assert "from 6 questions" in second


def test_a_difference_of_less_than_a_point_is_not_called_zero():
    """Of 2,000 questions, 12 to 2 are half a point; a lower end of 0 is not minus 0."""
    rows = [row(arm, n, (n < 2) == (arm == "x") or n >= 14) for arm in "yx" for n in range(2_000)]
    assert (
        evaluate(rows)
        .findings[0]
        .startswith("y is right more often than x: by 0.5 points (95% interval: 0.1 ")
    )
    found = [points(each) for each in (-0.0, 0.0, 0.004, -0.016, 0.26)]
    assert found == ["0", "0", "+0.4", "-2", "+26"]


def test_how_many_questions_another_difference_needs():
    """By Holm, differences that show do not count for the rest: as many as stated are enough, not one fewer."""

    def groups(wins):
        return [
            *(row("x", n, n >= 20 + wins) for n in range(60)),
            *(row("y", n, n >= 20) for n in range(60)),
            *(row("z", n, True) for n in range(60)),
        ]

    sentence = "In 3 comparisons, 2 of which show a difference, another shows from 6 questions"
    assert sentence in " ".join(evaluate(groups(4)).findings)
    for wins, shows in ((6, True), (5, False)):
        pair = next(each for each in evaluate(groups(wins)).pairs if each.baseline == "x")
        assert (pair.p_adjusted < 0.05) is shows


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(1, 8),
            st.booleans(),
            st.sampled_from([None, 0.0, 0.01, 0.02]),
        ),
        max_size=40,
    ),
    st.integers(1, 4),
)
@settings(max_examples=40)
def test_sentences_and_numbers_agree(made, times):
    """Whatever a group holds: counts add up, intervals hold their value, sentences say what the numbers do."""
    rows = [
        row(arm, number + 8 * n, is_right, cost_usd=usd)
        for n in range(times)
        for arm, number, is_right, usd in made
    ]
    found = evaluate(rows)
    costs = [
        each.cost_per_question_usd for each in found.arms if each.cost_per_question_usd is not None
    ]
    is_unequal = bool(costs) and min(costs) < 0.8 * max(costs)
    assert any("compare accuracy at equal cost" in each for each in found.findings) is is_unequal
    for arm in found.arms:
        assert arm.interval.low <= arm.accuracy <= arm.interval.high
    for pair in found.pairs:
        split = (pair.both_right, pair.only_arm, pair.only_baseline, pair.neither)
        assert sum(split) == pair.questions
        if pair.questions:
            assert pair.interval.low <= pair.difference <= pair.interval.high
            assert pair.p <= pair.p_adjusted <= 1
        better, worse = (
            (pair.arm, pair.baseline)
            if pair.only_arm > pair.only_baseline
            else (pair.baseline, pair.arm)
        )
        is_said = any(
            each.startswith(f"{better} is right more often than {worse}:")
            for each in found.findings
        )
        assert is_said is (pair.p_adjusted is not None and pair.p_adjusted < 0.05)
        assert not any(
            each.startswith(f"{worse} is right more often than {better}:")
            for each in found.findings
        )


def test_findings_about_many_arms_are_few():
    """At most ten differences have a sentence; how many more there are is said."""
    rows = [row(f"bad{arm}", n, n < 10) for arm in range(12) for n in range(50)]
    rows += [row("good", n, True) for n in range(50)]
    findings = evaluate(rows).findings
    assert sum(each.startswith("good is right more often than bad") for each in findings) == 10
    assert findings[10] == "2 more pairs of arms differ, less clearly: see the adjusted p-values."


def test_a_correction_for_many_comparisons():
    """Six wins to none are a difference of two arms, and none in a comparison of four."""
    two = [*(row("x", n, n > 5) for n in range(50)), *(row("y", n, True) for n in range(50))]
    more = [row(arm, n, True) for arm in ("v", "w") for n in range(50)]
    assert evaluate(two).pairs[0].p_adjusted == pytest.approx(2 / 64)
    p_adjusted = {
        (each.baseline, each.arm): each.p_adjusted for each in evaluate([*two, *more]).pairs
    }
    assert p_adjusted["x", "y"] == pytest.approx(6 * 2 / 64)


def test_without_scipy_there_are_numbers_without_intervals(monkeypatch):
    """The console shows them, and says why."""
    monkeypatch.setattr(inference, "find_spec", lambda _name: None)
    cast = [Cast(2, 1, 1, is_own=True)]
    changes = [Change(was_right=True, is_right=False)]
    rows = [row(arm, n, True, cast=cast, changes=changes) for arm in "ab" for n in range(3)]
    found = evaluate(rows)
    assert not found.has_statistics
    assert (found.arms[0].accuracy, found.arms[0].interval) == (1.0, None)
    assert found.arms[0].own.rate == 1.0
    assert (found.pairs[0].difference, found.pairs[0].p) == (0.0, None)
    assert "SciPy is not installed" in found.warnings[-1]
