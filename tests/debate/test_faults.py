"""Twelve faults of a provider, in two protocols, and what the queue does about each."""

import socket

import pytest
from support.llm_stub import cut, filtered, garbled, html, refusal, silence

from aragora_q.config.settings import AgentConfig
from aragora_q.errors import AgentUnavailable, PermanentError, RetryLater
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
