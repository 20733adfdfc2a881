"""schedule: what operators see of schedules, and run, pause, resume and forget."""

import json
import re
import time

import pytest
from support.schedules import now_ms

from aragora_q.contracts import Plan, ScheduleState, Tick
from aragora_q.job import Job

CRON = "cron = '0 6 * * MON'\ntime_zone = 'Europe/Berlin'\n"
JOB = "job = {payload = {n = 1}}\n"
NEXT = r"Mon \d{4}-\d\d-\d\d 06:00 CES?T"


@pytest.fixture
def weekly(tmp_path, run_cli):
    """A configuration with the schedule `weekly`; the file may be written again."""
    path = tmp_path / "aragora-q.toml"  # the current directory is tmp_path
    path.write_text(f"[schedules.weekly]\n{CRON}{JOB}")
    return path


@pytest.fixture
def state_of(run_cli):
    """The JSON of `schedule list` for one schedule."""

    def read(name="weekly"):
        return next(
            row for row in run_cli("schedule", "list", "--json").objects if row["name"] == name
        )

    return read


def test_without_schedules_the_list_says_how_to_add_one(run_cli):
    """An empty list says so on stderr; stdout stays empty."""
    ended = run_cli("schedule", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "no schedule is configured for queue" in ended.err
    assert "to add one: a table [schedules.NAME] with cron and job in aragora-q.toml" in ended.err
    for option in ("--json", "--quiet"):
        ended = run_cli("schedule", "list", option)
        assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_new_schedule_has_a_next_time_in_its_zone(run_cli, weekly):
    """Before any worker knows it; that its times pass without jobs until then is said."""
    ended = run_cli("schedule", "list")
    assert ended.code == 0
    assert re.search(
        rf"^weekly +not loaded +{NEXT} +none yet +0 6 \* \* MON Europe/Berlin$",
        ended.out,
        re.MULTILINE,
    )
    assert " ".join(ended.lines[2:]).strip().startswith("weekly: no worker has it yet: start one")
    assert run_cli("reap", "--quiet").code == 0
    ended = run_cli("schedule", "list")
    assert re.search(rf"^weekly +active +{NEXT} ", ended.out, re.MULTILINE)
    assert len(ended.lines) == 2
    assert run_cli("schedule", "list", "-q").out == "weekly\n"


def test_a_schedule_of_another_queue_is_not_listed(run_cli, weekly):
    """`queue` says whose it is; it cannot be run there."""
    weekly.write_text(f"[schedules.weekly]\nqueue = 'other'\n{CRON}{JOB}")
    assert run_cli("schedule", "list", "-q").out == ""
    assert run_cli("schedule", "run", "weekly").code == 3
    assert run_cli("--queue", "other", "schedule", "list", "-q").out == "weekly\n"


def test_show_has_the_next_times_and_the_job(run_cli, weekly):
    """As many times as asked for, a week apart."""
    shown = run_cli("schedule", "show", "weekly", "--next", "3")
    assert shown.code == 0
    assert re.search(
        rf"^next       {NEXT} \(in .+\)\n           {NEXT} \(.+\)\n           {NEXT} \(",
        shown.out,
        re.MULTILINE,
    )
    assert "cron       0 6 * * MON, time zone Europe/Berlin" in shown.lines
    assert 'job        {"payload": {"n": 1}}' in shown.lines
    found = run_cli("schedule", "show", "weekly", "--next", "2", "--json").object
    assert len(found["times"]) == 2
    assert found["times"][1] - found["times"][0] in {week * 3_600_000 for week in (167, 168, 169)}
    assert found["job"] == {"payload": {"n": 1}}
    assert run_cli("schedule", "show", "weekly", "--next", "0", "--json").object["times"] == []


def test_run_enqueues_the_job_now(run_cli, weekly, state_of):
    """It prints the id; the history says who and why; the tag leads to it."""
    ended = run_cli("schedule", "run", "weekly", "--reason", "the board meets")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"weekly@\d+-run enqueued\n", ended.out)
    job_id = ended.out.split()[0]
    [event] = run_cli("status", job_id, "--json").object["history"]
    assert (event["cause"], event["reason"]) == ("scheduled", "the board meets")
    assert "@" in event["by"]
    assert run_cli("list", "--tag", "schedule=weekly", "-q").out.strip() == job_id
    assert (state_of()["last_job"], state_of()["last_status"]) == (job_id, "pending")
    assert re.search(
        r"^weekly +not loaded .* pending, .* ago ", run_cli("schedule", "list").out, re.MULTILINE
    )


