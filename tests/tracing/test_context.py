"""Trace contexts as jobs carry them."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from aragora_q import tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
MEMBER = "a=" + "x" * 225


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "expected"),
    [
        (PARENT, None, PARENT),
        (f" {PARENT}\n", "", PARENT),
        (PARENT, "vendor=1,other=a b", f"{PARENT} vendor=1,other=a b"),
        (PARENT, "v=" + "x" * 600, PARENT),
        (PARENT, "v=\x1b[31m", PARENT),
        (PARENT, "v=é", PARENT),
        (PARENT, "v=1,not a member", PARENT),
        (PARENT, "7v@tenant=1 ,\tv=2", f"{PARENT} 7v@tenant=1 ,\tv=2"),
        (PARENT, ",".join(f"v{n}=1" for n in range(33)), PARENT),
        (PARENT, f"{MEMBER},b=" + "x" * 226, f"{PARENT} {MEMBER},b=" + "x" * 226),
        (PARENT, f"{MEMBER},b=" + "x" * 227, PARENT),
        (f"cc{PARENT[2:]}", "vendor=1", f"{PARENT} vendor=1"),
        (f"01{PARENT[2:]}-extra", None, PARENT),
        (f"01{PARENT[2:]}extra", None, ""),
        (f"01{PARENT[2:-1]}", None, ""),
        (PARENT.upper(), None, ""),
        (PARENT.replace(TRACE, "0" * 32), None, ""),
        (f"ff{PARENT[2:]}", None, ""),
        (f"ff{PARENT[2:]}-01", None, ""),
        (f"{PARENT}-01", None, ""),
        (f"{PARENT}-", None, ""),
        ("garbage\n", "vendor=1", ""),
        ("", "vendor=1", ""),
        (None, None, ""),
    ],
)
def test_headers_are_carried_if_they_are_valid(traceparent, tracestate, expected):
    """An invalid `traceparent` drops both; a `tracestate` that is invalid or too long is left out.

    Both have at most 512 bytes. A later version than 00 is read by the fields of 00, and carried as such.
    """
    assert tracing.parse(traceparent, tracestate) == expected


def test_without_a_provider_there_are_no_spans():
    """A span does nothing, and the context that the program received is passed on."""
    token = tracing.received.set(PARENT)
    try:
        with tracing.span("anything") as span:
            assert (span.context, tracing.current(), tracing.current_ids()) == ("", PARENT, {})
    finally:
        tracing.received.reset(token)


def test_spans_have_the_parent_that_they_are_given(spans):
    """By default the current span, else what was received; a text: that context; empty: a new trace, linked."""
    token = tracing.received.set(f"{PARENT} vendor=1")
    try:
        with tracing.span("first") as first:
            assert first.context == f"00-{TRACE}-{first.ids['span_id']}-01 vendor=1"
            assert tracing.current() == first.context
            assert tracing.current_ids() == first.ids
            with (
                tracing.span("inner"),
                tracing.span("other", parent="", link=first.context) as other,
            ):
                assert other.ids["trace_id"] != TRACE
    finally:
        tracing.received.reset(token)
    ended = {span.name: span for span in spans.get_finished_spans()}
    assert f"{ended['first'].parent.span_id:016x}" == "00f067aa0ba902b7"
    assert ended["inner"].parent.span_id == ended["first"].context.span_id
    assert ended["other"].parent is None
    [link] = ended["other"].links
    assert link.context.span_id == ended["first"].context.span_id


def test_an_error_is_named_by_its_type_only(spans):
    """The text of an error may be that of a job: a span has none."""
    with pytest.raises(ValueError, match="secret"), tracing.span("fails"):
        raise ValueError("secret question")
    [span] = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, None)
    assert dict(span.attributes) == {"error.type": "ValueError"}
    assert span.events == ()


def test_a_provider_that_does_not_load_is_asked_for_once(monkeypatch, caplog):
    """OpenTelemetry logs a traceback for each time. One that the program sets later is used."""
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "other")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(tracing, "_last", (None, None))
    for _ in range(3):
        assert not tracing.is_on()
    assert [record.name for record in caplog.records if record.exc_info] == [
        "opentelemetry.util._providers"
    ]
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    assert tracing.is_on()


class Rude(SpanProcessor):
    """Raises when a span begins, or when it ends."""

    def __init__(self, when):
        self.when = when

    def on_start(self, span, parent_context=None):
        if self.when == "start":
            raise RuntimeError("secret")

    def on_end(self, span):
        if self.when == "end":
            raise RuntimeError("secret")


@pytest.mark.parametrize("when", ["start", "end"])
def test_what_a_program_adds_to_spans_cannot_harm_what_they_cover(when, monkeypatch, caplog):
    """Bodies run once, their errors pass, and one line says that a span is lost."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Rude(when))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(tracing, "_has_warned", False)
    runs = []
    with tracing.span("whole") as span:
        runs.append(span)
    with tracing.LazySpan("phase") as phase, phase.span("call"):
        runs.append("call")
    tracing.record("pass", 1.0, {})
    with pytest.raises(KeyError), tracing.span("fails"):
        raise KeyError
    assert len(runs) == 2
    [line] = caplog.messages
    assert "RuntimeError" in line
    assert "secret" not in line
    assert tracing.current_ids() == {}
