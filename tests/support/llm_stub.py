"""A provider of language models on loopback: chat completions, Responses and Messages, with faults on demand.

It answers what is requested: JSON by the schema, a tool call, or text that differs by model; as a stream if
that is requested. It bills every reply, also one that breaks off; refusals are free. With a TLS context, it is
also an HTTP proxy that answers for the providers themselves, whatever host is asked for.
"""

import json
import re
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

APIS = ("openai-chat", "openai", "anthropic")
"""Prefixes of models: chat completions, Responses, Messages."""

ANSWER = "The answer of {model}."
PIECES = 3
"""Number of events in which a text is streamed."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # many workers call at the same time
    daemon_threads = True
    block_on_close = False


class Stub:
    """A provider; `fault(number, model)` returns what goes wrong with a call, or None. Calls count from 1.

    With `ignores_schemas`, the form of replies must be asked for in words.
    """

    def __init__(
        self,
        fault=lambda number, model: None,
        delay_seconds=0.0,
        ignores_schemas=False,
        pieces=PIECES,
        tls=None,
    ):
        self.fault = fault
        self.tls = tls
        self.delay_seconds = delay_seconds
        self.ignores_schemas = ignores_schemas
        self.pieces = pieces
        self.asked = []
        self.answered = []
        self.billed = []
        """The tokens of each reply: `(input, output, cached)`; None for the output if it broke off."""
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def agent(self, api, model="m", **settings):
        """An entry of `[agents]` for this provider."""
        base_url = self.address + ("" if api == "anthropic" else "/v1")
        return {
            "model": f"{api}:{model}",
            "base_url": base_url,
            "api_key_env": "STUB_KEY",
            **settings,
        }

    def bill(self, usage, *, is_whole=True):
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        read = usage.get("cache_read_input_tokens", 0)
        taken = usage.get("prompt_tokens", usage.get("input_tokens", 0)) + read
        output = usage.get("completion_tokens", usage.get("output_tokens", 0))
        cached = read or details.get("cached_tokens", 0)
        with self._lock:
            self.billed.append((taken, output if is_whole else None, cached))

    def _note(self, handler, body):
        with self._lock:
            self.asked.append({
                "model": body["model"], "body": body, "path": handler.path,
                "headers": {name.lower(): value for name, value in handler.headers.items()},
            })  # fmt: skip
            return len(self.asked)

    def _handler(stub):  # noqa: N805 - `self` is the handler's inside
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            bill = stub.bill

            def do_POST(self):
                self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = stub._note(self, self.body)
                fault = stub.fault(number, self.body["model"])
                if fault is not None:
                    fault(self)
                    return
                time.sleep(stub.delay_seconds)
                try:
                    say(self, reply_to(self, stub.ignores_schemas), pieces=stub.pieces)
                except OSError:  # the client is gone: it was killed
                    return
                with stub._lock:
                    stub.answered.append(number)

            def do_CONNECT(self):
                self.send_response(200)
                self.end_headers()
                with stub.tls.wrap_socket(self.connection, server_side=True) as self.request:
                    self.setup()
                    self.handle()

            def log_message(self, *args):
                pass

        return Handler


def send(handler, status, reply, content_type="application/json", **headers):
    data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def send_events(handler, events, pause_seconds=0.0):
    """A stream of events; `events` are their data. It ends with the connection."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
        handler.wfile.write(f"{name}data: {data}\n\n".encode())
        handler.wfile.flush()
        time.sleep(pause_seconds)
    handler.close_connection = True


def say(handler, reply, pieces=PIECES, pause_seconds=0.0):
    """Send a reply as it was requested: at once, or as a stream of events."""
    handler.bill(reply.get("usage") or {})
    if handler.body.get("stream"):
        send_events(handler, events_of(reply, pieces), pause_seconds)
    else:
        send(handler, 200, reply)


def api_of(handler):
    """The prefix of models that speak the protocol of a request."""
    for api, path in (("openai-chat", "/chat/completions"), ("openai", "/responses")):
        if handler.path.endswith(path):
            return api
    return "anthropic"


def reply_to(handler, ignores_schemas=False):
    """The reply that a request asks for."""
    body, api = handler.body, api_of(handler)
    schema, tool = (None, None) if ignores_schemas else form_of(body, api)
    text = ANSWER.format(model=body["model"])
    if schema is None:
        schema = schema_in_words(body)
    if schema is not None:
        value = filled(schema, "".join(strings(body)))
        said = value.get("reply", value)
        if isinstance(said.get("answer"), str):
            said["answer"] = text  # each model's own
        text = json.dumps(value)
    return REPLIES[api](body["model"], text, tool=tool)


