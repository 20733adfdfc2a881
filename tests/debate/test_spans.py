"""Spans of debates: a tree of phases, calls and requests to models, without content unless it is asked for."""

import asyncio
import json
import subprocess
import sys
from collections import Counter

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from support.llm_stub import APIS, refusal, silence, strings
from support.memory_session import MemorySession
from support.scripted_agents import failing, saying
from support.wait import wait_until

from aragora_q import tracing
from aragora_q.config.tables import AgentConfig
from aragora_q.contracts import Closed, Completed, Granted
from aragora_q.contracts import Gates as GatesContract
from aragora_q.errors import PermanentError
from aragora_q.executors.debate.agents import AgentRegistry
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.requests import Propose, Topic
from aragora_q.history import CallHistory

pytest.importorskip("pydantic_ai", reason="the extra `llm` is not installed")

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LONG = "Should we deploy on Fridays? " * 150
PHASES = ["propose", "r1.review", "r1.revise", "r2.review", "r2.revise", "vote"]
IN_FULL = {"rounds": 2, "debate": "always"}


@pytest.fixture(autouse=True)
async def _closed_agents(monkeypatch):
    """Closes the connections of the debates' agents."""
    from aragora_q.executors import debate

    made = []

    def registry(config):
        made.append(AgentRegistry(config))
        return made[-1]

    monkeypatch.setattr(debate, "AgentRegistry", registry)
    yield
    for each in made:
        await each.close()


@pytest.fixture
def metrics(monkeypatch):
    """Makes this process measure; returns a function that reads all metrics, as JSON."""
    from opentelemetry.metrics import _internal
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(_internal, "_METER_PROVIDER", provider)
    yield lambda: reader.get_metrics_data().to_json()
    provider.shutdown()


def agents_of(stub, *apis, **settings):
    """Settings with one agent per API, by its name."""
    return {"agents": {api: stub.agent(api, f"m-{api}", **settings) for api in apis}}


def paths_of(spans):
    """How often each path of names from the root occurs."""
    ended = spans.get_finished_spans()
    by_id = {span.context.span_id: span for span in ended}

    def path(span):
        above = path(by_id[span.parent.span_id]) if span.parent else ()
        return (*above, span.name)

    return Counter(map(path, ended))


def named(spans, name):
    return [span for span in spans.get_finished_spans() if span.name == name]


def exported(spans):
    return encode_spans(spans.get_finished_spans()).SerializeToString()


@pytest.mark.parametrize("question", ["Tea or coffee?", LONG])
async def test_a_debate_is_a_tree(run_debate, stub, spans, question):
    """Each phase is a span with its calls, and each call has its request, also if one call goes first."""
    settings = agents_of(stub, "openai-chat", "anthropic", "openai")
    agents = ["openai-chat", "anthropic", "openai-chat"]
    with tracing.span("attempt"):
        outcome, session, _ = await run_debate(
            agents=agents, settings=settings, question=question, consensus="synthesis",
            judge="openai", **IN_FULL,
        )  # fmt: skip
    assert isinstance(outcome, Completed)
    expected = Counter([("attempt",)])
    for phase in PHASES:
        above = ("attempt", f"debate {phase}")
        expected[above] = 1
        for agent, times in Counter(agents).items():
            call = (*above, f"call {agent}")
            expected[call] = expected[*call, f"chat m-{agent}"] = times
    above = ("attempt", "debate synthesize")
    call = (*above, "call openai")
    expected[above] = expected[call] = expected[*call, "chat m-openai"] = 1
    assert paths_of(spans) == expected
    for phase in PHASES:
        [span] = named(spans, f"debate {phase}")
        assert span.attributes == {
            "aragora_q.seats": 3, "aragora_q.seats_journaled": 0,
            "aragora_q.seats_answered": 3, "aragora_q.seats_failed": 0,
        }  # fmt: skip
    calls = [entry for name, entry in session.kept.items() if name.startswith("call/")]
    assert {
        (s.attributes["aragora_q.call"], s.attributes["aragora_q.agent"], s.attributes["aragora_q.seat"])
        for s in spans.get_finished_spans() if s.name.startswith("call ")
    } == {(each["id"], each["agent"], each["seat"]) for each in calls}  # fmt: skip


