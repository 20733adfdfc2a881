"""The keys of `aragora-q top`, driven without a terminal: filters, marks, confirmed changes, a job in full."""

from contextlib import asynccontextmanager

import pytest
from support.jobs import enqueue_in_every_state
from support.wait import wait_until
from textual.widgets import Input, Label, Static

from aragora_q.base import JobStatus
from aragora_q.cli.top import texts
from aragora_q.cli.top.app import TopApp
from aragora_q.cli.top.reading import Reader, filter_text, parse_filter
from aragora_q.cli.top.screens import JobScreen
from aragora_q.cli.top.table import Table
from aragora_q.errors import InvalidPayload
from aragora_q.labels import JobFilter

STATES = {*JobStatus, "delayed"} - {"held"}
"""Ids of the jobs that `enqueue_in_every_state` makes."""


class Screen:
    """The app, its keys, and what it shows."""

    def __init__(self, app, pilot):
        self.app, self.pilot = app, pilot

    @property
    def rows(self):
        """The cells of the table of jobs, by id."""
        table = self.app.screen_stack[0].query_one("#jobs", Table)
        return {key.value: [str(cell) for cell in table.get_row(key)] for key in table.rows}

    @property
    def text(self):
        """All texts of the screen on top."""
        parts = [*self.app.screen.query(Static), *self.app.screen.query(Label)]
        return "\n".join(str(part.content) for part in parts)

    async def press(self, *keys):
        await self.pilot.press(*keys)

    async def wait_for(self, text):
        await wait_until(lambda: text in self.text, what=f"{text!r} on the screen")

    async def wait_for_rows(self, *job_ids):
        await wait_until(lambda: set(self.rows) == set(job_ids), what=f"rows {job_ids}")

    async def wait_for_status(self, job_id, status):
        await wait_until(lambda: self.rows[job_id][2] == status, what=f"{job_id} to be {status}")

    async def wait_for_input(self):
        """Wait until a dialog takes text: before, its keys would be those of the screen below."""
        await wait_until(lambda: isinstance(self.app.focused, Input), what="a dialog")

    async def choose(self, job_id):
        table = self.app.screen_stack[0].query_one("#jobs", Table)
        table.move_cursor(row=list(self.rows).index(job_id))
        await self.pilot.pause()

    async def change(self, key, verb, *, reason="why"):
        """Press a key, give a reason, and confirm."""
        await self.press(key)
        await self.wait_for(f"Enter: {verb}")
        await self.wait_for_input()
        await self.press(*reason, "enter")


@pytest.fixture
async def shown(harness):
    """Opens the screen on the queue of `harness`, as alice@host."""

    @asynccontextmanager
    async def show():
        async with harness.queue.connection.open_gates() as gates:
            app = TopApp(Reader(harness.queue, gates), JobFilter(), "alice@host")
            async with app.run_test(size=(100, 30)) as pilot:
                yield Screen(app, pilot)

    return show


async def test_every_key_changes_jobs_with_who_and_why(harness, shown):
    """Cancel, requeue, hold, unhold, pause, resume: after a confirmation, with `by` and `reason` kept."""
    await enqueue_in_every_state(harness)
    queue = harness.queue
    async with shown() as screen:
        await screen.wait_for_rows(*STATES)
        for job_id, key, verb, expected in (
            ("failed", "r", "requeue", "pending"),
            ("pending", "h", "hold", "held"),
            ("pending", "u", "unhold", "pending"),
            ("delayed", "c", "cancel", "cancelled"),
        ):
            await screen.choose(job_id)
            await screen.change(key, verb)
            await harness.wait_for_status(job_id, expected)
            await screen.wait_for(f"{job_id} is ")
            [*_, event] = await queue.tracker.history(job_id)
            assert (event["by"], event["reason"]) == ("alice@host", "why")
            await screen.wait_for_status(job_id, expected)
        await screen.change("p", "pause")
        await screen.wait_for("queue is paused")
        await screen.wait_for("by alice@host (why)")
        await screen.change("p", "resume")
        await screen.wait_for("queue is resumed")
        assert not (await queue.get_queue_stats())["paused"]


async def test_marked_jobs_are_changed_together_and_escape_changes_nothing(harness, shown):
    """The confirmation names how many and which; jobs that cannot be changed are left out."""
    await enqueue_in_every_state(harness)
    async with shown() as screen:
        await screen.wait_for_rows(*STATES)
        await screen.press("a", "c")
        await screen.wait_for("Cancel 4 jobs (3 others cannot be)?")
        assert "processing processing" in screen.text
        await screen.press("escape")
        await screen.wait_for("nothing was changed")
        assert await harness.queue.get_status("pending") == "pending"
        await screen.press("a")
        for job_id in ("pending", "delayed"):
            await screen.choose(job_id)
            await screen.press("space")
        await screen.change("c", "cancel")
        await screen.wait_for("2 jobs cancelled")
        statuses = await harness.queue.get_statuses(["pending", "delayed", "retrying"])
        assert list(statuses.values()) == ["cancelled", "cancelled", "retrying"]
        await screen.choose("completed")
        await screen.press("r")
        await screen.wait_for(
            "nothing to requeue: only jobs that are failed or cancelled; chosen: completed"
        )


