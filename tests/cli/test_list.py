"""list, tail, requeue, pause, resume, status, wait, cancel: what operators and scripts do with jobs."""

import json
import re

import pytest
from support.wait import wait_until_sync

from aragora_q.base import Completed, Failed, Job, Retry


def ids(ended):
    return [each["id"] for each in ended.objects]


async def in_every_state(harness):
    """One job in each state, and one delayed; the names say which."""
    session = await harness.worker(lease_seconds=600)
    for name, outcome in (("completed", Completed(b'{"a":1}')), ("failed", Failed("no\nuse")),
                          ("retrying", Retry("again", 60))):  # fmt: skip
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("cancelled")
    await harness.queue.cancel("cancelled")
    await harness.enqueue("processing")
    await harness.start_one(session)
    await harness.enqueue("pending")
    await harness.enqueue("delayed", delay_seconds=60)
    return session


STATES = {
    "completed": ["completed"], "failed": ["failed"], "retrying": ["retrying"],
    "cancelled": ["cancelled"], "processing": ["processing"], "pending": ["delayed", "pending"],
}  # fmt: skip


async def test_an_error_is_told_to_its_end(harness, run_cli):
    """However long the error is, `status` and `wait` show all of it: the remedy comes last."""
    session = await harness.worker()
    await harness.enqueue("bad")
    error = "PermanentError: nobody is left: " + "a: no answer; " * 20 + "set ANTHROPIC_API_KEY"
    await harness.report(session, await harness.start_one(session), Failed(error))
    for name in ("status", "wait"):
        said = " ".join(run_cli(name, "bad").out.split())
        assert f"last error {error}" in said
        assert said.count("history") == (name == "status")


async def test_list_finds_jobs_by_status(harness, run_cli):
    """Each status lists exactly its jobs, delayed ones are pending; without a status, all of them."""
    await in_every_state(harness)
    for status, names in STATES.items():
        ended = run_cli("list", "--status", status, "--jsonl")
        assert (ended.code, ids(ended)) == (0, names)
        assert {each["status"] for each in ended.objects} == {status}
    everything = run_cli("list", "--quiet")
    assert sorted(everything.lines) == sorted(name for names in STATES.values() for name in names)


async def test_list_is_newest_first_and_bounded(harness, run_cli):
    """The limit cuts the oldest; indexes and lanes are read over several pages."""
    session = await harness.worker(lease_seconds=600)
    for start in range(0, 1200, 100):
        await harness.queue.enqueue_many([_job(n) for n in range(start, start + 100)])
    newest = [f"j{n}" for n in reversed(range(1200))]
    assert run_cli("list", "-s", "pending", "-n", 5, "-q").lines == newest[:5]
    assert run_cli("list", "-s", "pending", "-n", 5000, "-q").lines == newest
    for _ in range(12):
        for job in (await session.start(100)).jobs:
            await harness.report(session, job, Failed("no"))
    listed = run_cli("list", "-s", "failed", "-n", 5000, "-q").lines
    assert sorted(listed) == sorted(newest)
    assert len(set(listed[:5]) & set(newest[:200])) == 5


def _job(n):
    return Job(payload={"n": n}, id=f"j{n}")


async def test_no_backlog_is_too_long_to_list(harness, run_cli):
    """Every waiting job is listed, and a retrying one at the far end of the lane is found."""
    await harness.enqueue("again")
    session = await harness.worker()
    await harness.report(session, await harness.start_one(session), Retry("again", 0))
    await harness.queue.promote()
    await harness.queue.enqueue_many([_job(n) for n in range(20_500)])
    assert len(run_cli("list", "-s", "pending", "-n", 50_000, "-q").lines) == 20_500
    assert run_cli("list", "-s", "retrying", "-q").lines == ["again"]


async def test_waiting_for_many_jobs_takes_few_connections(harness, run_cli):
    """1,000 ids cost some round trips, not a connection each."""
    await harness.queue.enqueue_many([_job(n) for n in range(1000)])
    before = harness.redis.info("stats")["total_connections_received"]
    ended = run_cli("wait", *(f"j{n}" for n in range(1000)), "--timeout", 0)
    assert ended.code == 124
    assert harness.redis.info("stats")["total_connections_received"] - before <= 5


async def test_list_reads_in_80_columns(harness, run_cli):
    """The table has one line per job, none longer than 80 columns, with what matters about it."""
    await in_every_state(harness)
    await harness.queue.enqueue(_question("long", "why " * 100))
    ended = run_cli("list")
    assert len(ended.lines) == 9
    assert max(map(len, ended.lines)) <= 80
    assert "no use" in next(line for line in ended.lines if line.startswith("failed"))


def _question(job_id, question):
    from aragora_q.job import create_debate_job

    return create_debate_job(question, ["demo:bold", "demo:careful"], job_id=job_id)