async def test_a_request_follows_the_conventions(run_debate, stub, spans, metrics):
    """A request has provider, model, limits and tokens by their names there; its call has the cost."""
    settings = agents_of(stub, "openai-chat", temperature=0.5, max_tokens=900)
    price = {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0}
    settings["prices"] = {"openai-chat": price}
    await run_debate(agents=["openai-chat"], settings=settings)
    [chat], [call] = named(spans, "chat m-openai-chat"), named(spans, "call openai-chat")
    host, _, port = stub.address.removeprefix("http://").partition(":")
    assert {n: v for n, v in chat.attributes.items() if n != "logfire.json_schema"} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai-compatible",
        "gen_ai.system": "openai-compatible",
        "gen_ai.request.model": "m-openai-chat",
        "gen_ai.request.max_tokens": 900,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": "m-openai-chat",
        "gen_ai.response.id": "c1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.details.cache_read_tokens": 20,
        "server.address": host,
        "server.port": int(port),
    }
    assert (chat.kind.name, call.kind.name) == ("CLIENT", "INTERNAL")
    assert call.attributes["aragora_q.cost_usd"] == pytest.approx(50e-6)
    assert (call.attributes["aragora_q.outcome"], call.attributes["aragora_q.fallback"]) == (
        "ok",
        False,
    )
    assert "gen_ai.client.token.usage" in metrics()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("structured", ["tool", "native", "prompted"])
async def test_nothing_that_is_said_is_exported(
    run_debate, new_stub, spans, metrics, api, structured
):
    """No line of a prompt, a reply, a form or an error is in what is sent, though a provider repeats them."""

    def repeat(handler):
        text = f"cannot take {json.dumps(handler.body)}, {dict(handler.headers)}"
        refusal(503, api, "overloaded_error", text)(handler)

    stub = new_stub(fault=lambda number, model: repeat if number % 3 == 0 else None)
    schema = {
        "type": "object",
        "properties": {"suspect": {"enum": ["colonel mustard", "miss scarlett"]}},
        "required": ["suspect"],
        "additionalProperties": False,
    }
    fields = {
        "agents": [api] * 2, "settings": agents_of(stub, api, structured=structured),
        "question": "Who took the spoon?", "session": MemorySession(), "answer_form": schema,
        **IN_FULL,
    }  # fmt: skip
    for _ in range(20):
        outcome, *_ = await run_debate(**fields)
        if isinstance(outcome, Completed):
            break
    assert isinstance(outcome, Completed)
    sent = exported(spans) + metrics().encode()
    said = [text for call in stub.asked for text in strings(call["body"])]
    assert any("spoon" in text for text in said)
    said += ["colonel", "mustard", "spoon", "The answer of", "Give your reply", "cannot take"]
    pieces = {each for text in said for each in (*text.splitlines(), json.dumps(text)[1:-1])}
    found = [each for each in pieces if len(each) > 10 and each.encode() in sent]
    assert set(found) <= {f"m-{api}", "json_schema"}  # also the name of an attribute
    assert b"sk-secret" not in sent
    assert b"gen_ai.usage.output_tokens" in sent
    assert b"ModelOverloadedError" in sent or b"ModelHTTPError" in sent or b"Unavailable" in sent


@pytest.fixture
def in_a_trace():
    """Lets the program have a current span, and baggage; it need not have a provider for that."""
    from opentelemetry import baggage, context, trace

    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    state = trace.TraceState([("vendor", "1")])
    caller = trace.SpanContext(1, 2, is_remote=True, trace_flags=sampled, trace_state=state)
    of_caller = trace.set_span_in_context(trace.NonRecordingSpan(caller))
    token = context.attach(baggage.set_baggage("customer", "acme", of_caller))
    yield
    context.detach(token)


@pytest.mark.usefixtures("in_a_trace")
@pytest.mark.parametrize("api", [*APIS, "gateway/openai", "gateway/anthropic"])
@pytest.mark.parametrize("is_traced", [True, False])
async def test_providers_get_no_trace_context(
    run_debate, stub, request, monkeypatch, api, is_traced
):
    """Neither a trace nor baggage, whatever the providers' own clients send with their requests."""
    if is_traced:
        request.getfixturevalue("spans")
    monkeypatch.setenv("PYDANTIC_AI_GATEWAY_BASE_URL", stub.address)
    agent = stub.agent(api)
    if api.startswith("gateway/"):
        del agent["base_url"]
    outcome, *_ = await run_debate(agents=["a"], settings={"agents": {"a": agent}})
    assert isinstance(outcome, Completed), outcome
    sent = {name for each in stub.asked for name in each["headers"]}
    assert "content-type" in sent
    assert not sent & {"traceparent", "tracestate", "baggage"}


