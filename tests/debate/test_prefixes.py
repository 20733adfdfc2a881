"""What the calls of a debate share: prompts begin alike, and providers' caches are used where that counts."""

import asyncio
import json
import re
from types import SimpleNamespace

import pytest
from support.llm_stub import APIS, events_of, refusal
from support.memory_session import MemorySession
from support.requests import FORMS, requests_of, topic_of
from support.scripted_agents import saying

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.errors import PermanentError
from aragora_q.executors.debate import protocol, quote
from aragora_q.executors.debate.agents import agent_price
from aragora_q.executors.debate.calls import ask
from aragora_q.executors.debate.prices import FREE
from aragora_q.executors.debate.prompts import form_of, prompt_for
from aragora_q.executors.debate.replies import Unusable, read
from aragora_q.executors.debate.requests import (
    Discuss,
    Manner,
    Propose,
    Reply,
    Review,
    Revise,
    Synthesize,
    Topic,
)
from aragora_q.job import DebateJobPayload, create_debate_job

pytest.importorskip("pydantic_ai", reason="the extra `llm` is not installed")

from benchmarks import prompt_cache

LONG = "Should we deploy on Fridays? " * 150
SHORT = "Should we deploy on Fridays?"
OPENAI, MARKED, CHAT, CLAUDE = (
    "openai:gpt-5", "openai:gpt-6.1-terra", "openai-chat:gpt-5", "anthropic:claude-sonnet-5-5"
)  # fmt: skip
CACHING = re.compile("prompt_cache|cache_control")
EACH_API = pytest.mark.parametrize("api", APIS)


def shares_prefix(question=LONG, agents=("a", "b", "c"), **fields):
    """Whether the calls of such a debate share their prefix."""
    payload = DebateJobPayload.from_dict(create_debate_job(question, agents, **fields).payload)
    return Topic.of(payload, "0").shares_prefix


def content_of(body):
    """What a request says after its instructions."""
    return body.get("input", body.get("messages"))[-1]["content"]


@pytest.fixture
def hold():
    """Holds a debate of three seats of one model at its provider's own address; returns result and provider."""

    started = []

    async def hold(model, question, reads_marks=True, **fields):
        provider = prompt_cache.Provider(reads_marks=reads_marks, events_of=events_of)
        started.append(provider)
        return await prompt_cache.hold_debate(provider, model, question, **fields), provider

    yield hold
    for provider in started:
        provider.close()


# How much is shared, and what it costs.


@pytest.mark.parametrize(
    ("model", "tokens", "least"),
    [
        (CHAT, 1_000, 0.4), (CLAUDE, 1_000, 0.4), (OPENAI, 4_000, 0.65), (MARKED, 4_000, 0.65),
    ],
)  # fmt: skip
async def test_much_of_the_input_comes_from_the_cache(hold, model, tokens, least):
    """Of real requests in three rounds. The result has the provider's counts, and their price."""
    reads_marks = model in (MARKED, CLAUDE)
    result, provider = await hold(model, prompt_cache.question_of(tokens), reads_marks)
    assert provider.cached_tokens / provider.input_tokens >= least
    seats = result["seats"]
    assert result["token_usage"]["input_tokens"] == provider.input_tokens
    assert sum(seat["cached_tokens"] for seat in seats) == provider.cached_tokens
    assert (provider.written_tokens > 0) is reads_marks
    price = agent_price(model, QueueConfig())
    counts = provider.input_tokens, provider.output_tokens
    paid = price.cost_usd(*counts, provider.cached_tokens, provider.written_tokens)
    assert result["cost_usd"] == pytest.approx(paid, abs=1e-5)
    assert paid < price.cost_usd(*counts)


async def test_no_request_has_more_tokens_than_its_bound():
    """Also with one form for all, points for the cache, and a form in words after it."""
    from aragora_q.executors.debate import llm

    provider = prompt_cache.Provider(reads_marks=True)
    topic = topic_of(question=LONG, shares_prefix=True)
    try:
        async with prompt_cache.sent_to(provider):
            for model in (MARKED, CLAUDE):
                agent = llm.ModelAgent("tested", AgentConfig(model=model), "k")
                [terms] = quote.terms_of([model], QueueConfig())
                for request in requests_of(topic.form, topic):
                    for remark in ("", "it was blank"):
                        manner = Manner(repair=remark)
                        await agent.reply(request, manner)
                        tokens = prompt_cache.tokens_of(prompt_cache.parts_of(provider.bodies[-1]))
                        bound = agent.max_input_tokens(request, manner)
                        assert len(tokens) <= bound <= terms.input_tokens(request, remark)
    finally:
        provider.close()


