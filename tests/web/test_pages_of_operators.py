"""The pages of groups, workers, money, failed and held jobs: what they show, and that it changes nothing."""

import re

import pytest
from fastapi.routing import APIRoute
from support.browsers import snapshot
from support.gates import ACCOUNT, Gates, new_call
from support.shown_jobs import HOSTILE, add_hostile, fill, worker

from aragora_q.base import Job
from aragora_q.contracts import Failed, Held, Report
from aragora_q.gates.book import Book
from aragora_q.web.app import create_app
from aragora_q.web.pages.failed import normalized
from aragora_q.web.roles import Role

BUDGETS = {
    "month": {"limit_usd": 10, "window": "month"},
    "tenants": {"limit_usd": 4, "window": "total", "scope": "tenant"},
}
ADDRESSES = [
    "/groups", "/groups/nightly", "/workers", "/money", "/money?by=agent&days=30&all_queues=true", "/failed",
    "/held", "/new", "/schedules", "/webhooks",
]  # fmt: skip


@pytest.fixture
async def spending(harness, within_a_day):
    """Workers declare budgets; one tenant's call is booked, another call is under way."""
    gates = Gates(harness, BUDGETS)
    await gates.acquire(new_call("c1", 2.0), Job({}, id="j1", tenant="acme", group="nightly"))
    job = Job({}, id="j1", tenant="acme", group="nightly")
    await gates.settle(new_call("c1", 2.0), 1.5, job=job, input_tokens=30, output_tokens=10)
    await gates.acquire(new_call("c2", 1.0), Job({}, id="j2", tenant="acme"))
    yield gates
    for client in gates._made:
        await client.close()


async def test_money_has_the_numbers_of_the_commands(spending, operator):
    """Budgets with what is spent and reserved, the state of accounts, and spending by what is asked for."""
    page = await operator.get("/money")
    assert page.status == 200
    assert "month all" in page.words
    assert "Budget month, all: 25% used" in page.words
    assert "$1.50 $1.00 $10.00/month hold" in page.words
    assert "tenants tenant:acme" in page.words
    assert f"{ACCOUNT} open" in page.words
    by_tenant = await operator.get("/money?by=tenant")
    assert re.search(r"acme \$1\.50 \$0 1 0 30 0 10 0", by_tenant.words)
    assert "aragora-q spend --by tenant --since" in by_tenant.words


async def test_a_budget_is_set_and_reset(spending, operator):
    """Set keeps what is left blank, and says what was before and who did it; reset ends it."""
    page = await operator.done("/budgets/set", name="month", limit_usd="50", reason="launch")
    assert "Budget month is set to $50.00/month (was $10.00/month)." in page.words
    assert "set by alice from 10.0.0.7" in page.words
    assert "launch" in page.words
    page = await operator.done("/budgets/set", name="month", limit_usd="50", reason="launch")
    assert "(was $50.00/month)" in page.words
    assert (
        "Budget month is reset (was $50.00/month): $10.00/month applies."
        in (await operator.done("/budgets/reset", name="month")).words
    )
    assert "Budget month was not set" in (await operator.done("/budgets/reset", name="month")).words
    assert (await operator.post("/budgets/reset", name="none")).status == 404


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "month", "limit_usd": "lots"}, "limit_usd 'lots' must be a number"),
        ({"name": "month", "limit_usd": "-1"}, "limit_usd '-1' must be"),
        ({"name": "month", "scope": "planet"}, "scope 'planet' must be all, or one of"),
        ({"name": "new", "limit_usd": "5"}, "new is a new budget: give its window"),
        ({"name": "a b", "limit_usd": "5", "window": "day"}, "'a b'"),
        ({"limit_usd": "5", "window": "day"}, "Nothing was set"),
    ],
)
async def test_a_budget_that_breaks_a_rule(spending, operator, harness, fields, said):
    """Nothing is set, and the page says which rule is broken."""
    page = await operator.done("/budgets/set", fields)
    assert "Nothing was set" in page.words
    assert said in page.words
    budgets = await Book(operator.console.roles[Role.OPERATOR].gates).budgets()
    assert [each.override for each in budgets] == [None, None]


