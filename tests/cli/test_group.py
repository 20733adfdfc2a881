"""`aragora-q group`: list, show, seal and cancel groups; the job that follows one."""

import json
import os
import pty
import time

import pytest
from support.paid_calls import book, ok
from support.queue_harness import PREFIX

from aragora_q.contracts import Completed, Failed

AGENTS = ("--agents", "demo:bold,demo:careful")
FOLLOWER = {"question": "What was decided?", "agents": ["demo:bold", "demo:careful"]}


def lines(*objects):
    return "".join(f"{json.dumps(each)}\n" for each in objects)


@pytest.fixture
def fill(run_cli):
    """Enqueues `count` jobs of a group."""

    def enqueue(name="nightly", count=2):
        text = lines(*({"id": f"{name}-{n}", "payload": {}} for n in range(count)))
        assert run_cli("enqueue", "-", "--group", name, "-q", stdin=text).code == 0

    return enqueue


@pytest.fixture
def outcomes(on_queue):
    """Starts as many jobs as there are outcomes, and reports them."""

    def report(*some):
        async def run(harness):
            worker = await harness.worker(f"w{time.monotonic_ns()}")
            for job, outcome in zip((await worker.start(len(some))).jobs, some, strict=True):
                await harness.report(worker, job, outcome)

        on_queue(run)

    return report


def test_show(run_cli, fill, outcomes):
    """Counts by status, the state, and how to list what failed."""
    fill(count=3)
    outcomes(Completed(b"{}"), Failed("no"))
    shown = run_cli("group", "show", "nightly")
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[:3] == [
        "group      nightly",
        "state      open",
        "jobs       3: 1 pending, 1 completed, 1 failed",
    ]
    assert shown.lines[-1] == "failed     aragora-q list --group nightly --status failed"
    group = run_cli("group", "show", "nightly", "--json").object
    assert group["counts"] == {
        "pending": 1, "processing": 0, "retrying": 0, "held": 0, "completed": 1, "failed": 1, "cancelled": 0,
        "purged": 0,
    }  # fmt: skip
    assert (group["name"], group["total"], group["live"], group["then"]) == ("nightly", 3, 1, None)
    assert time.time() * 1000 - 60_000 < group["created_at"] <= time.time() * 1000 + 60_000
    assert [group[f"{name}_at"] for name in ("sealed", "ended", "cancelled")] == [None] * 3
    assert run_cli("group", "show", "nightly", "--quiet").lines == ["nightly"]


def test_what_a_group_spent(run_cli, fill, on_queue):
    """`show` and `wait` print what the jobs of the group spent; they print no line without calls."""
    fill(count=1)
    assert not any(line.startswith("spent") for line in run_cli("group", "show", "nightly").lines)
    ours, others = {"group": "nightly"}, {"group": "other"}
    on_queue(
        lambda harness: book(
            harness.queue, (ours, {}, ok(0.25)), (others, {}, ok(0.5)), ({}, {}, ok(0.5)),
            (ours, {"max_cost_usd": None}, ok(None)),
        )
    )  # fmt: skip
    spent = run_cli("group", "show", "nightly", "--json").object["spent"]
    assert (spent["calls"], spent["usd"], spent["unpriced_calls"]) == (2, 0.25, 1)
    shown = run_cli("group", "show", "nightly")
    assert "spent      $0.25: 2 calls, 1 without a price" in shown.lines
    run_cli("group", "cancel", "nightly", "--yes")
    waited = run_cli("wait", "--group", "nightly", "--json", "--timeout", "50")
    assert waited.object["spent"] == spent