def form_of(body, api):
    """The schema of a request, and the name of the tool if it is one."""
    if tools := body.get("tools"):
        tool = tools[0].get("function", tools[0])
        return tool.get("parameters") or tool.get("input_schema"), tool["name"]
    match api:
        case "openai-chat":
            return body.get("response_format", {}).get("json_schema", {}).get("schema"), None
        case "openai":
            return body.get("text", {}).get("format", {}).get("schema"), None
        case _:
            return body.get("output_config", {}).get("format", {}).get("schema"), None


def schema_in_words(body):
    said = strings(body)
    for text in said:
        if match := re.search(r"JSON schema:\n(\{.*\})", text):
            return json.loads(match[1])
    return None


def strings(value):
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in strings(part)]


VALUES = {"array": [], "integer": 70, "number": 7, "boolean": False}


def filled(schema, asked=""):
    """A value that is valid for the JSON schema. Labels and the fields of a reply are those in `asked`."""
    if "anyOf" in schema:
        named = set(re.findall(r"- (\w+):", asked))
        schema = next(each for each in schema["anyOf"] if set(each["properties"]) == named)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") != "object":
        return VALUES.get(schema.get("type"), "Nothing is wrong.")
    value = {name: filled(rule, asked) for name, rule in schema["properties"].items()}
    labels = re.findall(r'label="([A-Z]+)"', asked)
    named = {name for name in ("best", "choice") if labels and name in value}
    return value | dict.fromkeys(named, min(labels, default=""))


def chat_reply(model, text, *, finish=None, tool=None, **message):
    said = {"role": "assistant", "content": text, "refusal": None, **message}
    if tool:
        function = {"name": tool, "arguments": text}
        said |= {
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        }
    finish = finish or ("tool_calls" if tool else "stop")
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": said, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 20},
        },
    }  # fmt: skip


def response_reply(model, text, *, finish="completed", reason=None, tool=None, refusal=None):
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    if refusal:
        content = {"type": "refusal", "refusal": refusal}
    item = {
        "type": "message", "id": "i1", "role": "assistant", "status": finish, "content": [content]
    }  # fmt: skip
    if tool:
        item = {
            "type": "function_call", "id": "i1", "call_id": "t1", "name": tool, "arguments": text,
            "status": "completed",
        }  # fmt: skip
    return {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": finish,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "metadata": {},
        "output": [item] if text or refusal else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": 30, "output_tokens": 10, "total_tokens": 40,
            "input_tokens_details": {"cached_tokens": 20},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


def message_reply(model, text, *, finish=None, tool=None):
    content = [{"type": "text", "text": text}] if text else []
    if tool:
        content = [{"type": "tool_use", "id": "t1", "name": tool, "input": json.loads(text)}]
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": finish or ("tool_use" if tool else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10, "output_tokens": 10, "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 0,
        },
    }  # fmt: skip


REPLIES = {"openai-chat": chat_reply, "openai": response_reply, "anthropic": message_reply}


def _pieces(text, count):
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def events_of(reply, pieces=PIECES):
    """The events in which a reply is streamed."""
    if reply.get("object") == "chat.completion":
        return _chat_events(reply, pieces)
    return (_response_events if reply.get("object") == "response" else _message_events)(
        reply, pieces
    )