async def test_what_happened_on_another_day_is_told_with_its_date(harness, run_cli):
    """`status` and `tail` show times of today as times, older ones with their day."""
    session = await harness.worker()
    await harness.enqueue("bad")
    await harness.report(session, await harness.start_one(session), Failed("no"))
    today = " ".join(run_cli("status", "bad").lines[-1].split())
    assert re.fullmatch(r"history \d\d:\d\d:\d\d attempt 1 .*: no", today)
    key = f"{harness.keys.job('bad')}:history"
    event = json.loads(harness.redis.lindex(key, 0))
    harness.redis.lset(key, 0, json.dumps({**event, "at": event["at"] - 2 * 86_400_000}))
    older = " ".join(run_cli("status", "bad").lines[-1].split())
    assert re.fullmatch(r"history \d{4}-\d\d-\d\d \d\d:\d\d:\d\d attempt 1 .*: no", older)


class TestGarbledHashes:
    """A stranger's word in one job's hash costs that job only."""

    @pytest.mark.parametrize(
        ("field", "word"), [("attempts", "abc"), ("created_at", "9" * 18), ("status", "weird")]
    )
    async def test_list_complains_and_goes_on(self, harness, run_cli, field, word):
        """All others are listed in every form; what is wrong is said once, exit 65."""
        for name in ("one", "bad", "two"):
            await harness.enqueue(name)
        harness.redis.hset(harness.keys.job("bad"), field, word)
        for args in (("--jsonl",), ("--jsonl", "-s", "pending"), ()):
            ended = run_cli("list", *args)
            assert (ended.code, ended.err.count("error:")) == (65, 1)
            assert "job bad" in ended.err
            assert "one" in ended.out
            assert "two" in ended.out

    async def test_commands_for_one_job_say_what_is_wrong(self, harness, run_cli):
        """One clear line and exit 65, never a traceback."""
        await harness.enqueue("bad")
        harness.redis.hset(harness.keys.job("bad"), "status", "weird")
        for args in (("wait", "bad", "--timeout", "5"), ("status", "bad")):
            ended = run_cli(*args)
            assert (ended.code, "job bad is not a job" in ended.err) == (65, True)

    async def test_the_next_job_is_shown_and_all_can_be_cancelled(self, harness, run_cli):
        """`status` goes on after one that is no job; `cancel` gives even that one an end."""
        await harness.enqueue("bad")
        await harness.enqueue("good")
        harness.redis.hset(harness.keys.job("bad"), "status", "weird")
        shown = run_cli("status", "bad", "good", "--json")
        assert (shown.code, ids(shown)) == (65, ["good"])
        ended = run_cli("cancel", "bad", "good", "--json")
        assert (ended.code, ids(ended)) == (0, ["bad", "good"])

    @pytest.mark.parametrize("part", ["history", "journal", "result"])
    async def test_garbled_parts(self, harness, run_cli, part):
        """History, progress or result that are no JSON: one clear line, exit 65."""
        await harness.enqueue("bad")
        session = await harness.worker()
        await harness.report(session, await harness.start_one(session), Completed(b"{}"))
        key = f"{harness.keys.job('bad')}:{part}"
        harness.redis.delete(key)
        {
            "history": lambda: harness.redis.rpush(key, "garbled"),
            "journal": lambda: harness.redis.hset(key, "progress", "garbled"),
            "result": lambda: harness.redis.set(key, "{}\ngarbled"),
        }[part]()
        ended = run_cli("status", "bad")
        assert (ended.code, "job bad is not a job" in ended.err) == (65, True)


def test_an_empty_list_is_no_error(run_cli):
    """Nothing on stdout, exit 0."""
    ended = run_cli("list", "--status", "failed")
    assert (ended.code, ended.out, ended.err) == (0, "", "no such jobs\n")


async def test_failed_jobs_go_from_list_to_requeue(harness, run_cli):
    """`list -s failed --jsonl | requeue -` puts them back; a second time changes nothing and exits 0."""
    await in_every_state(harness)
    listed = run_cli("list", "-s", "failed", "--jsonl").out + "cancelled\n"
    first = run_cli("requeue", "-", "--json", stdin=listed)
    assert (first.code, first.objects) == (0, [
        {"id": "failed", "requeued": True, "status": "pending"},
        {"id": "cancelled", "requeued": True, "status": "pending"},
    ])  # fmt: skip
    again = run_cli("requeue", "-", "--json", stdin=listed)
    assert (again.code, [each["requeued"] for each in again.objects]) == (0, [False, False])
    assert sorted(run_cli("list", "-s", "pending", "-q").lines) == [
        "cancelled", "delayed", "failed", "pending",
    ]  # fmt: skip


