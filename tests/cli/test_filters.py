"""Filters mean the same for all commands; what they would change is counted and confirmed first."""

import asyncio
import os
import pty
import re
import subprocess
import time

import pytest

from aragora_q.base import LIVE, Job, JobStatus
from aragora_q.cli import filters
from aragora_q.cli.selection import Selection
from aragora_q.contracts import Completed, Failed
from aragora_q.errors import TryAgain
from aragora_q.labels import JobFilter
from aragora_q.streams.queue import RedisStreamsQueue

COMMANDS = ("list", "cancel", "hold", "unhold", "requeue", "purge", "wait")
CHANGES = {"cancel": "waits", "hold": "waits", "requeue": "bad", "purge": "done"}


@pytest.fixture
async def jobs(harness):
    """`done` completed, `bad` failed, `waits` waits, with the same labels; `other` waits without labels."""
    labels = {"group": "g", "tenant": "acme", "tags": {"env": "prod"}}
    worker = await harness.worker("w1")
    for job_id in ("done", "bad"):
        await harness.enqueue(job_id, **labels)
    done, bad = (await worker.start(2)).jobs
    await harness.report(worker, done, Completed(b"{}"))
    await harness.report(worker, bad, Failed("no"))
    await harness.enqueue("waits", **labels)
    await harness.enqueue("other")
    return ["done", "bad", "waits"]


@pytest.mark.parametrize(
    "given",
    [
        ("--group", "g"),
        ("--tenant", "acme"),
        ("--tag", "env=prod"),
        ("--group", "g", "--tag", "env=prod", "--since", "1h"),
    ],
)
async def test_one_filter_for_all(harness, run_cli, jobs, given):
    """Each option finds the same jobs in every command, within the statuses that the command takes."""
    assert sorted(run_cli("list", *given, "-q").lines) == sorted(jobs)
    for command, job_id in CHANGES.items():
        counted = run_cli(command, *given, "--dry-run", "--json").object
        number = 2 if command == "purge" else 1
        total = counted["jobs"] if "jobs" in counted else sum(counted["purged"].values())
        assert (counted["dry_run"], total) == (True, number), job_id
    assert run_cli("wait", *given, "--status", "completed", "-q").lines == ["done"]
    assert sorted(run_cli("list", *given, "-q").lines) == sorted(jobs)


async def test_since_and_until_are_times_of_the_server(harness, run_cli, jobs):
    """Durations before now, and dates; nothing matches before the jobs, everything since."""
    assert len(run_cli("list", "--since", "1h", "-q").lines) == 4
    assert run_cli("list", "--until", "1h", "-q").lines == []
    assert (
        len(run_cli("list", "--since", "2020-01-01", "--until", "2099-01-01T02:00Z", "-q").lines)
        == 4
    )
    assert len(run_cli("list", "-s", "failed", "-s", "completed", "-q").lines) == 2


