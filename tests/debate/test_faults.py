"""Twelve faults of a provider, in two protocols, and what the queue does about each."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from support.llm_stub import cut, filtered, garbled, html, refusal, send, silence
from support.processes import env
from support.scripted_agents import failing, saying

from aragora_q.config.settings import AgentConfig, QueueConfig
from aragora_q.errors import (
    AgentUnavailable,
    ConfigError,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors import debate
from aragora_q.executors.debate.requests import Propose, Review, Vote

# A model keeps its connections for as long as its process runs.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

APIS = ("openai", "anthropic")
ANSWERS = {"A": "Yes.", "B": "No."}

FAULTS = {
    "rate-limit": (
        lambda api: refusal(429, api, "rate_limit_error", "slow down", Retry_After="7"),
        RetryLater,
    ),
    "quota": (
        lambda api: (
            refusal(429, api, "insufficient_quota", "You exceeded your current quota")
            if api == "openai"
            else refusal(402, api, "billing_error", "Your credit balance is too low")
        ),
        PermanentError,
    ),
    "400": (lambda api: refusal(400, api, "invalid_request_error", "bad"), PermanentError),
    "401": (lambda api: refusal(401, api, "authentication_error", "bad key"), PermanentError),
    "404": (lambda api: refusal(404, api, "not_found_error", "no such model"), PermanentError),
    "filter": (filtered, PermanentError),
    "500": (
        lambda api: refusal(500, api, "api_error", "invalid state, not found"),
        AgentUnavailable,
    ),
    "overloaded": (lambda api: refusal(529, api, "overloaded_error", "busy"), AgentUnavailable),
    "timeout": (lambda api: silence, AgentUnavailable),
    "refused": (None, AgentUnavailable),
    "cut": (lambda api: cut, AgentUnavailable),
    "html": (lambda api: html, AgentUnavailable),
}


@pytest.fixture
def new_agent():
    """A model agent for an entry of `[agents]`."""
    from aragora_q.executors.debate.llm import ModelAgent

    return lambda entry: ModelAgent("tested", AgentConfig(**entry), "sk-secret-of-the-stub")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_says_what_the_queue_should_do(new_stub, new_agent, api, fault):
    """Rate limit: retry later; quota, 4xx, filter: fail; all others: retry. One request each."""
    make, expected = FAULTS[fault]
    stub = new_stub(fault=lambda number, model: make(api))
    entry = stub.agent(api, timeout_seconds=0.5 if fault == "timeout" else 20)
    if make is None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            entry["base_url"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(expected) as caught:
        await new_agent(entry).reply(Propose("Tea or coffee?"))
    assert len(stub.asked) == (0 if make is None else 1)
    if expected is RetryLater:
        assert caught.value.delay_seconds == 7


@pytest.mark.parametrize("api", APIS)
async def test_a_ballot_in_no_form_is_an_abstention(new_stub, new_agent, api):
    """A ballot that is not JSON is kept as an unusable reply, with the tokens it used."""
    stub = new_stub(fault=lambda number, model: garbled)
    reply = await new_agent(stub.agent(api)).reply(Vote("Tea?", ANSWERS))
    assert reply.value is None
    assert (reply.input_tokens, reply.output_tokens) == (30, 10)


@pytest.mark.parametrize("api", APIS)
async def test_html_instead_of_a_ballot_is_no_abstention(new_stub, new_agent, api):
    """A proxy's error page is not the agent's answer: the call is retried."""
    stub = new_stub(fault=lambda number, model: html)
    with pytest.raises(AgentUnavailable):
        await new_agent(stub.agent(api)).reply(Vote("Tea?", ANSWERS))


@pytest.mark.parametrize("api", APIS)
async def test_replies_come_in_the_form_asked_for(stub, new_agent, api):
    """Text for a proposal, the fields of a review and of a ballot: by schema, on both protocols."""
    agent = new_agent(stub.agent(api))
    assert (await agent.reply(Propose("Tea?"))).value == {"text": "The answer of m."}
    review = (await agent.reply(Review("Tea?", ANSWERS))).value
    assert review == {"points": "Nothing is wrong.", "best": "A", "stop": False}
    assert (await agent.reply(Vote("Tea?", ANSWERS))).value == {"choice": "A", "confidence": 70}


@pytest.mark.parametrize(
    ("api", "model"), [("openai", "gpt-5"), ("anthropic", "claude-sonnet-4-5")]
)
async def test_a_call_costs_what_the_price_list_says(stub, new_agent, api, model):
    """Known models have a price, unknown ones none."""
    known = new_agent(stub.agent(api, model))
    unknown = new_agent(stub.agent(api, "sold-by-no-provider"))
    assert (await unknown.reply(Propose("Tea?"))).cost_usd == 0
    assert (await known.reply(Propose("Tea?"))).cost_usd > 0


@pytest.mark.parametrize("api", APIS)
async def test_an_error_does_not_contain_the_key(new_stub, new_agent, api):
    """A provider may quote the key that it refuses; the job's error does not."""
    quoted = "Incorrect API key provided: sk-secret-of-the-stub"
    stub = new_stub(fault=lambda number, model: refusal(401, api, "authentication_error", quoted))
    with pytest.raises(PermanentError) as caught:
        await new_agent(stub.agent(api)).reply(Propose("Tea?"))
    assert "sk-secret" not in str(caught.value)
    assert "Incorrect API key" in str(caught.value)


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
    "huge number": {"choices": [], "created": 10**400},
}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("odd", ODD_REPLIES)
async def test_a_reply_that_a_library_stumbles_over_is_a_fault_of_the_agent(
    new_stub, new_agent, api, odd
):
    """Status 200 with anything in it: a reply, or a fault in our words; nothing else escapes."""
    stub = new_stub(
        fault=lambda number, model: lambda handler: send(handler, 200, ODD_REPLIES[odd])
    )
    with suppress(AgentUnavailable, PermanentError, RetryLater):
        reply = await new_agent(stub.agent(api)).reply(Propose("Tea?"))
        assert reply.value is None or isinstance(reply.value["text"], str)


