"""The HTTP API: what each route does and answers, with the fields of the command line."""

import asyncio
import json

import pytest
from pydantic import SecretStr
from support import experiments
from support.event_streams import Reader
from support.shown_jobs import worker
from support.web_api import ADDRESS, application, client_of, served

from aragora_q.base import Job
from aragora_q.contracts import Failed
from aragora_q.experiments.comparison import compare
from aragora_q.experiments.evaluation import evaluate
from aragora_q.experiments.reading import read_rows
from aragora_q.experiments.table import row_json
from aragora_q.report.receipt import verify
from aragora_q.streams.queue import create_redis_queue
from aragora_q.views import read_receipt
from aragora_q.web import results
from aragora_q.web.api import jobs
from aragora_q.web.roles import Role

DEBATE = {"question": "Tea or coffee?", "agents": ["demo:bold", "demo:careful"]}
BY = f"alice from {ADDRESS}"


def kind(response):
    """Status and code of a problem, whose form is checked."""
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    found = response.json()
    assert found["status"] == response.status_code
    assert found["type"] == f"urn:aragora-q:{found['code']}"
    assert set(found) - {"id"} == {
        "type", "title", "status", "detail", "code", "hint", "exit_code",
    }  # fmt: skip
    return response.status_code, found["code"], found["exit_code"]


async def test_enqueue_and_get(api, harness):
    """One job: 201 with its address; again: 200, not changed; a job is answered with its history."""
    made = await api.post("/jobs", json={"id": "j1", **DEBATE, "tags": {"env": "prod"}})
    assert (made.status_code, made.json()) == (201, {"id": "j1", "created": True})
    assert made.headers["location"] == f"/api/v1/queues/{harness.config.queue}/jobs/j1"
    again = await api.post("/jobs", json={"id": "j1", "payload": {}})
    assert (again.status_code, again.json()) == (200, {"id": "j1", "created": False})
    job = (await api.get("/jobs/j1")).json()
    assert job["payload"]["question"] == "Tea or coffee?"
    assert (job["tags"], job["status"], job["history"]) == ({"env": "prod"}, "pending", [])


async def test_a_job_without_its_content(api, harness):
    """With `content=false`, a list and a job have no text that a model or a caller wrote."""
    await harness.queue.enqueue_many([Job({"question": "SECRET"}, id="bad", max_attempts=1)])
    worker = await harness.worker("w1")
    await harness.report(worker, await harness.start_one(worker), Failed("SECRET"))
    for address in ("/jobs", "/jobs/bad"):
        assert "SECRET" in (await api.get(address)).text
        found = await api.get(f"{address}?content=false")
        assert "SECRET" not in found.text
        [job] = found.json().get("jobs", [found.json()])
        assert (job["id"], job["status"], job["attempts"]) == ("bad", "failed", 1)
    assert [set(each) for each in job["history"]] == [{"at", "cause", "attempt", "worker"}]


async def test_put_is_idempotent(api, harness):
    """201, then 200 for the same; 409 if payload, labels, priority or attempts differ, also later."""
    body = {"payload": {"n": 1, "f": 1.5}, "group": "g", "priority": 2, "tags": {"a": "b"}}
    assert (await api.put("/jobs/p", json=body)).status_code == 201
    for _ in range(2):
        same = await api.put("/jobs/p", json={**body, "delay_seconds": 60})
        assert (same.status_code, same.json()) == (200, {"id": "p", "created": False})
        await harness.queue.cancel("p")
    for other in (
        {"payload": {"n": 1.0, "f": 1.5}},
        {"group": None},
        {"priority": 0},
        {"tags": {}},
        {"tenant": "t"},
        {"max_attempts": 7},
    ):
        refused = await api.put("/jobs/p", json={**body, **other})
        assert kind(refused) == (409, "job-differs", 65), other
        assert next(iter(other)) in refused.json()["detail"]
    assert kind(await api.put("/jobs/p", json={"id": "q", **body})) == (422, "invalid-payload", 65)
    assert kind(await api.put("/jobs/-", json=body)) == (422, "invalid-payload", 65)


