"""The JSON of every command has exactly the fields that docs/cli-json.md documents."""

import json
import re

import pytest
from support.paths import ROOT

from aragora_q.base import Completed, Failed

PAGE = ROOT / "docs" / "cli-json.md"
AGENTS = "demo:bold,demo:careful"


def _documented():
    """Fields by heading: the names in the first column of its tables."""
    fields, heading = {}, ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| `"):
            names = re.findall(r"`(\w+)`", line.split("|")[1])
            fields.setdefault(heading, []).extend(names)
    return fields


DOCUMENTED = _documented()
JOB = {*DOCUMENTED["A job"]} - {"history"}


@pytest.fixture
def jobs(on_queue):
    """`done` has completed, `bad` failed, `waits` waits."""

    async def make(harness):
        worker = await harness.worker("w1")
        await harness.enqueue("done")
        await harness.enqueue("bad")
        done, bad = (await worker.start(2)).jobs
        await harness.report(worker, done, Completed(b"{}"))
        await harness.report(worker, bad, Failed("no"))
        await harness.enqueue("waits")

    on_queue(make)


@pytest.mark.parametrize("args", [("wait", "done"), ("list", "--status", "failed")])
def test_jobs(run_cli, jobs, args):
    """wait and list print jobs."""
    for each in run_cli(*args, "--json").objects:
        assert set(each) == JOB


def test_status(run_cli, jobs):
    """A job, and what went wrong with it."""
    shown = run_cli("status", "bad", "--json").object
    assert set(shown) == JOB | {"history"}
    assert {name for event in shown["history"] for name in event} <= {
        "at", "cause", "attempt", "worker", "error",
    }  # fmt: skip


def test_enqueue(run_cli):
    """One debate; lines of which one is refused."""
    assert set(run_cli("enqueue", "What?", "--agents", AGENTS, "--json").object) == {
        "id",
        "created",
    }
    good = json.dumps({"question": "What?", "agents": AGENTS.split(",")})
    fine, refused = run_cli("enqueue", "-", "--json", stdin=f"{good}\n[]\n").objects
    assert (set(fine), set(refused)) == ({"line", "id", "created"}, {"line", "error"})


@pytest.mark.parametrize(
    ("heading", "args"),
    [
        ("cancel", ("cancel", "waits")),
        ("requeue", ("requeue", "bad")),
        ("purge", ("purge",)),
        ("stats", ("stats",)),
        ("doctor", ("doctor",)),
        ("reap", ("reap", "--dry-run")),
    ],
)
def test_commands(run_cli, jobs, heading, args):
    """Each prints one object with the documented fields."""
    assert set(run_cli(*args, "--json").object) == set(DOCUMENTED[heading])


def test_tail(start_command, jobs):
    """Each event as one object."""
    process = start_command("tail", "--after", "0", "--json")
    assert set(json.loads(process.stdout.readline())) == set(DOCUMENTED["tail"])


def test_config_show(run_cli):
    """Every setting with value, origin and default."""
    for each in run_cli("config", "show", "--json").object.values():
        assert set(each) == {"value", "origin", "default"}
