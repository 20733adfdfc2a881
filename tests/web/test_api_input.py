"""The HTTP API against hostile input, and while Redis is away: a problem for each, never a defect."""

import asyncio
import json

import pytest
from support.web_api import application, client_of, served

from aragora_q.web.roles import Role

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def app(harness):
    async with application(harness.config) as app:
        yield app


@pytest.fixture
async def api(app, harness):
    async with client_of(app, harness.config.queue) as client:
        yield client


def code(response):
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize(
    "job_id",
    ["a%2Fb", "..%2F..%2Fetc", "%00", "a%00b", "%25", "%ff", "%C3%A9", "%F0%9F%98%80", "a%0D%0Ab",
     "%EF%BF%BF", "a:b", "-a", "%20", "x" * 65, "x" * 5_000, "%ED%A0%80"],
)  # fmt: skip
async def test_impossible_ids(api, job_id):
    """Whatever an address names that is not a job id, the job is not found, or the route."""
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/debate", f"/groups/{job_id}"):
        assert code(await api.get(path))[0] == 404, path
    for path in (f"/jobs/{job_id}/cancel", f"/jobs/{job_id}/requeue", f"/groups/{job_id}/cancel"):
        assert code(await api.post(path))[0] in {404, 422}, path
    put = await api.put(f"/jobs/{job_id}", content=b'{"payload": {}}', headers=JSON)
    assert code(put)[0] in {404, 422}


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"[]", b'"x"', b"1", b"{", b"{}", b"\xff\xfe{\0}\0", b'{"id": "\xff"}', b"\0",
        b'{"payload": {"n": NaN}}', b'{"payload": {"n": Infinity}}', b'{"payload": {"n": 1e999}}',
        b'{"payload": {"n": %s}}' % (b"9" * 5_000), DEEP, b'{"payload": {"n": %s}}' % DEEP,
        b'{"payload": []}', b'{"payload": null}', b'{"question": 1, "agents": {}}', b'{"payload": {}, "id": 7}',
        b'{"payload": {}, "id": "\\ud800"}', b'{"payload": {"n": "\\ud800"}}',
        b'{"payload": {}, "priority": 1e3}',
        b'{"payload": {}, "priority": true}', b'{"payload": {}, "delay_seconds": "1"}',
        b'{"payload": {}, "delay_seconds": -1}', b'{"payload": {}, "tags": []}',
        b'{"payload": {}, "tags": {"": 1}}',
        b'{"payload": {}, "group": {}}', b'{"payload": {}, "approve_above_usd": "x"}',
        b'{"payload": {}, "max_attempts": 99999999999999999999}', b'{"payload": {}, "unknown": 1}',
        b'{"payload": {}} {"payload": {}}',
    ],
)  # fmt: skip
async def test_bodies_that_are_no_job(api, harness, body):
    """422 for JSON that is none, nothing is enqueued; the same as a line is an error of that line."""
    for send in (api.post("/jobs", content=body, headers=JSON), api.put("/jobs/x", content=body, headers=JSON),
                 api.post("/quotes", content=body, headers=JSON)):  # fmt: skip
        response = await send
        assert code(response) == (422, "invalid-payload"), response.text
    lines = await api.post("/jobs", content=body, headers=LINES)
    *results, summary = map(json.loads, lines.text.splitlines())
    assert all("error" in each for each in results)
    assert summary["summary"]["created"] == 0
    assert (await harness.queue.get_queue_stats())["stream_length"] == 0


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"\xff", b'{"reason": 1}', b'{"reason": "%s"}' % (b"x" * 501), DEEP]
)
async def test_reasons_that_are_none(api, harness, body):
    """An action with a body that is not its own changes nothing."""
    await harness.enqueue("j1")
    for path in ("/jobs/j1/cancel", "/pause", "/budgets/x/reset", "/providers/x/pause"):
        assert code(await api.post(path, content=body, headers=JSON)) == (422, "invalid-payload")
    assert await harness.queue.get_status("j1") == "pending"


async def test_duplicate_keys(api, harness):
    """The last one counts, as on the command line."""
    await api.post("/jobs", content=b'{"id": "a", "id": "b", "payload": {}}', headers=JSON)
    assert await harness.queue.get_status("b") == "pending"


@pytest.mark.parametrize(
    "type_",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json5",
        "\xe9",
        "multipart/form-data; boundary=x",
    ],
)
async def test_other_content_types(api, type_):
    """A body of another type than JSON is 415: no form of another site can be one."""
    headers = {"content-type": type_.encode("latin-1")}
    for path in ("/jobs", "/jobs/x/cancel", "/jobs/cancel", "/quotes", "/pause"):
        response = await api.post(path, content=b'{"payload": {}}', headers=headers)
        assert code(response) == (415, "wrong-media-type"), path
    with_charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert (
        await api.post("/jobs", content=b'{"payload": {}}', headers=with_charset)
    ).status_code == 201