WEBHOOKS = {
    name: {"url": "https://example.com/", "secret_file": "secret"} for name in ("ops", "chat")
}


async def test_notify(new_harness):
    """Jobs and groups name webhooks; jobs that name none have the default; unknown names are refused."""
    harness = new_harness(webhooks=WEBHOOKS, default_notify=("chat",))
    async with (
        application(harness.config) as app,
        client_of(app, harness.config.queue) as api,
    ):
        for job_id, fields in (("a", {}), ("b", {"notify": ["ops"]}), ("c", {"notify": []})):
            body = {"id": job_id, "payload": {}, "group": "g", **fields}
            assert (await api.post("/jobs", json=body)).status_code == 201
        found = [(await api.get(f"/jobs/{job_id}")).json()["notify"] for job_id in "abc"]
        assert found == [["chat"], ["ops"], []]
        unknown = await api.post("/jobs", json={"payload": {}, "notify": ["opps"]})
        assert kind(unknown) == (422, "invalid-payload", 65)
        assert unknown.json()["hint"] == "did you mean 'ops'?"
        other = await api.put("/jobs/b", json={"payload": {}, "group": "g"})
        assert kind(other) == (409, "job-differs", 65)
        assert "notify" in other.json()["detail"]
        for body in ({"notify": ["opps"]}, {"notify": "ops"}, {"then": {"notify": ["opps"]}}):
            assert (await api.post("/groups/g/seal", json=body)).status_code == 422
        sealed = (await api.post("/groups/g/seal", json={"notify": ["ops"]})).json()
        assert (sealed["sealed"], sealed["notify"]) == (True, ["ops"])
        refused = await api.post("/groups/g/seal", json={"notify": ["chat"]})
        assert kind(refused) == (422, "group-sealed", 65)


async def test_put_of_a_fork_is_idempotent(api, harness):
    """A debate made with `from` is found again, and compared, also after its source was deleted."""
    debate = {"question": "Tea?", "agents": ["demo:bold", "demo:careful"], "metadata": {"n": 1}}
    assert (await api.put("/jobs/source", json=debate)).status_code == 201
    worker = await harness.worker("w1")
    job = await harness.start_one(worker)
    for name in ("begun", "call/propose.0.0"):
        await worker.checkpoint(job, name, {})
    await harness.report(worker, job, Failed("x"))
    fork = {"from": "source", "rounds": 1}
    assert (await api.put("/jobs/fork", json=fork)).status_code == 201
    for _ in range(2):
        same = await api.put("/jobs/fork", json=fork)
        assert (same.status_code, same.json()) == (200, {"id": "fork", "created": False})
        other = await api.put("/jobs/fork", json={**fork, "rounds": 2})
        assert kind(other) == (409, "job-differs", 65)
        await harness.queue.purge_many(["source"])
    assert kind(await api.put("/jobs/new", json=fork)) == (422, "invalid-payload", 65)


async def test_puts_at_the_same_time(api, harness, monkeypatch):
    """One enqueues the job, the others find it; one that finds it deleted is asked to try again, not lost."""
    puts = [api.put("/jobs/p", json={"payload": {"n": n % 2}}) for n in range(10)]
    statuses = [each.status_code for each in await asyncio.gather(*puts)]
    assert sorted(statuses) == [200] * 4 + [201] + [409] * 5

    async def enqueue_and_delete(access, checked):
        created = await enqueue(access, checked)
        await harness.queue.cancel(checked.job.id)
        await harness.queue.purge_many([checked.job.id])
        return created

    enqueue = jobs._enqueue
    monkeypatch.setattr(jobs, "_enqueue", enqueue_and_delete)
    refused = await api.put("/jobs/p", json={"payload": {"n": 1}})
    assert kind(refused) == (503, "try-again", 75)
    assert int(refused.headers["retry-after"]) > 0
    monkeypatch.undo()
    assert (await api.put("/jobs/p", json={"payload": {"n": 1}})).status_code == 201