async def test_a_failed_request_says_how(run_debate, new_stub, spans):
    """The type of the error, and the HTTP status if there was an answer; no text, and no status otherwise."""
    settings = agents_of(
        new_stub(fault=lambda *_: refusal(503, "openai", "server_error", "busy")), "openai"
    )
    await run_debate(agents=["openai"], settings=settings)
    lost = new_stub()
    lost.close()
    await run_debate(agents=["anthropic"], settings=agents_of(lost, "anthropic"))
    for name, error, status in (
        ("chat m-openai", "ModelUnavailableError", 503),
        ("chat m-anthropic", "ModelConnectionError", None),
    ):
        chat = named(spans, name)[0]
        assert chat.attributes["error.type"] == error
        assert chat.attributes.get("http.response.status_code") == status
        assert (chat.status.is_ok, chat.status.description) == (False, None)


async def test_a_request_that_takes_too_long_has_failed(run_debate, new_stub, spans, clock):
    """Its span has the type of the error."""
    stub = new_stub(fault=lambda number, model: silence)
    settings = agents_of(stub, "openai", timeout_seconds=900, call_timeout_seconds=300)
    running = asyncio.create_task(run_debate(agents=["openai"], settings=settings))
    await wait_until(lambda: stub.asked)
    clock.ahead_seconds = 300
    await running
    chat = named(spans, "chat m-openai")[0]
    assert (chat.attributes["error.type"], chat.status.is_ok) == ("CancelledError", False)


@pytest.mark.parametrize(
    ("value", "is_on"),
    [("TRUE", True), ("span_only", True), (" SPAN_AND_EVENT ", True)]
    + [(value, False) for value in ("", "false", "1", "event_only", "no_content", "yes")],
)
async def test_the_words_that_allow_content(run_debate, stub, spans, monkeypatch, value, is_on):
    """Words of the older and of the newer conventions allow it; any other word does not."""
    monkeypatch.setenv(CAPTURE, value)
    await run_debate(agents=["openai"], settings=agents_of(stub, "openai"), question="Who has it?")
    assert (b"Who has it?" in exported(spans)) is is_on


@pytest.mark.parametrize("api", APIS)
async def test_content_is_exported_on_request(run_debate, new_stub, spans, monkeypatch, api):
    """With the standard variable, prompts and replies are; texts of errors, which may repeat a key, never."""
    monkeypatch.setenv(CAPTURE, "true")

    def repeat(handler):
        refusal(400, api, "invalid_request_error", f"bad schema: {dict(handler.headers)}")(handler)

    stub = new_stub(fault=lambda number, model: repeat if number == 1 else None)
    settings = agents_of(stub, api, structured="tool")
    outcome, *_ = await run_debate(agents=[api], settings=settings, question="Who has it?")
    assert isinstance(outcome, Completed)
    rejected, chat = named(spans, f"chat m-{api}")
    assert "Who has it?" in chat.attributes["gen_ai.input.messages"]
    assert "The answer of" in chat.attributes["gen_ai.output.messages"]
    assert chat.attributes["gen_ai.system_instructions"]
    assert "answer" in rejected.attributes["gen_ai.tool.definitions"]
    assert not rejected.status.is_ok
    sent = exported(spans)
    assert b"sk-secret" not in sent
    assert b"bad schema" not in sent
    assert [s.attributes["aragora_q.outcome"] for s in named(spans, f"call {api}")] == [
        "rejected",
        "ok",
    ]


async def test_a_streamed_request_is_one_span(stub, spans):
    """What a provider's client streams itself is a request, too; spans that the client makes are not kept."""
    from pydantic_ai.models.function import FunctionModel

    from aragora_q.executors.debate.llm import ModelAgent

    async def stream(_messages, _info):
        with tracing.span("of the client"):
            yield '{"answer": "Tea.", "reasons": "It is."}'

    config = AgentConfig(**stub.agent("openai-chat", structured="prompted"))
    agent = ModelAgent("tested", config, "sk-secret")
    await agent.close()
    agent._model, agent._collects = FunctionModel(stream_function=stream, model_name="own"), False
    reply = await ask(agent, Propose(Topic("Tea or coffee?")))
    assert "Tea." in reply.text
    [chat] = spans.get_finished_spans()
    assert chat.name == "chat own"
    assert chat.attributes["gen_ai.client.operation.time_to_first_chunk"] > 0