async def test_a_limit_holds_with_what_enters_the_cache(hold):
    """It costs more than other input; what is reserved before a phase includes that."""
    limit = 0.12
    result, provider = await hold(CLAUDE, LONG, max_cost_usd=limit)
    assert result["ended_by"] == "max_cost"
    assert provider.written_tokens > 0
    assert 0 < result["cost_usd"] <= limit


@pytest.mark.parametrize("model", [MARKED, CLAUDE])
def test_the_worst_price_includes_what_enters_the_cache(model):
    """It costs more than other input there; bounds of limits and quotes have it."""
    [terms] = quote.terms_of([model], QueueConfig())
    plain, worst = terms.price.cost_usd(10_000, 0), terms.call(10_000).input_usd
    assert worst == pytest.approx(terms.price.cost_usd(10_000, 0, 0, 10_000))
    assert worst > plain


def test_a_configured_price_of_writes_counts():
    """In the price of a reply, and in the worst case; without it, writes cost as much as other input."""
    listed = {"input_usd_per_million": 2, "output_usd_per_million": 10}
    cached = {"cached_input_usd_per_million": 0.2, "cache_write_usd_per_million": 2.5}
    full, plain = (
        agent_price("claude", QueueConfig(prices={"claude": price}))
        for price in ({**listed, **cached}, listed)
    )
    assert full.cost_usd(1_000_000, 0, 400_000, 500_000) == pytest.approx(0.2 + 0.08 + 1.25)
    assert full.worst_usd(1_000_000, 0) == 2.5
    counted = SimpleNamespace(
        input_tokens=1_000_000,
        output_tokens=0,
        cache_read_tokens=400_000,
        cache_write_tokens=500_000,
    )
    assert full.reply_usd(counted, "", None, None) == pytest.approx(1.53)
    assert plain.cost_usd(1_000_000, 0, 400_000, 500_000) == plain.worst_usd(1_000_000, 0) == 2


# Where it counts.


def test_only_long_questions_share_and_only_if_an_agent_is_asked_again():
    """Options and schemas are part of the question; the seats of an agent are asked alike."""
    assert shares_prefix()
    assert not shares_prefix(SHORT)
    options = [f"{number} {'long ' * 50}" for number in range(12)]
    assert shares_prefix(SHORT, answer_form="choice", options=options)
    once = {"debate": "never", "answer_form": "boolean"}
    assert not shares_prefix(**once)
    assert shares_prefix(agents=("a", "b", "a"), **once)
    assert shares_prefix(debate="never")  # they vote
    assert not shares_prefix(debate="never", consensus="none")


async def test_a_short_question_is_sent_as_it_was(hold):
    """Each phase has its form; nothing is said about caches."""
    _, provider = await hold(MARKED, SHORT, rounds=1)
    sent = json.dumps(provider.bodies)
    assert "anyOf" not in sent
    assert not CACHING.search(sent)
    assert {type(content_of(body)) for body in provider.bodies} == {str}
    assert {body["text"]["format"]["name"] for body in provider.bodies} == {
        "answer", "review", "revision", "ballot"
    }  # fmt: skip


@EACH_API
async def test_other_servers_get_plain_texts(stub, api):
    """A server at a base_url may take nothing else: no points, no key, the whole prompt as one text."""
    from aragora_q.executors.debate.llm import ModelAgent

    agent = ModelAgent("tested", AgentConfig(**stub.agent(api, "gpt-6.1-terra")), "k")
    request = Propose(Topic(LONG, shares_prefix=True))
    await ask(agent, request)
    await agent.close()
    [call] = stub.asked
    content = content_of(call["body"])
    text = prompt_for(request).text
    assert content == ([{"type": "text", "text": text}] if api == "anthropic" else text)
    assert not CACHING.search(json.dumps(call["body"]))


