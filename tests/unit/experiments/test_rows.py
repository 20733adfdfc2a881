"""A debate as a row: whatever is in its job, a row is made, and it says no more than is known."""

import pytest
from support import experiments, sample_debates

from aragora_q.base import Job, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.experiments.notes import Note, note_of
from aragora_q.experiments.rows import Cast, Change, by_question, of_arms, row_of


def row_with(status=JobStatus.COMPLETED, error=None, result=None, **payload):
    """The row of a job of arm `debate` with this payload and result."""
    made = experiments.job("debate", 1, **payload)
    made.status, made.error, made.result = status, error, result
    return row_of(made)


def test_a_completed_debate():
    """Verdict, agreement, dissent, ballots, changes and what it took are those of its result."""
    vote = {"self": True, "group": 0}
    row = row_with(
        result=experiments.result(
            "Jupiter",
            first_votes=[{"seat": 0, "verdict": "jupiter"}, {"seat": 1, "verdict": "Mars"},
                         {"seat": 2, "verdict": "Jupiter"}],
            changed=[{"seat": 1, "before": "Mars", "after": "Jupiter"},
                     {"seat": 2, "before": "Jupiter", "after": "Saturn"}],
            dissent=[{"verdict": "Saturn", "seats": [2], "voters": [], "reasons": "Rings."}],
            votes=[{**vote, "answers": 3, "place": 2, "label": 1},
                   {**vote, "answers": None, "place": None, "label": None},
                   {**vote, "answers": 2, "place": 3, "label": 1}],
            taken_over=2, unpriced_calls=1, abstentions=1,
        ),
    )  # fmt: skip
    assert (row.arm, row.number, row.verdict, row.is_right) == ("debate", 1, "Jupiter", True)
    assert (row.is_consensus, row.agreement, row.dissent) == (True, 1.0, ["Saturn"])
    assert (row.cost_usd, row.calls, row.tokens, row.seconds) == (0.03, 12, 21_360, 31.4)
    assert (row.rounds, row.taken_over, row.unpriced_calls, row.abstentions) == (1, 2, 1, 1)
    assert row.changes == [Change(True, True), Change(False, True), Change(True, False)]
    assert row.cast == [Cast(3, 2, 1, True)]
    assert row.choices == ("Mars", "Jupiter", "Saturn")
    assert row.models == ["openai:ann-large", "openai:bob-large", "openai:cyd-large"]


@pytest.mark.parametrize(
    ("form", "verdict", "expected", "is_right"),
    [
        ({"answer_form": "number", "options": None}, 42, ("42.0",), True),
        ({"answer_form": "number", "options": None}, 42, (41, 43), False),
        ({"answer_form": "boolean", "options": None}, False, ("no",), True),
        ({"answer_form": "text", "options": None}, "The Moon.", ("the moon",), True),
        ({"answer_form": "text", "options": None}, "1440.", (1440,), True),
        ({"answer_form": "text", "options": None}, "No.", (False,), True),
        ({"answer_form": "text", "options": None}, "false", (False,), True),
        ({"answer_form": "text", "options": None}, "yes", (False,), False),
        ({"answer_form": {"type": "object"}, "options": None}, {"a": 1.0, "b": 2}, ({"b": 2, "a": 1},), True),
        ({}, "Mars", ("Jupiter", " mars "), True),
        ({}, "Mars", ("Pluto",), None),
        ({}, "Mars", (), None),
    ],
)  # fmt: skip
def test_right_verdicts(form, verdict, expected, is_right):
    """A verdict is right if it equals one that is expected, in its answer form; None if no such one is.

    Of an arm that asks in text, a number and a boolean are expected as they are worded.
    """
    row = row_with(result=experiments.result(verdict), expected=expected, **form)
    assert (row.is_right, row.verdict) == (is_right, verdict)


def test_without_a_vote():
    """With consensus mode none, there is no verdict to be right, but all answers."""
    found = experiments.result(None, final_answer="ann: Mars\n\nbob: Jupiter", confidence=0.0)
    row = row_with(result=found, consensus="none")
    assert (row.verdict, row.is_right, row.is_consensus, row.agreement) == (None,) * 4
    assert (row.answer, row.dissent, row.cast) == ("ann: Mars\n\nbob: Jupiter", (), ())


def test_a_completed_debate_without_a_verdict():
    """Where no answer won, there is no consensus, and no agreement on it; the debate is not right."""
    found = experiments.result(None, consensus_reached=False, confidence=0.0)
    row = row_with(result=found)
    assert (row.verdict, row.is_right, row.is_consensus, row.agreement) == (
        None,
        False,
        False,
        None,
    )


def test_a_failed_debate():
    """A partial result says what it took; what it says of verdicts does not count."""
    partial = experiments.result("Jupiter", first_votes=[{"seat": 0, "verdict": "Jupiter"}])
    row = row_with(JobStatus.FAILED, "no seat could vote", partial)
    assert (row.error, row.is_right, row.cost_usd, row.calls) == (
        "no seat could vote",
        False,
        0.03,
        12,
    )
    assert (row.verdict, row.agreement, row.changes, row.answer) == (None, None, (), "")
    assert row_with(JobStatus.FAILED, "the worker died").cost_usd is None


