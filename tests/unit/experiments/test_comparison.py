"""Arms side by side: what is counted of each, how far two agree, and where they differ."""

from statistics import mean

import pytest
from support import experiments
from support.experiments import row

from aragora_q.base import Job, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.experiments.comparison import compare
from aragora_q.experiments.rows import row_of


def rows_of(**verdicts):
    """Rows of arms with one verdict per question; None: the debate failed."""
    return [
        row(arm, n, verdict) if verdict else row(arm, n, status=JobStatus.FAILED, error="no")
        for arm, each in verdicts.items()
        for n, verdict in enumerate(each, 1)
    ]


def test_numbers_of_an_arm():
    """Debates by status, verdicts, right ones, cost, calls, tokens and time; means over what is known.

    A debate with calls of unknown price costs more than is known, so it is in no mean.
    """
    rows = [
        row("debate", 1, fields={"cost_usd": 0.1, "confidence": 0.5, "rounds_used": 3}),
        row("debate", 2, "Mars", fields={"cost_usd": 0.2, "consensus_reached": False, "duration_seconds": 10.0,
                                         "dissent": [{"verdict": "Jupiter"}]}),
        row("debate", 3, fields={"cost_usd": 0.01, "unpriced_calls": 4, "taken_over": 5}),
        row("debate", 4, status=JobStatus.FAILED),
        row("debate", 5, status=JobStatus.CANCELLED),
        row("debate", 6, status=JobStatus.HELD),
        row("debate", 7, status=JobStatus.PROCESSING),
    ]  # fmt: skip
    [arm] = compare(rows).to_dict()["arms"]
    assert arm == {
        "arm": "debate", "debates": 7, "completed": 3, "failed": 1, "cancelled": 1, "live": 2,
        "verdicts": 3, "expected": 4, "right": 2, "consensus": 2, "dissent": 1,
        "agreement": pytest.approx(mean([0.5, 1, 1])), "rounds": pytest.approx(5 / 3),
        "cost_usd": 0.31, "cost_usd_per_debate": 0.15, "unpriced_calls": 4, "calls": 36,
        "taken_over": 5, "tokens": 3 * 21_360, "median_seconds": 31.4,
    }  # fmt: skip


def test_an_arm_about_which_nothing_is_known():
    """What no debate says is null, not 0."""
    [arm] = compare([row("debate", 1, status=JobStatus.PENDING)]).to_dict()["arms"]
    unknown = ("agreement", "rounds", "cost_usd", "cost_usd_per_debate", "median_seconds")
    assert [arm[name] for name in unknown] == [None] * 5


def test_pairs():
    """Two arms are compared on the questions for which both have a verdict."""
    rows = rows_of(
        one=["Mars", "Mars", "Jupiter", "Jupiter", None],
        two=["Mars", "Jupiter", "Jupiter", None, "Mars"],
        three=[None] * 5,
    )
    one_two, one_three, _ = compare(rows).to_dict()["pairs"]
    # By chance: one says Mars 2 of 3 times, two 1 of 3: 2/9 + 2/9.
    kappa = pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert one_two == {"arms": ["one", "two"], "questions": 3, "same": 2, "share": 2 / 3, "kappa": kappa,
                       "by_wording": 0}  # fmt: skip
    assert (one_three["questions"], one_three["share"], one_three["kappa"]) == (0, None, None)


def test_kappa_needs_the_same_choices():
    """With other options per question, with numbers or text, or with one verdict only, there is no kappa."""
    other = {"options": ["Mars", "Venus"]}
    rows = [
        row("a", 1, "Mars"),
        row("b", 1, "Mars"),
        row("a", 2, "Venus", **other),
        row("b", 2, "Mars", **other),
    ]
    assert compare(rows).pairs[0].kappa is None
    number = {"answer_form": "number", "options": None}
    assert compare([row("a", 1, 3, **number), row("b", 1, 3, **number)]).pairs[0].kappa is None
    assert compare(rows_of(a=["Mars"], b=["Mars"])).pairs[0].kappa is None
    boolean = {"answer_form": "boolean", "options": None}
    rows = [row(arm, n, n == 1, **boolean) for arm in "ab" for n in (1, 2)]
    assert compare(rows).pairs[0].kappa == 1


def test_texts_are_compared_by_their_words():
    """Text verdicts that mean the same may count as different, and the comparison says how many are texts."""
    text = {"answer_form": "text", "options": None}
    rows = [row("a", 1, "Use it.", **text), row("b", 1, "use it", **text),
            row("a", 2, "Yes", **text), row("b", 2, "We should", **text),
            row("a", 3, "jupiter", **text), row("b", 3, "Jupiter")]  # fmt: skip
    [pair] = compare(rows).pairs
    assert (pair.questions, pair.same, pair.by_wording, pair.kappa) == (3, 2, 3, None)


def test_differences():
    """Questions with different verdicts, in their order, with the verdict of each arm."""
    rows = rows_of(
        one=["Mars", "Mars", "Jupiter"], two=["Mars", "Jupiter", "Saturn"], three=[None, "Mars"]
    )
    found = compare(rows).to_dict()["differences"]
    assert [each["number"] for each in found] == [2, 3]
    assert found[1]["question"] == "Question 3: which planet?"
    assert found[1]["expected"] == ["Jupiter"]
    assert found[1]["verdicts"] == [
        {"arm": "one", "verdict": "Jupiter", "right": True},
        {"arm": "two", "verdict": "Saturn", "right": False},
        {"arm": "three", "verdict": None, "right": None},
    ]


def test_chosen_arms():
    """Only the arms that are asked for, in their order; one that is not there is refused."""
    rows = rows_of(one=["Mars"], two=["Jupiter"], three=["Mars"])
    found = compare(rows, ["three", "one"])
    assert (list(found.arms), found.questions, found.differences) == (["three", "one"], 1, [])
    with pytest.raises(InvalidPayload, match="no arm 'four'"):
        compare(rows, ["four"])


def test_jobs_that_are_not_counted():
    """A job that is not a debate is in no arm; debates without an experiment are in one without a name."""
    plain = experiments.job("x", 1)
    plain.payload.pop("metadata")
    found = compare([row_of(plain), row_of(Job({"n": 1}, id="x"))]).to_dict()
    assert (found["not_counted"], found["questions"]) == (1, 1)
    assert [arm["arm"] for arm in found["arms"]] == [None]


def test_an_arm_that_was_written_in_another_way_before():
    """If an arm has a question twice, both count as debates, and the later verdict is compared."""
    rows = [
        row("a", 1, "Mars", job_id="old"),
        row("a", 1, "Jupiter", job_id="new"),
        row("b", 1, "Jupiter"),
    ]
    found = compare(rows)
    assert (len(found.arms["a"]), found.pairs[0].same, found.differences) == (2, 1, [])