async def test_requeue_says_what_it_cannot_do(harness, run_cli):
    """Unknown ids, completed jobs and no ids at all: a line each, exit 3; the others go through."""
    await in_every_state(harness)
    ended = run_cli("requeue", "nobody", "completed", "a b", "failed", "--quiet")
    assert (ended.code, ended.lines) == (3, ["failed"])
    assert [line.split(": ")[-2] for line in ended.err.splitlines()[:1]] == [
        "job nobody is not requeued"
    ]
    assert "completed: enqueue it again under another id" in ended.err
    assert "job a b is not requeued: no job id" in ended.err
    broken = run_cli("requeue", "-", stdin='{"no": "id"}\n')
    assert broken.code == 65
    assert "line 1: neither a job id nor a JSON object with one" in broken.err


async def test_tail_shows_transitions_and_progress_and_resumes(harness, start_command):
    """Events come as they happen, one JSON line per job; --after goes on where the last one was."""
    process = start_command("tail", "--after", "0", "--jsonl")
    session = await harness.worker(lease_seconds=600)
    await harness.queue.enqueue_many([_job(1), _job(2)])
    job = await harness.start_one(session)
    await session.report_progress(job, {"phase": "vote", "agents": 2, "agents_done": 1})
    await harness.report(session, job, Completed(b"{}"))
    seen = [json.loads(process.stdout.readline()) for _ in range(5)]
    assert [(each["event"], each["id"]) for each in seen] == [
        ("enqueued", "j1"), ("enqueued", "j2"), ("started", "j1"), ("progress", "j1"),
        ("completed", "j1"),
    ]  # fmt: skip
    assert seen[2]["worker_id"] == "w1"
    assert seen[3]["progress"]["phase"] == "vote"
    later = start_command("tail", "--after", seen[2]["event_id"])
    assert later.stdout.readline().decode().rstrip().endswith("vote, 1 of 2 agents done")


async def test_tail_follows_chosen_jobs_only(harness, start_command):
    """With ids, other jobs' events are left out."""
    process = start_command("tail", "j2", "--after", "0", "--json")
    await harness.queue.enqueue_many([_job(1), _job(2)])
    assert json.loads(process.stdout.readline())["id"] == "j2"


def test_tail_refuses_what_is_no_event_id(run_cli):
    """A usage error, not an answer of Redis."""
    ended = run_cli("tail", "--after", "yesterday")
    assert ended.code == 2
    assert "no event id" in ended.err


async def test_a_closed_pipe_is_quiet(harness, start_command):
    """`tail | head -1`: when nobody reads any more, the command ends without a word."""
    await harness.queue.enqueue_many([_job(1)])
    process = start_command("tail", "--after", "0", "--json")
    process.stdout.readline()
    process.stdout.close()
    await harness.queue.enqueue_many([_job(2)])
    wait_until_sync(lambda: process.poll() is not None, 20)
    assert (process.returncode, process.stderr.read()) == (141, b"")


async def test_pause_and_resume(harness, run_cli):
    """No job starts while paused; both commands may be repeated."""
    session = await harness.worker(lease_seconds=600)
    await harness.enqueue("a")
    told = [run_cli("pause").err, run_cli("pause").err]
    assert (await session.start(1)).state == "paused"
    told += [run_cli("resume").err, run_cli("resume").err]
    assert [job.id for job in (await session.start(1)).jobs] == ["a"]
    assert told == [
        "queue debates is paused\n", "queue debates was paused already\n",
        "queue debates goes on\n", "queue debates was not paused\n",
    ]  # fmt: skip
    assert run_cli("pause", "-q").err == ""
    assert run_cli("resume", "-q").err == ""


async def test_status_wait_and_cancel_by_json(harness, run_cli):
    """The three name every job's state; an unknown one is told on stderr and exits 3."""
    await in_every_state(harness)
    shown = run_cli("status", "failed", "nobody", "--json")
    assert (shown.code, shown.object["history"][-1]["error"]) == (3, "no\nuse")
    assert "no job nobody in queue debates" in shown.err
    assert run_cli("wait", "completed", "--json").object["result"] == {"a": 1}
    assert run_cli("wait", "completed", "failed", "-q").code == 1
    assert run_cli("wait", "nobody").code == 3
    ended = run_cli("cancel", "pending", "completed", "nobody", "--json")
    assert ended.code == 3
    assert ended.objects == [
        {"id": "pending", "cancelled": True, "status": "cancelled"},
        {"id": "completed", "cancelled": False, "status": "completed"},
    ]


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_whoever_wants_no_colours_gets_no_escapes(harness, run_cli, monkeypatch, variables):
    """On a terminal, too, NO_COLOR and a dumb TERM leave nothing but text: in tables and in lines."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await in_every_state(harness)
    for args in (("list",), ("stats",), ("status", "failed"), ("doctor",)):
        said = run_cli(*args, terminal=True)
        assert said.out
        assert "\x1b" not in said.out + said.err
