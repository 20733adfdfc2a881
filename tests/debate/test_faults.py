"""What a provider may do in three protocols, streamed and not, and what the queue does about each."""

import asyncio
import errno
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, nullcontext, suppress

import pytest
from support import llm_stub
from support.llm_stub import (
    APIS,
    REPLIES,
    api_of,
    cut,
    cut_stream,
    ending,
    events_of,
    garbled,
    html,
    refusal,
    refusal_in_stream,
    say,
    send,
    send_events,
    silence,
    silence_in_stream,
)
from support.processes import env
from support.scripted_agents import failing, said, saying
from support.wait import wait_until

from aragora_q.answer_form import AnswerForm
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.contracts import Completed
from aragora_q.errors import (
    AgentUnavailable,
    ConfigError,
    HoldJob,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors import debate
from aragora_q.executors.debate import keys, replies
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.requests import (
    Answer,
    CallFault,
    Manner,
    Propose,
    Topic,
    Vote,
)

# A model keeps its connections for as long as its process runs.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC = Topic("Tea or coffee?", nonce="QZXWV")
PROPOSE = Propose(TOPIC)
VOTE = Vote(TOPIC, {"KRTS": Answer("Tea."), "LPMN": Answer("Coffee.")})
KEY = "sk-secret-of-the-stub"
MODELS = {"openai-chat": "m", "openai": "gpt-5", "anthropic": "claude-sonnet-4-5"}
"""Models of which the library knows that they enforce schemas."""

STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
EACH_API = pytest.mark.parametrize("api", APIS)

FAULTS = {
    "rate limit": (
        lambda api: refusal(429, api, "rate_limit_error", "slow down", Retry_After="7"),
        RetryLater(" ", delay_seconds=7),
    ),
    "rate limit, no delay": (
        lambda api: refusal(429, api, "rate_limit_error", "slow down"),
        RetryLater(" ", delay_seconds=0),
    ),
    "delay of zero": (
        lambda api: refusal(429, api, "rate_limit_error", "slow down", Retry_After="0"),
        RetryLater(" ", delay_seconds=0),
    ),
    "delay in ms": (
        lambda api: refusal(429, api, "rate_limit_error", "slow", retry_after_ms="1500"),
        RetryLater(" ", delay_seconds=1.5),
    ),
    "overloaded": (
        lambda api: refusal(529, api, "overloaded_error", "busy", Retry_After="45"),
        RetryLater(" ", delay_seconds=45),
    ),
    "unavailable": (
        lambda api: refusal(503, api, "api_error", "maintenance"),
        RetryLater(" ", delay_seconds=0),
    ),
    "500 with a delay": (
        lambda api: refusal(500, api, "api_error", "oops", Retry_After="3"),
        RetryLater(" ", delay_seconds=3),
    ),
    "quota": (
        lambda api: (
            refusal(400, api, "invalid_request_error", "Your credit balance is too low")
            if api == "anthropic"
            else refusal(429, api, "insufficient_quota", "You exceeded your current quota")
        ),
        HoldJob,
    ),
    "402": (lambda api: refusal(402, api, "billing_error", "pay first"), HoldJob),
    "401": (lambda api: refusal(401, api, "authentication_error", "bad key"), PermanentError),
    "403": (lambda api: refusal(403, api, "permission_error", "not for you"), PermanentError),
    "404": (lambda api: refusal(404, api, "not_found_error", "no such model"), PermanentError),
    "405": (lambda api: refusal(405, api, "api_error", "no such method"), PermanentError),
    "413": (lambda api: refusal(413, api, "request_too_large", "too large"), PermanentError),
    "context": (
        lambda api: (
            refusal(400, api, "invalid_request_error", "prompt is too long: 9 tokens")
            if api == "anthropic"
            else refusal(400, api, "context_length_exceeded", "maximum context length is 8")
        ),
        PermanentError,
    ),
    "302": (lambda api: redirect, PermanentError),
    "500": (
        lambda api: refusal(500, api, "api_error", "invalid state, not found"),
        AgentUnavailable,
    ),
    "408": (lambda api: refusal(408, api, "api_error", "too slow"), AgentUnavailable),
    "silence": (lambda api: silence, AgentUnavailable),
    "refused": (None, AgentUnavailable),
    "cut": (lambda api: cut, AgentUnavailable),
    "html": (lambda api: html, AgentUnavailable),
}


def redirect(handler):
    send(handler, 302, b"", Location="http://127.0.0.1:9/elsewhere")


@pytest.fixture
async def new_agent():
    """Builds model agents for entries of `[agents]`."""
    from aragora_q.executors.debate.llm import ModelAgent

    built = []

    def build(entry, key=KEY):
        built.append(ModelAgent("tested", AgentConfig(**entry), key))
        return built[-1]

    yield build
    for agent in built:
        await agent.close()


@asynccontextmanager
async def time_passing(clock, stub):
    """Once the model was asked, a minute passes again and again."""

    async def put_forward():
        await wait_until(lambda: stub.asked)
        while True:
            clock.ahead_seconds += 60
            await asyncio.sleep(0.5)

    passing = asyncio.create_task(put_forward())
    try:
        yield
    finally:
        passing.cancel()


@EACH_API
@STREAMED
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_says_what_the_queue_should_do(
    new_stub, new_agent, clock, api, stream, fault
):
    """Overload: retry later; quota, 3xx, 4xx: fail; all others: retry. One request each."""
    make, expected = FAULTS[fault]
    stub = new_stub(fault=lambda number, model: make(api))
    entry = stub.agent(api, timeout_seconds=60, stream=stream)
    if make is None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            entry["base_url"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
    kind = expected if isinstance(expected, type) else type(expected)
    async with time_passing(clock, stub) if fault == "silence" else nullcontext():
        with pytest.raises(kind) as caught:
            await ask(new_agent(entry), PROPOSE)
    assert len(stub.asked) == (0 if make is None else 1)
    if kind is RetryLater:
        assert caught.value.delay_seconds == expected.delay_seconds


OUTCOMES = {
    "rate limit": "rate_limited", "overloaded": "overloaded", "unavailable": "overloaded",
    "500": "unavailable", "500 with a delay": "unavailable", "408": "unavailable",
    "quota": "credit_exhausted", "402": "credit_exhausted", "401": "rejected", "404": "rejected",
    "302": "rejected", "context": "rejected", "silence": "timeout", "refused": "unavailable",
    "cut": "unavailable", "html": "unavailable",
}  # fmt: skip
UNKNOWN_COST = ("silence", "cut", "html")


@EACH_API
@pytest.mark.parametrize("name", OUTCOMES)
async def test_the_gates_learn_what_became_of_a_call(new_stub, new_agent, clock, api, name):
    """Its outcome, the delay that the provider named, and what it took: a refusal costs nothing, a reply that
    broke off an unknown amount.
    """
    fault, meaning = FAULTS[name]
    stub = new_stub(fault=lambda number, model: fault(api))
    entry = stub.agent(api, timeout_seconds=60)
    with socket.socket() as unused:
        if fault is None:
            unused.bind(("127.0.0.1", 0))
            entry["base_url"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with time_passing(clock, stub) if name == "silence" else nullcontext():
            with pytest.raises(CallFault) as caught:
                await new_agent(entry).reply(PROPOSE)
    found = caught.value
    assert (found.outcome, found.cost_usd) == (
        OUTCOMES[name], None if name in UNKNOWN_COST else 0.0
    )  # fmt: skip
    delay = meaning.delay_seconds if isinstance(meaning, RetryLater) else 0
    assert (found.retry_after_seconds or 0) == delay
    assert isinstance(found.error, meaning if isinstance(meaning, type) else type(meaning))


RESETS = {
    "requests are spent": ({
        "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m12s",
        "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "8m0s",
    }, 372),
    "tokens are short": ({
        "x-ratelimit-remaining-requests": "10", "x-ratelimit-reset-requests": "250ms",
        "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "1.5s",
    }, 1.5),
    "dates": ({
        "date": "Sat, 28 Nov 2026 16:00:00 GMT",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-11-28T16:00:42Z",
        "anthropic-ratelimit-input-tokens-remaining": "9000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-28T16:09:00Z",
    }, 42),
    "Unix seconds": ({"date": "Sat, 28 Nov 2026 16:00:00 GMT", "x-ratelimit-reset": "1795881660"}, 60),
    "Unix ms": ({"date": "Sat, 28 Nov 2026 16:00:00 GMT", "X-RateLimit-Reset": "1795881660000"}, 60),
    "seconds": ({"x-ratelimit-reset": "7"}, 7),
    "a named delay": ({"retry-after": "3", "x-ratelimit-reset-requests": "6m0s"}, 3),
    "a named date": ({
        "date": "Sat, 28 Nov 2026 16:00:00 GMT", "retry-after": "Sat, 28 Nov 2026 16:00:09 GMT"
    }, 9),
    "nothing": ({}, None),
    "nonsense": ({"x-ratelimit-reset-requests": "soon", "x-ratelimit-reset": "nan"}, None),
}  # fmt: skip
MESSAGES = {
    "Rate limit reached for m: Limit 3, Used 3. Please try again in 6m12s. Visit x for more.": 372,
    "Please try again in 250ms.": 0.25,
    "Quota exceeded. Please retry in 36.5s.": 36.5,
    "Too many requests, retry after 20 seconds": 20,
    "Please wait 3 minutes.": 180,
    "Slow down.": None,
}


def limited(status, message, headers):
    """An error as the library raises it."""
    from pydantic_ai.exceptions import ModelHTTPError, ModelRateLimitError

    return ModelHTTPError.for_category(
        ModelRateLimitError if status == 429 else None, status_code=status, model_name="m",
        body={"error": {"message": message}}, headers=headers,
    )  # fmt: skip


@pytest.mark.parametrize("name", RESETS)
def test_the_time_at_which_a_limit_is_reset_is_a_delay(name):
    """Of the limit that is used up, if the provider says which; by its own clock."""
    from aragora_q.executors.debate.llm import faults

    headers, seconds = RESETS[name]
    assert faults.retry_after_seconds(limited(429, "slow down", headers)) == seconds
    if name not in ("a named delay", "a named date"):  # these limits are not why it failed
        assert faults.retry_after_seconds(limited(500, "oops", headers)) is None


@pytest.mark.parametrize("message", MESSAGES)
def test_a_delay_in_words_is_a_delay(message):
    """Some providers say it in the message only."""
    from aragora_q.executors.debate.llm import faults

    assert faults.retry_after_seconds(limited(429, message, {})) == MESSAGES[message]


@pytest.mark.parametrize(
    ("status", "message", "outcome"),
    [
        (402, "Payment Required", "credit_exhausted"),
        (403, "Your account balance is insufficient", "credit_exhausted"),
        (429, "You exceeded your current quota, please check your plan", "credit_exhausted"),
        (429, "You exceeded your current quota. Please retry in 36s.", "rate_limited"),
        (400, "Your credit balance is too low", "credit_exhausted"),
        (400, "the question has no credit to its author", "rejected"),
        (529, "busy", "overloaded"),
        (503, "busy", "overloaded"),
    ],
)
def test_credit_that_is_used_up_is_not_a_rate_limit(status, message, outcome):
    """Waiting does not help then; a quota that is back in seconds is a rate limit."""
    from aragora_q.executors.debate.llm import faults

    assert faults.outcome_of(limited(status, message, {})) == outcome


@EACH_API
async def test_a_rejected_request_is_asked_once_more_without_a_schema(new_stub, new_agent, api):
    """A provider may not take the form: the same question, with the form in words, before the seat is lost."""
    stub = new_stub(
        fault=lambda number, model: refusal(400, api, "invalid_request_error", "bad request")
    )
    with pytest.raises(PermanentError, match="bad request"):
        await ask(new_agent(stub.agent(api)), PROPOSE)
    assert len(stub.asked) == 2


@EACH_API
@pytest.mark.parametrize("structured", ["native", "tool"])
async def test_a_schema_that_a_provider_rejects_is_put_in_words(
    new_stub, new_agent, api, structured
):
    """A closed answer form has any schema: the seat is kept, and later calls ask in words at once."""
    unusual = AnswerForm.parse({"type": "object", "properties": {"n": {"type": "number"}}})
    rejected = refusal(400, api, "invalid_request_error", "schema: required is missing")

    def fault(number, model):
        form, _ = llm_stub.form_of(stub.asked[number - 1]["body"], api)
        return rejected if form and "answer" in form["properties"] else None

    stub = new_stub(fault=fault)
    agent = new_agent(stub.agent(api, MODELS[api], structured=structured))
    request = Propose(Topic("Tea or coffee?", unusual))
    for calls in (2, 3):
        reply = await ask(agent, request)
        assert set(json.loads(reply.text)) == {"answer", "reasons"}
        assert len(stub.asked) == calls
    assert (await ask(agent, VOTE)).text
    assert len(stub.asked) == 4
    assert llm_stub.form_of(stub.asked[-1]["body"], api)[0] is not None


async def test_a_schema_that_a_library_does_not_take_is_put_in_words(stub, new_agent):
    """The clients of providers rewrite schemas, and fail at some: no request is lost for it."""
    form = AnswerForm.parse({"type": "object", "properties": {"n": {"not": {"type": "null"}}}})
    for api in APIS:
        reply = await ask(new_agent(stub.agent(api)), Propose(Topic("Tea or coffee?", form)))
        assert set(json.loads(reply.text)) == {"answer", "reasons"}
    assert len(stub.asked) == len(APIS)


@EACH_API
async def test_a_provider_that_cannot_stream_is_asked_for_whole_replies(new_stub, new_agent, api):
    """It says so in a rejection: the next request, and all later ones, are not streamed."""
    rejected = refusal(
        400, api, "invalid_request_error", "You must be verified to stream this model"
    )
    stub = new_stub(
        fault=lambda number, model: (
            rejected if stub.asked[number - 1]["body"].get("stream") else None
        )
    )
    agent = new_agent(stub.agent(api))
    for calls in (2, 3):
        assert (await ask(agent, PROPOSE)).text
        assert len(stub.asked) == calls


IN_STREAM = {
    "overloaded_error": RetryLater,
    "rate_limit_error": RetryLater,
    "api_error": AgentUnavailable,
    "server_error": AgentUnavailable,
}


@EACH_API
@pytest.mark.parametrize("kind", IN_STREAM)
async def test_an_error_in_a_stream_is_that_error(new_stub, new_agent, api, kind):
    """An overload after the first events is the same as one before them."""
    stub = new_stub(fault=lambda number, model: refusal_in_stream(api, kind, "busy now"))
    with pytest.raises(IN_STREAM[kind], match="busy now"):
        await ask(new_agent(stub.agent(api)), PROPOSE)


@EACH_API
@pytest.mark.parametrize("fault", [cut_stream, silence_in_stream], ids=["cut", "silent"])
async def test_a_stream_that_stops_is_no_reply(new_stub, new_agent, api, fault):
    """The beginning of an answer is not taken for the answer; its end is not waited for without limit."""
    stub = new_stub(fault=lambda number, model: fault)
    with pytest.raises(AgentUnavailable):
        await ask(new_agent(stub.agent(api, timeout_seconds=0.3)), PROPOSE)


@EACH_API
async def test_a_model_that_speaks_is_not_cut_off(new_stub, new_agent, api, monkeypatch, clock):
    """`timeout_seconds` limits silence in a stream, `call_timeout_seconds` the whole call.

    With each event, 40 seconds pass; the next one comes when it has been read.
    """
    from aragora_q.executors.debate.llm import streaming

    has_read = threading.Semaphore(0)
    feed = streaming.Events.feed

    def slow_feed(events, data):
        has_ended = feed(events, data)
        clock.ahead_seconds += 40
        has_read.release()
        return has_ended

    def slow(handler):
        first, *others = events_of(llm_stub.reply_to(handler), 6)
        later = (event for event in others if has_read.acquire(timeout=60))
        with suppress(OSError):  # the hasty one is gone
            send_events(handler, itertools.chain([first], later))

    monkeypatch.setattr(streaming.Events, "feed", slow_feed)
    stub = new_stub(fault=lambda number, model: slow)
    agent = new_agent(stub.agent(api, timeout_seconds=100))
    assert (await ask(agent, PROPOSE)).output_tokens == 10
    assert clock.ahead_seconds > 300
    hasty = new_agent(stub.agent(api, timeout_seconds=100, call_timeout_seconds=300))
    with pytest.raises(AgentUnavailable, match="no complete reply within 300 s"):
        await ask(hasty, PROPOSE)
    has_read.release(100)  # the provider goes on


@EACH_API
@STREAMED
async def test_the_end_of_a_reply_is_judged(new_stub, new_agent, api, stream):
    """Cut by a token limit: says so, with its text. Filtered or refused: the seat is out, even with text."""
    for kind in ("cut", "filtered", "refused"):
        stub = new_stub(fault=lambda number, model, kind=kind: ending(kind))
        reply = await ask(new_agent(stub.agent(api, stream=stream)), PROPOSE)
        assert reply.is_cut == (kind == "cut")
        assert isinstance(reply.refused, PermanentError) == (kind != "cut")
        assert (reply.input_tokens, reply.output_tokens) == (30, 10)
        if kind == "cut":
            assert reply.text == "Tea is the better of the"


@EACH_API
@STREAMED
@pytest.mark.parametrize("structured", ["native", "tool", "prompted"])
async def test_replies_come_in_the_form_asked_for(stub, new_agent, api, stream, structured):
    """A proposal and a ballot, by schema, by tool call and by words: with tokens and the model's name."""
    agent = new_agent(stub.agent(api, MODELS[api], stream=stream, structured=structured))
    for request in (PROPOSE, VOTE):
        reply = await ask(agent, request)
        assert replies.read(request, reply)
        assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens) == (30, 10, 20)
        assert (reply.model, reply.is_cut, reply.refused) == (MODELS[api], False, None)
        schema, tool = llm_stub.form_of(stub.asked[-1]["body"], api)
        sent = "tool" if tool else "native" if schema else "prompted"
        assert sent == structured
    assert [bool(call["body"].get("stream")) for call in stub.asked] == [stream] * 2
    assert all(call["headers"]["host"] == stub.address[7:] for call in stub.asked)


@EACH_API
@STREAMED
async def test_a_reply_in_no_form_is_kept_as_it_is(new_stub, new_agent, api, stream):
    """Prose instead of JSON is the text of the reply, with the tokens it used; others judge it."""
    stub = new_stub(fault=lambda number, model: garbled)
    reply = await ask(new_agent(stub.agent(api, stream=stream)), VOTE)
    assert reply.text == "I think A is best, really."
    assert (reply.input_tokens, reply.output_tokens) == (30, 10)


@EACH_API
@STREAMED
async def test_a_reply_without_usage_is_a_reply(new_stub, new_agent, api, stream):
    """Servers that count no tokens: zero of them, and no price."""

    def uncounted(handler):
        reply = REPLIES[api_of(handler)]("gpt-5", "Tea.")
        del reply["usage"]
        say(handler, reply)

    stub = new_stub(fault=lambda number, model: uncounted)
    reply = await ask(new_agent(stub.agent(api, stream=stream)), PROPOSE)
    assert reply.text == "Tea."
    assert (reply.input_tokens, reply.output_tokens, reply.cost_usd) == (0, 0, None)


@EACH_API
async def test_a_request_may_be_asked_in_another_manner(stub, new_agent, api):
    """In words, with a remark after it, and with room for more: what came before stays the same."""
    agent = new_agent(stub.agent(api, max_tokens=100))
    await ask(agent, PROPOSE)
    await ask(agent, PROPOSE, Manner(prompted=True))
    await ask(agent, PROPOSE, Manner(repair="points are missing"))
    await ask(agent, PROPOSE, Manner(larger=True))
    plain, prompted, repaired, larger = (call["body"] for call in stub.asked)
    [question] = [text for text in llm_stub.strings(plain) if "Tea or coffee?" in text]
    for body, remark in ((prompted, "JSON schema"), (repaired, "points are missing")):
        [text] = [text for text in llm_stub.strings(body) if "Tea or coffee?" in text]
        assert text.startswith(question)
        assert remark in text[len(question) :]
    assert llm_stub.form_of(plain, api)[0] == llm_stub.form_of(repaired, api)[0]
    assert llm_stub.form_of(prompted, api)[0] is None
    [limit] = [name for name in plain if plain[name] == 100]
    assert larger[limit] == 400


@EACH_API
async def test_settings_of_an_agent_are_sent(stub, new_agent, api):
    """Effort, temperature, seed and tier, as far as the protocol has them; replies are not stored."""
    await ask(new_agent(stub.agent(api)), PROPOSE)
    set_ = {"temperature": 0.5, "seed": 7, "service_tier": "auto"}
    await ask(new_agent(stub.agent(api, **set_)), PROPOSE)
    plain, asked = (call["body"] for call in stub.asked)
    assert asked["temperature"] == 0.5
    assert not {"temperature", "seed", "service_tier"} & set(plain)
    if api == "openai-chat":
        assert (asked["seed"], asked["service_tier"]) == (7, "auto")
    if api == "openai":
        assert plain["store"] is False
        await ask(new_agent(stub.agent(api, store=True)), PROPOSE)
        assert stub.asked[-1]["body"]["store"] is True


async def test_settings_have_a_digest(stub, new_agent):
    """Whatever may change replies changes it; the key does not, and is not part of it."""
    changes = {
        "effort": "low", "temperature": 0.1, "seed": 1, "service_tier": "flex", "structured": "tool",
        "stream": False, "store": True, "timeout_seconds": 9, "call_timeout_seconds": 9, "max_tokens": 9,
    }  # fmt: skip
    plain = new_agent(stub.agent("openai")).settings
    digests = {
        new_agent(stub.agent("openai", **{name: changes[name]})).settings for name in changes
    }
    assert len(digests | {plain}) == len(changes) + 1
    assert new_agent(stub.agent("openai", api_key_env="OTHER"), "sk-other").settings == plain
    changed = new_agent(stub.agent("openai", **changes, api_key_env="OTHER"), "sk-other")
    assert changed.own_settings == changes  # neither model, address nor key
    elsewhere = {**stub.agent("openai"), "base_url": "http://127.0.0.1:1/v1"}
    assert new_agent(elsewhere).settings != plain


async def test_a_digest_of_a_request_is_that_of_its_prompt(stub, new_agent):
    """Equal for equal prompts; another question, form or nonce is another digest."""
    agent = new_agent(stub.agent("openai"))
    others = [
        Propose(Topic("Tea or milk?")),
        Propose(Topic("Tea or coffee?", AnswerForm("boolean"))),
        Propose(Topic("Tea or coffee?", nonce="xyz")),
        VOTE,
    ]
    digests = {agent.digest(request) for request in (PROPOSE, *others)}
    assert len(digests) == 5
    assert new_agent(stub.agent("anthropic")).digest(PROPOSE) in digests


@EACH_API
async def test_a_call_at_another_address_has_no_known_price(stub, new_agent, api):
    """A proxy with the model's name may have other prices."""
    assert (await ask(new_agent(stub.agent(api, "gpt-5")), PROPOSE)).cost_usd is None


@EACH_API
@pytest.mark.parametrize("source", ["configured", "environment", "another", "unknown"])
async def test_an_error_does_not_contain_a_key(new_stub, monkeypatch, api, source):
    """A provider may quote the key that it refuses, wherever it came from; the job's error does not."""
    from aragora_q.executors.debate.llm import ModelAgent

    secret = {"another": "0123-opaque-secret", "unknown": "sk-proj-0123456789abcdef"}.get(
        source, KEY
    )
    quoted = f"Incorrect API key provided: {secret}; sent Authorization: Bearer {secret}"
    stub = new_stub(fault=lambda number, model: refusal(401, api, "authentication_error", quoted))
    entry = stub.agent(api)
    prefix = "ANTHROPIC" if api == "anthropic" else "OPENAI"
    if source == "environment":  # the client of the provider reads both
        monkeypatch.setenv(f"{prefix}_API_KEY", secret)
        monkeypatch.setenv(f"{prefix}_BASE_URL", entry["base_url"])
        entry = {"model": entry["model"]}
    if source == "another":
        monkeypatch.setenv("GROQ_API_KEY", secret)
    key = None if source == "environment" else secret if source == "configured" else "sk-fine-key"
    agent = ModelAgent("tested", AgentConfig(**entry), key)
    with pytest.raises(PermanentError) as caught:
        await ask(agent, PROPOSE)
    assert secret not in str(caught.value)
    assert "Incorrect API key" in str(caught.value)


def test_an_error_at_build_time_does_not_contain_a_key(monkeypatch):
    """Whatever a library raises while it builds a model."""
    from aragora_q.executors.debate.llm import ModelAgent, models

    def broken(config, key):
        raise ValueError(f"cannot use {key} or Bearer abcdefghijkl")

    monkeypatch.setattr(models, "build", broken)
    with pytest.raises(PermanentError) as caught:
        ModelAgent("tested", AgentConfig(model="openai:m"), "0123-opaque")
    assert "opaque" not in str(caught.value)
    assert "abcdefghijkl" not in str(caught.value)


ODD_REPLIES = {
    "no choices": {"choices": []},
    "nothing": {},
    "list": [],
    "null": None,
    "text": "ok",
    "number": 7,
    "null choices": {"choices": None},
    "choice is text": {"choices": ["x"]},
    "null message": {"choices": [{"index": 0, "finish_reason": "stop", "message": None}]},
    "message is text": {"choices": [{"index": 0, "finish_reason": "stop", "message": "hi"}]},
    "content is a number": {"choices": [{"index": 0, "message": {"role": "x", "content": 3}}]},
    "usage is text": {"choices": [{"index": 0, "message": {"content": "x"}}], "usage": "much"},
    "null content": {"type": "message", "role": "assistant", "content": None},
    "block is text": {"type": "message", "content": ["x"], "usage": {}},
    "block of no type": {"type": "message", "content": [{}], "usage": None},
    "null output": {"object": "response", "output": None, "status": "completed"},
    "item is text": {"object": "response", "output": ["x"], "status": "completed"},
    "failed": {"object": "response", "output": [], "status": "failed", "error": "x"},
    "huge number": {"choices": [], "created": 10**400},
}
ODD_EVENTS = [
    ["[DONE]"],
    ["null"],
    ["{"],
    [{"choices": None}, "[DONE]"],
    [{"choices": [{"delta": None, "finish_reason": "stop"}]}, "[DONE]"],
    [{"choices": [{"index": 0, "delta": "x"}]}, "[DONE]"],
    [{"type": "message_start"}, {"type": "message_stop"}],
    [{"type": "content_block_delta", "index": 3, "delta": {"text": "x"}}],
    [{"type": "response.completed", "response": None}],
    [{"type": "response.completed"}],
    [{"type": "error"}],
    [{"error": "busy"}],
    [],
]


@EACH_API
@pytest.mark.parametrize("odd", ODD_REPLIES)
async def test_a_reply_that_a_library_stumbles_over_is_a_fault_of_the_agent(
    new_stub, new_agent, api, odd
):
    """Status 200 with anything in it: a reply, or a fault in our words; nothing else escapes."""
    stub = new_stub(
        fault=lambda number, model: lambda handler: send(handler, 200, ODD_REPLIES[odd])
    )
    with suppress(AgentUnavailable, PermanentError, RetryLater):
        assert isinstance((await ask(new_agent(stub.agent(api)), PROPOSE)).text, str)


@EACH_API
@pytest.mark.parametrize("odd", ODD_EVENTS, ids=str)
async def test_odd_events_are_a_fault_of_the_agent(new_stub, new_agent, api, odd):
    """A stream of anything: a reply, or a fault in our words; nothing else escapes."""
    stub = new_stub(fault=lambda number, model: lambda handler: send_events(handler, odd))
    with suppress(AgentUnavailable, PermanentError, RetryLater):
        assert isinstance((await ask(new_agent(stub.agent(api)), PROPOSE)).text, str)


async def test_one_broken_provider_costs_one_seat(new_stub, run_debate):
    """Its agent is named and drops out in the last attempt; the other seats decide."""
    good = new_stub()
    bad = new_stub(fault=lambda number, model: lambda handler: send(handler, 200, {"choices": []}))
    agents = {f"ok{n}": good.agent("openai-chat", f"m{n}") for n in range(3)} | {
        "bad": bad.agent("openai-chat")
    }
    names = {"agents": list(agents), "rounds": 0, "settings": {"agents": agents}}
    outcome, session, _ = await run_debate(**names)
    assert outcome.error.startswith("AgentUnavailable: bad: ")
    _, _, result = await run_debate(**names, session=session, attempts=3)
    assert result["participants"] == ["ok0", "ok1", "ok2"]
    assert "bad dropped out (propose): " in result["error"]


@pytest.mark.parametrize("error", [IndexError("list"), RecursionError(), MemoryError()], ids=repr)
async def test_an_agent_that_raises_anything_costs_one_seat(
    run_debate, seat_scripted_agents, error
):
    """Whatever an agent raises is a fault of its seat."""
    seats = seat_scripted_agents(
        ann=saying("tea"), bob=saying("tea"), cyd=saying("tea"), dan=failing(error, Propose)
    )
    _, _, result = await run_debate(agents=list(seats), rounds=0, attempts=3)
    assert f"dan dropped out (propose): unusable reply: {type(error).__name__}" in result["error"]


async def test_an_agent_that_cannot_be_built_costs_one_seat(run_debate, monkeypatch):
    """Whatever a library raises while it builds a model: the agent is named, the others decide."""
    from aragora_q.executors.debate import agents

    def broken(name, config):
        raise LookupError("no such thing")

    monkeypatch.setattr(agents, "_build_agent", broken)
    names = ["demo:bold", "demo:careful", "demo:curious", "mistral:m"]
    _, _, result = await run_debate(agents=names, rounds=0, attempts=3)
    assert "mistral:m dropped out (propose): mistral:m cannot be built" in result["error"]


async def test_no_room_for_a_connection_is_the_workers_trouble(new_agent, stub, monkeypatch):
    """Out of open files while an agent is asked: no seat is to blame."""
    agent = new_agent(stub.agent("openai"))

    async def no_room(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("anyio.connect_tcp", no_room)
    with pytest.raises(WorkerUnable):
        await ask(agent, PROPOSE)


@pytest.mark.parametrize("key", ["sk-\xe9", "sk a", "sk-\n-b", "sk-\x00"], ids=ascii)
def test_a_key_that_no_header_can_hold_is_refused(monkeypatch, stub, key):
    """The worker does not start; the message names the variable, not the key."""
    monkeypatch.setattr(os, "environ", {**os.environ, "STUB_KEY": key})
    with pytest.raises(ConfigError) as refused:
        debate.create(QueueConfig(agents={"ann": stub.agent("openai")}))
    assert "STUB_KEY" in str(refused.value)
    assert "sk" not in str(refused.value)


@pytest.mark.parametrize("key", [" sk-good", "sk-good\n", "\tsk-good\r\n"], ids=ascii)
@pytest.mark.parametrize("api", APIS)
async def test_blanks_around_a_key_do_not_matter(monkeypatch, stub, run_debate, api, key):
    """A key from a file ends with a line break: it is removed."""
    monkeypatch.setenv("STUB_KEY", key)
    agents = {"ann": stub.agent(api), "bob": stub.agent(api, "n")}
    _, _, result = await run_debate(agents=list(agents), rounds=0, settings={"agents": agents})
    assert result["participants"] == ["ann", "bob"]
    sent = {
        call["headers"].get("x-api-key") or call["headers"]["authorization"] for call in stub.asked
    }
    assert {name.removeprefix("Bearer ") for name in sent} == {"sk-good"}


def test_keys_that_the_providers_client_reads_are_checked_too(monkeypatch):
    """Also the key of an agent that names no variable: its provider's usual one."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u2026")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        debate.create(QueueConfig(agents={"ann": {"model": "openai:m"}}))


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"])
def test_keys_of_the_built_in_names_are_checked_at_the_start(monkeypatch, variable):
    """An agent that only jobs name: a key that cannot be sent is found before the first of them."""
    monkeypatch.setenv(variable, "sk-one two")
    with pytest.raises(ConfigError, match=variable) as refused:
        debate.create(QueueConfig())
    assert "sk-" not in str(refused.value)


def test_libraries_of_agents_are_loaded_before_the_first_job(stub):
    """A debate imports nothing more: an upgrade of the libraries cannot mix two versions."""
    script = """
import asyncio, sys
from support.memory_session import make_attempt
from aragora_q import codec, launcher
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.executors import debate
from aragora_q.job import create_debate_job
agents = dict(a={}, b={}, c={})
executor = debate.create(QueueConfig(agents=agents))
before = set(sys.modules)
payload = codec.encode(create_debate_job("Tea?", list(agents), rounds=1).payload)
job = Job({{}}, id="j", raw_payload=payload, attempts=1)
print(type(asyncio.run(make_attempt(executor, job=job, max_result_bytes=10**6).run())).__name__)
print(sorted(name for name in set(sys.modules) - before if not name.startswith("encodings")))
""".format(*map(stub.agent, APIS))
    done = subprocess.run(
        [sys.executable, "-c", script], env=env(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["Completed", "[]"], done.stderr


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (("Sat, 28 Nov 2026 06:00:40 GMT", "Sat, 28 Nov 2026 06:00:00 GMT"), 40),
        (("Sat, 28 Nov 2026 06:00:00 GMT", "Sat, 28 Nov 2026 06:00:40 GMT"), 0),
        (("7", "Sat, 28 Nov 2026 06:00:00 GMT"), 7),
        (("soon", "now"), 0),
    ],
)
@EACH_API
async def test_a_date_to_retry_after_counts_from_the_providers_clock(
    new_stub, new_agent, api, headers, seconds
):
    """A worker whose clock is two hours slow does not wait two hours more."""

    def dated(handler):
        handler.date_time_string = lambda timestamp=None: headers[1]
        refusal(429, api, "rate_limit_error", "slow down", Retry_After=headers[0])(handler)

    stub = new_stub(fault=lambda number, model: dated)
    with pytest.raises(RetryLater) as caught:
        await ask(new_agent(stub.agent(api)), PROPOSE)
    assert caught.value.delay_seconds == seconds


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("skepticism about sk-proj-0123456789", "skepticism about ***"),
        ("Authorization: Bearer abc.def/ghi=", "Authorization: Bearer ***"),
        ("GET https://x.example/v1?key=AB12&alt=sse", "GET https://x.example/v1?key=***&alt=sse"),
        ("https://user:word@x.example/v1", "https://***@x.example/v1"),
        ("AIzaSyA0123456789 is not valid", "*** is not valid"),
        ("gsk_0123456789abc, hf_0123456789abc", "***, ***"),
        ("model gpt-6.1-terra: risk-averse tokens", "model gpt-6.1-terra: risk-averse tokens"),
    ],
)
def test_what_looks_like_a_key_is_masked(text, masked):
    """Forms of keys that providers use, in messages of any kind; ordinary words stay."""
    assert keys.mask(text) == masked


@pytest.mark.parametrize(
    "odd",
    [
        {"model": "half a character: \ud800"},
        {"refused": PermanentError("half a character: \ud800")},
        {"tokens": (1.5, 10**40)},
        {"tokens": (None, "12")},
        {"tokens": (-5, float("nan"))},
        {"cost_usd": float("nan")},
        {"cost_usd": float("inf")},
    ],
    ids=repr,
)
async def test_odd_facts_about_a_reply_cost_no_debate(seat_scripted_agents, run_debate, odd):
    """Whatever a provider says about its reply, the debate completes, and the journal keeps the reply."""

    def reply(task):
        return said({"answer": "tea"}, **odd)

    fields = {"agents": ["ann", "bob", "cyd"]}
    for expected in (1, 0):  # asked at first, and after an interruption
        made = seat_scripted_agents(ann=saying("tea"), bob=reply, cyd=saying("tea"))
        outcome, session, result = await run_debate(**fields)
        assert isinstance(outcome, Completed)
        assert result["seats"][1]["input_tokens"] in (0, 1, 10)
        assert len(made["bob"].asked) == expected
        fields["session"] = session