def test_a_job_that_was_deleted_is_shown_so(run_cli, weekly, state_of):
    """The schedule still knows its id."""
    job_id = run_cli("schedule", "run", "weekly", "--quiet").out.strip()
    run_cli("cancel", job_id)
    run_cli("purge", job_id)
    assert (state_of()["last_job"], state_of()["last_status"]) == (job_id, None)
    assert " deleted, " in run_cli("schedule", "list").out
    assert f"last job   {job_id}, deleted" in run_cli("schedule", "show", "weekly").lines


def test_pause_and_resume(run_cli, weekly, state_of):
    """Who and why; both may be repeated; a paused schedule can be run."""
    ended = run_cli("schedule", "pause", "weekly", "--reason", "holidays")
    assert (ended.code, ended.out) == (0, "weekly is paused\n")
    assert (
        run_cli("schedule", "pause", "weekly", "--reason", "x").out == "weekly was already paused\n"
    )
    shown = run_cli("schedule", "list").out
    assert re.search(r"^weekly +paused +on resume ", shown, re.MULTILINE)
    assert re.search(r"^weekly: paused by \S+@\S+ .* ago: holidays$", shown, re.MULTILINE)
    assert state_of()["paused"]["reason"] == "holidays"
    assert re.search(
        rf"^if resumed {NEXT} ", run_cli("schedule", "show", "weekly").out, re.MULTILINE
    )
    assert run_cli("schedule", "run", "weekly").code == 0
    ended = run_cli("schedule", "resume", "weekly")
    assert re.fullmatch(rf"weekly is resumed; next: {NEXT}\n", ended.out)
    assert run_cli("schedule", "resume", "weekly").out.startswith("weekly was not paused")
    assert state_of()["paused"] is None
    assert run_cli("schedule", "pause", "weekly", "--json").object == {
        "name": "weekly",
        "paused": True,
        "changed": True,
    }


def test_a_removed_schedule_is_listed_until_it_is_forgotten(run_cli, weekly):
    """It can be paused, resumed and forgotten, but not run; while it is configured, it is not forgotten."""
    run_cli("schedule", "run", "weekly")
    ended = run_cli("schedule", "forget", "weekly")
    assert (ended.code, ended.out) == (65, "")
    assert "remove it from the configuration of all workers first, or pause it" in ended.err
    weekly.unlink()
    shown = run_cli("schedule", "list").out
    assert re.search(r"^weekly +not configured here ", shown, re.MULTILINE)
    assert "if no worker has it any more: aragora-q schedule forget weekly" in shown
    assert run_cli("schedule", "show", "weekly").code == 0
    assert run_cli("schedule", "run", "weekly").code == 3
    assert run_cli("schedule", "pause", "weekly").code == 0
    assert run_cli("schedule", "resume", "weekly").out == "weekly is resumed\n"
    assert run_cli("schedule", "forget", "weekly").out == "weekly is forgotten\n"
    assert run_cli("schedule", "forget", "weekly").code == 3
    assert run_cli("schedule", "list", "-q").out == ""


@pytest.mark.parametrize("command", ["show", "run", "pause", "resume", "forget"])
def test_an_unknown_name_is_not_found(run_cli, weekly, command):
    """Exit code 3, and the nearest name."""
    ended = run_cli("schedule", command, "weekli")
    assert (ended.code, ended.out) == (3, "")
    assert "schedule 'weekli' is not in the configuration here" in ended.err
    assert "did you mean 'weekly'?" in ended.err


