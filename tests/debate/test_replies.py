"""A reply is judged before it is used: what counts as an answer, a review or a ballot, and what does not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aragora_q.answer_form import AnswerForm
from aragora_q.executors.debate import replies
from aragora_q.executors.debate.replies import Unusable
from aragora_q.executors.debate.requests import (
    Answer,
    Discuss,
    Propose,
    Reply,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

TEXT = Topic("Tea?", nonce="c0ffee11")
NUMBER = Topic("How many?", AnswerForm("number"), nonce="c0ffee11")
CHOICE = Topic("Where?", AnswerForm("choice", ("Mars", "Mars or Venus")), nonce="c0ffee11")
ANSWERS = {"KQTX": Answer("tea", "because"), "ZRWN": Answer("milk", "so"), "FGHJ": Answer("rum")}
NUMBERS = {"KQTX": Answer(1), "ZRWN": Answer(2)}
REQUESTS = [
    Propose(TEXT),
    Propose(NUMBER),
    Review(TEXT, ANSWERS),
    Revise(TEXT, ANSWERS, "KQTX", ["bad"]),
    Discuss(NUMBER, NUMBERS, "KQTX", []),
    Vote(TEXT, ANSWERS),
    Synthesize(TEXT, ANSWERS, {"KQTX": 2}, "KQTX"),
]


def read(request, text, **fields):
    text = text if isinstance(text, str) else json.dumps(text)
    return replies.read(request, Reply(text, **fields))


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [(80, 80), (0.8, 80), (1, 100), (0, 0), (120, 100), (-5, 0), ("high", None), ("80 %", 80),
     (None, None), (True, None), ([], None), (10**40, 100), ("0.75", 75)],
)  # fmt: skip
def test_a_ballot_is_not_lost_for_its_confidence(given_value, expected):
    """It only breaks ties: shares are percents, values out of range are bounded, others are None."""
    ballot = {"choice": "KQTX", "confidence": given_value, "reason": "good"}
    value = read(Vote(TEXT, ANSWERS), ballot)
    assert (value["choice"], value["confidence"], value["reason"]) == ("KQTX", expected, "good")


@pytest.mark.parametrize(
    "choice", ["KQTX", "kqtx", "answer KQTX", '"KQTX".', "**KQTX**", "The answer with label KQTX"]
)
def test_a_label_is_found_however_it_is_written(choice):
    """Exactly one label of the ballot as a word."""
    assert read(Vote(TEXT, ANSWERS), {"choice": choice})["choice"] == "KQTX"


@pytest.mark.parametrize(
    "choice", ["B", "A", "", "KQTXY", "KQTX or ZRWN", None, 1, ["KQTX"], "tea"]
)
def test_what_names_no_label_is_no_vote(choice):
    """Neither options of the question, nor two labels, nor texts of answers."""
    with pytest.raises(Unusable, match="choice must be one of KQTX, ZRWN, FGHJ"):
        read(Vote(TEXT, ANSWERS), {"choice": choice, "confidence": 99})


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "tea", "reasons": "hot"}',
        '```json\n{"answer": "tea", "reasons": "hot"}\n```',
        'Here is my answer:\n{"answer": "tea", "reasons": "hot"}\nI hope it helps.',
        '{oops {"answer": "tea", "reasons": "hot"}',
        "tea\nhot",
    ],
)
def test_json_is_found_in_what_surrounds_it(text):
    """Code blocks, words before and after; prose in text form: its first line is the verdict."""
    assert read(Propose(TEXT), text) == {"answer": "tea", "reasons": "hot"}


@pytest.mark.parametrize("before", ["", "Sure!\n"], ids=["bare", "after words"])
@pytest.mark.parametrize(
    "request_", [Propose(TEXT), Revise(TEXT, ANSWERS, "KQTX", ["bad"])], ids=["propose", "revise"]
)
@pytest.mark.parametrize(
    "said",
    [
        {"points": "KQTX is wrong", "best": "KQTX", "same_as": [], "stop": True},
        {"reason": "good", "choice": "KQTX", "confidence": 80},
    ],
    ids=["review", "ballot"],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_reply_of_another_form_is_no_answer(before, request_, said, is_wrapped):
    """Where calls share a form, a model may choose the wrong one; words before it are not an answer."""
    with pytest.raises(Unusable, match="not a JSON object with answer and reasons"):
        read(request_, before + json.dumps({"reply": said} if is_wrapped else said))


def test_an_empty_object_is_no_text():
    """In the form that calls share, either: it is not the text of a chair."""
    with pytest.raises(Unusable, match="text is missing"):
        read(Synthesize(TEXT, ANSWERS, {"KQTX": 2}, "KQTX"), '{"reply": {}}')


@pytest.mark.parametrize(
    "request_", REQUESTS, ids=[f"{type(each).__name__}-{each.topic.form.kind}" for each in REQUESTS]
)
@pytest.mark.parametrize("text", [
    "", " \n\t", "\u200b \u00a0", "null", "[ ]", "{ }", '""', "```json\n```", "```\nnull\n```",
])  # fmt: skip
def test_a_blank_reply_is_unusable(request_, text):
    """Whatever was asked for; also if the blanks are not ASCII or have no width, and for empty JSON."""
    with pytest.raises(Unusable, match="blank"):
        read(request_, text)


def test_a_reply_of_blocks_without_content_is_judged_at_once():
    """No reply keeps the worker busy: the time to see whether it is blank grows with its length."""
    text = "```null" * 10_000 + "!"
    assert read(Synthesize(TEXT, ANSWERS, {"KQTX": 2}, "KQTX"), text)["text"].startswith("```null")


@pytest.mark.parametrize("answer", ["", "  ", "\u200b", None, 7, ["tea"]])
def test_a_blank_verdict_is_unusable(answer):
    """An empty answer equals no other empty answer: there is none."""
    with pytest.raises(Unusable):
        read(Propose(TEXT), {"answer": answer, "reasons": "long reasons"})


def test_a_closed_form_needs_a_value_of_it():
    """Prose is not a number, even if a number is in it; the reason says what is wanted."""
    with pytest.raises(Unusable, match="not a JSON object with answer and reasons"):
        read(Propose(NUMBER), "I think 42.")
    with pytest.raises(Unusable, match="answer must be a number"):
        read(Propose(NUMBER), {"answer": "many", "reasons": ""})
    assert read(Propose(NUMBER), {"answer": "1,000", "reasons": ""})["answer"] == 1000


def test_a_long_verdict_goes_on_in_the_reasons():
    """Nothing of it is lost: 300 characters are the verdict, and all of it begins the reasons."""
    value = read(Propose(TEXT), {"answer": "x" * 1_000, "reasons": "why"})
    assert (value["answer"], value["reasons"]) == ("x" * 300, "x" * 1_000 + "\n\nwhy")


def test_a_reply_cut_by_a_limit_is_read_as_far_as_it_goes():
    """The verdict is there, the reasons are not complete: marked as cut. Half a number is another one."""
    value = read(Propose(NUMBER), '{"answer": 12, "reasons": "It is larger bec', is_cut=True)
    assert value == {"answer": 12, "reasons": "It is larger bec", "cut": True}
    value = read(Propose(TEXT), '{"answer": "9.9", "reasons": "It is larger bec', is_cut=True)
    assert value == {"answer": "9.9", "reasons": "It is larger bec", "cut": True}
    for request, text in (
        (Propose(NUMBER), '{"reasons": "It is larger bec'),
        (Propose(NUMBER), '{"reasons": "Many.", "answer": 12'),
        (Propose(CHOICE), '{"reasons": "Warm.", "answer": "Mars'),
        (Vote(TEXT, ANSWERS), "KQ"),
    ):
        with pytest.raises(Unusable, match="the token limit cut the reply"):
            read(request, text, is_cut=True)


def test_what_voters_call_the_same():
    """Lists of labels; one flat list counts as one; unknown labels and single ones are left out."""
    vote = {"choice": "KQTX"}
    for said, expected in (
        ([["KQTX", "ZRWN"]], [["KQTX", "ZRWN"]]),
        (["KQTX", "ZRWN"], [["KQTX", "ZRWN"]]),
        ([["KQTX", "A"], ["ZRWN"], "FGHJ", 3], []),
        ([["KQTX", "KQTX"]], []),
        ({"KQTX": "ZRWN"}, []),
        (None, []),
    ):
        assert read(Vote(TEXT, ANSWERS), {**vote, "same_as": said})["same_as"] == expected


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["KQTX", "ZRWN", "c0ffee11", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
FIELDS = ("answer", "reasons", "changed", "points", "best", "stop", "same_as", "choice", "confidence",
          "reason", "text")  # fmt: skip


@settings(max_examples=300)
@given(
    request=st.sampled_from(REQUESTS),
    said=st.text(max_size=60)
    | st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES).map(json.dumps),
    is_cut=st.booleans(),
)
def test_any_reply_is_a_value_or_unusable(request, said, is_cut):
    """Whatever a model sends: JSON data that the journal can hold, or a reason; nothing else is raised."""
    try:
        value = read(request, said, is_cut=is_cut)
    except Unusable:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert "c0ffee11" not in str(value)
    if "choice" in value:
        assert value["choice"] in ANSWERS


def test_a_long_reason_of_a_ballot_is_cut_and_says_so():
    """It was asked for in one line; the vote counts."""
    value = read(Vote(TEXT, ANSWERS), {"choice": "KQTX", "reason": "x" * 301})
    assert (value["choice"], value["reason"]) == ("KQTX", f"{'x' * 299}…")


def test_a_ballot_does_not_grow_with_what_it_repeats():
    """The lists of equal answers are at most as many as the answers."""
    ballot = {"choice": "KQTX", "same_as": [["KQTX", "ZRWN"]] * 10_000}
    assert len(read(Vote(TEXT, ANSWERS), ballot)["same_as"]) == len(ANSWERS)