def test_list(run_cli, fill):
    """Newest first; a line each, names only, or JSON; a queue without groups says so."""
    empty = run_cli("group", "list")
    assert (empty.code, empty.out) == (0, "")
    assert "no groups found in queue debates at " in empty.err
    assert run_cli("group", "list", "--json").out == ""
    for n in range(3):
        fill(f"g{n}", count=n + 1)
    run_cli("enqueue", "Tea?", *AGENTS)
    shown = run_cli("group", "list")
    assert shown.lines[0].split() == [
        "GROUP", "STATE", "CREATED", "JOBS", "LIVE", "HELD", "COMPLETED", "FAILED", "CANCELLED",
    ]  # fmt: skip
    assert [line.split()[0] for line in shown.lines[1:]] == ["g2", "g1", "g0"]
    assert run_cli("group", "list", "-q", "-n", 2).lines == ["g2", "g1"]
    assert [each["total"] for each in run_cli("group", "list", "--jsonl").objects] == [3, 2, 1]


def test_list_goes_on_after_a_corrupted_group(run_cli, fill, redis_client):
    """It is named with an error, and the exit code says so; all others are listed."""
    for name in ("old", "type", "number", "new"):
        fill(name)
    redis_client.delete(f"{PREFIX}group:type")
    redis_client.set(f"{PREFIX}group:type", "x")
    redis_client.hset(f"{PREFIX}group:number", "failed", "many")
    for options in ((), ("-q",)):
        shown = run_cli("group", "list", *options)
        assert shown.code == 65
        assert [line.split()[0] for line in shown.lines if "GROUP" not in line] == ["new", "old"]
        for name in ("type", "number"):
            assert f"data of group {name} in Redis is corrupted: " in shown.err
    for name in ("type", "number"):
        shown = run_cli("group", "show", name)
        assert (shown.code, shown.out) == (65, "")
        assert f"data of group {name} in Redis is corrupted: " in shown.err


def test_seal(run_cli, fill, outcomes):
    """A sealed group takes no more jobs; sealed again, it does not change; it ends with its last job."""
    fill()
    sealed = run_cli("group", "seal", "nightly")
    assert (sealed.code, sealed.out, sealed.err) == (0, "nightly sealed; 2 live jobs\n", "")
    again = run_cli("group", "seal", "nightly")
    assert (again.code, again.err) == (0, "")
    assert again.out == "nightly was sealed before: not changed; 2 live jobs\n"
    as_json = run_cli("group", "seal", "nightly", "--json")
    assert (as_json.object["sealed"], as_json.object["live"]) == (False, 2)
    assert as_json.err == "group nightly was sealed before: not changed\n"
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--group", "nightly", "--id", "late")
    assert (ended.code, ended.out) == (65, "")
    assert "job late: group nightly is sealed: it takes no more jobs" in ended.err
    known = run_cli("enqueue", "Tea?", *AGENTS, "--group", "nightly", "--id", "nightly-0", "--json")
    assert (known.code, known.object["created"]) == (0, False)
    outcomes(Completed(b"{}"), Failed("no"))
    group = run_cli("group", "show", "nightly", "--json").object
    assert group["sealed_at"] <= group["ended_at"]
    assert run_cli("group", "list").lines[1].split()[:2] == ["nightly", "ended"]


def test_of_many_lines_those_of_a_sealed_group_are_refused(run_cli, fill):
    """Exit code 3 with an error for each; lines of other groups go in."""
    fill()
    run_cli("group", "seal", "nightly")
    text = lines(
        *({"id": name, "payload": {}, "group": group}
          for name, group in (("a", "open"), ("b", "nightly"), ("c", None)))
    )  # fmt: skip
    ended = run_cli("enqueue", "-", "--group", "nightly", stdin=text)
    assert (ended.code, [line["id"] for line in ended.objects if "error" not in line]) == (
        3,
        ["a", "c"],
    )
    assert "group nightly is sealed" in ended.objects[1]["error"]
    assert run_cli("status", "c", "--json").object["group"] is None