@pytest.mark.parametrize(
    ("model", "variable"), [(MARKED, "OPENAI_BASE_URL"), (CLAUDE, "ANTHROPIC_BASE_URL")]
)
async def test_a_server_from_the_environment_is_another_server(stub, monkeypatch, model, variable):
    """The variables of the clients send requests elsewhere."""
    from aragora_q.executors.debate.llm import ModelAgent

    monkeypatch.setenv(variable, stub.address)
    agent = ModelAgent("tested", AgentConfig(model=model), "k")
    await ask(agent, Propose(Topic(LONG, shares_prefix=True)))
    await agent.close()
    assert not CACHING.search(json.dumps(stub.asked[0]["body"]))


# What is sent.


@pytest.mark.parametrize(
    ("model", "mark"), [(MARKED, "prompt_cache_breakpoint"), (CLAUDE, "cache_control")]
)
async def test_points_stand_where_another_call_reads(hold, model, mark):
    """After the question in all requests, and after the answers in a review and the new answer that follows."""
    _, provider = await hold(model, LONG, rounds=1)
    marks = [[mark in part for part in content_of(body)] for body in provider.bodies]
    assert marks == [[True, False]] * 3 + [[True, True, False]] * 6 + [[True, False]] * 3
    for body in provider.bodies:
        question, *_, task = (part["text"] for part in content_of(body))
        assert question.strip().startswith("<question-")
        assert "Reply with a JSON object" in task


async def test_openai_gets_one_key_per_debate(hold):
    """So that its calls meet in one place. Newer models write only to the points."""
    keys = []
    for model, options in ((OPENAI, None), (MARKED, {"mode": "explicit"})):
        _, provider = await hold(model, LONG, rounds=1)
        [key] = {body["prompt_cache_key"] for body in provider.bodies}
        keys.append(key)
        assert all(body.get("prompt_cache_options") == options for body in provider.bodies)
    assert len({*keys}) == 2


def test_a_chair_is_asked_once():
    """No other call reads what it would write to a cache."""
    *_, synthesis = [
        request
        for request in requests_of(FORMS["text"], topic_of(shares_prefix=True))
        if isinstance(request, Synthesize)
    ]
    assert prompt_for(synthesis).shared == ()


@pytest.mark.parametrize("kind", FORMS)
def test_all_requests_share_form_and_instructions(kind):
    """What a provider reads before the question is the same, also for judge and chair."""
    requests = requests_of(FORMS[kind], topic_of(FORMS[kind], shares_prefix=True))
    prompts = [prompt_for(request) for request in requests]
    assert (
        len({(each.instructions, each.form.name, json.dumps(each.form.schema)) for each in prompts})
        == 1
    )
    beginnings = {each.text[: each.shared[0]] for each in prompts if each.shared}
    assert len(beginnings) == 1
    assert prompts[0].shared


@pytest.mark.parametrize("kind", FORMS)
def test_each_reply_of_the_shared_form_begins_differently(kind):
    """OpenAI refuses an `anyOf` of objects with the same first field."""
    schema = form_of(Propose(topic_of(FORMS[kind], shares_prefix=True))).schema
    firsts = [next(iter(each["properties"])) for each in schema["properties"]["reply"]["anyOf"]]
    assert len({*firsts}) == len(firsts) == (3 if FORMS[kind].is_closed else 4)


def test_a_reply_is_read_with_and_without_its_wrapper():
    """A model that is asked in words may leave it out; what is cut is read as far as it came."""
    topic = topic_of(shares_prefix=True)
    value = {"reasons": "It is warm.", "answer": "Tea"}
    for text in (json.dumps({"reply": value}), json.dumps(value)):
        assert read(Propose(topic), Reply(text)) == {"answer": "Tea", "reasons": "It is warm."}
    cut = Reply('{"reply": {"reasons": "It is', is_cut=True)
    assert read(Propose(topic), cut) == {"answer": "It is", "reasons": "", "cut": True}
    closed = Discuss(topic_of(FORMS["number"], shares_prefix=True), {}, "KXTV", ())
    with pytest.raises(Unusable):
        read(closed, Reply('{"reply": {"points": "", "answer": 12', is_cut=True))