def test_times_with_and_without_an_offset():
    """An offset counts; without one, a time is local."""
    at = filters.parse_moment("2026-11-28T02:00:00+02:00").at(0)
    assert at == filters.parse_moment("2026-11-28T00:00Z").at(5) == 1_795_824_000
    assert filters.parse_moment("36h").at(200_000) == 200_000 - 36 * 3600


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tag", "env"], "--tag: 'env' is not K=V"),
        (["--tag", "a=1", "--tag", "a=2"], "--tag: 'a' is given twice"),
        (["--status", "lost"], "'lost' is not one of"),
        (
            ["--since", "yesterday"],
            "--since: invalid time 'yesterday': use a time before now such as",
        ),
        (["--until", "2026-13-01"], "--until: invalid time '2026-13-01'"),
        (["--since", "1h", "--until", "2h"], "--until: it is not after --since"),
        (["--since", "2099-01-01", "--until", "1h"], "--until: it is not after --since"),
    ],
)
def test_wrong_values_are_usage_errors(run_cli, command, given, message):
    """One line with the option, exit 2, in every command."""
    ended = run_cli(command, *given)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("error:") == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--group", "a b"], "invalid group 'a b': use 1 to 48 letters"),
        (["--tenant", ""], "invalid tenant '': use 1 to 48 letters"),
        (["--tag", "a b=c"], "invalid tag name 'a b': use 1 to 24 letters"),
        (["--tag", "a=b c"], "invalid value 'b c' of tag a: use 1 to 48 letters"),
        ([f"--tag=t{n}=1" for n in range(9)], "9 tags: a job has at most 8"),
    ],
)
def test_labels_that_no_job_can_have(run_cli, command, given, message):
    """One line, exit 65 as from `enqueue`, before anything is sent."""
    ended = run_cli(command, *given, "--redis-url", "redis://127.0.0.1:1")
    assert (ended.code, ended.out) == (65, "")
    assert ended.err.startswith(f"aragora-q: error: {message}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cancel"], "ID: give job ids, or a filter such as --group"),
        (["requeue"], "ID: give job ids, or a filter such as --group"),
        (["wait"], "ID: give job ids, or a filter such as --group"),
        (["cancel", "a", "--group", "g"], "ID: give job ids or a filter, not both"),
        (["wait", "a", "--since", "1h"], "ID: give job ids or a filter, not both"),
        (["cancel", "a", "--dry-run"], "--dry-run: it counts the jobs that a filter matches"),
        (["cancel", "--group", "g"], "error: this would cancel all jobs that match: add --yes"),
        (["requeue", "--status", "failed"], "error: this would requeue all jobs that match"),
        (["purge", "--tenant", "acme"], "error: this would purge all jobs that match"),
        (
            ["cancel", "-s", "failed", "-y"],
            "--status: cancel takes only jobs whose status is pending,",
        ),
        (
            ["requeue", "-s", "pending", "-y"],
            "--status: requeue takes only jobs whose status is failed or",
        ),
        (
            ["purge", "-s", "pending", "-y"],
            "--status: purge takes only jobs whose status is completed,",
        ),
    ],
)
def test_what_does_not_go_together(run_cli, args, message):
    """Exit 2 and one line, before anything is sent."""
    ended = run_cli(*args, "--redis-url", "redis://127.0.0.1:1")
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


async def test_cancel_requeue_and_purge_what_matches(harness, run_cli, jobs):
    """With --yes they change the jobs that match, and no others; a second run changes nothing."""
    ended = run_cli("cancel", "--group", "g", "--yes")
    assert (ended.code, ended.out, ended.err) == (0, "", "cancelled 1 job\n")
    assert run_cli("cancel", "--group", "g", "--yes").err == "cancelled 0 jobs\n"
    assert await harness.queue.get_status("other") == "pending"
    assert sorted(run_cli("requeue", "--tag", "env=prod", "-y", "--json").ids) == ["bad", "waits"]
    assert run_cli("requeue", "--tag", "env=prod", "-y").err == "requeued 0 jobs\n"
    assert sorted(run_cli("cancel", "--tenant", "acme", "-y", "-q").lines) == ["bad", "waits"]
    purged = run_cli("purge", "--group", "g", "--status", "cancelled", "--yes", "--json").object
    assert purged == {"dry_run": False, "purged": {"cancelled": 2}}
    assert run_cli("purge", "--group", "g", "--older-than", "1h", "-y").err == (
        "deleted: 0 cancelled, 0 completed, 0 failed\n"
    )
    assert (
        run_cli("purge", "--group", "g", "-y").err
        == "deleted: 0 cancelled, 1 completed, 0 failed\n"
    )
    assert run_cli("list", "-q").lines == ["other"]


