"""`aragora-q hold` and `unhold`, and held jobs in the output of the other commands."""

import getpass
import json
import socket

import pytest
from support.jobs import enqueue_in_every_state
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.contracts import Held

BY = f"{getpass.getuser()}@{socket.gethostname()}"[:64]


async def _hold_by_budget(harness):
    """`poor` is held by a budget until its window turns."""
    session = await harness.worker()
    await harness.enqueue("poor")
    job = await harness.start_one(session)
    await harness.report(
        session, job, Held("budget", "needs $0.40, $0.10 are left", "day/all", 3600)
    )


async def test_hold_and_unhold_by_id(harness, run_cli):
    """Each prints what became of a job: held, to be held, ended, back in its lane, never held; else 3."""
    await enqueue_in_every_state(harness)
    held = run_cli(
        "hold",
        "pending",
        "processing",
        "retrying",
        "completed",
        "missing",
        "--reason",
        "look first",
    )
    assert held.code == 3
    assert held.lines == [
        "pending held",
        "processing is running: it will be held when its attempt ends",
        "retrying held",
        "completed had already ended: completed",
    ]
    assert "job missing not found in queue debates" in held.err
    job = await harness.queue.get_job("pending")
    assert (job.hold.cause, job.hold.by, job.hold.reason) == ("person", BY, "look first")
    again = run_cli("hold", "pending", "processing", "failed", "--json")
    assert again.code == 0
    assert again.objects == [
        {"id": "pending", "held": True, "status": "held"},
        {"id": "processing", "held": True, "status": "processing"},
        {"id": "failed", "held": False, "status": "failed"},
    ]
    free = run_cli("unhold", "pending", "processing", "retrying", "delayed", "completed", "missing")
    assert free.code == 3
    assert free.lines == [
        "pending unheld: pending",
        "processing unheld: processing",
        "retrying unheld: retrying",
        "delayed was not held: pending",
        "completed was not held: completed",
    ]
    assert run_cli("unhold", "pending", "--json").object == {
        "id": "pending", "unheld": False, "status": "pending",
    }  # fmt: skip


async def test_hold_and_unhold_by_filter(harness, run_cli):
    """All live jobs of a filter, running ones included; unhold undoes it, and withdraws what was asked."""
    session = await harness.worker()
    for n in range(3):
        await harness.enqueue(f"j{n}", tenant="acme")
    await harness.enqueue("other")
    [running] = (await session.start(1)).jobs
    counted = run_cli("hold", "--tenant", "acme", "--dry-run", "--json")
    assert counted.object == {"dry_run": True, "jobs": 3}
    refused = run_cli("hold", "--tenant", "acme")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    held = run_cli("hold", "--tenant", "acme", "--yes")
    assert (held.code, held.err) == (0, "held 3 jobs; running ones when their attempts end\n")
    assert run_cli("list", "-s", "held", "-q").lines == ["j2", "j1"]
    assert run_cli("unhold", "--tenant", "acme", "--dry-run", "--json").object["jobs"] == 2
    free = run_cli("unhold", "--tenant", "acme", "--yes")
    assert (free.code, free.err) == (0, "unheld 3 jobs\n")
    assert (await harness.queue.get_job(running.id)).hold is None
    assert run_cli("list", "-s", "held", "-q").lines == []


async def test_ids_from_stdin(harness, run_cli):
    """`list --status held --jsonl | unhold -` frees what was listed."""
    await enqueue_in_every_state(harness)
    run_cli("hold", "-", stdin="pending\ndelayed\n")
    listed = run_cli("list", "-s", "held", "--jsonl")
    free = run_cli("unhold", "-", "--quiet", stdin=listed.out)
    assert (free.code, sorted(free.lines)) == (0, ["delayed", "pending"])
    assert (await harness.queue.get_job("delayed")).due_at is not None


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("hold",), 2, "give job ids, or a filter such as --group"),
        (("hold", "a", "--status", "pending"), 2, "give job ids or a filter, not both"),
        (("hold", "--status", "failed"), 2, "hold takes only jobs whose status is"),
        (("hold", "a", "--reason", "x" * 501), 2, "--reason: must have at most 500 characters"),
        (
            ("unhold", "--status", "pending"),
            2,
            "unhold takes only jobs whose status is processing or held",
        ),
        (
            ("requeue", "poor"),
            3,
            "job poor was not requeued: it is held: to let it run, use aragora-q unhold",
        ),
    ],
)
async def test_refusals(harness, run_cli, args, code, message):
    """One line says which value breaks which rule, and what to do."""
    await _hold_by_budget(harness)
    result = run_cli(*args)
    assert result.code == code, result.err
    assert message in result.err


async def test_status_and_list_say_why(harness, run_cli):
    """Cause, who or what, the reason, since when and until when; for people and for programs."""
    await _hold_by_budget(harness)
    text = run_cli("status", "poor").out
    for words in ("held       by budget day/all, since 20", "until      20", "(in ",
                  "reason     needs $0.40, $0.10 are left",
                  "freed      when twice what it needs is left", "budget show day\n",
                  "to try now aragora-q unhold poor\n"):  # fmt: skip
        assert words in text
    assert "attempt 1 held by day/all: needs $0.40" in text
    shown = run_cli("status", "poor", "--json").object
    assert shown["status"] == "held"
    assert {**shown["hold"], "since": 0, "until": 0} == {
        "cause": "budget", "by": "day/all", "reason": "needs $0.40, $0.10 are left", "since": 0, "until": 0,
    }  # fmt: skip
    assert shown["hold"]["until"] - shown["hold"]["since"] >= 3_590_000
    assert shown["history"][-1]["reason"] == "needs $0.40, $0.10 are left"
    assert "by budget day/all: needs $0.40, $0.10 are left" in run_cli("list").out
    assert run_cli("list", "--status", "held", "--json").object == {
        name: value for name, value in shown.items() if name not in ("history", "quote_usd")
    }