async def test_one_broken_provider_costs_one_seat(new_stub, run_debate):
    """Its agent is named and drops out in the last attempt; the other seats decide."""
    good = new_stub()
    bad = new_stub(fault=lambda number, model: lambda handler: send(handler, 200, {"choices": []}))
    agents = {f"ok{n}": good.agent("openai", f"m{n}") for n in range(3)} | {
        "bad": bad.agent("openai")
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
        await agent.reply(Propose("Tea?"))


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
agents = dict(a={}, b={})
executor = debate.create(QueueConfig(agents=agents))
before = set(sys.modules)
payload = codec.encode(create_debate_job("Tea?", list(agents), rounds=1).payload)
job = Job({{}}, id="j", raw_payload=payload, attempts=1)
print(type(asyncio.run(make_attempt(executor, job=job, max_result_bytes=10**6).run())).__name__)
print(sorted(name for name in set(sys.modules) - before if not name.startswith("encodings")))
""".format(stub.agent("openai"), stub.agent("anthropic"))
    done = subprocess.run(
        [sys.executable, "-c", script], env=env(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["Completed", "[]"], done.stderr


@pytest.mark.parametrize(
    ("headers", "by_our_clock", "seconds"),
    [
        (("Sat, 28 Nov 2026 06:00:40 GMT", "Sat, 28 Nov 2026 06:00:00 GMT"), 7240, 40),
        (("Sat, 28 Nov 2026 06:00:40 GMT", "Sat, 28 Nov 2026 06:00:00 GMT"), 0, 40),
        (("7", "Sat, 28 Nov 2026 06:00:00 GMT"), 7, 7),
        (("Sat, 28 Nov 2026 06:00:40 GMT", None), 40, 40),
        (("soon", "now"), None, 30),
        ((None, None), None, 30),
    ],
)
def test_a_date_to_retry_after_counts_from_the_providers_clock(headers, by_our_clock, seconds):
    """A worker whose clock is two hours slow does not wait two hours more."""
    from aragora_q.executors.debate.llm import _retry_after_seconds

    pairs = zip(("retry-after", "date"), headers, strict=True)
    named = {name: value for name, value in pairs if value}
    assert _retry_after_seconds(SimpleNamespace(headers=named, retry_after=by_our_clock)) == seconds