def test_what_is_wrong_comes_first(run_cli, weekly, on_queue):
    """Overdue, refused and missed, each with a line that says what it means."""
    weekly.write_text(
        "".join(f"[schedules.{name}]\n{CRON}{JOB}" for name in ("fine", "late", "refused"))
    )

    async def damage(harness):
        now = now_ms(harness.redis)
        await harness.queue.schedules.plan(
            [
                Plan(ScheduleState("fine"), next_at=now + 60_000),
                Plan(ScheduleState("late"), next_at=now - 300_000),
                Plan(
                    ScheduleState("refused"),
                    next_at=now + 60_000,
                    last_at=now - 60_000,
                    missed=3,
                    error="group g was sealed\x1b[31m",
                ),
            ]
        )

    on_queue(damage)
    ended = run_cli("schedule", "list")
    assert [line.split()[0] for line in ended.lines[1:4]] == ["late", "refused", "fine"]
    assert "late: was due 5 min ago: no worker that has it runs, and no `reap`" in ended.out
    assert (
        "refused: the job of its last time was refused: group g was sealed\\u001b[31m" in ended.out
    )
    assert "refused: 3 times missed so far" in ended.lines
    assert all(len(line) <= 80 for line in ended.lines[4:])
    rows = run_cli("schedule", "list", "--json").objects
    assert [row["state"] for row in rows] == ["overdue", "refused", "active"]


def test_times_done_too_early_are_said(run_cli, weekly, on_queue):
    """As after the server's clock was ahead: how long nothing is enqueued, and what to do."""

    async def leap(harness):
        ahead = now_ms(harness.redis) + 300 * 86_400_000
        plan = Plan(ScheduleState("weekly"), next_at=ahead + 60_000, last_at=ahead)
        await harness.queue.schedules.plan([plan])

    on_queue(leap)
    words = " ".join(run_cli("schedule", "list").out.split())
    assert "weekly: enqueues nothing for 300 d: the server's clock was ahead" in words
    [found] = [
        each
        for each in run_cli("doctor", "--json").object["findings"]
        if "clock was ahead" in each["detail"]
    ]
    assert "aragora-q schedule resume weekly" in found["remedy"]
    run_cli("schedule", "pause", "weekly")
    run_cli("schedule", "resume", "weekly")
    assert "ahead" not in run_cli("schedule", "list").out


def test_the_job_of_a_time_is_the_last_job(run_cli, weekly, on_queue):
    """Its age is that of its time, which its id has, whatever happened to the schedule since."""

    async def tick(harness):
        at = now_ms(harness.redis) // 1000 * 1000 - 3_600_000
        job = Job({"n": 1}, id=f"weekly@{at // 1000}", tags={"schedule": "weekly"})
        await harness.queue.schedules.enqueue([Tick("weekly", at, at + 7_200_000, job)])

    on_queue(tick)
    run_cli("schedule", "pause", "weekly")
    run_cli("schedule", "resume", "weekly")
    assert " pending, 60 min ago " in run_cli("schedule", "list").out


@pytest.mark.parametrize(
    "args", [("show", "weekly", "--next", "-1"), ("show", "weekly", "--next", "x"), ("run",)]
)
def test_usage_errors(run_cli, weekly, args):
    """Exit code 2, nothing on stdout."""
    ended = run_cli("schedule", *args)
    assert (ended.code, ended.out) == (2, "")


def test_a_full_queue_refuses_a_run(run_cli, weekly):
    """Exit code 75: it can be tried again; nothing is enqueued."""
    weekly.write_text(f"max_backlog = 1\n[schedules.weekly]\n{CRON}{JOB}")
    assert run_cli("schedule", "run", "weekly").code == 0
    first = int(time.time())
    while int(time.time()) == first:  # an id has the second in it
        time.sleep(0.05)
    ended = run_cli("schedule", "run", "weekly")
    assert (ended.code, ended.out) == (75, "")
    assert len(run_cli("list", "-q").lines) == 1


def test_texts_of_others_control_no_terminal(run_cli, weekly, on_queue):
    """Reasons and errors are escaped, in text and in JSON."""

    async def pause(harness):
        await harness.queue.schedules.pause("weekly", by="\x1b]0;x\x07", reason="a\x1b[2J\nb")

    on_queue(pause)
    for args in (("list",), ("list", "--json"), ("show", "weekly"), ("show", "weekly", "--json")):
        ended = run_cli("schedule", *args)
        assert ended.code == 0
        assert not re.search("[\x00-\x09\x0b-\x1f]", ended.out), args
    assert (
        json.loads(run_cli("schedule", "list", "--json").out)["paused"]["reason"] == "a\x1b[2J\nb"
    )
