"""A stream of events adds up to the reply that the provider would have sent at once."""

import asyncio
import json
import tracemalloc

import pytest
from support import llm_stub
from support.llm_stub import APIS, REPLIES, events_of, send_events

pytest.importorskip("pydantic_ai", reason="the extra `llm` is not installed")

import httpx2

from aragora_q.executors.debate.llm import streaming
from aragora_q.executors.debate.llm.streaming import Client, Events

TEXT = 'He said: "Tea \u2014 or\ncoffee?" 🫖'


def bytes_of(events, line_end="\n"):
    """The events as they are sent."""
    data = [each if isinstance(each, str) else json.dumps(each) for each in events]
    return "".join(f"data: {each}{line_end}{line_end}" for each in data).encode()


def read(events, **options):
    """The reply of a stream."""
    reader = Events()
    reader.feed(bytes_of(events, **options))
    return reader.reply()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("tool", [None, "ballot"])
@pytest.mark.parametrize("pieces", [1, 4, 50])
def test_a_stream_is_the_whole_reply(api, tool, pieces):
    """Text and tool calls of all protocols, in few or many events, with their usage and end."""
    text = json.dumps({"a": TEXT}) if tool else TEXT
    whole = REPLIES[api]("m", text, tool=tool)
    found = read(events_of(whole, pieces))
    if api == "openai-chat":
        for choice in whole["choices"]:
            choice["message"].pop("refusal")
            choice["message"]["content"] = choice["message"]["content"] or ""
            for index, call in enumerate(choice["message"].get("tool_calls", [])):
                call["index"] = index
            choice.pop("logprobs")
    assert found == whole


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("tool", [None, "ballot"])
def test_a_long_stream_takes_little_memory(api, tool):
    """Not that of its events, which are far larger than their text; and it adds up as ever."""
    whole = REPLIES[api]("m", json.dumps({"a": TEXT * 400}), tool=tool)
    events = events_of(whole, 5_000)
    reader = Events()
    tracemalloc.start()
    for event in events:
        reader.feed(bytes_of([event]))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500_000
    assert reader.reply() == read(events_of(whole, 1))
    few = Events()
    few.feed(bytes_of(events_of(whole, 1)))
    assert (reader.usage(), reader.model()) == (few.usage(), few.model())


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_bytes_may_arrive_in_any_portions(api, line_end):
    """One byte at a time, with either line end, comments and names of events between."""
    whole = REPLIES[api]("m", TEXT)
    data = bytes_of(events_of(whole), line_end)
    comment = f": keep-alive{line_end}{line_end}event: x{line_end}".encode()
    reader = Events()
    for byte in comment + data:
        reader.feed(bytes([byte]))
    assert reader.has_ended
    assert reader.reply() == read(events_of(whole))


def test_all_tokens_of_a_stream_are_counted():
    """Of the input, what came from the provider's cache, and what entered it, in each provider's words."""
    caches = {"cached_tokens": 20, "cache_write_tokens": 30}
    usages = {
        "openai-chat": {
            "prompt_tokens": 60, "completion_tokens": 10, "prompt_tokens_details": caches
        },
        "openai": {"input_tokens": 60, "output_tokens": 10, "input_tokens_details": caches},
        "anthropic": {
            "input_tokens": 10, "output_tokens": 10, "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 30,
        },
    }  # fmt: skip
    for api, usage in usages.items():
        events = Events()
        events.feed(bytes_of(events_of({**REPLIES[api]("m", TEXT), "usage": usage})))
        assert [*events.usage().values()] == [60, 10, 20, 30]


@pytest.mark.parametrize("api", APIS)
def test_a_stream_without_its_end_is_no_reply(api):
    """However much of it came."""
    events = events_of(REPLIES[api]("m", TEXT))
    for count in range(3 if api == "openai-chat" else len(events) - 1):
        assert read(events[:count]) is None


def test_servers_differ():
    """Fields that each event repeats are not joined; calls need no index; an end needs no reason."""
    chunks = [
        {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]},
        {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "b"}}]},
        {"id": "", "model": "m", "choices": [{"index": 0, "delta": {"reasoning": "r"}}]},
        {"choices": [{"index": 0, "delta": {"reasoning": "s", "content": None}}], "usage": None},
        "[DONE]",
    ]
    found = read(chunks)
    assert (found["id"], found["model"]) == ("c", "m")
    message = {"role": "assistant", "content": "ab", "reasoning": "rs"}
    assert found["choices"][0]["message"] == message
    item = {"type": "message", "content": []}
    bare = {"status": "completed", "output": []}
    events = [
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": bare},
    ]
    assert read(events)["output"] == [item]


@pytest.fixture
def stub():
    """A provider whose streams end, but whose connection stays open until the client closes it."""

    def open_ended(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(bytes_of(events_of(REPLIES["openai-chat"]("m", TEXT))))
        handler.wfile.flush()
        llm_stub.silence(handler)

    stub = llm_stub.Stub(fault=lambda number, model: open_ended)
    yield stub
    stub.close()


async def test_a_reply_is_not_lost_because_its_connection_stays_open(stub, monkeypatch):
    """After the last event, the end of the response is waited for only shortly."""
    monkeypatch.setattr(streaming, "DRAIN_SECONDS", 0.05)
    async with Client() as client:
        async with asyncio.timeout(60):
            response = await client.post(f"{stub.address}/v1/chat/completions", json={"model": "m"})
    assert response.json()["choices"][0]["message"]["content"] == TEXT


async def test_other_responses_are_left_alone(stub):
    """Whole replies and errors pass as they are; so does a stream that the caller wants to read."""
    stub.fault = lambda number, model: None
    async with Client() as client:
        url = f"{stub.address}/v1/chat/completions"
        assert (await client.post(url, json={"model": "m"})).json()["object"] == "chat.completion"
        stub.fault = lambda number, model: lambda handler: send_events(handler, ["[DONE]"])
        with pytest.raises(httpx2.RemoteProtocolError, match="ended before"):
            await client.post(url, json={"model": "m"})
        async with client.stream("POST", url, json={"model": "m"}) as response:
            lines = [line async for line in response.aiter_lines()]
    assert lines[0] == "data: [DONE]"
