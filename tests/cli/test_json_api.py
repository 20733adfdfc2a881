"""The HTTP API answers the JSON that the commands print, field by field."""

import asyncio

import pytest
from support.paid_calls import book, ok
from support.sample_debates import SAMPLES
from support.web_api import application, client_of

MOVING = {"now", "used_bytes", "heartbeat_age_seconds", "oldest_held_seconds", "throughput"}
"""Fields that change between two reads."""


def still(value):
    """A JSON value without fields that change between two reads."""
    if isinstance(value, dict):
        return {name: still(each) for name, each in value.items() if name not in MOVING}
    return [still(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
async def jobs(harness):
    """A debate with a part of its journal, in a group that has spent, and a worker."""
    made, entries = SAMPLES["agreeing"]()
    await harness.enqueue_payload("debate", made.payload, group="nightly", tags={"env": "prod"})
    worker = await harness.worker("w1")
    job = await harness.start_one(worker)
    for entry in list(entries.items())[:2]:
        await worker.checkpoint(job, *entry)
    await harness.enqueue("waits", group="nightly")
    await harness.queue.hold("waits", reason="look first", by="ann@desk")
    await book(harness.queue, ({"group": "nightly"}, {}, ok(0.5)))


COMMANDS = {
    "/jobs/debate": ("status", "debate"),
    "/jobs/waits": ("status", "waits"),
    "/jobs/debate/debate": ("show", "debate", "--format"),
    "/groups/nightly": ("group", "show", "nightly"),
    "/stats": ("stats",),
    "/budgets/day": ("budget", "show", "day"),
}
LISTS = {
    ("/jobs?group=nightly", "jobs"): ("list", "--group", "nightly"),
    ("/groups", "groups"): ("group", "list"),
    ("/spend?by=day&by=model&by=group", "rows"): ("spend", "--by", "day,model,group"),
    ("/providers", "providers"): ("providers", "list"),
    ("/budgets", "budgets"): ("budget", "list"),
}


@pytest.mark.usefixtures("within_a_day")
async def test_both_show_the_same(harness, jobs, run_cli):
    """A job, a debate, a group, statistics, spending, providers and budgets; the list of each."""
    run_cli("providers", "pause", "stub", "--reason", "bill")
    run_cli("budget", "set", "day", "5/day")
    async with (
        application(harness.config) as app,
        client_of(app, harness.config.queue) as api,
    ):
        for path, args in COMMANDS.items():
            form = "json" if args[-1] == "--format" else "--json"
            printed = await asyncio.to_thread(run_cli, *args, form)
            answered = await api.get(path)
            assert still(answered.json()) == still(printed.object), path
        for (path, name), args in LISTS.items():
            printed = await asyncio.to_thread(run_cli, *args, "--json")
            answered = (await api.get(path)).json()
            assert answered[name], path
            assert sorted(map(str, answered[name])) == sorted(map(str, printed.objects)), path


async def test_both_do_the_same(harness, run_cli):
    """Enqueue, quote, hold, free, cancel, requeue, seal: the same fields."""
    debate = {"question": "Tea or coffee?", "agents": ["demo:bold", "demo:careful"]}
    asked = ("Tea or coffee?", "--agents", "demo:bold,demo:careful", "--json")
    async with (
        application(harness.config) as app,
        client_of(app, harness.config.queue) as api,
    ):
        made = (await api.post("/jobs", json={**debate, "group": "g"})).json()
        printed = run_cli("enqueue", *asked, "--group", "g", "--id", "other").object
        assert set(made) == set(printed)
        quoted = (await api.post("/quotes", json=debate)).json()
        assert quoted == run_cli("enqueue", *asked, "--quote").object
        for verb in ("hold", "unhold", "cancel", "requeue"):
            answered = (await api.post(f"/jobs/{made['id']}/{verb}")).json()
            printed = run_cli(verb, "other", "--json").object
            assert {**answered, "id": "other"} == printed, verb
        sealed = (await api.post("/groups/g/seal")).json()
        assert {**sealed, "sealed": False} == run_cli("group", "seal", "g", "--json").object
        cancelled = (await api.post("/groups/g/cancel")).json()
        printed = run_cli("group", "cancel", "g", "--yes", "--json").object
        assert set(cancelled) == set(printed)