async def test_a_resumed_debate_has_spans_of_what_it_asks(run_debate, new_stub, spans):
    """Replies of an earlier attempt have no span, and neither has a phase that asks nothing more."""
    late = [5]
    overload = refusal(503, "openai-chat", "overloaded_error", "later")
    stub = new_stub(fault=lambda number, model: overload if number in late else None)
    settings = agents_of(stub, "openai-chat")
    fields = {"agents": ["openai-chat"] * 3, "settings": settings, "debate": "always", "rounds": 1}
    outcome, session, _ = await run_debate(**fields)
    assert not isinstance(outcome, Completed)
    [failed] = named(spans, "debate r1.review")
    assert failed.attributes["error.type"] == "RetryLater"
    assert failed.attributes["aragora_q.seats_failed"] == 1
    spans.clear()
    asked = len(stub.asked)
    outcome, *_ = await run_debate(session=session, **fields)
    assert isinstance(outcome, Completed)
    assert len(named(spans, "call openai-chat")) == len(stub.asked) - asked
    phases = {span.name for span in spans.get_finished_spans() if span.name.startswith("debate ")}
    assert phases == {"debate r1.review", "debate r1.revise"}  # all have one answer
    [review] = named(spans, "debate r1.review")
    assert review.attributes["aragora_q.seats_journaled"] == 2
    spans.clear()
    await run_debate(session=session, **fields)
    seeds = {f"seed/a/{name}": each for name, each in session.kept.items() if "call/" in name}
    fork = MemorySession({**seeds, "seed/begun": session.kept["begun"]})
    outcome, *_ = await run_debate(session=fork, forked_from="a", **fields)
    assert isinstance(outcome, Completed)
    assert not spans.get_finished_spans()


async def test_demo_agents_make_the_same_tree(run_debate, spans):
    """Their calls have a request, too, with the provider `demo`."""
    await run_debate(agents=["demo", "demo"], rounds=0, consensus="none")
    assert paths_of(spans) == {
        ("debate propose",): 1,
        ("debate propose", "call demo"): 2,
        ("debate propose", "call demo", "chat demo:bold"): 1,
        ("debate propose", "call demo", "chat demo:careful"): 1,
    }
    [chat] = named(spans, "chat demo:bold")
    assert chat.attributes["gen_ai.provider.name"] == "demo"
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0
    assert chat.kind.name == "CLIENT"


class OneClosed(GatesContract):
    """Gates that are closed for bob."""

    async def acquire(self, job, call):
        return Closed(90.0, "the provider's rate limit") if call.agent == "bob" else Granted()

    async def settle(self, job, call, settlement):
        """Book nothing."""

    async def call_history(self):
        return CallHistory()


async def test_faults_and_fallbacks_are_marked(run_debate, seat_scripted_agents, spans):
    """A call that fails has its type of error, one of a fallback says so, and the phase counts who failed."""
    seat_scripted_agents(
        ann=saying("a"), bob=saying("b"), cyd=failing(PermanentError("a secret"), Propose), sub=saying("s")
    )  # fmt: skip
    config = {"agents": {"bob": {"model": "demo", "fallback": ["sub"]}, "sub": "demo"}}
    outcome, *_ = await run_debate(
        agents=["ann", "bob", "cyd"], settings=config, gates=OneClosed(), rounds=0
    )
    assert isinstance(outcome, Completed)
    [propose] = named(spans, "debate propose")
    assert propose.attributes["aragora_q.seats_failed"] == 1
    assert "error.type" not in propose.attributes
    [bob, *_], [sub, *_], [cyd] = (named(spans, f"call {name}") for name in ("bob", "sub", "cyd"))
    assert (bob.attributes["error.type"], bob.attributes["aragora_q.seat"]) == ("GateClosed", 1)
    assert (sub.attributes["aragora_q.fallback"], sub.attributes["aragora_q.seat"]) == (True, 1)
    assert cyd.attributes["error.type"] == "PermanentError"
    assert cyd.attributes["aragora_q.outcome"] == "rejected"
    assert b"secret" not in exported(spans)


async def test_without_a_provider_nothing_is_instrumented(run_debate, stub, monkeypatch):
    """No object of the library's instrumentation is made."""
    from aragora_q.executors.debate.llm import instrumentation

    monkeypatch.setattr(instrumentation, "traced", lambda model: pytest.fail("instrumented"))
    outcome, *_ = await run_debate(
        agents=["openai-chat"] * 2, settings=agents_of(stub, "openai-chat")
    )
    assert isinstance(outcome, Completed)


def test_the_sdk_is_not_imported():
    """Debates with models import the interface of OpenTelemetry, not its SDK."""
    code = "import sys, aragora_q.executors.debate.llm; print('opentelemetry.sdk' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