def test_then_follows_once(run_cli, fill, outcomes, monkeypatch, tmp_path):
    """It is enqueued when the group has ended, as it was checked at the seal; default agents apply."""
    monkeypatch.setenv("ARAGORA_QUEUE_DEFAULT_AGENTS", "demo:bold,demo:careful")
    (tmp_path / "then.json").write_text(
        json.dumps({"question": "What was decided?", "tags": {"kind": "sum"}, "tenant": "t", "priority": 3},
                   indent=2)
    )  # fmt: skip
    fill()
    args = ("group", "seal", "nightly", "--then", "then.json")
    sealed = run_cli(*args)
    assert (sealed.code, sealed.err) == (0, "")
    assert sealed.out == "nightly sealed; 2 live jobs; then: nightly.then, waiting\n"
    assert run_cli("status", "nightly.then").code == 3
    assert run_cli(*args, "--quiet").lines == ["nightly.then"]
    outcomes(Failed("no"), Failed("no"))
    job = run_cli("status", "nightly.then", "--json").object
    assert (job["status"], job["priority"], job["group"], job["tenant"], job["tags"]) == (
        "pending", 3, None, "t", {"kind": "sum"},
    )  # fmt: skip
    assert job["payload"]["agents"] == ["demo:bold", "demo:careful"]
    again = run_cli(*args)
    assert (again.code, "then: nightly.then, enqueued" in again.out) == (0, True)
    shown = run_cli("group", "show", "nightly", "--json").object
    assert shown["then"] == {"id": "nightly.then", "status": "enqueued"}


def test_then_of_an_ended_group_is_enqueued_at_once(run_cli, fill, outcomes):
    """From standard input, with an id; any payload."""
    fill()
    outcomes(Completed(b"{}"), Completed(b"{}"))
    follower = {"id": "sum", "payload": {"any": [1]}, "delay_seconds": 60, "max_attempts": 9}
    ended = run_cli("group", "seal", "nightly", "--then", "-", stdin=lines(follower))
    assert ended.out == "nightly sealed; all jobs have ended; then: sum, enqueued\n"
    job = run_cli("status", "sum", "--json").object
    assert (job["payload"], job["max_attempts"]) == ({"any": [1]}, 9)
    assert job["due_at"] is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "standard input: must be one JSON object, is empty"),
        (" \n\n", "must be one JSON object, is empty"),
        (lines(FOLLOWER, FOLLOWER), "must be one JSON object, has 2 lines of JSON"),
        ("[1]", "must be one JSON object, got [1]"),
        (json.dumps([FOLLOWER], indent=1), "must be one JSON object, got [{"),
        ('"x"', 'must be one JSON object, got "x"'),
        ("{", "not JSON: "),
        ('{"question": \n "x",}', "not JSON: "),
        (b"\xff", "not JSON: "),
        (lines(FOLLOWER).encode("utf-16"), "the input is UTF-16: JSON must be UTF-8"),
        (lines(FOLLOWER | {"group": "g"}), "standard input: field group: a job that follows a group"),
        (lines(FOLLOWER | {"agents": ["cluade", "demo"]}), "unknown agent 'cluade'"),
        (lines({"question": "x"}), "agents are missing"),
        (lines({"payload": 1}), "payload is not a JSON object"),
        (lines({"payload": {}, "rounds": 1}), "unknown field 'rounds'"),
        (lines(FOLLOWER | {"priority": 5_000}), "priority is 5000"),
        (lines(FOLLOWER | {"tags": {"a b": "c"}}), "standard input: invalid tag name 'a b'"),
        (lines(FOLLOWER | {"id": "a b"}), "standard input: invalid job id 'a b'"),
        (lines(FOLLOWER | {"id": "nightly-0"}), "job nightly-0 exists"),
        (lines({"payload": {"x": "x" * 300_000}}), "max_payload_bytes is 262144"),
        (lines({"payload": {"x": "x" * 3_000_000}}), "longer than 1,114,112 bytes"),
    ],
)  # fmt: skip
def test_a_then_that_is_no_job_is_refused(run_cli, fill, text, message):
    """One line that says what is wrong, exit code 65; the group stays open."""
    fill()
    ended = run_cli("group", "seal", "nightly", "--then", "-", stdin=text)
    assert (ended.code, ended.out) == (65, "")
    assert message in ended.err.splitlines()[0]
    assert ("give it an id that no job has" in ended.err) == ("exists" in message)
    assert run_cli("group", "show", "nightly", "--json").object["sealed_at"] is None