async def test_long_bodies(api):
    """100 MB are refused with 413 once the limit is reached; a long line is an error of that line."""
    sent = 0

    async def body():
        nonlocal sent
        yield b'{"payload": {"text": "'
        for _ in range(100):
            sent += 1
            yield b"x" * 1_000_000

    assert code(await api.post("/jobs", content=body(), headers=JSON)) == (413, "body-too-large")
    assert code(await api.post("/jobs/x/cancel", content=body(), headers=JSON)) == (
        413,
        "body-too-large",
    )
    assert sent < 100
    answer = await api.post("/jobs", content=body(), headers=LINES)
    refused, summary = map(json.loads, answer.text.splitlines())
    assert "longer than" in refused["error"]
    assert summary["summary"]["refused"] == 1


async def test_routes_that_do_not_exist(api, app):
    """An unknown route, another method and another queue are problems, too."""
    assert code(await api.get("/nothing")) == (404, "not-found")
    assert code(await api.get("/jobs/")) == (404, "not-found")
    for address in ("/api/", "/api/v1", "/api/v1/", "/api/v2/queues", "/api/queues/x/stats"):
        response = await api.get(f"http://console{address}")
        assert code(response) == (404, "not-found"), address
    wrong = await api.request("DELETE", "/jobs/x")
    assert code(wrong) == (405, "method-not-allowed")
    assert wrong.headers["allow"] == "GET, PUT"
    async with client_of(app, "other") as other:
        response = await other.get("/stats")
        assert code(response) == (404, "queue-not-found")
        assert "serves queue" in response.json()["hint"]


async def test_a_defect_says_nothing_of_the_inside(api, monkeypatch, harness):
    """500 with a code; the message of the error is for the log."""
    from aragora_q.web.api import queue

    async def broken(*_):
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(queue.views, "stats_json", broken)
    response = await api.get("/stats")
    assert code(response) == (500, "internal-error")
    assert "secret" not in response.text


async def test_lines_are_answered_while_they_are_sent(app, harness):
    """The result of the first line is there before the last line is sent."""
    head = (
        f"POST /api/v1/queues/{harness.config.queue}/jobs HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: application/x-ndjson\r\nConnection: close\r\nContent-Length: 60\r\n\r\n"
    )
    async with served(app) as address, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.write(head.encode() + b'{"id": "first", "payload": {}}\n')
        await reader.readuntil(b'{"line":1,"id":"first","created":true}\n')
        writer.write(b'{"id": "last", "payload": {}}')
        await reader.readuntil(b'{"line":2,"id":"last","created":true}\n')
        assert b'"exit_code":0' in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_lines_while_the_process_stops(app, harness):
    """The summary names the end of the process, and all that was enqueued has its result."""
    head = (
        f"POST /api/v1/queues/{harness.config.queue}/jobs HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: application/x-ndjson\r\nConnection: close\r\nContent-Length: 900\r\n\r\n"
    )
    async with served(app) as address, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.write(head.encode() + b'{"id": "first", "payload": {}}\n')
        await reader.readuntil(b'{"line":1,"id":"first","created":true}\n')
        app.app.state.console.feed.end_streams()
        writer.write(b'{"id": "next", "payload": {}}\n')
        rest = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b'{"line":2,"id":"next","created":true}\n{"summary":{"created":2,' in rest
    assert b'"code":"try-again"' in rest


async def test_a_client_that_reads_after_it_has_sent_all(app, harness):
    """Many results wait for their reader, and do not stop the lines."""
    count = 60_000
    async with (
        served(app) as address,
        client_of(app, harness.config.queue, address) as api,
        asyncio.timeout(60),
    ):
        answer = await api.post("/jobs", content=b"[]\n" * count, headers=LINES)
    *results, summary = answer.text.splitlines()
    assert len(results) == count
    assert json.loads(summary)["summary"]["refused"] == count


async def test_redis_away(own_server, new_harness):
    """While no server answers: 502 or 503 with Retry-After and the code; afterwards all is as before."""
    server = own_server()
    harness = new_harness(redis_url=server.url)
    async with (
        application(harness.config, Role.OPERATOR) as app,
        client_of(app, harness.config.queue) as api,
    ):
        assert (await api.get("/stats")).status_code == 200
        server.kill()
        for answer in (
            await api.get("/stats"), await api.get("/jobs"), await api.get("/jobs/x"),
            await api.post("/jobs", json={"payload": {}}), await api.post("/jobs/x/cancel"),
            await api.post("/jobs", content=b'{"payload": {}}\n', headers=LINES),
        ):  # fmt: skip
            assert code(answer) == (502, "redis-unreachable")
            assert answer.json()["exit_code"] == 69
            assert int(answer.headers["retry-after"]) > 0
        server.start()
        assert (await api.get("/jobs")).status_code == 200