async def test_a_provider_is_paused_and_resumed(spending, operator):
    """A pause names who did it and why; a later one without a reason keeps it; resume ends it."""
    page = await operator.done("/providers/pause", name="acme", reason="bill of the month")
    assert "Provider acme is paused." in page.words
    assert "paused by alice from 10.0.0.7" in page.words
    page = await operator.done("/providers/pause", name="acme")
    assert "Provider acme was already paused." in page.words
    assert "bill of the month" in page.words
    page = await operator.done("/providers/resume", name=ACCOUNT)
    assert f"Provider {ACCOUNT} stays paused: resume acme, too." in page.words
    page = await operator.done("/providers/resume", name="acme")
    assert "Provider acme takes calls again." in page.words
    assert (
        "was neither paused nor closed"
        in (await operator.done("/providers/resume", name="acme")).words
    )
    for verb in ("pause", "resume"):
        assert (await operator.post(f"/providers/{verb}", name="unknown")).status == 404


async def fail(harness, session, job_id, error):
    await harness.enqueue(job_id)
    job = await harness.start_one(session)
    await session.report([Report(job, Failed(error))])


async def test_failed_jobs_with_one_error_are_together(harness, operator):
    """Errors that differ in ids, numbers and times are one group, the newest first; it is requeued as one."""
    session = await harness.worker()
    for n in range(3):
        await fail(
            harness,
            session,
            f"j{n}",
            f"job j{n}: status 429 after {n}.{n} s, request 7f3a9b2c{n}d4e5f60",
        )
    await fail(harness, session, "other", "boom")
    page = await operator.get("/failed")
    assert page.words.index("boom") < page.words.index("status 429")
    assert "Requeue 3 jobs" in page.words
    form = page.fields("/jobs/requeue")
    assert form[:2] == [("matching", "1"), ("status", "failed")]  # the first form is for all
    asked = await operator.post("/jobs/requeue", id=["j0", "j1", "j2"], to="/failed")
    page = await operator.done("/jobs/requeue", asked.fields("/jobs/requeue"))
    assert "3 jobs requeued." in page.words
    assert "1 failed job" in page.words


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("timeout after 30.0 s", "timeout after 29.7 s", True),
        (
            "request 01982f6c-aa11-7bb2-8cc3-000000000001",
            "request 01982f6c-dd44-7ee5-9ff6-000000000002",
            True,
        ),
        ("no agent 'ann'", "no agent 'bob'", False),
        ("status 429", "state 429", False),
    ],
)
def test_errors_that_are_the_same(one, other, same):
    """Errors are the same if they differ only in ids, numbers, times and blanks."""
    assert (normalized(one, "j") == normalized(f"{other} ", "j")) is same


async def test_held_jobs_are_shown_by_what_holds_them(harness, spending, operator):
    """Each cause has its list: what its jobs wait for, and what is left of the budget."""
    session = await harness.worker()
    for job_id, outcome in [
        ("b1", Held("budget", "needs more", "tenants/tenant:acme", usd=3.5)),
        ("p1", Held("provider", "acme takes no calls", ACCOUNT)),
        ("e1", Held("executor", "asks for <i>advice</i>", "")),
    ]:
        await harness.enqueue(job_id)
        await session.report([Report(await harness.start_one(session), outcome)])
    await harness.queue.enqueue_many([Job({"question": "Buy it?"}, id="a1")], hold="may cost $9")
    await harness.enqueue("m1")
    await harness.queue.hold("m1", reason="prices changed", by="ann@desk")
    page = await operator.get("/held")
    titles = [
        re.sub("<[^>]*>", "", each).split("  ")[0]
        for each in re.findall(r"<h2[^>]*>(.*?)</h2>", page.text)
    ]
    assert [title.split(" 1 job")[0] for title in titles] == [
        "Wait for an approval", "Held by a person", "Wait for budget tenants/tenant:acme",
        f"Wait for provider {ACCOUNT}", "Held by their executor",
    ]  # fmt: skip
    assert "$1.50 spent, $1.00 reserved of $4.00/total" in page.words
    assert "$3.50" in page.words
    assert "prices changed" in page.words
    assert "Approve…" in page.words
    assert "<i>advice" not in page.text


async def test_a_page_of_held_jobs_leads_to_the_next(harness, operator, monkeypatch):
    """More held jobs than a page shows are on the next one; a cursor that is not one means the first page."""
    monkeypatch.setattr("aragora_q.web.pages.held.PAGE", 2)
    for n in range(3):
        await harness.enqueue(f"j{n}")
        await harness.queue.hold(f"j{n}")
    page = await operator.get("/held")
    older = re.search(r'href="(/held\?after=[^"]*)"', page.text)[1].replace("&amp;", "&")
    assert "j2" not in page.words
    assert "j2" in (await operator.get(older)).words
    for cursor in ("x", "(1", "1%20", "%00"):
        assert "j0" in (await operator.get(f"/held?after={cursor}")).words