def test_another_then_is_refused(run_cli, fill):
    """Also if the group was sealed without one; sealed again without one, it keeps the first."""
    fill("a")
    fill("b")
    run_cli("group", "seal", "a", "--then", "-", stdin=lines(FOLLOWER))
    run_cli("group", "seal", "b")
    for name, follower in (("a", FOLLOWER | {"rounds": 1}), ("b", FOLLOWER)):
        ended = run_cli("group", "seal", name, "--then", "-", stdin=lines(follower))
        assert (ended.code, ended.out) == (65, "")
        assert f"group {name} was sealed before, without this job to follow it" in ended.err
    assert run_cli("group", "seal", "a").out.endswith("then: a.then, waiting\n")


def test_a_then_of_one_model_is_warned_of(run_cli, fill):
    """As `enqueue` does."""
    fill()
    text = lines({"question": "x", "agents": ["claude", "claude"]})
    ended = run_cli("group", "seal", "nightly", "--then", "-", stdin=text)
    assert (ended.code, "warning: all agents are anthropic:" in ended.err) == (0, True)


@pytest.mark.parametrize("source", ["missing.json", "."])
def test_a_then_that_cannot_be_read(run_cli, fill, source):
    """Exit code 2, as `enqueue FILE` has it; the group stays open."""
    fill()
    ended = run_cli("group", "seal", "nightly", "--then", source)
    assert (ended.code, f"cannot read {source}: " in ended.err) == (2, True)
    assert run_cli("group", "show", "nightly", "--json").object["sealed_at"] is None


