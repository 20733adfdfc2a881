"""Spans of `aragora-q web` as a process."""

import json
import signal
import socket

from support import consoles

from aragora_q.web.roles import Role

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JOBS = "/api/v1/queues/debates/jobs"


def test_only_changes_are_sent_and_each_is_of_its_request(
    acl_server, start_console, tmp_path, receiver
):
    """Requests sent at once on one connection do not share a trace. No login code and no payload is sent."""
    tokens = consoles.write_tokens(tmp_path / "tokens", *Role)
    variables = consoles.settings(
        acl_server.urls,
        ARAGORA_QUEUE_WEB_TOKENS_FILE=str(tmp_path / "tokens"),
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_PROPAGATORS="b3",  # not installed: stops nothing
        FASTAPI_OTEL_AUTO_CONFIGURE="true",
    )
    console = start_console(**variables)
    console.get("/login?code=SECRET")

    def post(*headers):
        body = json.dumps({"payload": {"q": "SECRET"}})
        more = "".join(f"{each}\r\n" for each in headers)
        return (
            f"POST {JOBS}?q=SECRET HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {tokens[Role.PRODUCER]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{more}\r\n{body}"
        ).encode()

    with socket.create_connection((console.host, console.port), 60) as client:
        client.sendall(post(f"traceparent: {PARENT}") + post() + post("Connection: close"))
        with client.makefile("rb") as answers:
            assert answers.read().count(b"HTTP/1.1 201") == 3
    assert console.stop() == -signal.SIGTERM
    posts = receiver.named(f"POST {JOBS.replace('debates', '{queue}')}")
    assert [span.parent_id for span in posts] == [PARENT[36:52], "", ""]
    assert len({span.trace_id for span in posts}) == 3
    lines = [line for line in console.log.splitlines() if " request actor=" in line]
    assert [f"trace_id={each.trace_id} span_id={each.span_id}" in line
            for line, each in zip(lines, posts, strict=True)] == [True] * 3  # fmt: skip
    assert {span.name for span in receiver.spans} == {posts[0].name, "enqueue debates"}
    assert not any(b"SECRET" in body for body in receiver.bodies)
