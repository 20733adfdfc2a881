"""`aragora-q list`: jobs by status, newest first, in every output format."""

import re

import pytest
from support.jobs import enqueue_in_every_state, numbered_job

from aragora_q.base import Job
from aragora_q.contracts import Failed, Retry

STATES = {
    "completed": ["completed"], "failed": ["failed"], "retrying": ["retrying"],
    "cancelled": ["cancelled"], "processing": ["processing"], "pending": ["delayed", "pending"],
}  # fmt: skip


async def test_list_finds_jobs_by_status(harness, run_cli):
    """Each status lists exactly its jobs, delayed ones are pending; without a status, all of them."""
    await enqueue_in_every_state(harness)
    for status, names in STATES.items():
        ended = run_cli("list", "--status", status, "--jsonl")
        assert (ended.code, ended.ids) == (0, names)
        assert {job["status"] for job in ended.objects} == {status}
    everything = run_cli("list", "--quiet")
    assert sorted(everything.lines) == sorted(name for names in STATES.values() for name in names)


async def test_list_is_newest_first_and_bounded(harness, run_cli):
    """The limit cuts the oldest; indexes and lanes are read over several pages."""
    session = await harness.worker(lease_seconds=600)
    for start in range(0, 1200, 100):
        await harness.queue.enqueue_many([numbered_job(n) for n in range(start, start + 100)])
    newest = [f"j{n}" for n in reversed(range(1200))]
    assert run_cli("list", "-s", "pending", "-n", 5, "-q").lines == newest[:5]
    assert run_cli("list", "-s", "pending", "-n", 5000, "-q").lines == newest
    for _ in range(12):
        for job in (await session.start(100)).jobs:
            await harness.report(session, job, Failed("no"))
    listed = run_cli("list", "-s", "failed", "-n", 5000, "-q").lines
    assert sorted(listed) == sorted(newest)
    assert len(set(listed[:5]) & set(newest[:200])) == 5


@pytest.mark.slow
async def test_no_backlog_is_too_long_to_list(harness, run_cli):
    """Every waiting job is listed, and a retrying one at the far end of the lane is found."""
    await harness.enqueue("again")
    session = await harness.worker()
    await harness.report(session, await harness.start_one(session), Retry("again", 0))
    await harness.queue.promote()
    await harness.queue.enqueue_many([numbered_job(n) for n in range(20_500)])
    assert len(run_cli("list", "-s", "pending", "-n", 50_000, "-q").lines) == 20_500
    assert run_cli("list", "-s", "retrying", "-q").lines == ["again"]


async def test_list_reads_in_80_columns(harness, run_cli):
    """One line of at most 80 columns per job, with its most important fields."""
    await enqueue_in_every_state(harness)
    await harness.queue.enqueue(_question("long", "why " * 100))
    ended = run_cli("list")
    assert len(ended.lines) == 9
    assert max(map(len, ended.lines)) <= 80
    assert "no use" in next(line for line in ended.lines if line.startswith("failed"))


async def test_list_shows_labels(harness, run_cli):
    """In a column next to the summary, within 80 columns, if a job has any."""
    await harness.enqueue("bare")
    assert "LABELS" not in run_cli("list").out
    await harness.enqueue("short", group="g", tenant="acme", tags={"b": "2", "a": "1"})
    head, short, bare = run_cli("list").lines
    assert head.split() == ["ID", "STATUS", "UPDATED", "LABELS", "SUMMARY"]
    assert "group:g tenant:acme a=1 b=2" in short
    assert bare.startswith("bare")
    await harness.queue.enqueue(Job({"question": "why " * 100}, tags={"env": "prod" * 12}))
    assert max(map(len, run_cli("list").lines)) <= 80


async def test_list_leaves_out_labels_of_the_filter(harness, run_cli):
    """Each row has them: only the others are shown, and no column if there are none. JSON has all."""
    await harness.enqueue("job", group="g", tenant="acme", tags={"a": "1", "b": "2"})
    assert "  tenant:acme b=2  " in run_cli("list", "--group", "g", "--tag", "a=1").lines[1]
    every_one = ("--group", "g", "--tenant", "acme", "--tag", "a=1", "--tag", "b=2")
    assert "LABELS" not in run_cli("list", *every_one).out
    job = run_cli("list", *every_one, "--json").object
    assert (job["group"], job["tenant"], job["tags"]) == ("g", "acme", {"a": "1", "b": "2"})


def _question(job_id, question):
    from aragora_q.job import create_debate_job

    return create_debate_job(question, ["demo:bold", "demo:careful"], job_id=job_id)


def test_an_empty_list_is_not_an_error(run_cli):
    """Nothing on stdout, exit 0."""
    ended = run_cli("list", "--status", "failed")
    assert (ended.code, ended.out) == (0, "")
    assert re.fullmatch(r"no jobs match in queue debates at redis://127.0.0.1:\d+\n", ended.err)
    assert run_cli("list").err.startswith("no jobs found in queue debates at ")
