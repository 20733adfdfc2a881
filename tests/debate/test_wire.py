"""Requests have the form that the providers publish: as in the types that their SDKs are generated with."""

import os
from collections.abc import Iterable, Mapping

import pytest
from pydantic import TypeAdapter, ValidationError
from support.llm_stub import APIS

from aragora_q.answer_form import AnswerForm
from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.requests import (
    PLAIN,
    Answer,
    Discuss,
    Manner,
    Propose,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

KNOWN = {"openai-chat": "gpt-5", "openai": "gpt-5", "anthropic": "claude-sonnet-4-5"}
"""Models of which the library knows that they think and enforce schemas; of `m` it knows nothing."""

STREAMED = {"temperature": 0.5, "seed": 7, "service_tier": "flex", "store": True}
WHOLE = {"effort": "high", "service_tier": "auto", "stream": False}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "year": {"$ref": "#/$defs/year"}},
    "required": ["city"],
    "$defs": {"year": {"type": "integer", "minimum": 1}},
}
FORMS = (
    (AnswerForm.parse("text"), "Tea."),
    (AnswerForm.parse("choice", ["tea", "coffee"]), "tea"),
    (AnswerForm.parse("number"), 3),
    (AnswerForm.parse("boolean"), True),
    (AnswerForm.parse(SCHEMA), {"city": "Canberra"}),
)
MANNERS = (PLAIN, Manner(prompted=True), Manner(larger=True, repair="it was blank"))


def requests_of(form, verdict, *, shares_prefix):
    """All kinds of requests that a debate with this answer form makes."""
    topic = Topic("Tea or coffee?", form, nonce="ab12cd34", shares_prefix=shares_prefix)
    answers = {"KRTS": Answer(verdict, "It is."), "LPMN": Answer(verdict)}
    rounds = (
        [Discuss(topic, answers, "KRTS", ["No."])]
        if form.is_closed
        else [
            Review(topic, answers),
            Revise(topic, answers, "KRTS", ["No."]),
            Synthesize(topic, answers, {"KRTS": 2, "LPMN": 1}, "KRTS"),
        ]
    )
    return [Propose(topic), *rounds, Vote(topic, answers), Vote(topic, answers, as_judge=True)]


def type_of(api, body):
    """The SDK's type of a request."""
    if api == "anthropic":
        from anthropic.types import message_create_params as params

        kinds = params.MessageCreateParamsNonStreaming, params.MessageCreateParamsStreaming
    elif api == "openai":
        from openai.types.responses import response_create_params as params

        kinds = params.ResponseCreateParamsNonStreaming, params.ResponseCreateParamsStreaming
    else:
        from openai.types.chat import completion_create_params as params

        kinds = params.CompletionCreateParamsNonStreaming, params.CompletionCreateParamsStreaming
    return kinds[bool(body.get("stream"))]


def known(value):
    """What is left of a request if fields that its type does not have are removed."""
    if isinstance(value, Mapping):
        return {name: known(each) for name, each in value.items()}
    return (
        [*map(known, value)]
        if isinstance(value, Iterable) and not isinstance(value, str)
        else value
    )


@pytest.mark.filterwarnings("ignore:Sampling parameters:UserWarning")
@pytest.mark.parametrize("api", APIS)
async def test_requests_are_valid(stub, api):
    """All kinds of requests in all answer forms, manners and settings: no unknown field at any depth."""
    pytest.importorskip(api.partition("-")[0])
    from aragora_q.executors.debate.llm import ModelAgent

    for model, structured, settings, shares_prefix in (
        ("m", "tool", STREAMED, False),
        ("m", "native", WHOLE, True),
        (KNOWN[api], "native", STREAMED, False),
        (KNOWN[api], "native", STREAMED, True),
        (KNOWN[api], "tool", WHOLE, True),
    ):
        entry = stub.agent(api, model, structured=structured, **settings)
        agent = ModelAgent("tested", AgentConfig(**entry), os.environ["STUB_KEY"])
        for form, verdict in FORMS:
            requests = requests_of(form, verdict, shares_prefix=shares_prefix)
            for number, request in enumerate(requests):
                await ask(agent, request, MANNERS[number % len(MANNERS)])
        await agent.close()
    checkers = {kind: TypeAdapter(type_of(api, {"stream": kind})) for kind in (False, True)}
    for call in stub.asked:
        body = dict(call["body"])
        if api == "anthropic":
            body.pop("temperature", None)  # of older models only, and no longer in the SDK's type
        checker = checkers[bool(body.get("stream"))]
        assert known(checker.validate_python(body)) == body
    assert {bool(call["body"].get("stream")) for call in stub.asked} == {True, False}
    with pytest.raises(ValidationError):
        known(checker.validate_python({**body, "service_tier": "cheap", "model": 3}))
    assert known(checker.validate_python({**body, "temprature": 1})) == body