async def test_many_jobs_are_cancelled_in_pages(harness, run_cli):
    """More than a page of them: one line per job, each once."""
    for start in range(0, 1200, 100):
        await harness.queue.enqueue_many(
            [Job({}, id=f"j{n}", group="big") for n in range(start, start + 100)]
        )
    ids = run_cli("cancel", "--group", "big", "--yes", "--quiet").lines
    assert sorted(ids) == sorted(f"j{n}" for n in range(1200))
    counts = (await harness.queue.tracker.get_group("big")).counts
    assert counts["cancelled"] == 1200


async def test_what_moves_meanwhile_is_cancelled_too(harness, run_cli, monkeypatch):
    """A job that a page misses, because it is promoted or started just then, is found by the next pass."""
    await harness.enqueue("a", group="g")
    await harness.enqueue("b", group="g")
    find, passes = RedisStreamsQueue.find, []

    async def find_one_less(self, wanted, **options):
        passes.append(1)
        async for page in find(self, wanted, **options):
            yield page[:1]

    monkeypatch.setattr(RedisStreamsQueue, "find", find_one_less)
    assert run_cli("cancel", "--group", "g", "--yes").err == "cancelled 2 jobs\n"
    assert len(passes) == 3


async def test_what_takes_the_place_of_a_cancelled_job_is_not_cancelled(harness):
    """A job that starts because one was cancelled is none of those that ran: it continues."""
    for job_id in "abc":
        await harness.enqueue(job_id)
    worker = await harness.worker()
    await worker.start(1)
    given = filters.GivenFilter(statuses=frozenset({JobStatus.PROCESSING}))
    selection = Selection(
        "cancel", LIVE, None, given, dry_run=False, yes=True, as_json=False, quiet=True
    )

    async def cancel_and_start(page):
        cancelled = (await harness.queue.cancel_many(page)).count("cancelled")
        await asyncio.sleep(0.005)  # times are whole ms
        await worker.start(1)
        return cancelled

    changed = await selection.run(harness.queue, cancel_and_start, until_none_is_left=True)
    assert (changed, await harness.queue.get_status("b")) == (1, "processing")


@pytest.mark.parametrize("command", CHANGES)
async def test_a_command_that_stops_early_says_so(harness, run_cli, jobs, monkeypatch, command):
    """An error in the middle: how many jobs were changed, and that the command can be run again."""
    find = RedisStreamsQueue.find

    async def find_and_fail(self, wanted, **options):
        async for page in find(self, wanted, **options):
            yield page
            raise TryAgain("the server is full")

    with monkeypatch.context() as patch:
        patch.setattr(RedisStreamsQueue, "find", find_and_fail)
        ended = run_cli(command, "--group", "g", "--yes")
    assert (ended.code, ended.err.splitlines()[0]) == (
        75,
        "stopped after at least 1 job; run the command again for the rest",
    )
    assert run_cli(command, "--group", "g", "--yes").code == 0


def _answer(start_command, answer, *args):
    """Run a command whose stdin is a terminal at which `answer` is typed; return its exit code and stderr."""
    terminal, stdin = pty.openpty()
    try:
        process = start_command(*args, stdin=stdin, stderr=subprocess.PIPE)
        os.write(terminal, f"{answer}\n".encode())
        _, err = process.communicate(timeout=60)
        return process.returncode, err.decode()
    finally:
        os.close(terminal)
        os.close(stdin)


async def test_a_terminal_is_asked_with_the_count(harness, start_command, jobs):
    """The question has the count, the filter in words and the queue; only yes changes anything."""
    args = ("cancel", "--group", "g", "--status", "pending")
    code, err = await asyncio.to_thread(_answer, start_command, "n", *args)
    assert (code, "Cancel 1 job of group g, status pending, in queue debates? [y/N]" in err) == (
        1,
        True,
    )
    assert err.endswith("aborted: nothing was changed\n")
    _, err = await asyncio.to_thread(_answer, start_command, "\x04", *args)
    assert err.endswith("\naborted: nothing was changed\n")
    assert await harness.queue.get_status("waits") == "pending"
    code, err = await asyncio.to_thread(_answer, start_command, "y", *args)
    assert (code, "cancelled 1 job" in err) == (0, True)
    assert await harness.queue.get_status("waits") == "cancelled"


