"""CPU time of a model call in our process, against a hand-written HTTP client on the same provider.

Called by `measurements.py`. The provider is a separate process on loopback that answers at once.
`python -m benchmarks.models SECONDS` is that provider, and prints its port; it answers after SECONDS, or up to
SLOWEST times as late.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import httpx2
import uvloop

from aragora_q.bench import Result
from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.llm import ModelAgent
from aragora_q.executors.debate.requests import Propose, Topic

EVENTS = 500
"""Events of a streamed reply."""

SLOWEST = 4

QUESTION = "Should we use tabs or spaces?"
AGENTS = ("one", "two", "three")
PATHS = {
    "openai-chat": "/v1/chat/completions",
    "openai": "/v1/responses",
    "anthropic": "/v1/messages",
}


def calls(repeats: int, count: int) -> Iterator[Result]:
    """Measure calls of all protocols: whole replies, and what an event adds to a streamed one."""
    with provider() as port:
        whole, streamed = uvloop.run(_measure(port, repeats, count))
    yield Result("call_cpu", "CPU of a model call", "ms", [ours for ours, _ in whole])
    yield _against("call_client", "model call / hand-written client", "ms", whole)
    events = [
        tuple((stream - once) * 1000 / EVENTS for stream, once in zip(*pair, strict=True))
        for pair in zip(streamed, whole, strict=True)
    ]
    yield Result("event_cpu", "CPU of an event of a stream", "µs", [ours for ours, _ in events])
    yield _against("event_client", "event / hand-written client", "µs", events)


def _against(name: str, title: str, unit: str, pairs: list[tuple[float, ...]]) -> Result:
    return Result(name, title, unit, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


async def _measure(
    port: int, repeats: int, count: int
) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Return ms of CPU per call, ours and the hand-written client's: of whole and of streamed replies."""
    address = f"http://127.0.0.1:{port}"
    request = Propose(Topic(QUESTION, nonce="QZXWV"))
    found: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
    async with httpx2.AsyncClient() as client:
        for api, path in PATHS.items():
            base_url = address + ("" if api == "anthropic" else "/v1")
            for stream in (False, True):
                config = AgentConfig(model=f"{api}:m", base_url=base_url, stream=stream)
                agent = ModelAgent("measured", config, "key")
                ours = partial(agent.reply, request)
                theirs = partial(_by_hand, client, address + path, stream=stream)
                for each in (ours, theirs):
                    await each()
                for _ in range(repeats):
                    found[stream].append((await _cpu_ms(ours, count), await _cpu_ms(theirs, count)))
                await agent.close()
    return found[False], found[True]


async def _cpu_ms(call: Callable[[], Awaitable[object]], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        await call()
    return (time.process_time() - began) * 1000 / count


async def _by_hand(client: httpx2.AsyncClient, url: str, *, stream: bool) -> object:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": QUESTION * 20}],
        "stream": stream,
    }
    if not stream:
        return (await client.post(url, json=body)).json()
    async with client.stream("POST", url, json=body) as response:
        return [
            json.loads(line[6:])
            async for line in response.aiter_lines()
            if line.startswith("data: {")
        ]


@contextmanager
def provider(reply_seconds: float = 0) -> Iterator[int]:
    """Run a provider; yield its port."""
    command = [sys.executable, "-m", "benchmarks.models", str(reply_seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _chat(text: str) -> tuple[dict, list]:
    shared = {"id": "c", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 300, "completion_tokens": EVENTS, "total_tokens": 300 + EVENTS}
    message = {"role": "assistant", "content": text}
    whole = {
        **shared, "object": "chat.completion", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }  # fmt: skip
    chunk = {**shared, "object": "chat.completion.chunk"}
    events = [
        {**chunk, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in _pieces(text)
    ]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return whole, [
        *events,
        {**chunk, "choices": [last]},
        {**chunk, "choices": [], "usage": usage},
        "[DONE]",
    ]


def _response(text: str) -> tuple[dict, list]:
    item = {
        "type": "message", "id": "i", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }  # fmt: skip
    usage = {
        "input_tokens": 300, "output_tokens": EVENTS, "total_tokens": 300 + EVENTS,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    whole = {
        "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
        "output": [item], "usage": usage, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    deltas = [
        {"type": "response.output_text.delta", **place, "delta": piece} for piece in _pieces(text)
    ]
    return whole, [
        {"type": "response.created", "response": begun}, *deltas,
        {"type": "response.completed", "response": whole},
    ]  # fmt: skip


def _message(text: str) -> tuple[dict, list]:
    whole = {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": text}],
        "usage": {"input_tokens": 300, "output_tokens": EVENTS},
    }  # fmt: skip
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in _pieces(text)
    ]
    return whole, [
        {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": whole["usage"]},
        {"type": "message_stop"},
    ]


def _pieces(text: str) -> list[str]:
    size = -(-len(text) // EVENTS)
    return [text[start : start + size] for start in range(0, len(text), size)]


async def _serve(reply_seconds: float) -> None:
    chance = random.Random(0)
    text = json.dumps({"reasons": "Because it is so. " * 150, "answer": "Spaces."})
    replies = {}
    for path, make in zip(PATHS.values(), (_chat, _response, _message), strict=True):
        whole, events = make(text)
        data = [event if isinstance(event, str) else json.dumps(event) for event in events]
        replies[path] = json.dumps(whole).encode(), [f"data: {each}\n\n".encode() for each in data]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1].decode().partition("?")[0]
                [size] = [
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ]
                body = json.loads(await reader.readexactly(size))
                whole, events = replies[path]
                if reply_seconds:
                    await asyncio.sleep(reply_seconds * chance.uniform(1, SLOWEST))
                kind = b"text/event-stream" if body.get("stream") else b"application/json"
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n")
                if body.get("stream"):
                    writer.write(b"transfer-encoding: chunked\r\n\r\n")
                    for event in events:
                        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(b"content-length: %d\r\n\r\n%s" % (len(whole), whole))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