async def test_stats_count_held_jobs(harness, run_cli):
    """A row for people, a number in JSON, a state of the gauge; not in the backlog."""
    await _hold_by_budget(harness)
    stats = run_cli("stats", "--json").object
    assert (stats["held"], stats["waiting"], stats["delayed"]) == (
        1,
        {"high": 0, "normal": 0, "low": 0},
        0,
    )
    assert "held                1" in run_cli("stats").out
    metrics = run_cli("stats", "--prometheus", "-").out
    assert 'aragora_q_queue_jobs{queue="debates",state="held"} 1.0' in metrics
    assert 'aragora_q_queue_jobs{queue="debates",state="waiting"} 0.0' in metrics
    assert 'aragora_q_queue_transitions_total{queue="debates",transition="held"} 1.0' in metrics


async def test_wait_says_once_that_a_job_is_held(harness, start_command):
    """It goes on until the job has ended, and says why only once, also if the job is held again."""
    await _hold_by_budget(harness)
    process = start_command("wait", "poor", "--json")
    line = process.stderr.readline().decode()
    why = "budget day/all: needs $0.40, $0.10 are left"
    assert line == f"job poor is held by {why}; waiting goes on\n"
    await harness.queue.unhold("poor")
    await harness.queue.hold("poor", reason="again")
    assert process.poll() is None
    await harness.queue.cancel("poor")
    out, err = process.communicate(timeout=60)
    assert (json.loads(out)["status"], err, process.returncode) == ("cancelled", b"", 1)


async def test_wait_for_a_group_says_once_that_jobs_are_held(harness, start_command, run_cli):
    """A group waits for its held job; show and list count it."""
    await harness.enqueue("a", group="g")
    await harness.queue.hold("a")
    process = start_command("wait", "--group", "g")
    assert b"is not sealed" in process.stderr.readline()
    assert process.stderr.readline() == b"group g: 1 job held; waiting goes on\n"
    assert run_cli("group", "show", "g", "--json").object["counts"]["held"] == 1
    assert "1 held" in run_cli("group", "show", "g").out
    assert "aragora-q list --group g --status held" in run_cli("group", "show", "g").out
    assert "HELD" in run_cli("group", "list").out
    assert run_cli("group", "cancel", "g", "--yes").code == 0
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")
    assert b"1 cancelled" in out


async def test_reap_holds_a_job_whose_hold_was_asked(harness, run_cli):
    """Also what --dry-run says."""
    session = await harness.worker()
    await harness.enqueue("a")
    await harness.start_one(session)
    await harness.queue.hold("a")
    harness.backdate("a")
    for args in (("--dry-run",), ()):
        [job] = run_cli("reap", *args, "--json").object["reclaimed"]
        assert (job["decision"], job["reason"]) == ("held", "worker died, a hold was asked: hold")
    assert await harness.queue.get_status("a") is JobStatus.HELD


async def test_a_burst_counts_held_jobs(harness, cli_command):
    """A burst worker ends, and says how many jobs it leaves."""
    await harness.enqueue("a")
    await harness.queue.hold("a")
    done = cli_command(
        "worker", "--burst", "--metrics-port", "0", "--executor", "support.executors:make"
    )
    assert done.code == 0
    assert "burst is over, held jobs were not run jobs=1" in done.err


async def test_tail_shows_holds(harness, start_command):
    """held and unheld are events."""
    await harness.enqueue("a")
    await harness.queue.hold("a")
    await harness.queue.unhold("a")
    process = start_command("tail", "--after", "0", "--json")
    events = []
    await wait_until(
        lambda: events.append(json.loads(process.stdout.readline())["event"]) or len(events) == 3
    )
    assert events == ["enqueued", "held", "unheld"]


async def test_history_shows_who_did_what_and_why(harness, run_cli):
    """Each command that changes a job notes user@host and the reason, which `status` prints."""
    await harness.enqueue("j", group="g")
    run_cli("hold", "j", "--reason", "prices changed")
    run_cli("unhold", "j", "--reason", "prices are back")
    run_cli("cancel", "j", "--reason", "wrong question")
    run_cli("requeue", "j")
    run_cli("group", "cancel", "g", "--yes", "--reason", "no more of it")
    history = json.loads(run_cli("status", "j", "--json").out)["history"]
    assert [(line["cause"], line["by"], line["reason"]) for line in history] == [
        ("held", BY, "prices changed"),
        ("unheld", BY, "prices are back"),
        ("cancelled", BY, "wrong question"),
        ("requeued", BY, ""),
        ("cancelled", BY, "no more of it"),
    ]
    text = run_cli("status", "j").out
    assert f"cancelled by {BY}: wrong question" in text
    assert f"requeued by {BY}\n" in text
    assert f"by {BY}: no more of it" in run_cli("group", "show", "g").out


def test_stats_show_who_paused_and_why(run_cli):
    """The warning about a paused queue names user@host and the reason; resume notes its own."""
    run_cli("pause", "--reason", "deploy of v2")
    assert f"by {BY} (deploy of v2)" in " ".join(run_cli("stats").out.split())
    run_cli("resume", "--reason", "v2 is up")
    stats = json.loads(run_cli("stats", "--json").out)
    assert (stats["paused_by"], stats["resumed_by"]) == (None, BY)
    assert stats["resumed_reason"] == "v2 is up"
