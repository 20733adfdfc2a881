"""Demo agents: they answer every request in every answer form, and say that no model was called."""

import json

import pytest
from jsonschema import Draft202012Validator
from support.requests import FORMS, LABELS, requests_of, topic_of

from aragora_q.answer_form import AnswerForm
from aragora_q.errors import PermanentError
from aragora_q.executors.debate import demo, replies
from aragora_q.executors.debate.prompts import form_of
from aragora_q.executors.debate.requests import Answer, Discuss, Propose, Revise, Synthesize, Vote

QUESTION = "Should we use tabs or spaces?"


async def _said(persona, request):
    reply = await demo.DemoAgent(persona, persona).reply(request)
    return replies.read(request, reply)


async def _proposals(form, question=QUESTION):
    """What the personas propose, as answers under labels."""
    request = Propose(topic_of(form, question=question))
    said = [await _said(persona, request) for persona in demo.PERSONAS]
    return {
        label: Answer(each["answer"], each["reasons"])
        for label, each in zip(LABELS, said, strict=True)
    }


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("persona", demo.PERSONAS)
async def test_every_request_is_answered_in_its_form(persona, kind):
    """With exactly the form's fields, at no cost; words are counted as tokens."""
    answers = await _proposals(FORMS[kind])
    for request in requests_of(FORMS[kind], topic_of(FORMS[kind], QUESTION), answers=answers):
        reply = await demo.DemoAgent("a", persona).reply(request)
        value = json.loads(reply.text)
        schema = form_of(request).schema
        known = {name: each for name, each in value.items() if name in schema["properties"]}
        Draft202012Validator(schema).validate(known)
        assert replies.read(request, reply)
        assert (reply.cost_usd, reply.model, reply.refused) == (0.0, f"demo:{persona}", None)
        assert reply.input_tokens > 0
        assert reply.output_tokens > 0


@pytest.mark.parametrize("kind", FORMS)
async def test_every_answer_says_that_no_model_was_called(kind):
    """Verdict or reasons begin with the label, and the reasons end with the disclaimer."""
    for answer in (await _proposals(FORMS[kind])).values():
        assert FORMS[kind].text(answer.verdict).startswith("[demo]") or answer.reasons.startswith(
            "[demo]"
        )
        assert answer.reasons.endswith(
            "(Computed from the words of the question; no model was called.)"
        )


async def test_personas_differ_and_take_their_words_from_the_question():
    """Of a question with two sides, one persona takes each; of another, they name its words."""
    verdicts = [each.verdict for each in (await _proposals(FORMS["text"])).values()]
    assert len(set(verdicts)) == 3
    assert "tabs" in verdicts[0]
    assert "spaces" in verdicts[1]
    other = (await _proposals(FORMS["text"], "Why is the ocean blue?")).values()
    assert all("ocean" in each.reasons for each in other)


async def test_the_same_request_has_the_same_reply():
    """There is no randomness, so a resumed debate is the same."""
    for request in requests_of(FORMS["text"]):
        agent = demo.DemoAgent("a", "bold")
        assert await agent.reply(request) == await agent.reply(request)
    digests = {agent.digest(request) for request in requests_of(FORMS["text"])}
    assert len(digests) == len(requests_of(FORMS["text"]))


@pytest.mark.parametrize("kind", ["text", "choice", "boolean"])
async def test_careful_joins_curious_so_that_a_majority_forms(kind):
    """In a round of either kind; the other personas keep their answers."""
    question = "Should we use tabs or spaces here?"
    answers = await _proposals(FORMS[kind], question)
    topic = topic_of(FORMS[kind], question)
    round_ = Revise if kind == "text" else Discuss
    after = [
        (await _said(persona, round_(topic, answers, own, [])))["answer"]
        for persona, own in zip(demo.PERSONAS, answers, strict=True)
    ]
    bold, _, curious = (each.verdict for each in answers.values())
    assert after == [bold, curious, curious]


async def test_ballots_do_not_depend_on_labels_or_order():
    """A persona votes for the same answer whatever its label and place."""
    answers = await _proposals(FORMS["text"])
    for persona in demo.PERSONAS:
        chosen = set()
        for names in (LABELS, LABELS[::-1], ["ZZZZ", "KKKK", "FFFF"]):
            for order in (1, -1):
                labeled = dict(list(zip(names, answers.values(), strict=True))[::order])
                ballot = await _said(persona, Vote(topic_of(question=QUESTION), labeled))
                chosen.add(labeled[ballot["choice"]].verdict)
        assert len(chosen) == 1


async def test_a_synthesis_is_the_winner_and_its_share():
    """Also labeled as a demo."""
    answers = await _proposals(FORMS["text"])
    votes = dict(zip(LABELS, (2, 1, 0), strict=True))
    said = await _said("bold", Synthesize(topic_of(question=QUESTION), answers, votes, LABELS[0]))
    assert said["text"].startswith(answers[LABELS[0]].verdict)
    assert "2 of 3 votes" in said["text"]
    assert "no model was called" in said["text"]


SCHEMAS = [
    {"type": "null"},
    {"enum": ["red", "green"]},
    {"const": {"a": 1}},
    {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]},
    {"type": ["string", "null"], "minLength": 20},
    {"type": "string", "maxLength": 3},
    {"type": "number", "exclusiveMinimum": 1.5},
    {"type": "integer", "maximum": -4},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "parts": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
            "optional": {"type": "string", "format": "date"},
        },
        "required": ["name", "parts"],
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
async def test_a_simple_schema_gets_a_small_value(schema):
    """Of the right type, with the required properties only."""
    answers = await _proposals(AnswerForm.parse(schema))
    for answer in answers.values():
        Draft202012Validator(schema).validate(answer.verdict)


def _nested(depth):
    return {"type": "array", "minItems": 3, "items": _nested(depth - 1)} if depth else {"const": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 5, "items": {"type": "string"}},
        {"type": "integer", "multipleOf": 7, "minimum": 1},
        {"type": "object", "required": ["a"], "properties": {"a": {"not": {}}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"allOf": [{"type": "string"}]}}},
        _nested(30),
    ],
    ids=["long", "multiple", "impossible", "combined", "deep"],
)
async def test_another_schema_is_refused_clearly(schema):
    """In no time, with a hint; asking again cannot help."""
    request = Propose(topic_of(AnswerForm.parse(schema)))
    with pytest.raises(PermanentError, match="demo agents find no value for the JSON schema") as e:
        await demo.DemoAgent("demo", "bold").reply(request)
    assert "use an agent with a model" in e.value.hint