@pytest.mark.parametrize("status", ["pending", "processing", "retrying", "held", "cancelled"])
def test_a_debate_without_an_end(status):
    """A debate that has not ended, or was cancelled, is neither right nor wrong."""
    row = row_with(JobStatus(status), "the provider is away")
    assert (row.is_right, row.verdict, row.error) == (None, None, "the provider is away")


def test_an_error_of_an_attempt_before():
    """The error of a completed debate is what its result says, not what an attempt before met."""
    assert row_with(error="timeout", result=experiments.result()).error == ""
    found = experiments.result(error="cyd dropped out")
    assert row_with(error="timeout", result=found).error == "cyd dropped out"


@pytest.mark.parametrize(
    "payload", [{}, {"command": "x"}, {"question": 1, "agents": []}, {"question": "x"}]
)
def test_a_job_that_is_no_debate(payload):
    """Of another job, only id, status, error and tags are known."""
    made = Job(payload, id="x", status=JobStatus.FAILED, error="no", tags={"env": "prod"})
    made.result = {"verdict": "x", "cost_usd": 1}
    row = row_of(made)
    assert (row.id, row.status, row.error, row.tags) == ("x", "failed", "no", {"env": "prod"})
    assert (row.question, row.verdict, row.cost_usd, row.is_debate) == ("", None, None, False)


STRANGE = [
    None,
    True,
    -1,
    10**400,
    1e308,
    "x",
    "=1",
    [],
    [None, 1, "x", {}, [{}]],
    {},
    {"seat": "x", "a": None},
]


@pytest.mark.parametrize("value", STRANGE, ids=repr)
def test_results_of_other_versions(value):
    """Any field of a result or a payload may have any value: a row is made, and it is one of JSON values."""
    fields = experiments.result()
    row = row_with(result=dict.fromkeys(fields, value), expected=(value,))
    assert row.is_debate
    entry = dict.fromkeys(("seat", "verdict", "answers", "place", "label", "after", "model"), value)
    nested = {name: [entry] for name in ("votes", "first_votes", "changed", "dissent", "seats")}
    assert row_with(result={**fields, **nested, "token_usage": {"requests": value}}).is_debate
    assert (
        row_with(result=fields, answer_form=value, options=value, consensus=value).verdict
        == "Jupiter"
    )
    row_with(result=fields, metadata=value)
    row_with(result=fields, metadata={"experiment": value})


def test_samples_are_debates():
    """Every sample of a debate has a row, also without an experiment."""
    for make in sample_debates.SAMPLES.values():
        sample, _ = make()
        row = row_of(sample)
        assert (row.arm, row.number, row.is_right, row.question) == (
            "",
            0,
            None,
            sample.payload["question"],
        )


def test_notes():
    """What a sweep notes is read back; anything else in its place is ignored."""
    note = Note("debate", 3, ("a", 1), 2)
    assert note_of({"metadata": {"experiment": note.to_dict()}}) == note
    assert note_of({"metadata": {"experiment": {"arm": "x", "number": True}}}) is None
    assert note_of({"metadata": {"experiment": {"arm": 1, "number": 1}}}) is None
    assert note_of({}) is None


def test_rows_of_a_question():
    """A question is its text, wherever it stood; the same text twice is two questions, in their order."""
    one, other = experiments.row("a", 7, question="x?"), experiments.row("a", 3, question="y?")
    assert by_question({"a": [one, other]}) == {"a": {("x?", (), 0): one, ("y?", (), 0): other}}
    twice, choices = experiments.row("a", 9, question="x?"), tuple(sorted(experiments.OPTIONS))
    assert by_question({"a": [twice, one]}) == {
        "a": {("x?", choices, 0): one, ("x?", choices, 1): twice}
    }
    again = experiments.row("a", 7, question="x?", job_id="later")
    assert by_question({"a": [one, again]}) == {"a": {("x?", (), 0): again}}


def test_questions_with_the_same_text_and_other_choices():
    """They are told apart by their choices, in whatever order an arm has them, or if it has only one."""
    planets, stars = ["Mars", "Venus"], ["Sun", "Vega"]
    sorts = {"a": [(1, planets), (2, stars)], "b": [(1, stars), (2, planets)], "c": [(2, stars)]}
    rows = {
        arm: [
            experiments.row(arm, n, options[0], question="Which?", options=options)
            for n, options in numbered
        ]
        for arm, numbered in sorts.items()
    }
    found = by_question(rows)
    assert found["a"].keys() == found["b"].keys() > found["c"].keys()
    for own in found.values():
        assert all(row.choices == choices for (_, choices, _), row in own.items())


def test_arms_that_are_not_there():
    """The error names the arms of the group, or says that it has none."""
    rows = [experiments.row("vote", 1), experiments.row("debate", 1)]
    assert of_arms(rows, ["debate"]) == rows[1:]
    with pytest.raises(
        InvalidPayload, match="no arm 'debates' in the group; its arms are vote, debate"
    ) as found:
        of_arms(rows, ["debates"])
    assert "debate" in found.value.hint
    with pytest.raises(InvalidPayload, match="its debates have no arms"):
        of_arms([row_of(Job({}, id="x"))], ["vote"])
