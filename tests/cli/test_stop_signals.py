"""SIGTERM and SIGINT end every command at any time: as a normal process, and as process 1 of a container."""

import json
import signal
import socket
import subprocess
import time

import psutil
import pytest
from support import processes, servers
from support.wait import wait_until_sync

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
SLOW_IMPORT = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def container():
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to make a PID namespace")
    return CONTAINER


@pytest.fixture(params=["normal", "process 1"])
def start(request, redis_url):
    """Starts a command; returns what `Popen` returns, and the process to send signals to."""
    before = request.getfixturevalue("container") if request.param == "process 1" else ()
    started = []

    def run(*args, url=redis_url, **variables):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = processes.env(REDIS_URL=url, **variables)
        parent = subprocess.Popen([*before, *processes.cli(*args)], env=environment, **pipes)
        started.append(parent)
        process = psutil.Process(parent.pid)
        if before:
            wait_until_sync(process.children)
            [process] = process.children()
            wait_until_sync(lambda: "aragora_q" in process.cmdline())
        return parent, process

    yield run
    for parent in started:
        parent.kill()
        parent.communicate(timeout=60)


def exit_code(parent):
    """The exit code as a shell reports it, and the output."""
    code = parent.wait(timeout=60)  # before `communicate` ends its input
    out, err = parent.communicate()
    return code if code >= 0 else 128 - code, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_importing_ends(start, tmp_path, number):
    """Also before any code of the command runs; no traceback."""
    (tmp_path / "uvloop.py").write_text(SLOW_IMPORT)
    parent, process = start("worker", PYTHONPATH=str(tmp_path))
    parent.stdout.readline()
    process.send_signal(number)
    assert exit_code(parent) == (128 + number, "", "")


@pytest.mark.parametrize("args", [("worker", "--metrics-port", "0"), ("wait", "x"), ("doctor",)])
def test_a_command_that_a_silent_server_keeps_waiting_ends(start, args):
    """The server accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        parent, process = start(*args, url=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with silent.accept()[0] as connection:
            connection.recv(1)
            process.send_signal(signal.SIGTERM)
            code, _, err = exit_code(parent)
    assert code == 143
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "ready"),
    [(("enqueue", "-"), "stdout"), (("exporter", "--listen", "127.0.0.1:0"), "stderr")],
)
def test_a_command_at_work_ends(start, args, ready):
    """One that reads standard input, and a server."""
    if "exporter" in args:
        args = (*args[:-1], f"127.0.0.1:{servers.free_port()}")
    parent, process = start(*args)
    if ready == "stdout":
        parent.stdin.write(b'{"id":"first","payload":{}}\n')
        parent.stdin.flush()
        assert json.loads(parent.stdout.readline())["created"]
    else:
        parent.stderr.readline()
    process.send_signal(signal.SIGTERM)
    code, out, err = exit_code(parent)
    assert (code, out) == (143, "")
    assert "Traceback" not in err
    assert ("stopped after line 1" in err) == ("enqueue" in args)


def test_orphans_of_jobs_are_reaped(container, redis_url, redis_client, tmp_path):
    """Programs that a job leaves behind become children of process 1: none stays as a zombie."""
    program = tmp_path / "leave"
    program.write_text("#!/bin/sh\nsleep 0.01 & sleep 1000 >/dev/null 2>&1 &\necho '{}'\n")
    program.chmod(0o755)
    lines = "".join(json.dumps({"id": f"j{n}", "payload": {}}) + "\n" for n in range(10))
    environment = processes.env(REDIS_URL=redis_url)
    subprocess.run(
        processes.cli("enqueue", "-", "-q"), input=lines.encode(), env=environment, check=True,
        capture_output=True,
    )  # fmt: skip
    worker = subprocess.Popen(
        [*container, *processes.cli("worker", "--exec", program, "--metrics-port", "0")],
        env=environment, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_until_sync(lambda: redis_client.zcard("aragora:queue:debates:completed") == 10, 60)
        [first] = psutil.Process(worker.pid).children()

        def is_zombie(child):
            try:
                return child.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:  # reaped just now
                return False

        wait_until_sync(
            lambda: not any(map(is_zombie, first.children())), what="the orphans to be reaped"
        )
        first.terminate()
        assert worker.wait(60) == 143
    finally:
        worker.kill()
        worker.communicate()


def test_a_background_job_of_a_script_ignores_ctrl_c(redis_url):
    """A shell starts it with SIGINT ignored: Ctrl-C ends the script's command in the foreground only."""
    process = subprocess.Popen(
        processes.cli("tail", "--after", "0"), env=processes.env(REDIS_URL=redis_url),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    subprocess.run(
        processes.cli("enqueue", "q?", "-a", "demo,demo"), env=processes.env(REDIS_URL=redis_url),
        check=True, capture_output=True,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert exit_code(process)[0] == 143


def test_a_clean_up_that_hangs_ends():
    """A command that does not get ready within some seconds after a signal ends without."""
    code = (
        "import time\nfrom aragora_q import process\nprocess.prepare()\n"
        "process.CLEAN_UP_SECONDS = 1\n"
        "with process.interruptible():\n"
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [processes.cli()[0], "-c", code], env=processes.env(), stdout=subprocess.PIPE
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()