@EACH_API
async def test_a_provider_that_refuses_the_form_is_asked_in_words(new_stub, api):
    """As with any form; the words are about the reply that is asked for, and about no other."""
    from aragora_q.executors.debate.llm import ModelAgent

    stub = new_stub()
    no = refusal(400, api, "invalid_request_error", "anyOf is not supported in a schema")
    stub.fault = lambda number, model: no if "anyOf" in json.dumps(stub.asked[number - 1]) else None
    model = "claude-sonnet-4-5" if api == "anthropic" else "m"
    agent = ModelAgent("tested", AgentConfig(**stub.agent(api, model, structured="native")), "k")
    topic = topic_of(shares_prefix=True)
    requests = [each for each in requests_of(topic.form, topic) if not isinstance(each, Discuss)]
    for request in requests:
        reply = await ask(agent, request)
        assert not reply.is_form_enforced
        assert read(request, reply)
    await agent.close()
    assert len(stub.asked) == 1 + len(requests)
    said = json.dumps(stub.asked[1]["body"])
    assert "JSON schema" in said
    assert "points" not in said


def test_points_and_keys_do_not_change_a_digest():
    """A journal holds what was asked; how a provider caches it makes no other question of it."""
    from aragora_q.executors.debate.llm import ModelAgent

    request = Propose(Topic(LONG, shares_prefix=True))
    digests = {
        ModelAgent("tested", AgentConfig(model=model), "k").digest(request)
        for model in (OPENAI, MARKED, CLAUDE)
    }
    assert len(digests) == 1


# One order per round.


async def orders_of(run_debate, seat_scripted_agents, question):
    """The orders of reviews and of new answers, by seat and round: lists of labels."""
    agents = {name: saying(name) for name in ("ann", "bob", "cyd")}
    made = seat_scripted_agents(**agents)
    await run_debate(agents=[*made], rounds=2, debate="always", question=question)
    return [
        [[*each.answers] for each in agent.asked if isinstance(each, kind)]
        for kind in (Review, Revise)
        for agent in made.values()
    ]


async def test_a_seat_sees_the_answers_of_a_round_in_one_order(run_debate, seat_scripted_agents):
    """So its new answer shares them with its review. Other seats and other rounds have other orders."""
    same_in_rounds = []
    for _ in range(12):
        orders = await orders_of(run_debate, seat_scripted_agents, LONG)
        reviews, revisions = orders[:3], orders[3:]
        assert reviews == revisions
        for number in range(2):  # each answer stands first for one seat
            assert len({seat[number][0] for seat in reviews}) == 3
        same_in_rounds += [first == second for first, second in reviews]
    assert not all(same_in_rounds)


async def test_a_short_question_has_orders_as_before(run_debate, seat_scripted_agents):
    """A bias for a place is spread over more orders where nothing is gained by sharing one."""
    same = []
    for _ in range(12):
        orders = await orders_of(run_debate, seat_scripted_agents, SHORT)
        same.append(orders[:3] == orders[3:])
    assert not all(same)


# One call goes ahead.


def watch(made, log, wait=None):
    """Note in `log` when proposals begin and end; `wait(name, number)` is awaited in between."""
    for name, agent in made.items():
        agent.reply = watched(name, agent.reply, log, wait)


def watched(name, reply, log, wait):
    async def watched_reply(request, *args):
        if not isinstance(request, Propose):
            return await reply(request, *args)
        log.append((name, "begins"))
        number = log.count((name, "begins"))
        try:
            await (wait(name, number) if wait else asyncio.sleep(0.005))
            return await reply(request, *args)
        finally:
            log.append((name, "ends"))

    return watched_reply


async def test_one_call_goes_ahead_of_its_siblings(run_debate, seat_scripted_agents):
    """Of each model; the others then find the question in the cache. Other models do not wait."""
    log = []
    watch(seat_scripted_agents(ann=saying("tea"), bob=saying("coffee")), log)
    await run_debate(agents=["ann", "ann", "bob", "ann"], rounds=0, question=LONG)
    before = log[: log.index(("ann", "ends"))]
    assert before.count(("ann", "begins")) == before.count(("bob", "begins")) == 1
    assert log.count(("ann", "ends")) == 3


async def test_nothing_waits_for_a_short_question(run_debate, seat_scripted_agents):
    """All proposals begin at once."""
    log = []
    watch(seat_scripted_agents(ann=saying("tea")), log)
    await run_debate(agents=["ann"] * 3, rounds=0)
    assert log[:3] == [("ann", "begins")] * 3