async def test_lines(api, harness):
    """Each line has its result, in order, as by `enqueue`; the last line says how many, and the exit code."""
    body = (
        b'{"id": "a", "payload": {}}\n\n[]\nnot JSON\n{"id": "a", "payload": {}}\n{"payload": {}}'
    )
    answer = await api.post("/jobs", content=body, headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    first, second, third, fourth, last, summary = map(json.loads, answer.text.splitlines())
    assert (first, fourth) == (
        {"line": 1, "id": "a", "created": True},
        {"line": 5, "id": "a", "created": False},
    )
    assert (second["line"], third["line"], last["line"]) == (3, 4, 6)
    assert "not a JSON object" in second["error"]
    assert "not JSON: " in third["error"]
    found = summary["summary"]
    assert (found["created"], found["existing"], found["refused"]) == (2, 1, 2)
    assert (found["exit_code"], found["problem"]) == (3, None)


async def test_lines_of_a_full_queue(new_harness):
    """What does not fit ends the answer with its problem; if nothing fits, the problem is the answer."""
    harness = new_harness(max_backlog=150)
    async with application(harness.config) as app, client_of(app, harness.config.queue) as api:
        lines = {"content-type": "application/x-ndjson"}
        answer = await api.post("/jobs", content=b'{"payload": {}}\n' * 300, headers=lines)
        *results, summary = map(json.loads, answer.text.splitlines())
        assert sum("id" in each for each in results) == 150
        assert summary["summary"]["problem"]["code"] == "queue-full"
        assert summary["summary"]["exit_code"] == 75
        refused = await api.post("/jobs", content=b'{"payload": {}}\n', headers=lines)
        assert kind(refused) == (503, "queue-full", 75)
        assert int(refused.headers["retry-after"]) > 0
        assert kind(await api.post("/jobs", json={"payload": {}})) == (503, "queue-full", 75)


async def test_pages(api, harness):
    """Pages lead to all jobs, each once; filters are those of `list`."""
    await harness.queue.enqueue_many(
        [Job({}, id=f"j{n}", group="odd" if n % 2 else "even") for n in range(23)]
    )
    found, cursor = [], ""
    while True:
        page = (await api.get("/jobs", params={"limit": 10, "cursor": cursor})).json()
        found += [job["id"] for job in page["jobs"]]
        if not (cursor := page["cursor"]):
            break
    assert sorted(found) == sorted(f"j{n}" for n in range(23))
    odd = await api.get("/jobs", params={"group": "odd", "status": ["pending", "failed"]})
    assert len(odd.json()["jobs"]) == 11
    assert (await api.get("/jobs", params={"since": "1h", "tag": "a=b"})).json()["jobs"] == []
    for wrong in (
        {"limit": 0}, {"limit": 9999}, {"cursor": "x"}, {"since": "soon"}, {"status": "no"},
        {"tag": "x"}, {"limt": 5}, {"group": "/"}, {"since": "1h", "until": "2h"},
    ):  # fmt: skip
        assert kind(await api.get("/jobs", params=wrong)) == (422, "invalid-payload", 65), wrong


async def test_a_page_of_long_jobs(api, harness):
    """Payloads that are read one at a time are in the answer as the others are."""
    texts = {f"j{n}": "x" * (n % 2 * 200_000 + 10) for n in range(6)}
    await harness.queue.enqueue_many([Job({"t": text}, id=n) for n, text in texts.items()])
    page = await api.get("/jobs?limit=5")
    found = page.json()
    assert len(found["jobs"]) == 5
    assert all(job["payload"]["t"] == texts[job["id"]] for job in found["jobs"])
    assert (found["errors"], bool(found["cursor"])) == ([], True)
    assert page.headers["cache-control"] == "no-store"


async def test_a_corrupted_job_is_named_and_left_out(api, harness):
    """A page with a job whose data is damaged has all others."""
    await harness.enqueue("good")
    await harness.enqueue("bad")
    harness.redis.hset(harness.keys.job("bad"), "attempts", "many")
    page = (await api.get("/jobs")).json()
    assert [job["id"] for job in page["jobs"]] == ["good"]
    assert "bad" in page["errors"][0]
    assert kind(await api.get("/jobs/bad")) == (422, "invalid-payload", 65)
    harness.redis.hset(harness.keys.job("bad"), "attempts", "0")


async def test_wait(api, harness):
    """A waiting request is answered when the job ends, at once if it has, or after that time."""
    await harness.enqueue("j1")
    waiting = [asyncio.create_task(api.get("/jobs/j1", params={"wait": 60})) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in waiting)
    await harness.queue.cancel("j1")
    async with asyncio.timeout(30):
        for each in await asyncio.gather(*waiting):
            assert each.json()["status"] == "cancelled"
    assert (await api.get("/jobs/j1?wait=60")).json()["status"] == "cancelled"
    await harness.enqueue("j2")
    assert (await api.get("/jobs/j2?wait=0.05")).json()["status"] == "pending"
    assert kind(await api.get("/jobs/j2?wait=61")) == (422, "invalid-payload", 65)
    assert kind(await api.get("/jobs/j2?wait=nan")) == (422, "invalid-payload", 65)


async def test_actions(api, harness):
    """Hold, free, cancel and requeue a job, with who did it and why; unknown jobs are 404."""
    await harness.enqueue("j1")
    because = {"reason": "prices changed"}
    held = await api.post("/jobs/j1/hold", json=because)
    assert held.json() == {"id": "j1", "held": True, "status": "held"}
    hold = (await api.get("/jobs/j1")).json()["hold"]
    assert (hold["by"], hold["reason"]) == (BY, "prices changed")
    unheld = await api.post("/jobs/j1/unhold")
    assert unheld.json() == {"id": "j1", "unheld": True, "status": "pending"}
    cancelled = await api.post("/jobs/j1/cancel", json=because)
    assert cancelled.json() == {"id": "j1", "cancelled": True, "status": "cancelled"}
    again = await api.post("/jobs/j1/cancel")
    assert again.json() == {"id": "j1", "cancelled": False, "status": "cancelled"}
    line = (await api.get("/jobs/j1")).json()["history"][-1]
    assert (line["cause"], line["by"], line["reason"]) == ("cancelled", BY, "prices changed")
    for phase in ("", "votes"):
        wrong = await api.post("/jobs/j1/requeue", json={"from": phase})
        assert kind(wrong) == (422, "invalid-payload", 65)
    early = await api.post("/jobs/j1/requeue", json={"from": "vote"})
    assert kind(early) == (409, "not-requeued", 65)
    requeued = await api.post("/jobs/j1/requeue", json=because)
    assert requeued.json() == {"id": "j1", "requeued": True, "status": "pending"}
    await api.post("/jobs/j1/hold")
    assert kind(await api.post("/jobs/j1/requeue")) == (409, "not-requeued", 65)
    for verb in ("hold", "unhold", "cancel", "requeue"):
        assert kind(await api.post(f"/jobs/none/{verb}")) == (404, "job-not-found", 3)
        assert kind(await api.post(f"/jobs/-/{verb}")) == (404, "job-not-found", 3)
    assert kind(await api.post("/jobs/j1/cancel", json={"reasn": "x"}))[0] == 422


async def test_actions_on_many(api, harness):
    """By ids, a result for each; by filter, only if as many match as expected."""
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", group="g") for n in range(5)])
    some = await api.post("/jobs/cancel", json={"ids": ["j0", "j0", "none", "/"]})
    assert some.json()["changed"] == 1
    assert [each["status"] for each in some.json()["results"]] == ["cancelled"] * 2 + [None] * 2
    group = {"filter": {"group": "g"}}
    counted = await api.post("/jobs/hold", json={**group, "dry_run": True})
    assert counted.json() == {"dry_run": True, "jobs": 4}
    assert kind(await api.post("/jobs/hold", json=group)) == (422, "invalid-payload", 65)
    other = await api.post("/jobs/hold", json={**group, "expected_count": 3})
    assert kind(other) == (409, "count-differs", 65)
    held = await api.post("/jobs/hold", json={**group, "expected_count": 4, "reason": "wait"})
    assert held.json() == {"results": [], "changed": 4, "complete": True}
    freed = await api.post("/jobs/unhold", json={**group, "expected_count": 4})
    assert freed.json()["changed"] == 4
    wanted = {"filter": {"group": "g", "status": ["pending"]}, "expected_count": 4}
    assert (await api.post("/jobs/cancel", json=wanted)).json()["changed"] == 4
    wanted = {"filter": {"since": "1h"}, "expected_count": 5}
    assert (await api.post("/jobs/requeue", json=wanted)).json()["changed"] == 5
    for wrong in (
        {}, {"ids": []}, {"ids": ["a"], "filter": {}}, {"filter": {"status": ["completed"]}},
        {"filter": {"grup": "g"}, "expected_count": 5}, {"ids": ["j1"], "x": 1},
    ):  # fmt: skip
        assert kind(await api.post("/jobs/cancel", json=wrong))[0] == 422, wrong


async def test_results_of_groups(api, harness, monkeypatch):
    """Rows as lines, of all arms or one, the comparison, and the evaluation: as the command line has them."""
    queue = harness.queue
    arms = {"one": (0.5, 0.001, 1), "debate": (1.0, 0.004, 6)}
    await experiments.fill_arms(queue, await worker(queue), "g", 10, arms)
    table = await api.get("/groups/g/table")
    assert table.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in table.text.splitlines()]
    expected = [json.loads(json.dumps(row_json(row))) for row in await read_rows(queue, "g")]
    assert sorted(lines, key=lambda row: row["id"]) == sorted(expected, key=lambda row: row["id"])
    one = await api.get("/groups/g/table", params={"arm": "one"})
    assert {json.loads(line)["arm"] for line in one.text.splitlines()} == {"one"}
    rows = await read_rows(queue, "g")
    comparison = (await api.get("/groups/g/comparison")).json()
    assert comparison == json.loads(json.dumps(compare(rows).to_dict()))
    evaluation = (await api.get("/groups/g/evaluation")).json()
    assert evaluation == json.loads(json.dumps(evaluate(rows).to_dict()))
    for view in ("table", "comparison", "evaluation"):
        assert kind(await api.get(f"/groups/none/{view}")) == (404, "group-not-found", 3)
    assert kind(await api.get("/groups/g/table", params={"arn": "one"}))[0] == 422
    monkeypatch.setattr(results, "MAX_DEBATES", 5)
    for view in ("comparison", "evaluation"):
        assert kind(await api.get(f"/groups/g/{view}")) == (422, "group-too-large", 65)
    assert len((await api.get("/groups/g/table")).text.splitlines()) == 20


