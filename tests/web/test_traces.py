"""Requests to the API: each continues the trace of its headers; one that may change the queue has a span."""

import asyncio

import pytest

from aragora_q import tracing
from aragora_q.errors import RedisUnreachable
from aragora_q.streams.queue import RedisStreamsQueue

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
JOBS = "/api/v1/queues/{queue}/jobs"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("traceparent", PARENT)], PARENT),
        (
            [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")],
            f"{PARENT} a=1,b=2",
        ),
        ([("traceparent", PARENT), ("traceparent", PARENT)], ""),
        ([("traceparent", PARENT), ("tracestate", b"a=\xff\xfe")], PARENT),
        ([("traceparent", PARENT), ("tracestate", "a" * 9_000)], PARENT),
        ([("traceparent", b"00-\xff\x00")], ""),
        ([("traceparent", "0" * 9_000)], ""),
        ([("tracestate", "a=1")], ""),
        ([], ""),
    ],
)
async def test_a_job_carries_the_context_of_its_request(api, harness, headers, expected):
    """A context that is wrong or repeated is dropped; the request is answered as without it."""
    made = await api.post("/jobs", json={"id": "job", "payload": {}}, headers=headers)
    assert made.status_code == 201
    assert (await harness.queue.get_job("job")).trace == expected


async def test_contexts_of_concurrent_requests_do_not_mix(api, harness):
    """Each job carries that of its own request, also of a stream of lines, or none."""

    async def send(number):
        headers = {"traceparent": PARENT.replace(TRACE, f"{number:032x}")} if number % 3 else {}
        if number % 2:
            body = {"json": {"id": f"j{number}", "payload": {}}}
        else:
            headers["Content-Type"] = "application/x-ndjson"
            body = {"content": b'{"id": "j%d", "payload": {}}\n' % number}
        assert (await api.post("/jobs", headers=headers, **body)).status_code in (200, 201)
        return headers.get("traceparent", "")

    sent = await asyncio.gather(*map(send, range(40)))
    found = [(await harness.queue.get_job(f"j{number}")).trace for number in range(40)]
    assert found == sent
    assert len(set(sent)) > 20


async def test_a_change_is_a_span(api, harness, spans):
    """Its parent is that of the headers, its child the span of the enqueue. Reads have none. It has no text."""
    for job in ("a", "b"):
        await api.put(
            f"/jobs/{job}?wait=SECRET", json={"payload": {"q": "SECRET"}},
            headers={"traceparent": PARENT} if job == "a" else {},
        )  # fmt: skip
        await api.get(f"/jobs/{job}", headers={"traceparent": PARENT})
    first, second = (each for each in spans.get_finished_spans() if each.kind.name == "SERVER")
    assert (first.name, f"{first.context.trace_id:032x}") == (f"PUT {JOBS}/{{job_id}}", TRACE)
    assert (f"{first.parent.span_id:016x}", second.parent) == (PARENT[36:52], None)
    assert dict(first.attributes) == {
        "http.request.method": "PUT",
        "http.route": f"{JOBS}/{{job_id}}",
        "http.response.status_code": 201,
        "url.scheme": "http",
    }
    producers = [each for each in spans.get_finished_spans() if each.kind.name == "PRODUCER"]
    assert [each.parent.span_id for each in producers] == [
        first.context.span_id,
        second.context.span_id,
    ]
    assert len(spans.get_finished_spans()) == 4
    assert not any("SECRET" in each.to_json() for each in spans.get_finished_spans())
    assert tracing.trace_id((await harness.queue.get_job("a")).trace) == TRACE


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (RedisUnreachable("SECRET"), 502, "502"),
        (RuntimeError("SECRET"), 500, "RuntimeError"),
        (None, 422, None),
    ],
)
async def test_only_faults_of_the_server_are_errors(
    api, spans, monkeypatch, error, status, error_type
):
    """A span has the type of an error, never its text; a refused request is not an error of the server."""

    async def fail(*_, **__):
        raise error

    if error is not None:
        monkeypatch.setattr(RedisStreamsQueue, "enqueue_checked", fail)
    answer = await api.post("/jobs", json={"payload": {} if error else 1})
    assert answer.status_code == status
    [span] = [each for each in spans.get_finished_spans() if each.kind.name == "SERVER"]
    assert span.attributes.get("error.type") == error_type
    assert span.attributes["http.response.status_code"] == status
    assert span.status.is_ok == (error is None)
    assert "SECRET" not in span.to_json()


async def test_a_method_that_a_route_does_not_have_makes_no_span(api, spans):
    """Such a request changes nothing."""
    assert (await api.delete("/jobs")).status_code == 405
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_one_job_without_a_trace_of_its_caller_is_in_that_of_its_request(
    api, harness, spans, method
):
    """The request, the enqueue and the attempt are one tree."""
    path, body = ("/jobs", {"id": "job"}) if method == "POST" else ("/jobs/job", {})
    answer = await api.request(method, path, json={**body, "payload": {}})
    assert answer.status_code == 201
    [producer] = [each for each in spans.get_finished_spans() if each.kind.name == "PRODUCER"]
    [server] = [each for each in spans.get_finished_spans() if each.kind.name == "SERVER"]
    assert producer.parent.span_id == server.context.span_id
    carried = (await harness.queue.get_job("job")).trace
    assert (
        tracing.headers(carried)["traceparent"].split("-")[2] == f"{producer.context.span_id:016x}"
    )


async def test_lines_without_a_trace_of_their_caller_begin_their_own(api, harness, spans):
    """Also if the console makes a span of the request: else a file of debates would be one trace."""
    lines = b"".join(b'{"id": "j%d", "payload": {}}\n' % number for number in range(3))
    kind = {"Content-Type": "application/x-ndjson"}
    assert (await api.post("/jobs", headers=kind, content=lines)).status_code == 200
    assert [(await harness.queue.get_job(f"j{number}")).trace for number in range(3)] == [""] * 3