async def test_nothing_waits_where_calls_cost_nothing(run_debate, seat_scripted_agents):
    """Demo agents and local models begin at once."""
    log = []
    made = seat_scripted_agents(ann=saying("tea"))
    made["ann"].price = FREE
    watch(made, log)
    await run_debate(agents=["ann"] * 3, rounds=0, question=LONG)
    assert log[:3] == [("ann", "begins")] * 3


async def test_agents_that_join_later_do_not_wait(run_debate, seat_scripted_agents, monkeypatch):
    """Their model has read the question before."""
    monkeypatch.setattr(protocol, "LEAD_SECONDS", 600)
    log = []
    made = seat_scripted_agents(ann=saying("tea"), bob=saying("coffee"))

    async def wait(_, number):
        if number == 2:  # ends only if the third one begins
            while log.count(("ann", "begins")) < 3:
                await asyncio.sleep(0.005)

    watch(made, log, wait)
    async with asyncio.timeout(60):
        await run_debate(agents=["ann", "bob"], escalate=["ann", "ann"], rounds=1, question=LONG)
    assert log.count(("ann", "ends")) == 3


async def test_siblings_go_on_at_once_if_the_first_call_fails(
    run_debate, seat_scripted_agents, monkeypatch
):
    """Its fault is its seat's, and lengthens nothing."""
    monkeypatch.setattr(protocol, "LEAD_SECONDS", 600)

    async def wait(_, number):
        if number == 1:
            raise PermanentError("no such model")

    log = []
    watch(seat_scripted_agents(ann=saying("tea")), log, wait)
    async with asyncio.timeout(60):
        _, _, result = await run_debate(agents=["ann"] * 4, rounds=0, question=LONG)
    assert result["participants"] == ["ann"] * 3
    assert log.count(("ann", "begins")) == 4


async def test_siblings_do_not_wait_for_a_slow_first_call(
    run_debate, seat_scripted_agents, monkeypatch
):
    """Its provider has read the prompt long before it has said everything."""
    monkeypatch.setattr(protocol, "LEAD_SECONDS", 0.02)
    others_began = asyncio.Event()

    async def wait(_, number):
        if number == 3:
            others_began.set()
        await others_began.wait()

    log = []
    watch(seat_scripted_agents(ann=saying("tea")), log, wait)
    async with asyncio.timeout(60):
        _, _, result = await run_debate(agents=["ann"] * 3, rounds=0, question=LONG)
    assert result["participants"] == ["ann"] * 3


async def test_a_short_time_limit_leaves_time_for_all(run_debate, seat_scripted_agents):
    """Siblings wait for a small part of it only."""
    others_began = asyncio.Event()

    async def wait(_, number):
        if number == 3:
            others_began.set()
        await others_began.wait()

    watch(seat_scripted_agents(ann=saying("tea")), [], wait)
    _, _, result = await run_debate(
        agents=["ann"] * 3, rounds=0, question=LONG, timeout_seconds=20.0
    )
    assert (result["participants"], result["ended_by"]) == (["ann"] * 3, "agreement")


async def test_a_cancelled_debate_goes_on_where_it_waited(run_debate, seat_scripted_agents):
    """What waited was not sent; the next attempt asks it, and not what has been answered."""
    made = seat_scripted_agents(ann=saying("tea"), bob=saying("tea"))
    bob_ended, log = asyncio.Event(), []

    async def wait(name, _):
        if name == "bob":
            bob_ended.set()
        else:
            await asyncio.Event().wait()

    replies = {name: agent.reply for name, agent in made.items()}
    watch(made, log, wait)
    session = MemorySession()
    running = asyncio.ensure_future(
        run_debate(agents=["ann", "ann", "bob"], rounds=0, question=LONG, session=session)
    )
    await bob_ended.wait()
    while not any("propose" in name for name in session.kept):
        await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert log.count(("ann", "begins")) == 1
    for name, agent in made.items():
        agent.reply = replies[name]
    log.clear()
    watch(made, log)
    _, _, result = await run_debate(
        agents=["ann", "ann", "bob"], rounds=0, question=LONG, session=session, attempts=2
    )
    assert (log.count(("ann", "begins")), log.count(("bob", "begins"))) == (2, 0)
    assert result["participants"] == ["ann", "ann", "bob"]