async def test_a_long_payload_is_not_read_whole(harness, operator):
    """A held job with a long payload has its question in the list, and no more of it is sent."""
    payload = {"question": "Is this long?", "agents": ["a", "b"], "metadata": {"x": "y" * 100_000}}
    await harness.queue.enqueue(Job(payload, id="long"))
    await harness.queue.hold("long")
    page = await operator.get("/held")
    assert "Is this long?" in page.words
    assert len(page.text) < 50_000


async def test_workers_and_what_each_runs(harness, operator):
    """A worker's row has its slots, and each job that it runs with its question."""
    session = await worker(harness.queue)
    await fill(harness.queue, session)
    await harness.renew(session, *[job for job in [await harness.queue.get_job("running")] if job])
    page = await operator.get("/workers")
    assert "web1-1" in page.words
    assert "of 8" in page.words
    assert 'href="/jobs/running"' in page.text


async def test_a_group_with_progress_and_cost(harness, spending, operator):
    """A group has its jobs by status, the share that has ended, and what it spent."""
    await fill(harness.queue, await worker(harness.queue))
    listed = await operator.get("/groups")
    assert "nightly" in listed.words
    assert "$1.50" in listed.words
    page = await operator.get("/groups/nightly")
    assert "of 5 jobs ended" in page.words
    assert "$1.50: 1 call" in page.words
    assert "aragora-q group seal nightly" in page.words
    assert (await operator.get("/groups/none")).status == 404
    assert (await operator.get("/groups/a%20b")).status == 404


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_texts_are_shown_as_text(harness, operator, name):
    """Whatever a question, an answer, an error or a reason says, it is text on every page."""
    await add_hostile(harness.queue, await worker(harness.queue), name)
    await harness.queue.hold_many([f"{name}-held"], reason=HOSTILE[name], by=HOSTILE[name])
    for address in ADDRESSES:
        page = await operator.get(address)
        assert page.status in (200, 404), page.words
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert not re.search("[\x00-\x08\x0e-\x1f\u202e\u2066\u200b]", page.text)


async def test_empty_pages(operator):
    """A queue without jobs has pages that say so."""
    for address, said in [
        ("/groups", "There are no groups."), ("/workers", "No worker is registered."),
        ("/failed", "No job has failed."),
        ("/held", "No job is held."), ("/money", "No budget applies."),
    ]:  # fmt: skip
        assert said in (await operator.get(address)).words


async def test_redis_is_away(new_console):
    """Without Redis, a page says so and recovers by itself; the form of a debate needs none."""
    browser = new_console(redis_url="redis://127.0.0.1:1").browser()
    for address in ADDRESSES:
        page = await browser.get(address)
        assert page.status == (200 if address == "/new" else 503), address
        assert ("data-live" in page.text) == (address != "/new")


async def test_an_open_form_stays_that_of_its_account(spending, operator):
    """The form of each account has its own name, so that a refresh never turns it into another's."""
    page = await operator.get("/money")
    assert f'id="pause-{ACCOUNT.replace("@", "%40")}"' in page.text


async def test_queries_that_are_not_valid_show_the_default(operator):
    """A query that no form sends is as good as none."""
    for address in (
        "/money?by=<b>&days=x",
        "/money?days=0",
        "/groups?limit=-1",
        "/groups?limit=99999999999",
    ):
        assert (await operator.get(address)).status == 200


async def test_reading_changes_nothing(harness, operator, spending):
    """No GET of any page or route of actions changes anything in Redis."""
    await fill(harness.queue, await worker(harness.queue))
    before = snapshot(harness.redis)
    values = {
        "job_id": "running",
        "name": "nightly",
        "verb": "cancel",
        "queue": "debates",
        "id": "running",
    }
    paths = {
        route.path
        for route in routes_of(operator)
        if "event" not in route.path and "static" not in route.path
    }
    assert len(paths) > 12
    for path in paths:
        await operator.get(re.sub(r"\{(\w+)[^}]*\}", lambda match: values.get(match[1], "x"), path))
    assert snapshot(harness.redis) == before


def routes_of(browser):
    found, left = [], list(create_app(browser.console).routes)
    while left:
        route = left.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        left += (
            getattr(getattr(route, "original_router", None), "routes", None)
            or getattr(route, "routes", None)
            or []
        )
    return found