async def test_pages_of_groups(api, harness):
    """Each group is on one page, also those that one enqueue made; a cursor of another list is refused."""
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", group=f"g{n}") for n in range(7)])
    await harness.queue.enqueue_many([Job({}, id="late", group="late")])
    names, cursor = [], ""
    while cursor is not None:
        page = (await api.get("/groups", params={"limit": 3, "cursor": cursor})).json()
        names += [each["name"] for each in page["groups"]]
        cursor = page["cursor"]
        assert len(page["groups"]) == (3 if cursor else 2)
    assert names[0] == "late"
    assert sorted(names) == ["g0", "g1", "g2", "g3", "g4", "g5", "g6", "late"]
    assert kind(await api.get("/groups", params={"cursor": "x"}))[0] == 422


async def test_groups(api, harness):
    """A group: listed, shown with what it spent, sealed with what follows, cancelled as a whole."""
    await harness.enqueue("j1", group="nightly")
    listed = (await api.get("/groups")).json()
    assert [each["name"] for each in listed["groups"]] == ["nightly"]
    assert (await api.get("/groups/nightly")).json()["spent"]["calls"] == 0
    sealed = (await api.post("/groups/nightly/seal", json={"then": {"payload": {}}})).json()
    assert (sealed["sealed"], sealed["then"]["id"]) == (True, "nightly.then")
    refused = await api.post("/jobs", json={"payload": {}, "group": "nightly"})
    assert kind(refused) == (422, "group-sealed", 65)
    other = {"then": {"payload": {"n": 1}}}
    assert kind(await api.post("/groups/nightly/seal", json=other))[1] == "group-sealed"
    wrong = {"then": {"payload": {}, "group": "x"}}
    assert kind(await api.post("/groups/nightly/seal", json=wrong))[0] == 422
    cancelled = (await api.post("/groups/nightly/cancel", json={"reason": "no"})).json()
    assert cancelled == {
        "name": "nightly", "dry_run": False, "cancelled": 1,
        "then": {"id": "nightly.then", "status": "cancelled"},
    }  # fmt: skip
    for name in ("none", "-"):
        assert kind(await api.get(f"/groups/{name}")) == (404, "group-not-found", 3)
    assert kind(await api.post("/groups/none/cancel")) == (404, "group-not-found", 3)