def test_cancel(run_cli, fill):
    """All live jobs and the job that follows end; --dry-run only counts; cancelling again is not an error."""
    fill(count=250)
    run_cli("group", "seal", "nightly", "--then", "-", stdin=lines(FOLLOWER))
    dry = run_cli("group", "cancel", "nightly", "--dry-run")
    assert dry.out == (
        "would cancel 250 live jobs of group nightly, and job nightly.then, which would follow it\n"
    )
    shown = run_cli("group", "cancel", "nightly", "--dry-run", "--json").object
    assert shown == {
        "name": "nightly", "dry_run": True, "cancelled": 250,
        "then": {"id": "nightly.then", "status": "waiting"},
    }  # fmt: skip
    ended = run_cli("group", "cancel", "nightly", "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "nightly cancelled: 250 jobs; then: nightly.then, cancelled\n"
    again = run_cli("group", "cancel", "nightly", "--yes", "--json")
    assert (again.code, again.object["cancelled"]) == (0, 0)
    assert run_cli("status", "nightly.then").code == 3
    group = run_cli("group", "show", "nightly", "--json").object
    assert (group["counts"]["cancelled"], group["cancelled_at"] is None) == (250, False)
    assert run_cli("group", "cancel", "nightly", "-y", "-q").out == ""


def test_cancel_marks_an_open_group(run_cli, fill):
    """A group that was not sealed takes no jobs after it, either."""
    fill()
    assert run_cli("group", "cancel", "nightly", "--yes").code == 0
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--group", "nightly")
    assert (ended.code, "is sealed" in ended.err) == (65, True)
    assert "state      cancelled" in run_cli("group", "show", "nightly").lines


def test_cancel_of_a_group_that_has_ended(run_cli, fill):
    """It stays as it is, and the command says so."""
    fill(count=1)
    run_cli("cancel", "--group", "nightly", "--yes")
    run_cli("group", "seal", "nightly")
    ended = run_cli("group", "cancel", "nightly", "--yes")
    assert (ended.code, ended.out) == (0, "nightly has ended: not changed\n")
    assert "state      ended" in run_cli("group", "show", "nightly").lines


async def test_an_interrupted_cancel_is_finished_by_another(harness, run_cli):
    """The mark is there, jobs are still live: `show` says how to finish."""
    for n in range(3):
        await harness.enqueue(f"j{n}", group="nightly")
    await harness.queue.connection.run(
        "cancel_group", group="nightly", retention_ms=1000, by="", reason=""
    )
    shown = run_cli("group", "show", "nightly")
    assert "state      cancelled" in shown.lines
    assert "live jobs  to cancel them: aragora-q group cancel nightly" in shown.lines
    assert run_cli("group", "cancel", "nightly", "--yes").out == "nightly cancelled: 3 jobs\n"
    assert "live jobs" not in run_cli("group", "show", "nightly").out


@pytest.mark.parametrize(("answer", "code", "cancelled"), [("y\n", 0, 2), ("n\n", 1, 0)])
def test_cancel_asks_with_the_count_on_a_terminal(
    start_command, run_cli, fill, answer, code, cancelled
):
    """What would be cancelled is named; without a yes, nothing is changed."""
    fill()
    keyboard, terminal = pty.openpty()
    process = start_command("group", "cancel", "nightly", stdin=terminal)
    os.write(keyboard, answer.encode())
    out, err = process.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == code
    assert "Cancel 2 live jobs of group nightly, in queue debates?" in err.decode() + out.decode()
    shown = run_cli("group", "show", "nightly", "--json").object
    assert shown["counts"]["cancelled"] == cancelled
    assert (shown["cancelled_at"] is None) == (cancelled == 0)


def test_cancel_requires_yes_without_a_terminal(run_cli, fill):
    """Exit code 2, nothing is changed."""
    fill()
    ended = run_cli("group", "cancel", "nightly")
    assert (ended.code, ended.out) == (2, "")
    assert "add --yes to confirm" in ended.err
    assert run_cli("group", "show", "nightly", "--json").object["cancelled_at"] is None


@pytest.mark.parametrize(
    "args", [("show",), ("seal",), ("cancel", "--yes"), ("cancel", "--dry-run")]
)
def test_an_unknown_group_or_a_bad_name(run_cli, redis_client, args):
    """3 for a group that is not there, 65 for what is not a name, each in one line; nothing is written."""
    command, *options = args
    ended = run_cli("group", command, "missing", *options)
    assert (ended.code, ended.out) == (3, "")
    assert "error: group missing not found in queue debates\n" in ended.err
    for name in ("a b", "", "x" * 49, "-x", "a\n", "a:b"):
        ended = run_cli("group", command, *options, "--", name)
        assert (ended.code, ended.out) == (65, "")
        assert f"invalid group {name!r}: use 1 to 48 letters" in ended.err.splitlines()[0]
    assert redis_client.dbsize() == 0


def test_without_a_command_the_help(run_cli):
    """As every group of commands; an unknown one is named."""
    shown = run_cli("group")
    assert (shown.code, "seal" in shown.err) == (2, True)
    assert "No such command 'x'" in run_cli("group", "x").err
    assert run_cli("group", "list", "--limit", 0).code == 2


def test_list_says_that_there_are_more(run_cli, fill, monkeypatch):
    """On a terminal, on stderr, if --limit cut the list; a narrow terminal breaks no name."""
    monkeypatch.setenv("COLUMNS", "40")
    fill("a-group-with-a-long-name")
    fill("b")
    cut = run_cli("group", "list", "-n", 1, terminal=True)
    assert cut.err == "there are more groups: --limit 5\n"
    whole = run_cli("group", "list", "-n", 2, terminal=True)
    assert (whole.err, len(whole.lines)) == ("", 3)
    assert "a-group-with-a-long-name  open" in whole.out
    assert run_cli("group", "list", "-n", 1).err == ""


def test_shared_options(run_cli, fill):
    """Another queue has other groups."""
    fill()
    assert run_cli("group", "show", "nightly", "--queue", "other").code == 3
    assert run_cli("--queue", "other", "group", "list", "-q").out == ""
