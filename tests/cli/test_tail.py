"""`aragora-q tail`: events as they happen."""

import json

import pytest
from support.jobs import numbered_job
from support.wait import wait_until_sync

from aragora_q.contracts import Completed


@pytest.mark.slow
async def test_tail_shows_transitions_and_progress_and_resumes(harness, start_command):
    """Events as they happen, one JSON line per job; --after resumes after an event."""
    process = start_command("tail", "--after", "0", "--jsonl")
    session = await harness.worker(lease_seconds=600)
    await harness.queue.enqueue_many([numbered_job(1), numbered_job(2)])
    job = await harness.start_one(session)
    await session.report_progress(job, {"phase": "vote", "agents": 2, "agents_done": 1})
    await harness.report(session, job, Completed(b"{}"))
    seen = [json.loads(process.stdout.readline()) for _ in range(5)]
    assert [(event["event"], event["id"]) for event in seen] == [
        ("enqueued", "j1"), ("enqueued", "j2"), ("started", "j1"), ("progress", "j1"),
        ("completed", "j1"),
    ]  # fmt: skip
    assert seen[2]["worker_id"] == "w1"
    assert seen[3]["progress"]["phase"] == "vote"
    later = start_command("tail", "--after", seen[2]["event_id"])
    assert later.stdout.readline().decode().rstrip().endswith("vote, 1 of 2 agents done")


async def test_tail_follows_chosen_jobs_only(harness, start_command):
    """With ids, events of other jobs are left out."""
    process = start_command("tail", "j2", "--after", "0", "--json")
    await harness.queue.enqueue_many([numbered_job(1), numbered_job(2)])
    assert json.loads(process.stdout.readline())["id"] == "j2"


async def test_events_show_the_labels_of_their_jobs(harness, start_command):
    """In JSON and in text; null of jobs without them, of deleted jobs and of events of the queue."""
    queue = harness.queue
    await harness.enqueue("all", group="nightly", tenant="acme", tags={"b": "2", "a": "1"})
    await harness.enqueue("gone", group="nightly")
    await harness.enqueue("none")
    await queue.cancel("gone")
    assert await queue.purge_many(["gone"]) == ["purged"]
    await queue.pause()
    process = start_command("tail", "--after", "0", "--json")
    seen = [json.loads(process.stdout.readline()) for _ in range(6)]
    assert [(event["id"], event["group"], event["tenant"], event["tags"]) for event in seen] == [
        ("all", "nightly", "acme", {"a": "1", "b": "2"}),
        ("gone", None, None, {}),
        ("none", None, None, {}),
        ("gone", None, None, {}),
        ("gone", None, None, {}),
        (None, None, None, {}),
    ]
    text = start_command("tail", "--after", "0").stdout.readline().decode()
    assert text.endswith("  enqueued    all  group nightly  tenant acme  a=1 b=2\n")


async def test_labels_are_read_once_per_batch_of_events(harness, start_command):
    """As many jobs as the server keeps events of take a few reads, not one each."""
    for n in range(100):
        await harness.enqueue(f"j{n}", group="nightly")
    harness.redis.config_resetstat()
    process = start_command("tail", "--after", "0", "--json")
    seen = [json.loads(process.stdout.readline()) for _ in range(100)]
    assert {event["group"] for event in seen} == {"nightly"}
    assert harness.redis.info("commandstats")["cmdstat_hmget"]["calls"] <= 3


@pytest.mark.parametrize("value", ["yesterday", "1-", "-1", "9" * 21, f"{2**64}-0", "1-٣", "1\n"])
def test_tail_refuses_an_invalid_event_id(run_cli, value):
    """A usage error, found before a connection is opened."""
    ended = run_cli("tail", f"--after={value}")
    assert ended.code == 2
    assert "is not an event id" in ended.err


def test_tail_of_an_unknown_job_ends(run_cli):
    """A mistyped id is an error as in `status`, not silence."""
    ended = run_cli("tail", "missing")
    assert (ended.code, ended.out) == (3, "")
    assert "job missing not found in queue debates" in ended.err


@pytest.mark.slow
async def test_a_closed_pipe_is_quiet(harness, start_command):
    """`tail | head -1`: the command ends without a message when its reader has closed the pipe."""
    await harness.queue.enqueue_many([numbered_job(1)])
    process = start_command("tail", "--after", "0", "--json")
    process.stdout.readline()
    process.stdout.close()
    await harness.queue.enqueue_many([numbered_job(2)])
    wait_until_sync(lambda: process.poll() is not None)
    assert (process.returncode, process.stderr.read()) == (141, b"")