async def test_a_progress_bar_leaves_the_results_on_stdout(harness, start_command, jobs):
    """With stdout in a pipe or file and stderr at a terminal, each result is on stdout only."""
    screen, terminal = pty.openpty()
    try:
        process = start_command("cancel", "--group", "g", "--yes", "--json", stderr=terminal)
        out, _ = await asyncio.to_thread(process.communicate, timeout=60)
        os.set_blocking(screen, False)
        shown = os.read(screen, 65_536)
    finally:
        os.close(screen)
        os.close(terminal)
    assert out == b'{"id":"waits","cancelled":true,"status":"cancelled"}\n'
    assert b"1 of 1 job" in shown
    assert b"cancelled" not in shown


def test_filters_in_words():
    """Only what was given, in the order of the options."""
    given = filters.GivenFilter(
        "nightly", "acme", {"env": "prod"}, frozenset({JobStatus.FAILED, JobStatus.CANCELLED})
    )
    text = given.in_words(JobFilter(since=0.0))
    assert re.fullmatch(
        r"of group nightly, tenant acme, tag env=prod, status failed or cancelled, "
        r"since (1970-01-01|1969-12-31) \d\d:\d\d:\d\d",
        text,
    )
    assert filters.GivenFilter().in_words(JobFilter(until=0.0)).startswith("until 19")


@pytest.mark.parametrize("timezone", ["UTC", "Etc/GMT+12", "Etc/GMT-14"])
@pytest.mark.parametrize(
    "text", ["999999999d", "0001-01-02", "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59"]
)
def test_any_time_can_be_shown(monkeypatch, text, timezone):
    """A filter with a time that no calendar has, in any time zone, is shown before it is confirmed."""
    monkeypatch.setenv("TZ", timezone)
    time.tzset()
    try:
        since = filters.parse_moment(text).at(1_795_874_265.0)
        shown = filters.GivenFilter().in_words(JobFilter(since=since))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert re.fullmatch(r"since (1970|1969|999\d)-\d\d-\d\d [\d:]{8}", shown)


async def test_ids_of_another_program_stop_no_filter(harness, run_cli, jobs):
    """Ids that are not text, in the indexes and with a status: all other jobs are listed and changed."""
    for n, index in enumerate((harness.keys.completed, harness.keys.failed, harness.keys.delayed)):
        job_id = b"\xff%d" % n
        harness.redis.zadd(index, {job_id: time.time() * 1000})
        status = index.rpartition(":")[2].replace("delayed", "pending")
        harness.redis.hset(harness.keys.job("").encode() + job_id, "status", status)
    assert sorted(run_cli("list", "-q").lines) == sorted([*jobs, "other"])
    assert run_cli("requeue", "--since", "1h", "--yes").err.endswith("requeued 1 job\n")
    assert run_cli("cancel", "--since", "1h", "--yes").err == "cancelled 3 jobs\n"
    assert run_cli("wait", "--since", "1h", "-q", "--timeout", 50).code == 1
    purged = run_cli("purge", "--since", "1h", "--yes").err
    assert purged == "deleted: 3 cancelled, 1 completed, 0 failed\n"
    harness.redis.flushdb()


async def test_list_says_that_there_are_more(harness, run_cli, jobs):
    """On a terminal, on stderr, if --limit cut the list; never with --json or --quiet."""
    cut = run_cli("list", "-n", 2, terminal=True)
    assert "there are more jobs: --limit 10" in cut.err
    assert run_cli("list", "-n", 4, terminal=True).err == ""
    assert run_cli("list", "-n", 2).err == ""
    for form in ("--json", "--quiet"):
        assert run_cli("list", "-n", 2, form, terminal=True).err == ""
