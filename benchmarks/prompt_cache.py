"""Measure how much of a debate's input comes from providers' prompt caches, and what that saves.

`make bench-caches` prints the table of docs/debates.md. Debates of three seats of one model
send their real requests to a provider on loopback, which answers at a realistic length and caches as the
providers document it. Tokens are counted in the order in which a provider reads a request: tools or schema,
instructions, messages. A token is up to five letters or digits, or any other visible character.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import CheckpointStore, Completed
from aragora_q.executors import debate
from aragora_q.executors.debate import llm
from aragora_q.executors.debate.agents import agent_price
from aragora_q.job import create_debate_job
from aragora_q.retry import RetryPolicy
from aragora_q.worker.attempt import Attempt

MODELS = {
    "OpenAI, common beginnings": "openai:gpt-5",
    "OpenAI, chat completions": "openai-chat:gpt-5",
    "OpenAI, marked beginnings": "openai:gpt-6.1-terra",
    "Anthropic": "anthropic:claude-sonnet-5-5",
}
QUESTION_TOKENS = (250, 1_000, 4_000)

TOKEN = re.compile(r"[^\W_]{1,5}|[^\w\s]|_")
MIN_PREFIX_TOKENS = 1_024
STEP_TOKENS = 128
READ_SECONDS = 0.02
"""Time after which the prefix of a request is in the cache, and its reply is sent."""

_WORDS = (
    "the of a to and in that it is for with as on be at by this from or an which but not are have more "
    "tests release service change traffic deploy queue worker price latency because however measure "
    "twice team small number first second fails keeps schema index migration rollback"
)
WORDS = _WORDS.split()
FIELD_WORDS = {"reasons": 190, "answer": 25, "points": 85, "reason": 15, "text": 190}
"""Lengths of what the model writes."""


Part = tuple[Sequence[str], bool]
"""Tokens, and whether the request marks their end for the cache."""


def text_of(words: int, seed: object) -> str:
    """Prose of so many words."""
    drawn = random.Random(str(seed)).choices(WORDS, k=words)
    return " ".join(drawn)


def question_of(tokens: int) -> str:
    """A question of about so many tokens."""
    words = text_of(tokens, "question").split()
    while len(TOKEN.findall(" ".join(words))) > tokens:
        words.pop()
    return " ".join(words)


@dataclass
class Cache:
    """What a provider keeps of the requests to one model."""

    reads_marks: bool
    """It keeps beginnings up to marks; else any, in steps."""
    kept: set[tuple[str, ...]] = field(default_factory=set)

    def ends_of(self, parts: Sequence[Part]) -> list[int]:
        """The lengths of the beginnings of a request that are kept."""
        size = len(tokens_of(parts))
        ends: Sequence[int] = range(MIN_PREFIX_TOKENS, size + 1, STEP_TOKENS)
        if self.reads_marks:
            ends = [
                len(tokens_of(parts[: n + 1]))
                for n, (_, is_marked) in enumerate(parts)
                if is_marked
            ]
        return [end for end in ends if end >= MIN_PREFIX_TOKENS]


def tokens_of(parts: Sequence[Part]) -> tuple[str, ...]:
    return tuple(token for tokens, _ in parts for token in tokens)


def parts_of(body: Mapping[str, Any]) -> list[Part]:
    """The parts of a request in the order in which its provider reads them."""
    form = [
        body.get("tools"),
        body.get("response_format"),
        body.get("text", {}).get("format"),
        body.get("output_config", {}).get("format"),
    ]
    texts = [(json.dumps(each), False) for each in form if each]
    contents = [body.get("instructions") or "", body.get("system") or ""]
    contents += [each["content"] for each in body.get("input", body.get("messages", ()))]
    for content in contents:
        if isinstance(content, str):
            texts.append((content, False))
        else:
            marks = ("cache_control", "prompt_cache_breakpoint")
            texts += [(each["text"], any(name in each for name in marks)) for each in content]
    return [(TOKEN.findall(text), is_marked) for text, is_marked in texts]


def reply_to(body: Mapping[str, Any], number: int) -> str:
    """JSON with the fields that the task names."""
    asked = json.dumps(body, ensure_ascii=False)
    task = asked.rpartition("Reply with a JSON object")[2]
    value: dict[str, Any] = {}
    for name in re.findall(r"- (\w+):", task):
        label = re.findall(r'label=\\"([A-Z]+)', asked)[:1]
        others = {"same_as": [], "stop": False, "changed": True, "confidence": 70}
        others |= dict.fromkeys(("best", "choice"), *label)
        value[name] = (
            others[name] if name in others else text_of(FIELD_WORDS[name], f"{number}.{name}")
        )
    return json.dumps({"reply": value} if 'field \\"reply\\"' in task else value)


def response_of(path: str, model: str, text: str, taken: int, cached: int, written: int) -> Any:
    """A reply in the provider's format."""
    output = len(TOKEN.findall(text))
    if path.endswith("/messages"):
        usage = {
            "input_tokens": taken - cached - written,
            "output_tokens": output,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
        }
        content = [{"type": "text", "text": text}]
        made = {"id": "m", "type": "message", "role": "assistant", "stop_reason": "end_turn"}
        return {**made, "model": model, "content": content, "usage": usage}
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    if path.endswith("/chat/completions"):
        usage = {
            "prompt_tokens": taken,
            "completion_tokens": output,
            "total_tokens": taken + output,
        }
        message = {"role": "assistant", "content": text}
        return {
            "id": "c", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {**usage, "prompt_tokens_details": details},
        }  # fmt: skip
    usage = {"input_tokens": taken, "output_tokens": output, "total_tokens": taken + output}
    said = {"type": "output_text", "text": text, "annotations": []}
    item = {
        "type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [said]
    }  # fmt: skip
    return {
        "id": "r", "object": "response", "created_at": 1, "model": model, "status": "completed",
        "output": [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": {
            **usage,
            "input_tokens_details": details,
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


class Provider:
    """A provider on loopback, which counts what it reads."""

    def __init__(
        self, *, reads_marks: bool, events_of: Callable[[Any], list[Any]] | None = None
    ) -> None:
        """`events_of` makes a reply a stream of events; without it, replies come at once."""
        self._events_of = events_of
        self.bodies: list[Mapping[str, Any]] = []
        self.input_tokens = self.cached_tokens = self.written_tokens = self.output_tokens = 0
        self._cache = Cache(reads_marks)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _reply(self, path: str, body: Mapping[str, Any]) -> Any:
        parts = parts_of(body)
        tokens = tokens_of(parts)
        with self._lock:
            self.bodies.append(body)
            number = len(self.bodies)
            beginnings = {end: tokens[:end] for end in self._cache.ends_of(parts)}
            cached = max(
                (n for n, each in beginnings.items() if each in self._cache.kept), default=0
            )
        time.sleep(READ_SECONDS)
        text = reply_to(body, number)
        written = max(beginnings, default=0) - cached if self._cache.reads_marks else 0
        with self._lock:
            self._cache.kept.update(beginnings.values())
            self.input_tokens += len(tokens)
            self.cached_tokens += cached
            self.written_tokens += written
            self.output_tokens += len(TOKEN.findall(text))
        return response_of(path, body["model"], text, len(tokens), cached, written)

    def _handler(provider) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's inside
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = provider._reply(self.path, body)
                kind, data = "application/json", json.dumps(reply)
                if provider._events_of is not None:
                    kind, events = "text/event-stream", provider._events_of(reply)
                    texts = [each if isinstance(each, str) else json.dumps(each) for each in events]
                    data = "".join(f"data: {text}\n\n" for text in texts)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())

            def log_message(self, *args):
                pass

        return Handler


@asynccontextmanager
async def sent_to(provider: Provider) -> AsyncIterator[None]:
    """Agents are built for their provider's own address; then their requests go to `provider`."""
    made: list[llm.ModelAgent] = []

    class Agent(llm.ModelAgent):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            version = "" if self.provider == "anthropic" else "/v1"
            self._model.client.base_url = provider.address + version
            made.append(self)

    keys = {"OPENAI_API_KEY": "sk-none", "ANTHROPIC_API_KEY": "sk-none"}
    with mock.patch.object(llm, "ModelAgent", Agent), mock.patch.dict(os.environ, keys):
        yield
        for agent in made:
            await agent.close()


class Store(CheckpointStore):
    """Keeps what an attempt says in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    async def report_progress(self, job, progress):
        pass

    async def checkpoint(self, job, name, value):  # noqa: ARG002 - as a store does
        self.kept[name] = value

    async def checkpoints(self, job):  # noqa: ARG002 - likewise
        return dict(self.kept)


@dataclass(frozen=True)
class Measured:
    """What a debate took."""

    input_tokens: int
    cached_tokens: int
    usd: float
    plain_usd: float
    """Without a cache."""
    output_usd: float

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.input_tokens

    @property
    def input_cost(self) -> float:
        """The price of the input, as a share of that without a cache."""
        return (self.usd - self.output_usd) / (self.plain_usd - self.output_usd)


async def hold_debate(
    provider: Provider, model: str, question: str, **fields: Any
) -> Mapping[str, Any]:
    """Return the result of a debate of three seats of `model` at `provider`."""
    fields = {"debate": "always", "rounds": 3, **fields}
    payload = create_debate_job(question, [model] * 3, **fields).payload
    job = Job({}, id="job", raw_payload=codec.encode(payload), attempts=1, max_attempts=1)
    executor = debate.create(QueueConfig())
    async with sent_to(provider):
        outcome = await Attempt(job, executor, RetryPolicy(), Store(), 10_000_000).run()
    if not isinstance(outcome, Completed):
        raise TypeError(f"a debate of the benchmark did not complete: {outcome}")
    return codec.decode(outcome.result)


def measure(model: str, question_tokens: int, **fields: Any) -> Measured:
    """Hold one debate; return what its seats took."""
    reads_marks = model not in ("openai:gpt-5", "openai-chat:gpt-5")
    provider = Provider(reads_marks=reads_marks)
    try:
        result = asyncio.run(hold_debate(provider, model, question_of(question_tokens), **fields))
    finally:
        provider.close()
    price = agent_price(model, QueueConfig())
    return Measured(
        provider.input_tokens,
        provider.cached_tokens,
        result["cost_usd"],
        price.cost_usd(provider.input_tokens, provider.output_tokens),
        price.cost_usd(0, provider.output_tokens),
    )


def main() -> None:
    print(
        "| question | provider | input | from the cache | price of the input, of that without a cache |"
    )
    print("|---|---|---|---|---|")
    for tokens in QUESTION_TOKENS:
        for name, model in MODELS.items():
            found = measure(model, tokens)
            shares = f"{found.cached_share:.0%} | {found.input_cost:.0%}"
            print(f"| {tokens:,} | {name} | {found.input_tokens:,} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
