"""The list of jobs: what it shows, its filter, its pages, and its cost."""

import re
from html.parser import HTMLParser

import pytest
from support import shown_jobs

from aragora_q.base import Job
from aragora_q.redis.connection import Connection
from aragora_q.web.roles import Role


class Rows(HTMLParser):
    """The ids of the jobs in the lists of a page, in their order, and the addresses of its links."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], {}
        self._href = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "tr" and found.get("id", "").startswith("job-"):
            self.ids.append(found["id"].removeprefix("job-"))
        self._href = found.get("href") if tag == "a" else None

    def handle_data(self, data):
        if self._href and data.strip():
            self.links[data.strip()] = self._href
            self._href = None


@pytest.fixture
async def filled(harness):
    """A queue with a job of every kind, and the session of its worker."""
    session = await shown_jobs.worker(harness.queue)
    await shown_jobs.fill(harness.queue, session)
    return session


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("status=failed", {"failed"}),
        ("status=failed&status=cancelled", {"failed", "cancelled"}),
        ("group=nightly&status=completed", {"agreeing", "disagreeing", "dropped"}),
        ("tenant=acme", {"agreeing", "disagreeing"}),
        ("tag=env%3Dprod", {"agreeing", "failed"}),
        ("tag=env%3Dprod+team%3Dsearch", {"agreeing"}),
        ("since=1h&status=held", {"held"}),
        ("until=1h", set()),
        ("group=&tenant=+&status=held&other=x", {"held"}),
    ],
)
async def test_the_filter(filled, operator, query, ids):
    """A filter shows the jobs that match it, keeps what was typed, and has its command line."""
    page = await operator.get(f"/jobs?{query}")
    assert page.status == 200
    assert set(Rows(page.text).ids) == ids
    if not ids:
        assert "No jobs match." in page.words


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=lost", "'lost' is not a status"),
        ("since=yesterday", "invalid time 'yesterday'"),
        ("tag=env", "'env' is not K=V"),
        ("group=a+b", "group"),
        ("since=1h&until=2h", "until is not after since"),
        ("cursor=1:2", "cursor"),
        ("id=a/../b", "'a/../b' is not a job id"),
        ("id=%3Cscript%3E", "'<script>' is not a job id"),
    ],
)
async def test_a_filter_that_is_not_valid(operator, query, said):
    """A value that breaks a rule is named on the page, with the form; it is not an error of the console."""
    page = await operator.get(f"/jobs?{query}")
    assert page.status == 422
    assert said in page.words
    assert "<script>" not in page.text
    assert 'id="filters"' in page.text


async def test_the_look_up_leads_to_the_job(operator):
    """An id leads to the page of its job, on this console."""
    answer = await operator.get("/jobs?id=+j1%20")
    assert (answer.status, answer.headers["location"]) == (303, "/jobs/j1")


async def test_pages_of_fifty(harness, operator):
    """Links lead through all jobs, 50 on a page, without repeating one."""
    await harness.queue.enqueue_many([Job({"n": n}, id=f"j{n}") for n in range(120)])
    address, seen, sizes = "/jobs?status=pending", [], []
    while address:
        rows = Rows((await operator.get(address)).text)
        seen += rows.ids
        sizes.append(len(rows.ids))
        address = rows.links.get("Older")
    assert sizes == [50, 50, 20]
    assert len(set(seen)) == 120
    assert seen[0] == "j119"


async def test_a_page_takes_two_round_trips(harness, operator, monkeypatch):
    """A page of 50 jobs takes two round trips to Redis, whatever the size of the queue."""
    await harness.queue.enqueue_many(
        [Job({"question": "x" * 40_000, "n": n}, id=f"j{n}", tenant="acme") for n in range(300)]
    )
    # The first request loads the scripts, and reads the server's clock, which is kept.
    await operator.get("/jobs?since=1h")
    calls = []
    for name in ("run", "execute", "execute_all"):
        original = getattr(Connection, name)

        async def counted(self, *args, _original=original, _name=name, **options):
            calls.append((_name, args[0] if args else ""))
            return await _original(self, *args, **options)

        monkeypatch.setattr(Connection, name, counted)
    for address in ("/jobs", "/jobs?tenant=acme&status=pending", "/jobs?since=2h"):
        calls.clear()
        page = await operator.get(address)
        assert len(Rows(page.text).ids) == 50
        assert [name for name, _ in calls] == ["run", "run"], calls
        assert len(page.text) < 100_000, "payloads are not transferred"


async def test_roles(filled, new_console):
    """Only an operator has check boxes and buttons that act; all see the jobs."""
    console = new_console()
    for role in Role:
        page = await console.browser(role).get("/jobs?status=failed")
        assert Rows(page.text).ids == ["failed"]
        assert (re.findall(r"formaction", page.text) != []) == (role is Role.OPERATOR)
        assert ('name="id" value="failed"' in page.text) == (role is Role.OPERATOR)
        assert ("New debate" in page.words) == (role is not Role.VIEWER)


async def test_an_empty_queue(operator):
    """An empty queue says how to fill it."""
    page = await operator.get("/jobs")
    assert "The queue has no jobs." in page.words
    assert "aragora-q enqueue" in page.words


async def test_corrupted_jobs_are_listed(harness, filled, operator):
    """A job whose data another program has broken is in the list, with what is wrong."""
    harness.redis.hset(harness.keys.job("waiting"), "priority", "x")
    page = await operator.get("/jobs")
    harness.redis.hdel(harness.keys.job("waiting"), "priority")
    assert "waiting" in Rows(page.text).ids
    assert "corrupted" in page.words