async def test_the_queue(api, harness):
    """Pause and resume; statistics and workers."""
    assert (await api.post("/pause", json={"reason": "x"})).json() == {
        "paused": True,
        "changed": True,
    }
    assert (await api.post("/pause")).json() == {"paused": True, "changed": False}
    assert (await api.get("/stats")).json()["paused"]
    assert (await api.post("/resume")).json() == {"paused": False, "changed": True}
    await harness.worker("w1")
    assert (await api.get("/workers")).json()["workers"][0]["worker_id"] == "w1"


async def test_money(api):
    """Budgets are set and reset, providers paused and resumed; a quote says what a debate costs."""
    assert (await api.get("/budgets")).json() == {"budgets": []}
    assert kind(await api.put("/budgets/day", json={"limit_usd": 5}))[0] == 422
    made = await api.put("/budgets/day", json={"limit_usd": 5, "window": "day", "reason": "new"})
    assert (made.json()["limit_usd"], made.json()["override"]["by"]) == (5.0, BY)
    assert (await api.put("/budgets/day", json={"limit_usd": 7})).json()["window"] == "day"
    assert (await api.get("/budgets/day")).json()["limit_usd"] == 7.0
    assert (await api.post("/budgets/day/reset")).json() == {
        "name": "day", "reset": True, "budget": None,
    }  # fmt: skip
    assert kind(await api.get("/budgets/day")) == (404, "budget-not-found", 3)
    paused = await api.post("/providers/openai/pause", json={"reason": "bill"})
    assert paused.json() == {"name": "openai", "paused": True, "changed": True}
    [row] = (await api.get("/providers")).json()["providers"]
    assert (row["provider"], row["pause"]["reason"]) == ("openai", "bill")
    assert (await api.post("/providers/openai/resume")).json()["changed"]
    assert kind(await api.post("/providers/openai/resume")) == (404, "provider-not-found", 3)
    quote = await api.post("/quotes", json=DEBATE)
    assert quote.json()["expected"]["calls"] >= 2
    assert kind(await api.post("/quotes", json={"payload": {}}))[0] == 422
    spent = await api.get("/spend", params={"by": ["day", "model"], "since": "2026-01-01"})
    assert spent.json() == {"rows": [], "left_out": 0, "errors": []}
    wrong = {"since": "2026-02-01", "until": "2026-01-01"}
    assert kind(await api.get("/spend", params=wrong))[0] == 422


