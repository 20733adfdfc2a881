"""Every route of the HTTP API with the Redis users of the roles: the rights of each suffice."""

import pytest
from support.consoles import make_users
from support.web_api import AsActor, client_of

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.web.app import create_app
from aragora_q.web.console import open_console
from aragora_q.web.roles import Role

DEBATE = {"question": "Tea or coffee?", "agents": ["demo:bold", "demo:careful"]}
READS = [
    "/jobs", "/jobs?group=g&since=1h", "/jobs/d", "/jobs/d?wait=0.01", "/jobs/d/debate", "/jobs/c/receipt",
    "/groups", "/groups/g",
    "/groups/g/table", "/groups/g/comparison", "/groups/g/evaluation",
    "/schedules", "/schedules/s", "/webhooks", "/webhooks/w",
    "/webhooks/w/deliveries",
    "/stats", "/workers", "/spend", "/providers", "/budgets", "/budgets/day",
    "/changes", "/changes?since=1h&limit=5",
]  # fmt: skip
CHANGES = [
    (Role.PRODUCER, "POST", "/jobs", {"payload": {}, "group": "h"}),
    (Role.PRODUCER, "PUT", "/jobs/p", {"payload": {}}),
    (Role.PRODUCER, "PUT", "/jobs/p", {"payload": {}}),
    (Role.PRODUCER, "POST", "/jobs", {**DEBATE, "max_quote_usd": 1}),
    (Role.PRODUCER, "POST", "/quotes", DEBATE),
    (Role.PRODUCER, "POST", "/groups/h/seal", {"then": {"payload": {}}}),
    (Role.OPERATOR, "POST", "/jobs/d/hold", {"reason": "x"}),
    (Role.OPERATOR, "POST", "/jobs/d/unhold", {}),
    (Role.OPERATOR, "POST", "/jobs/d/cancel", {}),
    (Role.OPERATOR, "POST", "/jobs/d/requeue", {}),
    (Role.OPERATOR, "POST", "/jobs/hold", {"ids": ["d"]}),
    (Role.OPERATOR, "POST", "/jobs/unhold", {"filter": {"group": "g"}, "expected_count": 1}),
    (Role.OPERATOR, "POST", "/groups/g/cancel", {}),
    (Role.OPERATOR, "POST", "/schedules/s/run", {"reason": "x"}),
    (Role.OPERATOR, "POST", "/schedules/s/pause", {}),
    (Role.OPERATOR, "POST", "/schedules/s/resume", {}),
    (Role.OPERATOR, "POST", "/schedules/old/forget", {}),
    (Role.OPERATOR, "POST", "/webhooks/w/disable", {"reason": "x"}),
    (Role.OPERATOR, "POST", "/webhooks/w/enable", {}),
    (Role.OPERATOR, "POST", "/webhooks/w/redeliver", {"ids": ["1-1"]}),
    (Role.OPERATOR, "POST", "/webhooks/w/redeliver", {"failed": True}),
    (Role.OPERATOR, "POST", "/webhooks/old/forget", {}),
    (Role.OPERATOR, "POST", "/pause", {}),
    (Role.OPERATOR, "POST", "/resume", {}),
    (Role.OPERATOR, "POST", "/providers/openai/pause", {}),
    (Role.OPERATOR, "POST", "/providers/openai/resume", {}),
    (Role.OPERATOR, "PUT", "/budgets/day", {"limit_usd": 2}),
    (Role.OPERATOR, "POST", "/budgets/day/reset", {}),
]


@pytest.fixture
async def console(own_server):
    """A console whose roles are three Redis users, of a queue with a debate."""
    server = own_server()
    urls = make_users(server)
    config = QueueConfig(
        redis_url=urls[Role.VIEWER],
        web_producer_redis_url=urls[Role.PRODUCER],
        web_operator_redis_url=urls[Role.OPERATOR],
        schedules={"s": {"cron": "* * * * *", "job": {"payload": {}}}},
        webhooks={"w": {"url": "https://hooks.example.com", "secret_file": "w"}},
    )
    async with open_console(config) as console:
        debate = Job(DEBATE, id="d", group="g")
        await console.roles[Role.PRODUCER].queue.enqueue(debate)
        await console.roles[Role.OPERATOR].queue.schedules.pause("old")
        await console.roles[Role.OPERATOR].queue.outbox.disable("old")
        await console.roles[Role.PRODUCER].queue.enqueue(Job(DEBATE, id="c"))
        await console.roles[Role.OPERATOR].queue.cancel("c")
        yield console


async def test_the_rights_of_each_role_suffice(console):
    """A viewer reads all, a producer enqueues, an operator acts; Redis refuses nothing."""
    apps = {role: AsActor(create_app(console), role) for role in Role}
    async with client_of(apps[Role.OPERATOR], "debates") as operator:
        made = await operator.put("/budgets/day", json={"limit_usd": 1, "window": "day"})
        assert made.status_code == 200
    async with client_of(apps[Role.VIEWER], "debates") as viewer:
        for path in READS:
            answer = await viewer.get(path)
            assert answer.status_code == 200, (path, answer.text)
    for role, method, path, body in CHANGES:
        async with client_of(apps[role], "debates") as client:
            answer = await client.request(method, path, json=body)
            assert answer.is_success, (path, answer.text)
