"""Schedules and webhooks in the HTTP API: what is read, what operators do, and what is refused."""

import json
import re

import pytest
from support.web_api import ADDRESS, application, client_of

from aragora_q.base import Job
from aragora_q.contracts import ClaimRequest, Plan, ScheduleState, Settled

SETTINGS = {
    "schedules": {
        "report": {"cron": "0 6 * * MON", "time_zone": "Europe/Berlin", "job": {"payload": {}}}
    },
    "webhooks": {"ops": {"url": "https://hooks.example.com/secret-path", "secret_file": "ops"}},
}
BY = f"alice from {ADDRESS}"
VERBS = [
    "schedules/{}/run", "schedules/{}/pause", "schedules/{}/resume", "schedules/{}/forget",
    "webhooks/{}/enable", "webhooks/{}/disable", "webhooks/{}/forget",
]  # fmt: skip


@pytest.fixture
async def api(harness):
    """A client of the API, as an operator, of a console that has a schedule and a webhook."""
    config = harness.other_client(**SETTINGS).config
    async with application(config) as app, client_of(app, config.queue) as client:
        yield client


async def test_schedules(api, harness):
    """A schedule has what the configuration says and what Redis keeps; one that is not configured has nulls."""
    planned = Plan(ScheduleState("report"), 60_000, last_at=30_000, missed=2, error="no agent")
    await harness.queue.schedules.plan([planned, Plan(ScheduleState("old"), 5)])
    found = (await api.get("/schedules")).json()["schedules"]
    assert found[0].pop("next_at") == 60_000
    assert found[0] == {
        "name": "report", "state": "overdue", "cron": "0 6 * * MON", "time_zone": "Europe/Berlin",
        "catch_up": "none", "last_at": 30_000, "last_job": None, "missed": 2, "error": "no agent",
        "paused": None,
    }  # fmt: skip
    assert (found[1]["name"], found[1]["state"], found[1]["cron"]) == (
        "old", "not configured here", None,
    )  # fmt: skip
    assert (await api.get("/schedules/old")).json() == found[1]


async def test_run_pause_resume_and_forget(api, harness):
    """Each may be repeated; a pause and a job's history keep who did it, and why."""
    ran = (await api.post("/schedules/report/run", json={"reason": "now"})).json()
    assert re.fullmatch(r"report@\d+-run", ran["id"])
    [line] = (await api.get(f"/jobs/{ran['id']}")).json()["history"]
    assert BY in json.dumps(line)
    for verb, is_paused in (("pause", True), ("resume", False)):
        for changed in (True, False):
            done = await api.post(f"/schedules/report/{verb}", json={"reason": "freeze"})
            assert done.json() == {"name": "report", "paused": is_paused, "changed": changed}
            paused = (await api.get("/schedules/report")).json()["paused"]
            assert (paused and (paused["by"], paused["reason"])) == (
                (BY, "freeze") if is_paused else None
            )
    refused = await api.post("/schedules/report/forget")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-payload")
    await harness.queue.schedules.pause("old")
    assert (await api.post("/schedules/old/run")).status_code == 404
    forgotten = await api.post("/schedules/old/forget")
    assert forgotten.json() == {"name": "old", "forgotten": True}
    assert (await api.post("/schedules/old/forget")).status_code == 404


async def test_webhooks_and_their_messages(api, harness):
    """State and messages of a webhook; of its address only the host."""
    queue = harness.other_client(**SETTINGS)
    await queue.enqueue(Job({}, id="j1", notify=("ops",)))
    await queue.cancel("j1")
    [delivery] = (await queue.outbox.claim([ClaimRequest("ops", 10, 30.0)])).deliveries
    await queue.outbox.settle([Settled(delivery, "retry", "500 oops", 60.0)])
    answer = await api.get("/webhooks")
    assert "secret-path" not in answer.text
    [found] = answer.json()["webhooks"]
    assert (found["name"], found["state"], found["host"]) == ("ops", "failing", "hooks.example.com")
    assert (found["waiting"], found["failures"], found["last_error"]) == (1, 1, "500 oops")
    assert (await api.get("/webhooks/ops")).json() == found
    assert (await api.get("/webhooks/none")).status_code == 404
    [message] = (await api.get("/webhooks/ops/deliveries")).json()["deliveries"]
    assert message["id"] == delivery.id
    assert (message["kind"], message["subject"], message["event"]) == ("job", "j1", "cancelled")
    assert (message["result"], message["attempts"], message["answer"]) == ("waiting", 1, "500 oops")
    assert (await api.get("/webhooks/ops/deliveries?limit=0")).status_code == 422
    assert (await api.get("/webhooks/none/deliveries")).status_code == 404