async def test_changes(api, harness):
    """What operators did, with the name that the API knows them by, newest first; also from elsewhere."""
    for job_id in ("a", "b"):
        await harness.enqueue(job_id, group="g")
    await harness.queue.pause(by="ann@desk", reason="deploy")
    for address in (
        "/resume",
        "/jobs/a/hold",
        "/jobs/a/unhold",
        "/jobs/a/cancel",
        "/jobs/a/requeue",
    ):
        assert (await api.post(address, json={"reason": "r"})).status_code == 200
    await api.post("/jobs/cancel", json={"ids": ["a", "b"], "reason": "r"})
    for address in ("/groups/g/seal", "/providers/openai/pause", "/providers/openai/resume"):
        await api.post(address, json={"reason": "r"})
    await api.put("/budgets/day", json={"limit_usd": 5, "window": "day", "reason": "r"})
    await api.post("/budgets/day/reset", json={"reason": "r"})
    *found, first = (await api.get("/changes")).json()["changes"]
    assert [(each["verb"], each["subject"], each["ids"]) for each in found] == [
        ("reset", "budget:day", []), ("set", "budget:day", []), ("resume", "provider:openai", []),
        ("pause", "provider:openai", []), ("seal", "group:g", []), ("cancel", None, ["a", "b"]),
        ("requeue", None, ["a"]), ("cancel", None, ["a"]), ("unhold", None, ["a"]), ("hold", None, ["a"]),
        ("resume", None, []),
    ]  # fmt: skip
    assert {(each["by"], each["reason"]) for each in found} == {(BY, "r")}
    assert (first["by"], first["reason"], first["verb"]) == ("ann@desk", "deploy", "pause")
    limited = (await api.get("/changes", params={"limit": 1, "since": "1h"})).json()["changes"]
    assert limited == found[:1]
    assert (await api.get("/changes", params={"since": "2099-01-01"})).json() == {"changes": []}
    for wrong in ({"limit": 0}, {"since": "yesterday"}, {"x": 1}):
        assert kind(await api.get("/changes", params=wrong))[0] == 422


