"""Commands and what they inherit: nothing is lost without a word, no traceback, the documented exit code."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from support import processes

LINES = "".join(json.dumps({"id": f"j{n}", "payload": {"n": n}}) + "\n" for n in range(3)).encode()
BURST = ("worker", "--burst", "--metrics-port", "0", "--exec", "/bin/cat")


def _replace(descriptor, path, flags):
    os.dup2(os.open(path, flags), descriptor)


def _close_all():
    os.closerange(0, 3)


def _lose_signals():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


CONDITIONS = {
    "locale C": {"env": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}},
    "ASCII": {"env": {"PYTHONIOENCODING": "ascii:strict", "TERM": "dumb", "COLUMNS": "0"}},
    "warnings are errors": {"env": {"PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": "1"}},
    "a prompt at the end": {"env": {"PYTHONINSPECT": "1"}},
    "no signals": {"before": _lose_signals},
    "stdout closed": {"before": lambda: os.close(1)},
    "stderr closed": {"before": lambda: os.close(2)},
    "stderr full": {"before": lambda: _replace(2, "/dev/full", os.O_WRONLY)},
    "no home": {"env": {"HOME": "", "XDG_STATE_HOME": "", "USER": ""}},
}
"""None of these changes what a command does."""


@pytest.fixture
def run(redis_url, tmp_path):
    """Runs a command under a condition; returns its exit code, stdout and stderr."""

    def run(*args, env=None, before=None, stdin=LINES, stdout=subprocess.PIPE, cwd=tmp_path):
        done = subprocess.run(
            processes.cli(*args), input=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False,
            env=processes.env(REDIS_URL=redis_url, **(env or {})), preexec_fn=before, cwd=cwd,
            timeout=60,
        )  # fmt: skip
        err = done.stderr.decode()
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        return done.returncode, done.stdout, err

    return run


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_commands_do_the_same(run, redis_client, condition):
    """All lines are enqueued, all jobs run, a failure has its exit code."""
    assert run("enqueue", "-", "-q", **condition)[0] == 0
    assert run(*BURST, **condition)[0] == 0
    assert redis_client.zcard("aragora:queue:debates:completed") == 3
    assert run("status", "missing", **condition)[0] == 3


@pytest.mark.parametrize(
    ("command", "before", "reason"),
    [
        ("enqueue", lambda: os.close(0), "Bad file descriptor"),
        ("enqueue", _close_all, ""),
        ("requeue", lambda: _replace(0, "/dev/null", os.O_WRONLY), "Bad file descriptor"),
    ],
    ids=["closed", "all closed", "for writing"],
)
def test_a_stdin_that_cannot_be_read_is_an_error(run, command, before, reason):
    """An empty input would be exit code 0: the producer's lines would be lost."""
    code, _, err = run(command, "-", stdin=None, before=before)
    assert code == 2
    assert reason in err


@pytest.mark.parametrize(
    ("args", "path"),
    [
        (("--version",), "/dev/full"),
        (("--help",), "/dev/full"),
        (("list",), "/dev/null"),
        (("enqueue", "-"), "/dev/full"),
    ],
)
def test_a_stdout_that_cannot_be_written_is_an_error(run, args, path):
    """One line says so; bulk commands also say how far they came."""
    flags = os.O_WRONLY if path == "/dev/full" else os.O_RDONLY
    run("enqueue", "-", "-q")
    code, _, err = run(*args, before=lambda: _replace(1, path, flags))
    assert code == 1
    assert "aragora-q: error: cannot write to standard output" in err
    assert ("stopped after line 3" in err) == ("enqueue" in args)


def test_a_stdin_that_does_not_block_is_read_to_its_end(redis_url):
    """A slow producer: `nothing yet` is not the end of the input."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    process = subprocess.Popen(
        processes.cli("enqueue", "-", "-q"), env=processes.env(REDIS_URL=redis_url),
        stdin=read_end, stdout=subprocess.PIPE,
    )  # fmt: skip
    for n in range(3):
        time.sleep(0.4)
        os.set_blocking(read_end, False)  # as another process that has it may do at any time
        os.write(write_end, b'{"id":"slow%d","payload":{}}\n' % n)
    os.close(write_end)
    os.close(read_end)
    assert process.communicate(timeout=60)[0].split() == [b"slow0", b"slow1", b"slow2"]
    assert process.returncode == 0


def test_a_stdout_that_does_not_block_gets_everything(run, redis_url):
    """A reader that is slower than the command: no line is dropped."""
    lines = "".join(
        json.dumps({"id": f"j{n}", "payload": {"text": "x" * 300}}) + "\n" for n in range(500)
    )
    run("enqueue", "-", "-q", stdin=lines.encode())
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        processes.cli("list", "-n", "500", "--jsonl"), env=processes.env(REDIS_URL=redis_url),
        stdout=write_end,
    )  # fmt: skip
    for _ in range(30):
        os.set_blocking(write_end, False)  # as another process that has it may do at any time
        time.sleep(0.05)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as output:
        assert len(output.readlines()) == 500
    assert process.wait(60) == 0


def test_a_deleted_directory(run, tmp_path):
    """Commands work there, workers with a program, too."""
    gone = tmp_path / "gone"
    for args in (("enqueue", "-", "-q"), BURST):
        gone.mkdir()
        assert run(*args, cwd=gone, before=gone.rmdir)[0] == 0


def test_a_limit_on_open_files_that_is_too_low_is_refused(run):
    """Before a job starts: with the numbers and a remedy. The soft limit is raised where it may be."""

    def limit(soft, hard):
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run("enqueue", "-", "-q")
    for files, args in ((20, BURST), (100, (*BURST, "--concurrency", "30"))):
        code, _, err = run(*args, before=limit(files, files))
        assert code == 78
        assert f"open files; this process may open {files}" in err
        assert "ulimit -n" in err
    assert run(*BURST, "--concurrency", "30", before=limit(30, 1000))[0] == 0
    assert run("status", "j0", "j1", "j2")[0] == 0


def test_process_1_that_cannot_fork_says_so():
    """At the limit on processes of a container: one line and exit code 1, no traceback."""
    program = (
        "import os\n"
        "def refuse(): raise BlockingIOError(11, os.strerror(11))\n"
        "os.getpid, os.fork = lambda: 1, refuse\n"
        "from aragora_q.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "stats"], check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"aragora-q: error: cannot start a second process: Resource")
    assert b"Traceback" not in done.stderr
