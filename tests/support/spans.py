"""Spans for tests: those of this process, and a receiver of those of others.

`Receiver` speaks OTLP over HTTP with the classes that OpenTelemetry generates from its protocol.
"""

import gzip
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """One span; ids are hexadecimal, as in logs, and `parent_id` of a root is empty."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    attributes: dict = field(hash=False)
    links: tuple  # of (trace id, span id)
    is_error: bool
    resource: dict = field(hash=False)


class Receiver:
    """An OTLP receiver on loopback: it waits for `may_answer`, and answers with `status` and `headers`."""

    def __init__(self):
        self.spans: list[ReceivedSpan] = []
        self.metrics = []
        """Metrics, as `opentelemetry.proto.metrics.v1.Metric`."""
        self.bodies: list[bytes] = []
        """All requests, uncompressed, in which a text can be looked for."""
        self.requests = 0
        self.status, self.headers = 200, {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests += 1
                receiver.may_answer.wait()
                if receiver.status == 200:
                    receiver._take(self.path, body)
                self.send_response(receiver.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_args):
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def named(self, name):
        """The spans with a name."""
        return [span for span in list(self.spans) if span.name == name]

    def parents(self, span):
        """The names of a span's parents, the nearest first."""
        by_id = {each.span_id: each for each in list(self.spans)}
        names = []
        while span := by_id.get(span.parent_id):
            names.append(span.name)
        return names

    def _take(self, path, body):
        self.bodies.append(body)
        if path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(body)
            for each in request.resource_spans:
                resource = _values(each.resource.attributes)
                for scope in each.scope_spans:
                    self.spans += [_span(span, resource) for span in scope.spans]
        elif path == "/v1/metrics":
            for each in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in each.scope_metrics:
                    self.metrics += scope.metrics

    def close(self):
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def receiving():
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def _span(span, resource):
    return ReceivedSpan(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        _values(span.attributes),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        span.status.code == span.status.STATUS_CODE_ERROR,
        resource,
    )


def _values(attributes):
    return {each.key: _value(each.value) for each in attributes}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
