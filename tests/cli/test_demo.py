"""demo: a whole debate, from nothing to a recorded result."""

import re
import shlex
import signal

import pytest
from support import processes
from support.wait import wait_until_sync

from aragora_q.cli import demo

pytestmark = pytest.mark.slow

AGENTS = "demo:bold,demo:careful,demo:curious"


@pytest.fixture
def no_server(monkeypatch):
    """No server is configured; there is a directory for the private server's data."""
    monkeypatch.delenv("REDIS_URL")


def test_demo_shows_a_debate_and_suggests_commands(cli_command, no_server):
    """Without any setup: phases as they happen, the result, the queue, and suggested commands that work."""
    ended = cli_command("demo", "Tea or coffee?", "-a", AGENTS, env={"REDIS_URL": ""})
    assert (ended.code, ended.err) == (0, "")
    steps = [line.split("  ")[-1] for line in ended.lines if re.match(r" *\d+\.\d s  ", line)]
    assert [step.partition(":")[0].partition(" by ")[0] for step in steps] == [
        "server ready", "enqueued", "started", "propose", "review, round 1 of 2",
        "revise, round 1 of 2", "review, round 2 of 2", "revise, round 2 of 2", "vote", "completed",
    ]  # fmt: skip
    for agent in AGENTS.split(","):
        assert ended.out.count(agent) >= 6, "each agent is shown in every phase"
    assert re.search(r"^agreement +\d+%, \d of 3 seats$", ended.out, re.MULTILINE)
    assert re.search(r"^rounds +2 of at most 2$", ended.out, re.MULTILINE)
    assert "0 waiting, 0 running, 1 completed, 0 failed" in ended.out
    assert all(len(line) <= 80 for line in ended.lines)
    follow_up(cli_command, ended.out.partition("Try next:\n")[2])


def follow_up(cli_command, text):
    """Run the commands that the demo suggests; each works, and `show` finds the demo's job.

    The last one serves until it is stopped: tests/web/server/test_process.py runs it.
    """
    export, *commands, last = text.strip().splitlines()
    assert last == "  aragora-q web"
    variables = dict(variable.split("=", 1) for variable in shlex.split(export)[1:])
    ended = [cli_command(*shlex.split(line)[1:], env=variables) for line in commands]
    assert [result.code for result in ended] == [0] * 4
    assert "completed" in ended[0].out


def test_suggested_commands_have_a_path_where_the_shell_needs_it(monkeypatch, tmp_path):
    """After `make demo`, the shell does not know the command: the lines have the path of the one that ran."""
    monkeypatch.setattr("sys.argv", ["/my env/bin/aragora-q", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo._program() == "'/my env/bin/aragora-q'"
    (tmp_path / "aragora-q").touch(0o755)
    assert demo._program() == "aragora-q"


def test_ctrl_c_cancels_the_debate_and_leaves_nothing_running(
    start_command, cli_command, no_server
):
    """SIGINT ends the demo by the signal; the job is cancelled, and the private server stops."""
    variables = {"REDIS_URL": "embedded://", "ARAGORA_QUEUE_NAME": "demo"}
    process = start_command("demo", "-a", AGENTS, "--rounds", "20", env={"REDIS_URL": ""})
    text = b""
    while b"round 1 of 20" not in text:
        text += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert (rest.splitlines()[-1].split()[-1], errors) == (b"cancelled", b"")
    job_id = re.search(rb"job (\w+)", text)[1].decode()
    assert cli_command("status", job_id, "--json", env=variables).object["status"] == "cancelled"
    wait_until_sync(lambda: not servers_running(), 30, "the embedded server to stop")


def servers_running():
    """Embedded servers of this test's home."""
    import os
    from pathlib import Path

    here = os.environ["XDG_STATE_HOME"].encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if here in path.read_bytes() and processes.is_running(int(path.parent.name)):
                found.append(path)
        except OSError:
            continue
    return found
