"""Pages and actions with the rights that Redis gives each role, and no others."""

import pytest
from support.browsers import Browser
from support.gates import Gates, new_call
from support.shown_jobs import fill, worker

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.redis import acl
from aragora_q.web.console import open_console
from aragora_q.web.roles import Role

USERS = {Role.VIEWER: "stats", Role.PRODUCER: "producer", Role.OPERATOR: "operator"}


@pytest.fixture
async def console(harness):
    """A console whose roles are Redis users, on a queue with jobs, budgets and accounts."""
    await fill(harness.queue, await worker(harness.queue))
    await harness.queue.schedules.pause("old")
    await harness.queue.outbox.disable("old")
    gates = Gates(harness, {"month": {"limit_usd": 10, "window": "month"}})
    await gates.acquire(new_call("c1", 2.0), Job({}, id="j1", group="nightly"))
    for name in USERS.values():
        rules = acl.rules(name, harness.keys).split()
        harness.redis.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
    urls = {
        role: harness.config.redis_url.replace("://", f"://{name}:secret@")
        for role, name in USERS.items()
    }
    config = QueueConfig(
        redis_url=urls[Role.VIEWER],
        web_producer_redis_url=urls[Role.PRODUCER],
        web_operator_redis_url=urls[Role.OPERATOR],
        schedules={"s": {"cron": "* * * * *", "job": {"payload": {}}}},
        webhooks={"w": {"url": "https://hooks.example.com", "secret_file": "w"}},
    )
    async with open_console(config) as console:
        yield console
    for client in gates._made:
        await client.close()
    denied = harness.redis.execute_command("ACL", "LOG")
    harness.redis.execute_command("ACL", "LOG", "RESET")
    harness.redis.execute_command("ACL", "DELUSER", *USERS.values())
    assert denied == []


async def test_each_role_has_the_rights_that_its_pages_need(harness, console):
    """A viewer's pages, a producer's form and an operator's actions send nothing that Redis denies."""
    viewer = Browser(console, Role.VIEWER)
    for address in (
        "/groups", "/groups/nightly", "/groups/nightly/table", "/groups/nightly/compare",
        "/groups/nightly/eval", "/schedules", "/schedules/s", "/webhooks", "/webhooks/w", "/",
        "/workers", "/money?by=agent", "/failed", "/held", "/jobs/failed", "/changes",
    ):  # fmt: skip
        page = await viewer.get(address)
        assert page.status == 200, (address, page.words)
        assert "cannot be read" not in page.words
    producer = Browser(console, Role.PRODUCER)
    debate = {"question": "Tea?", "agents": "demo, demo", "rounds": "1", "consensus": "majority"}
    debate |= {"answer_form": "text", "debate": "auto", "id": "new"}
    page = await producer.post("/new", debate)
    assert page.status == 200, page.words
    fields = {**debate, **dict(page.fields("/new")), "step": "enqueue"}
    assert (await producer.post("/new", fields)).status == 303
    operator = Browser(console, Role.OPERATOR)
    for address, fields in [
        ("/jobs/new/hold", {}), ("/jobs/new/unhold", {}), ("/jobs/new/cancel", {}), ("/jobs/new/requeue", {}),
        ("/jobs/cancel", {"matching": "1", "group": "nightly", "confirmed": "99"}),
        ("/jobs/purge", {"id": "failed", "confirmed": "1"}),
        ("/queue/pause", {}), ("/queue/resume", {}), ("/groups/nightly/seal", {}),
        ("/groups/nightly/cancel", {"confirmed": "99"}),
        ("/schedules/s/run", {}), ("/schedules/s/pause", {}), ("/schedules/s/resume", {}),
        ("/schedules/old/forget", {"confirmed": "1"}),
        ("/webhooks/w/disable", {}), ("/webhooks/w/enable", {}),
        ("/webhooks/w/redeliver", {"id": "1-1", "confirmed": "1"}),
        ("/webhooks/old/forget", {"confirmed": "0"}),
        ("/providers/pause", {"name": "acme"}), ("/providers/resume", {"name": "acme"}),
        ("/budgets/set", {"name": "month", "limit_usd": "5"}), ("/budgets/reset", {"name": "month"}),
    ]:  # fmt: skip
        answer = await operator.post(address, fields, reason="r")
        assert answer.status == 303, (address, answer.words)
    changes = await viewer.get("/changes")
    for what in (
        "reset budget month", "set budget month, $5.00/month", "resume provider acme", "pause provider acme",
        "cancel 1 job: new", "seal group nightly", "resume the queue", "pause the queue",
        "purge 1 job: failed", "requeue 1 job: new", "unhold 1 job: new", "hold 1 job: new",
    ):  # fmt: skip
        assert what in changes.words, what