async def test_a_debate(api, harness):
    """The rounds of a debate as far as they are; 422 for another job."""
    await api.post("/jobs", json={"id": "d", **DEBATE})
    shown = (await api.get("/jobs/d/debate")).json()
    assert (shown["rounds"], shown["result"]) == ([], None)
    assert "result" not in shown["job"]
    await harness.enqueue("other")
    assert kind(await api.get("/jobs/other/debate")) == (422, "invalid-payload", 65)


async def test_a_receipt(harness):
    """The bytes of `receipt`, signed with the console's key; 409 before the end of the job, 404 without one."""
    key = "the key of the console: 32 characters"
    config = harness.config.model_copy(update={"receipt_key": SecretStr(key)})
    async with application(config) as app, client_of(app, config.queue) as api:
        await harness.enqueue("j", tags={"env": "prod"})
        assert kind(await api.get("/jobs/j/receipt")) == (409, "job-not-ended", 75)
        assert kind(await api.get("/jobs/unknown/receipt"))[0] == 404
        session = await harness.worker()
        await harness.report(session, await harness.start_one(session), Failed("no"))
        answer = await api.get("/jobs/j/receipt")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert verify(answer.content, key).is_verified(requires_signature=True)
    found = answer.json()
    assert found["degradation"] == [{"code": "failed", "text": "the job failed: no"}]
    assert found["receipt"]["tags"] == {"env": "prod"}
    queue = await create_redis_queue(config)
    assert await read_receipt(queue, "j") == answer.content
    await queue.close()


