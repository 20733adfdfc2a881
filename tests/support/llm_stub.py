"""A provider of language models on loopback: protocols of OpenAI and Anthropic, with faults on demand.

It answers what is requested: JSON by the schema, a tool call, or text that differs by model.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = "The answer of {model}."


class Stub:
    """A provider; `fault(number, model)` returns what goes wrong with a call, or None. Calls count from 1."""

    def __init__(self, fault=lambda number, model: None, delay_seconds=0.0):
        self.fault = fault
        self.delay_seconds = delay_seconds
        self.asked = []
        self.answered = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
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
        base_url = self.address + ("/v1" if api == "openai" else "")
        return {
            "model": f"{api}:{model}",
            "base_url": base_url,
            "api_key_env": "STUB_KEY",
            **settings,
        }

    def _note(self, body):
        with self._lock:
            self.asked.append({"model": body["model"], "body": body})
            return len(self.asked)

    def _handler(stub):  # noqa: N805 - `self` is the handler's inside
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = stub._note(body)
                fault = stub.fault(number, body["model"])
                if fault is not None:
                    fault(self)
                    return
                time.sleep(stub.delay_seconds)
                reply = (
                    openai_reply(body) if "chat/completions" in self.path else anthropic_reply(body)
                )
                try:
                    send(self, 200, reply)
                except OSError:  # the client is gone: it was killed
                    return
                with stub._lock:
                    stub.answered.append(number)

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


def filled(schema):
    """A value that is valid for the JSON schema."""
    value = {}
    for name, rule in schema["properties"].items():
        if "enum" in rule:
            value[name] = rule["enum"][0]
        elif "const" in rule:
            value[name] = rule["const"]
        else:
            value[name] = {"string": "Nothing is wrong.", "integer": 70, "boolean": False}[
                rule["type"]
            ]
    return value


def openai_reply(body, content=None, finish="stop"):
    if content is None and (form := body.get("response_format")):
        content = json.dumps(filled(form["json_schema"]["schema"]))
    message = {"role": "assistant", "content": content or ANSWER.format(model=body["model"])}
    if content is None and (tools := body.get("tools")):
        function = {
            "name": tools[0]["function"]["name"],
            "arguments": json.dumps(filled(tools[0]["function"]["parameters"])),
        }
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        }
        finish = "tool_calls"
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40},
    }


def anthropic_reply(body, content=None, stop="end_turn"):
    if content is None:
        text = ANSWER.format(model=body["model"])
        if form := body.get("output_config", {}).get("format"):
            text = json.dumps(filled(form["schema"]))
        content = [{"type": "text", "text": text}]
        if tools := body.get("tools"):
            tool = tools[0]
            call = {"name": tool["name"], "input": filled(tool["input_schema"])}
            content, stop = [{"type": "tool_use", "id": "t1", **call}], "tool_use"
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 30, "output_tokens": 10},
    }


# Faults, in each provider's format.


def refusal(status, api, kind, message, **headers):
    """An error in the provider's format."""
    error = {"type": kind, "message": message, "code": kind}
    body = {"type": "error", "error": error} if api == "anthropic" else {"error": error}
    return lambda handler: send(handler, status, body, **headers)


def cut(handler):
    """The connection breaks in the middle of the reply."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id":')
    handler.wfile.flush()
    handler.connection.close()
    handler.close_connection = True


def html(handler):
    """An HTML page instead of JSON."""
    send(handler, 200, b"<html><body>Please log in</body></html>", "text/html")


def silence(handler):
    """No reply within any timeout."""
    time.sleep(3)
    handler.close_connection = True


def filtered(api):
    """The content filter refused the answer."""
    if api == "openai":
        reply = openai_reply({"model": "m"}, content="", finish="content_filter")
        reply["choices"][0]["message"]["content"] = None
    else:
        reply = anthropic_reply({"model": "m"}, content=[], stop="refusal")
    return lambda handler: send(handler, 200, reply)


def garbled(handler):
    """Text instead of the requested JSON."""
    if "chat/completions" in handler.path:
        send(handler, 200, openai_reply({"model": "m"}, content="I think A is best, really."))
    else:
        text = [{"type": "text", "text": "I think A is best, really."}]
        send(handler, 200, anthropic_reply({"model": "m"}, content=text))