async def test_enable_disable_and_redeliver(api, harness):
    """Each may be repeated; messages are named by id, or are all that failed."""
    for verb, is_enabled in (("disable", False), ("enable", True)):
        for changed in (True, False):
            done = await api.post(f"/webhooks/ops/{verb}", json={"reason": "moves"})
            assert done.json() == {"name": "ops", "enabled": is_enabled, "changed": changed}
            disabled = (await api.get("/webhooks")).json()["webhooks"][0]["disabled"]
            assert (disabled and (disabled["by"], disabled["reason"])) == (
                None if is_enabled else (BY, "moves")
            )
    queue = harness.other_client(**SETTINGS)
    await queue.enqueue(Job({}, id="j1", notify=("ops",)))
    await queue.cancel("j1")
    [delivery] = (await queue.outbox.claim([ClaimRequest("ops", 10, 30.0)])).deliveries
    await queue.outbox.settle([Settled(delivery, "ok", "204")])
    sent = await api.post("/webhooks/ops/redeliver", json={"ids": [delivery.id, "1-1"]})
    assert sent.json() == {
        "results": [
            {"id": delivery.id, "result": "redelivered"},
            {"id": "1-1", "result": "unknown"},
        ]
    }
    assert (await api.post("/webhooks/ops/redeliver", json={"failed": True})).json() == {
        "results": []
    }
    for body in ({}, {"ids": ["1-1"], "failed": True}, {"ids": []}, {"failed": "x"}):
        assert (await api.post("/webhooks/ops/redeliver", json=body)).status_code == 422, body


async def test_a_webhook_is_forgotten(api, harness):
    """Its messages go, too, and the change names who did it; one that the console has is refused."""
    assert (await api.post("/webhooks/ops/forget")).status_code == 422
    queue = harness.other_client(webhooks={"old": SETTINGS["webhooks"]["ops"]})
    await queue.enqueue(Job({}, id="j1", notify=("old",)))
    await queue.cancel("j1")
    [delivery] = await queue.outbox.deliveries(["old"], 10)
    other = {"ids": [delivery.id]}
    sent = await api.post("/webhooks/ops/redeliver", json=other)  # of another webhook
    assert sent.json() == {"results": [{"id": delivery.id, "result": "unknown"}]}
    assert (await api.post("/webhooks/old/redeliver", json=other)).json() == {
        "results": [{"id": delivery.id, "result": "waiting"}]
    }
    forgotten = await api.post("/webhooks/old/forget", json={"reason": "renamed"})
    assert forgotten.json() == {"name": "old", "forgotten": True}
    assert not harness.redis.exists(harness.keys.delivery(delivery.id))
    change = (await api.get("/changes")).json()["changes"][0]
    assert (change["verb"], change["by"], change["reason"]) == ("forget", BY, "renamed")
    assert (await api.post("/webhooks/old/forget")).status_code == 404


async def test_unknown_names(api):
    """What neither the console's configuration nor Redis knows is not found, and not made."""
    for verb in VERBS:
        for name in ("none", "a%20b", "%00"):
            answer = await api.post(f"/{verb.format(name)}")
            assert answer.status_code == 404, (verb, name)
    assert len((await api.get("/schedules")).json()["schedules"]) == 1
    assert len((await api.get("/webhooks")).json()["webhooks"]) == 1
