"""Prompts: what a model is shown and asked, and the form of its reply."""

import inspect
import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator
from support.requests import FORMS, LABELS, NONCE, requests_of, topic_of

from aragora_q.answer_form import AnswerForm
from aragora_q.executors.debate import prompts, replies
from aragora_q.executors.debate.local import prompts as local_prompts
from aragora_q.executors.debate.prompt_version import prompt_version
from aragora_q.executors.debate.prompts import form_of, prompt_for
from aragora_q.executors.debate.requests import (
    Answer,
    Discuss,
    Propose,
    Reply,
    Review,
    Revise,
    Topic,
    Vote,
)

ALL = [
    request
    for form in FORMS.values()
    for shares_prefix in (False, True)
    for request in requests_of(form, topic_of(form, shares_prefix=shares_prefix))
]


def _name(request):
    judge = "-judge" if getattr(request, "as_judge", False) else ""
    shared = "-shared" if request.topic.shares_prefix else ""
    return f"{type(request).__name__}{judge}-{request.topic.form.kind}{shared}"


def _objects(schema):
    """Every schema of an object in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from _objects(part)


@pytest.mark.parametrize("request_", ALL, ids=_name)
def test_a_form_is_strict(request_):
    """Every object has all its properties required and no others, as providers ask for strict forms."""
    form = form_of(request_)
    Draft202012Validator.check_schema(form.schema)
    for schema in _objects(form.schema):
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
    assert form.name.isidentifier()


@pytest.mark.parametrize("kind", FORMS)
def test_forms_do_not_depend_on_the_debate(kind):
    """Two debates with the same answer form have the same forms, so that providers can cache them."""
    form = FORMS[kind]
    for shares in (False, True):
        topic = topic_of(form, shares_prefix=shares)
        other = replace(
            topic, question="Another?", nonce="ffff0000", max_words=50, max_points_chars=99
        )
        both = requests_of(form, topic), requests_of(form, other, labels="XYZ")
        for one, two in zip(*both, strict=True):
            assert form_of(one) == form_of(two)
            assert not any(label in json.dumps(form_of(one).schema) for label in LABELS)


@pytest.mark.parametrize("request_", ALL, ids=_name)
def test_the_task_names_every_field_of_the_form(request_):
    """A model can give the right reply although its provider ignores the form."""
    prompt = prompt_for(request_)
    task = prompt.text.rpartition(f"-{NONCE}>")[2]
    fields = [line.split(":")[0] for line in task.splitlines() if line.startswith("- ")]
    form = json.loads(prompt.form.in_words)
    own = form["properties"]["reply"] if request_.topic.shares_prefix else form
    assert fields == [f"- {name}" for name in own["properties"]]


@pytest.mark.parametrize("request_", ALL, ids=_name)
def test_a_prompt_has_no_open_placeholder(request_):
    """Every name in braces was replaced, in the plain prompts of a small model, too."""
    for prompt in (prompt_for(request_), local_prompts.prompt_for(request_)):
        text = prompt.instructions + prompt.text.replace(json.dumps({"city": "Oslo"}), "")
        assert "{" not in text


def test_prompts_of_a_debate_begin_alike():
    """Instructions and question come first, so that providers can cache them over all calls of a seat."""
    propose, review, revise, _, vote, _ = requests_of(FORMS["text"])
    seated = [propose, review, revise, vote]
    texts = [f"{prompt_for(each).instructions}\n{prompt_for(each).text}" for each in seated]
    common = len(f"{prompt_for(seated[0]).instructions}\n<question-{NONCE}>\nTea?\n")
    assert len({text[:common] for text in texts}) == 1


def test_material_stands_in_tags_before_the_task():
    """Question, options, answers and reviews in this order, then one reminder, then the task."""
    request = Discuss(topic_of(FORMS["choice"]), {"KXTV": Answer("tea", "Warm.")}, "KXTV", ["Why?"])
    text = prompt_for(request).text
    assert text.startswith(
        f"<question-{NONCE}>\nTea?\n</question-{NONCE}>\n\n"
        f"<options-{NONCE}>\ntea\ncoffee\n</options-{NONCE}>\n\n"
        f'<answer-{NONCE} label="KXTV">\ntea\n\nWarm.\n</answer-{NONCE}>\n\n'
        f"<review-{NONCE}>\nWhy?\n</review-{NONCE}>\n\n{prompts.REMINDER}\n\nReview the answers."
    )
    assert text.count(prompts.REMINDER) == 1


def test_only_a_seat_that_answers_again_learns_which_answer_is_its_own():
    """Reviews and ballots show all answers alike, the reader's own included."""
    for request in requests_of(FORMS["text"]):
        own = "The answer KXTV is yours" in prompt_for(request).text
        assert own is isinstance(request, Revise | Discuss)


def test_a_ballot_leads_to_no_answer():
    """Except for their labels and texts, a ballot treats all answers alike, in the order it was given."""
    answers = {"KXTV": Answer("tea"), "MPRS": Answer("coffee")}
    topic = topic_of(FORMS["text"])
    text = prompt_for(Vote(topic, answers)).text
    swapped = prompt_for(Vote(topic, {"MPRS": Answer("tea"), "KXTV": Answer("coffee")})).text
    assert text.replace("KXTV", "....").replace("MPRS", "KXTV").replace("....", "MPRS") == swapped
    task = text.rpartition(">")[2]
    assert "KXTV" not in task
    assert "MPRS" not in task


