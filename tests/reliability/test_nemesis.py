"""The nemesis for some seconds, judged by the checker; and the checker, tested with made-up histories."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def _run(*command, timeout):
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, timeout=timeout
    )


@pytest.mark.timeout(0)
@pytest.mark.parametrize("deployment", [(), ("--sentinel",)], ids=["one server", "Sentinels"])
def test_nothing_is_lost_or_done_twice(request, tmp_path, deployment):
    """Rows 1-3, 5-8, 11, 12: with all faults, every accepted job has exactly one outcome, no live worker
    loses a job, no lane starves, the job that follows a sealed group is enqueued once, each time of a schedule
    is enqueued or counted as missed, and each end is reported. Only the last writes before a failover may be
    undone.
    """
    seconds = request.config.getoption("--nemesis-seconds")
    history = tmp_path / "history.jsonl"
    seed = request.config.getoption("--nemesis-seed")
    args = ["--seconds", str(seconds), "--history", str(history), *deployment]
    args += ["--seed", str(seed)] if seed is not None else []
    done = _run(HERE / "nemesis.py", *args, timeout=seconds + 300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    verdict = _run(HERE / "checker.py", history, timeout=60)
    print(done.stdout, verdict.stdout)  # noqa: T201 - the seed, to repeat a failure
    assert verdict.returncode == 0, f"{done.stdout}\n{verdict.stdout}"


def _history(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return _run(HERE / "checker.py", path, timeout=60)


CRASH = {"worker": "w1@1", "at": 9.0, "error": "worker w1 died, started at 5000"}
PARTLY = {"what": "final", "id": "p", "status": "failed", "fence": "1", "result": {"n": 1}}
SEALED = {"created_at": "1", "sealed_at": "2", "ended_at": "3"}
GROUPS = (
    *({"what": "enqueue", "id": job_id, "answer": "ok", "do": [], "group": group}
      for job_id, group in (("m1", "g"), ("m2", "g"), ("c1", "whole"), ("o1", "open"))),
    {"what": "seal", "at": 7.0, "group": "g", "then": "then-1"},
    {"what": "seal", "at": 7.0, "group": "whole", "then": "then-2"},
    {"what": "cancel group", "at": 7.5, "group": "whole", "fate": "cancel"},
    {"what": "event", "event": "failed", "ids": ["m1"]},
    {"what": "event", "event": "completed", "ids": ["x", "m2"]},
    {"what": "event", "event": "enqueued", "ids": ["then-1"]},
    {"what": "event", "event": "completed", "ids": ["then-1", "o1"]},
    *({"what": "final", "id": job_id, "status": "completed", "fence": "1"}
      for job_id in ("m1", "m2", "o1", "then-1")),
    {
        "what": "group", "group": "g", **SEALED, "then": "enqueued", "then_id": "then-1",
        "notify": "receiver",
    },
    {"what": "group", "group": "whole", **SEALED, "then": "cancelled", "then_id": "then-2"},
    {"what": "group", "group": "open", "created_at": "1"},
)  # fmt: skip
BILL = {"what": "bill", "id": "q/a/1/k", "most": 900, "billed": 700, "known": True}
COUNTER = {
    "what": "counter",
    "budget": "money:total",
    "spent": 1500,
    "estimated": 800,
    "reserved": 0,
}
MONEY = (
    {"what": "limit", "micros": 2_000_000},
    {"what": "money", "spent": 1_500_000, "reserved": 600_000, "overrun": 100_000},
    BILL,
    {**BILL, "id": "q/a/2/k"},
    {"what": "call", "id": "q/a/1/k", "state": "settled", "usd": 900},
    {"what": "call", "id": "q/a/2/k", "state": "estimated", "usd": 800},
    COUNTER,
    {**COUNTER, "budget": "agents/agent:a:2026-01"},
    {"what": "ledger", "calls": 2, "usd": 1500, "estimated": 800},
)
MESSAGE = {"what": "message", "id": "1-1", "type": "job.completed", "subject": "a"}
TICKED = {"what": "final", "status": "completed", "fence": "1"}
ENDED = {"what": "schedule ended", "name": "steady", "last": 1015, "missed": 1, "every": 5}
TIMES = (
    {"what": "planned", "schedule": "steady", "first": 1000},
    {"what": "planned", "schedule": "paused", "first": 1000},
    *({**TICKED, "id": job_id} for job_id in
      ("steady@1000", "steady@1005", "steady@1015", "paused@1000", "paused@1010")),
    {"what": "event", "event": "enqueued", "ids": ["steady@1000", "paused@1000"]},
    {"what": "fault", "name": "restart_the_server", "worker": None, "began": 1011.0, "at": 1016.0},
    {"what": "schedule", "name": "paused", "verb": "pause", "began": 1001.0, "at": 1002.0},
    {"what": "schedule", "name": "paused", "verb": "resume", "began": 1008.0, "at": 1009.0},
    ENDED,
    {"what": "schedule ended", "name": "paused", "last": 1010, "missed": 0, "every": 5},
)  # fmt: skip
GOOD = (
    {"what": "seed", "seed": 1, "seconds": 1},
    {"what": "enqueue", "id": "a", "answer": "ok", "do": [], "notify": True},
    MESSAGE,
    MESSAGE,
    {**MESSAGE, "id": "2-2", "type": "group.ended", "subject": "g"},
    {"what": "enqueue", "id": "p", "answer": "ok", "do": [["permanent", {"n": 1}]]},
    {"what": "run", "id": "a", "fence": 1, "attempt": 1, "pid": 1},
    *({"what": "event", "event": event, "ids": ["a"]} for event in ("held", "unheld", "completed")),
    {"what": "fence", "id": "a", "fence": 1},
    {"what": "fault", "name": "kill_a_worker", "worker": "w1", "began": 6.0, "at": 6.1},
    {"what": "fault", "name": "stop_a_worker", "worker": "w2", "began": 6.0, "at": 6.1},
    {"what": "crash", "id": "a", **CRASH},
    {"what": "busy", "high": 750, "normal": 130, "low": 120},
    {"what": "settled"},
    {"what": "final", "id": "a", "status": "completed", "fence": "1", "attempts": "1"},
    PARTLY,
    *GROUPS,
    {"what": "event", "event": "held", "ids": ["h"]},
    *MONEY,
    *TIMES,
    {"what": "counters", "completed": 10},
    {"what": "problems", "found": []},
)


def test_the_checker_accepts_a_good_history(tmp_path):
    """A correct history has no broken promise."""
    assert _history(tmp_path / "h", *GOOD).returncode == 0


def test_the_checker_finds_limits_that_do_not_apply(tmp_path):
    """A budget that was raised again and again, and still let no more be spent, was not set."""
    done = _history(tmp_path / "h", *GOOD, *[{"what": "limit", "micros": 3_000_000}] * 5)
    assert done.returncode == 1
    assert "M: the limit was raised 5 times" in done.stdout


@pytest.mark.parametrize(
    ("forged", "promise"),
    [
        ({"what": "enqueue", "id": "b", "answer": "ok", "do": []}, "L: b"),
        ({"what": "event", "event": "completed", "ids": ["a"]}, "D: a"),
        ({"what": "run", "id": "a", "fence": 1, "attempt": 1, "pid": 2}, "F: fence"),
        ({"what": "run", "id": "a", "fence": 2, "attempt": 1, "pid": 2}, "F: a ran"),
        ({"what": "final", "id": "c", "status": "completed", "fence": "1"}, "D: 10 completions"),
        ({**PARTLY, "result": None}, "A: p has the result None, should have {'n': 1}"),
        ({**PARTLY, "result": {"n": 2}}, "A: p has the result {'n': 2}"),
        ({"what": "problems", "found": ["odd"]}, "Z: odd"),
        ({"what": "worker", "id": "w", "alive": False, "tracebacks": 0}, "E: w"),
        ({"what": "fence", "id": "a", "fence": 0}, "F: the fence of a fell"),
        ({"what": "crash", "id": "a", **CRASH, "worker": "w2@1"}, "R: a job of w2"),
        ({"what": "crash", "id": "a", **CRASH, "at": 3.0}, "R: a job of w1"),
        ({"what": "late", "id": "l", "group": "g"}, "G: l was accepted by g"),
        (
            {"what": "event", "event": "enqueued", "ids": ["then-1"]},
            "G: then-1 was enqueued 2 times",
        ),
        (
            {"what": "event", "event": "started", "ids": ["m1"]},
            "G: then-1 was enqueued before the end of",
        ),
        (
            {"what": "final", "id": "then-1.7", "status": "completed", "fence": "1"},
            "G: then-1 was enqueued again under another id",
        ),
        (
            {"what": "final", "id": "then-1", "status": "failed", "fence": "1"},
            "G: g was sealed, but then-1, which follows it, is failed",
        ),
        (
            {"what": "final", "id": "then-2", "status": "completed", "fence": "1"},
            "G: then-2 was enqueued, but its group says cancelled",
        ),
        (
            {"what": "seal", "at": 7.0, "group": "open", "then": "then-3"},
            "G: open was sealed, but then-3, which follows it, is None",
        ),
        ({"what": "seal", "at": 7.0, "group": "lost", "then": "then-1"}, "G: lost is gone"),
        (
            {"what": "group", "group": "g", "created_at": "1", "sealed_at": "2", "then": "waiting"},
            "G: g was sealed, but has not ended",
        ),
        (
            {"what": "group", "group": "g", **SEALED, "then": "cancelled"},
            "G: the job that follows g was cancelled",
        ),
        (
            {"what": "group", "group": "g", **SEALED, "then": "lost"},
            "G: the job that follows g is lost",
        ),
        ({"what": "event", "event": "started", "ids": ["h"]}, "H: h is held, but started"),
        (
            {"what": "money", "spent": 1_500_000, "reserved": 600_000, "overrun": 0},
            "M: granted above a limit of 2000000",
        ),
        (
            {**BILL, "id": "q/a/3/k", "billed": 0},
            "M: q/a/3/k was billed without a grant",
        ),
        ({**BILL, "billed": 0}, "M: q/a/1/k was billed 2 times"),
        ({**BILL, "id": "q/a/2/k", "billed": 900, "known": False}, "M: billed is more than"),
        ({**BILL, "billed": 1}, "M: settled calls were billed otherwise"),
        (
            {"what": "call", "id": "q/a/4/k", "state": "granted", "usd": 1},
            "M: q/a/4/k was neither settled nor estimated",
        ),
        ({**COUNTER, "reserved": 1}, "M: sums of budgets and ledger differ"),
        ({"what": "ledger", "usd": 1499}, "M: sums of budgets and ledger differ"),
        ({"what": "busy", "high": 9000, "normal": 900, "low": 10}, "S: lane low got 130"),
        ({**MESSAGE, "id": "3-3"}, "W: ('a', 'job.completed') happened 1 times and was reported 2"),
        (
            {"what": "enqueue", "id": "o1", "answer": "ok", "do": [], "notify": True},
            "W: ('o1', 'job.completed') happened 1 times and was reported 0",
        ),
        (
            {"what": "group", "group": "mute", **SEALED, "notify": "receiver"},
            "W: mute has ended, which was not reported",
        ),
        (
            {"what": "event", "event": "enqueued", "ids": ["steady@1000"]},
            "T: steady@1000 was enqueued 2 times",
        ),
        ({**TICKED, "id": "steady@1007"}, "T: steady@1007 is of no time"),
        ({**TICKED, "id": "paused@1005"}, "T: paused@1005 was enqueued while"),
        ({**ENDED, "missed": 0}, "T: 1 times of steady have no job, 0 are counted"),
        (
            {**ENDED, "last": 1020, "missed": 2},
            "T: time 1020 of steady was not enqueued, although Redis was there",
        ),
    ],
)
def test_the_checker_finds_broken_promises(tmp_path, forged, promise):
    """Each kind of broken promise is reported."""
    done = _history(tmp_path / "h", *GOOD, forged)
    assert done.returncode == 1
    assert promise in done.stdout