async def test_events(api, harness):
    """Events of a job, or of all after the last one that a client has; a gap where some are lost."""
    for job_id in ("j1", "j2"):
        await harness.enqueue(job_id)
    await harness.queue.cancel("j1")
    assert kind(await api.get("/events?after=x")) == (422, "invalid-payload", 65)
    async with application(harness.config) as app, served(app) as address:
        stream = client_of(app, harness.config.queue, address)
        async with stream as client, client.stream("GET", "/events?job=j1&after=0") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            reader = Reader(response.aiter_bytes())
            first, second = await reader.take(2)
            assert [(each["id"], each["event"]) for each in (first, second)] == [
                ("j1", "enqueued"), ("j1", "cancelled"),
            ]  # fmt: skip
        stream = client_of(app, harness.config.queue, address)
        ids = {"last-event-id": first["event_id"]}
        async with stream as client, client.stream("GET", "/events", headers=ids) as response:
            found = await Reader(response.aiter_bytes()).take(2)
            assert [each["id"] for each in found] == ["j2", "j1"]
        harness.redis.xtrim(harness.keys.events, maxlen=1, approximate=False)
    async with application(harness.config) as app, served(app) as address:
        stream = client_of(app, harness.config.queue, address)
        async with stream as client, client.stream("GET", "/events", headers=ids) as response:
            gap, last = await Reader(response.aiter_bytes()).take(2)
            assert (gap["event"], last["event"]) == ("gap", "cancelled")


async def test_limits_of_a_job(api):
    """A job above `approve_above_usd` waits; one above `max_quote_usd` is refused."""
    held = (await api.post("/jobs", json={"payload": {}, "approve_above_usd": 1})).json()
    assert (held["held"], held["most_usd"]) == (True, None)
    refused = await api.post("/jobs", json={"payload": {}, "max_quote_usd": 0.01})
    assert kind(refused) == (422, "invalid-payload", 65)
    for method, address in (("PUT", "/jobs/p"), ("POST", "/jobs")):  # its price may have changed
        await api.post("/jobs", json={"id": "p", "payload": {}})
        body = {"id": "p", "payload": {}, "max_quote_usd": 0.01}
        same = await api.request(method, address, json=body)
        assert (same.status_code, same.json()) == (200, {"id": "p", "created": False})
    flex = await api.post("/jobs", json={**DEBATE, "service_tier": "flex"})
    assert "no agent has the service tier flex" in flex.json()["warning"]


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.PRODUCER])
async def test_roles(harness, role):
    """Without a login 401, and only what a role may do: reading, enqueueing, too, acting, too."""
    await harness.enqueue("j1")
    async with (
        application(harness.config, role) as app,
        client_of(app, harness.config.queue) as api,
    ):
        answers = [
            await api.get("/jobs/j1"),
            await api.post("/jobs", json={"payload": {}}),
            await api.post("/jobs/j1/cancel"),
        ]
    allowed = [] if role is None else [*Role][: [*Role].index(role) + 1]
    assert [each.is_success for each in answers] == [need in allowed for need in Role]
    for refused in answers[len(allowed) :]:
        expected = (401, "not-logged-in", 77) if role is None else (403, "access-denied", 77)
        assert kind(refused) == expected
    if role is None:
        assert answers[0].headers["www-authenticate"] == 'Bearer realm="aragora-q"'


async def test_a_failed_job_is_requeued(api, harness):
    """A failed job runs again; one that is unknown in a list of ids is reported so."""
    worker = await harness.worker("w1")
    await harness.enqueue("j1")
    await harness.report(worker, await harness.start_one(worker), Failed("no"))
    found = await api.post("/jobs/requeue", json={"ids": ["j1", "none"]})
    assert found.json() == {
        "results": [
            {"id": "j1", "requeued": True, "status": "pending"},
            {"id": "none", "requeued": False, "status": None},
        ],
        "changed": 1,
        "complete": True,
    }