def _chat_events(reply, pieces):
    shared = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    shared["object"] = "chat.completion.chunk"
    [choice] = reply["choices"]
    message = choice["message"]
    deltas = [{"role": "assistant", "content": ""}]
    for name in ("content", "refusal"):
        deltas += [{name: piece} for piece in _pieces(message.get(name) or "", pieces)]
    for index, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        start = {**call, "index": index, "function": {**function, "arguments": ""}}
        deltas.append({"tool_calls": [start]})
        for piece in _pieces(function["arguments"], pieces):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    events = [
        {**shared, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    events.append({**shared, "choices": [last]})
    if "usage" in reply:
        events.append({**shared, "choices": [], "usage": reply["usage"]})
    return [*events, "[DONE]"]


def _response_events(reply, pieces):
    begun = {
        **reply,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "incomplete_details": None,
    }
    events = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(reply["output"]):
        place = {"item_id": item["id"], "output_index": index}
        events.append(("response.output_item.added", {"output_index": index, "item": item}))
        if item["type"] == "message":
            text = item["content"][0].get("text") or ""
            events += [
                ("response.output_text.delta", {**place, "content_index": 0, "delta": piece})
                for piece in _pieces(text, pieces)
            ]
        events.append(("response.output_item.done", {"output_index": index, "item": item}))
    events.append((f"response.{reply['status']}", {"response": reply}))
    return [
        {"type": kind, "sequence_number": number, **data}
        for number, (kind, data) in enumerate(events)
    ]


def _message_events(reply, pieces):
    begun = {**reply, "content": [], "stop_reason": None}
    if "usage" in reply:
        begun["usage"] = {**reply["usage"], "output_tokens": 1}
    events = [("message_start", {"message": begun}), ("ping", {})]
    for index, block in enumerate(reply["content"]):
        is_tool = block["type"] == "tool_use"
        empty = {**block, **({"input": {}} if is_tool else {"text": ""})}
        events.append(("content_block_start", {"index": index, "content_block": empty}))
        for piece in _pieces(json.dumps(block["input"]) if is_tool else block["text"], pieces):
            delta = (
                {"type": "input_json_delta", "partial_json": piece}
                if is_tool
                else {"type": "text_delta", "text": piece}
            )
            events.append(("content_block_delta", {"index": index, "delta": delta}))
        events.append(("content_block_stop", {"index": index}))
    last = {"delta": {"stop_reason": reply["stop_reason"], "stop_sequence": None}}
    if "usage" in reply:
        last["usage"] = {"output_tokens": reply["usage"]["output_tokens"]}
    events += [("message_delta", last), ("message_stop", {})]
    return [{"type": kind, **data} for kind, data in events]


# Faults, in each provider's format.


def _usage(handler):
    return REPLIES[api_of(handler)]("m", "Tea.")["usage"]


def refusal(status, api, kind, message, **headers):
    """An error in the provider's format."""
    error = {"type": kind, "message": message, "code": kind}
    body = {"type": "error", "error": error} if api == "anthropic" else {"error": error}
    return lambda handler: send(handler, status, body, **headers)


def refusal_in_stream(api, kind, message):
    """An error in the provider's format, after the beginning of a stream."""
    error = {"type": kind, "message": message, "code": kind}
    event = {
        "openai-chat": {"error": error},
        "openai": {
            "type": "error",
            "sequence_number": 2,
            "param": None,
            "message": message,
            "code": kind,
        },
        "anthropic": {"type": "error", "error": error},
    }[api]

    def fault(handler):
        send_events(handler, [*events_of(REPLIES[api]("m", "Tea."))[:3], event])

    return fault


def cut(handler):
    """The connection breaks in the middle of the reply."""
    handler.bill(_usage(handler), is_whole=False)
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id":')
    handler.wfile.flush()
    handler.connection.close()
    handler.close_connection = True


def cut_stream(handler):
    """The stream ends in the middle of the reply, without an error."""
    handler.bill(_usage(handler), is_whole=False)
    events = events_of(REPLIES[api_of(handler)]("m", "Tea is the better of the two."))
    send_events(handler, events[:4])


def html(handler):
    """An HTML page instead of JSON."""
    send(handler, 200, b"<html><body>Please log in</body></html>", "text/html")


def silence(handler):
    """No reply within any timeout: nothing until the client is gone."""
    with suppress(OSError):
        handler.rfile.read(1)
    handler.close_connection = True


def silence_in_stream(handler):
    """A stream that begins and then is silent."""
    handler.bill(_usage(handler), is_whole=False)
    events = events_of(REPLIES[api_of(handler)]("m", "Tea."))
    send_events(handler, events[:2])
    silence(handler)


def saying(text, **fields):
    """The model says `text`; `fields` are those of REPLIES."""
    return lambda handler: say(
        handler, REPLIES[api_of(handler)](handler.body["model"], text, **fields)
    )


def billing(input_tokens, output_tokens, cached_tokens=0):
    """The reply that a request asks for, in its tier, which takes so many tokens.

    `cached_tokens` are part of the input.
    """

    def served(handler):
        reply = reply_to(handler)
        used = reply["usage"]
        if "cache_read_input_tokens" in used:
            used |= {
                "input_tokens": input_tokens - cached_tokens,
                "cache_read_input_tokens": cached_tokens,
                "output_tokens": output_tokens,
            }
        else:
            kind, made = (
                ("prompt", "completion") if "prompt_tokens" in used else ("input", "output")
            )
            used |= {
                f"{kind}_tokens": input_tokens,
                f"{made}_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
                f"{kind}_tokens_details": {"cached_tokens": cached_tokens},
            }
            reply["service_tier"] = handler.body.get("service_tier", "default")
        say(handler, reply)

    return served


def ending(kind, text="Tea is the better of the"):
    """A reply that ends as `kind` says, in each provider's words: `cut`, `filtered` or `refused`."""
    fields = {
        ("openai-chat", "cut"): {"finish": "length"},
        ("openai-chat", "filtered"): {"finish": "content_filter"},
        ("openai-chat", "refused"): {"refusal": "I cannot help with that."},
        ("openai", "cut"): {"finish": "incomplete", "reason": "max_output_tokens"},
        ("openai", "filtered"): {"finish": "incomplete", "reason": "content_filter"},
        ("openai", "refused"): {"refusal": "I cannot help with that."},
        ("anthropic", "cut"): {"finish": "max_tokens"},
        ("anthropic", "filtered"): {"finish": "refusal"},
        ("anthropic", "refused"): {"finish": "refusal"},
    }
    return lambda handler: saying(text, **fields[api_of(handler), kind])(handler)


def garbled(handler):
    """Text instead of the requested JSON."""
    saying("I think A is best, really.")(handler)