def test_the_judge_is_called_a_judge_and_the_chair_a_chair():
    """Not one of the experts whose answers it judges."""
    topic, answers = topic_of(FORMS["text"]), {"KXTV": Answer("tea")}
    assert "not one of them" in prompt_for(Vote(topic, answers, as_judge=True)).instructions
    assert "not one of them" not in prompt_for(Vote(topic, answers)).instructions


def test_lengths_are_those_of_the_topic():
    """The words of an answer, and those of a review that fit into its characters."""
    topic = Topic("Tea?", max_words=123, max_points_chars=7 * 45)
    assert "at most 123 words" in prompt_for(Propose(topic)).text
    assert "at most 45 words" in prompt_for(Review(topic, {"KXTV": Answer("a")})).text


def test_a_closed_form_is_not_asked_for_answers_that_are_the_same():
    """Equal verdicts are known there."""
    for kind, form in FORMS.items():
        ballot = form_of(Vote(topic_of(form), {}))
        assert ("same_as" in ballot.schema["properties"]) is (kind == "text")


@pytest.mark.parametrize("request_", ALL, ids=_name)
def test_a_reply_of_the_form_can_be_read(request_):
    """Whatever fits the form of a request is a usable reply to it."""
    verdict = {"choice": "tea", "number": 1, "boolean": True, "schema": {"city": "Oslo"}}
    values = {
        "answer": verdict.get(request_.topic.form.kind, "tea"), "confidence": 80, "stop": True,
        "same_as": [["KXTV", "MPRS"]], "changed": True, "choice": "KXTV", "best": "KXTV",
        "points": "This answer does not say what tea costs.",
    }  # fmt: skip
    for prompt in (prompt_for(request_), local_prompts.prompt_for(request_)):
        text = "Tea is better. It is warm."
        if prompt.form is not None:
            form = json.loads(prompt.form.in_words)
            own = form["properties"].get("reply", form)
            value = {name: values.get(name, "some text") for name in own["properties"]}
            value = value if own is form else {"reply": value}
            Draft202012Validator(form).validate(value)
            Draft202012Validator(prompt.form.schema).validate(value)
            text = json.dumps(value)
        assert replies.read(request_, Reply(text))


@pytest.mark.parametrize("group", ["$defs", "definitions"])
def test_references_in_a_schema_still_work_inside_the_form(group):
    """Definitions move to the top of the form, where references begin; the verdict's schema is not changed."""
    pair = {
        "type": "object",
        "properties": {name: {"$ref": f"#/{group}/value"} for name in ("one", "two")},
        "required": ["one", "two"],
        "additionalProperties": False,
        group: {"value": {"type": "integer"}},
    }
    form = AnswerForm.parse(pair)
    right, wrong = ({"reasons": "r", "answer": {"one": 1, "two": two}} for two in (2, "x"))
    check = Draft202012Validator(form_of(Propose(topic_of(form))).schema).is_valid
    assert check(right)
    assert not check(wrong)
    shared = form_of(Propose(topic_of(form, shares_prefix=True)))
    for schema in (shared.schema, json.loads(shared.in_words)):
        check = Draft202012Validator(schema).is_valid
        assert check({"reply": right})
        assert not check({"reply": wrong})
    assert form.schema == pair


@pytest.mark.parametrize("module", [prompts, local_prompts])
def test_the_version_of_prompts_changes_with_any_wording(module, monkeypatch):
    """Every constant that is a text or holds texts is part of the version."""
    before = _version()
    assert _version() == before
    wordings = {
        name: value
        for name, value in inspect.getmembers(module)
        if name.isupper() and isinstance(value, str | dict)
    }
    assert len(wordings) >= 6
    for name, value in wordings.items():
        parts = [None] if isinstance(value, str) else list(value)
        for part in parts:
            if name in ("TEXT", "FLAG", "SAME_AS"):
                changed = {**value, "description": "?"}
            else:
                changed = value + " Be kind." if part is None else {**value, part: "Be kind."}
            with monkeypatch.context() as patch:
                if name == "REVISE" and module is prompts:
                    patch.setattr(module, "DISCUSS", changed)
                patch.setattr(module, name, changed)
                assert _version() != before, f"{name}, {part}"


def _version():
    prompt_version.cache_clear()
    try:
        return prompt_version()
    finally:
        prompt_version.cache_clear()


def test_a_small_model_chooses_among_the_labels_only():
    """Its form lists them, because it would invent others; its prompts have no marks."""
    for request in requests_of(FORMS["text"]):
        prompt = local_prompts.prompt_for(request)
        assert NONCE not in prompt.text
        assert not prompt.instructions
        if isinstance(request, Vote):
            assert prompt.form.schema["properties"] == {
                "choice": {"type": "string", "enum": sorted(LABELS[:2])}
            }


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind != "text"])
def test_a_small_model_answers_closed_forms_by_schema(kind):
    """In proposals and in rounds the form allows a verdict of the answer form, and nothing else."""
    form = FORMS[kind]
    for request in requests_of(form):
        if isinstance(request, Propose | Discuss):
            properties = local_prompts.prompt_for(request).form.schema["properties"]
            assert properties == {"answer": form.schema}