async def test_views_and_filters(harness, shown):
    """1 to 4 choose a status, / takes words; a wrong word is explained and does not close the dialog."""
    await enqueue_in_every_state(harness)
    await harness.enqueue("ours", tenant="acme", tags={"env": "prod"})
    async with shown() as screen:
        await screen.wait_for_rows(*STATES, "ours")
        for key, job_id in (("2", "processing"), ("3", "failed")):
            await screen.press(key)
            await screen.wait_for_rows(job_id)
        await screen.press("1", "slash")
        await screen.wait_for_input()
        await screen.press(*"faild", "enter")
        await screen.wait_for("'faild' is not a status")
        assert "did you mean 'failed'?" in screen.text
        screen.app.screen.query_one(Input).value = "tenant:acme env=prod pending"
        await screen.press("enter")
        await screen.wait_for_rows("ours")
        await screen.wait_for("jobs that match: pending tenant:acme env=prod (1)")


async def test_the_cursor_stays_on_its_job(harness, shown):
    """New jobs arrive above: the next key still means the job that was chosen."""
    await harness.enqueue("old")
    async with shown() as screen:
        await screen.wait_for_rows("old")
        for n in range(5):
            await harness.enqueue(f"new-{n}")
        await screen.wait_for_rows("old", *(f"new-{n}" for n in range(5)))
        await screen.press("h")
        await screen.wait_for("old pending")


async def test_a_job_is_followed(harness, shown):
    """Enter shows a job in full; its progress and its end appear; keys act on it; Esc leads back."""
    session = await harness.worker("worker-1", lease_seconds=60)
    await harness.enqueue_payload("runs", {"question": "Ship?", "agents": ["demo", "demo"]})
    job = await harness.start_one(session)
    async with shown() as screen:
        await screen.wait_for_rows("runs")
        await screen.press("enter")
        await screen.wait_for("question   Ship?")
        progress = {"phase": "answers", "agents": 2, "agents_done": 1}
        await session.report_progress(job, progress)
        await screen.wait_for("1 of 2 agents done")
        await screen.change("c", "cancel")
        await screen.wait_for("status     cancelled")
        assert isinstance(screen.app.screen, JobScreen)
        await screen.press("escape")
        await screen.wait_for("w: workers")


async def test_a_table_of_long_jobs_costs_little(harness, shown):
    """Payloads and results that do not fit a line are not read; the question is shown from its beginning."""
    for n in range(3):
        question = f"Question {n} " + "x" * 60_000
        await harness.enqueue_payload(f"j{n}", {"question": question, "agents": ["a", "b"]})
    async with harness.queue.connection.open_gates() as gates:
        picture = await Reader(harness.queue, gates).picture(JobFilter())
    title = texts.title(picture, JobFilter(since=5.0, tenant="acme"), 2)
    assert "that match: tenant:acme since 1970-01-01" in title
    assert [len(job.raw_payload) < 5_000 for job in picture.jobs] == [True] * 3
    assert all("Question" in cells[-1] for _, cells in texts.jobs(picture, frozenset(), ()))


@pytest.mark.parametrize(
    "words", ["", "failed", "failed held group:nightly tenant:a/b:c env=prod team=a=b"]
)
def test_words_of_a_filter(words):
    """What a filter shows is what it takes; times that the command line gave stay."""
    before = JobFilter(since=5.0)
    wanted = parse_filter(words, before)
    assert set(filter_text(wanted).split()) == set(words.split())
    assert wanted.since == 5.0


@pytest.mark.parametrize("words", ["nonsense", "group:", "tenant:\x1b", "=x", "group:a b:c"])
def test_words_that_are_not_a_filter(words):
    """They are refused with a message, not ignored."""
    with pytest.raises(InvalidPayload):
        parse_filter(words, JobFilter())


@pytest.mark.parametrize("total", [20, 40, 80, 200])
def test_columns_fit_the_terminal(total):
    """Rows take the width that there is; the widest columns give way, down to a few characters each."""
    rows = [("*", "i" * 32, "processing", "3 min ago", "l" * 50, "s" * 300)]
    widths = texts.widths(texts.JOB_COLUMNS, rows, total)
    assert sum(widths) + 2 * len(widths) <= max(total, 60)
    assert min(widths[1:]) >= 8
