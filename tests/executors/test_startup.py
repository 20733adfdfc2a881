"""Programs that cannot be started: refused when the worker starts, never charged to a job."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.memory_session import make_attempt
from support.processes import env
from support.wait import wait_until

from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed, Released, Retry
from aragora_q.errors import ConfigError
from aragora_q.executors import command, process_group, startup


@pytest.fixture
def executable(tmp_path):
    """Writes an executable file with exactly these bytes and returns its path."""

    def write(content, name="program"):
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    return write


def foreign_elf():
    """The interpreter's own header, with the number of another machine."""
    header = bytearray(Path(sys.executable).read_bytes()[:4096])
    header[18:20] = b"\xf3\x00" if header[18] != 0xF3 else b"\x3e\x00"
    return bytes(header)


CANNOT = {
    "CRLF": (b"#!/bin/sh\r\necho {}\r\n", "CR LF"),
    "CRLF after an option": (b"#!/bin/sh -e\r\necho {}\r\n", "CR LF"),
    "no first line": (b"echo {}\n", "neither a script"),
    "missing interpreter": (b"#!/opt/none/python9\n", "'/opt/none/python9' does not exist"),
    "env without it": (b"#!/usr/bin/env python9\n", "'python9' is not on PATH"),
    "env with options": (b"#!/usr/bin/env -S A=1 python9 -u\n", "'python9' is not on PATH"),
    "empty": (b"", "neither a script"),
}


@pytest.mark.parametrize(("content", "reason"), CANNOT.values(), ids=CANNOT)
def test_a_program_that_cannot_be_started_is_refused(executable, content, reason):
    """The worker does not start; one line names the file and the cause, not only the kernel's words."""
    path = executable(content)
    with pytest.raises(ConfigError) as refused:
        command.create(QueueConfig(exec_command=str(path)))
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_interpreter_that_goes_away_charges_no_job(executable, tmp_path, monkeypatch, on_loop):
    """`env` in the first line starts, but finds no interpreter: the script never ran."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    interpreter = executable(b"#!/bin/sh\necho {}\n", "interpreter-of-a-test")
    path = executable(b"#!/usr/bin/env interpreter-of-a-test\n")
    executor = command.create(QueueConfig(exec_command=str(path)))
    assert on_loop(make_attempt(executor).run()) == Completed(b"{}")
    interpreter.unlink()
    attempt = make_attempt(executor)
    assert on_loop(attempt.run()) == Released()
    assert "'interpreter-of-a-test' is not on PATH" in attempt.trouble


def test_exit_code_127_of_a_sound_script_is_the_jobs(run_program):
    """A command that a script does not find is an error of the script, as before."""
    outcome, _ = run_program("no-such-command")
    assert isinstance(outcome, Retry)
    assert outcome.charged


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        (foreign_elf(), "", "nor a binary of this machine"),
        (b"#!/bin/sh\n", "x" * 200_000, "too long"),
    ],
    ids=["another machine", "too many arguments"],
)
def test_what_only_a_start_shows_charges_no_job(executable, on_loop, content, arguments, reason):
    """The kernel refuses the first job's program: the job is released, and the cause is named."""
    executor = command.create(QueueConfig(exec_command=f"{executable(content)} {arguments}"))
    attempt = make_attempt(executor)
    assert on_loop(attempt.run()) == Released()
    assert reason in attempt.trouble


def test_a_deleted_directory_is_named(tmp_path, monkeypatch):
    """A relative path in a directory that is gone: refused with the cause."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError) as refused:
        command.create(QueueConfig(exec_command="./x"))
    assert "was deleted" in refused.value.hint


def test_a_full_path_works_in_a_deleted_directory(tmp_path, executable, monkeypatch, on_loop):
    """A program with a full path needs no current directory."""
    path = executable(b"#!/bin/sh\necho {}\n")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    executor = command.create(QueueConfig(exec_command=str(path)))
    assert on_loop(make_attempt(executor).run()) == Completed(b"{}")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.ENFILE])
def test_a_machine_that_is_full_charges_no_job(executable, on_loop, monkeypatch, number):
    """Whatever the kernel lacks when a program is to start, the job is handed back."""
    executor = command.create(QueueConfig(exec_command=str(executable(b"#!/bin/sh\n"))))

    def full(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_spawn", full)
    attempt = make_attempt(executor)
    assert on_loop(attempt.run()) == Released()
    assert os.strerror(number) in attempt.trouble


@contextmanager
def few_open_files(room):
    """A soft limit on open files that leaves exactly `room` of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_files()) + 1 + room, hard))
    fillers = []
    with suppress(OSError):
        while True:
            fillers.append(os.dup(0))
    for _ in range(room):
        os.close(fillers.pop())
    try:
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files():
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def test_no_room_for_open_files_charges_no_job_and_leaks_none(executable, on_loop):
    """Out of descriptors at any step of a start: handed back, and every one of them is closed again."""
    executor = command.create(QueueConfig(exec_command=str(executable(b"#!/bin/sh\necho {}\n"))))

    async def run():
        await make_attempt(executor).run()  # opens what the loop keeps
        before = len(open_files())
        outcomes = []
        for room in range(9):
            with few_open_files(room):
                outcomes.append(await make_attempt(executor).run())
            await wait_until(lambda: len(open_files()) <= before, what="all to be closed")
        return outcomes

    outcomes = on_loop(run())
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome != Released())
    assert set(outcomes) == {Released(), Completed(b"{}")}


@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "default"])
def test_sigchld_of_the_parent_does_not_matter(executable, on_loop, action):
    """Some supervisors start their children with SIGCHLD ignored: each job still ends."""
    before = signal.signal(signal.SIGCHLD, action)
    try:
        executor = command.create(
            QueueConfig(exec_command=str(executable(b"#!/bin/sh\necho {}\n")))
        )
        assert on_loop(make_attempt(executor).run()) == Completed(b"{}")
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("pause", [b"", b"sleep 0.3"], ids=["at once", "later"])
def test_an_exit_code_that_is_taken_elsewhere_ends_the_attempt(executable, on_loop, pause):
    """Other code of this process that waits for every child costs a retry, not a hanging job."""
    program = executable(b"#!/bin/sh\n%s\necho {}\n" % pause)
    executor = command.create(QueueConfig(exec_command=str(program)))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        outcome = on_loop(make_attempt(executor).run())
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert isinstance(outcome, Retry)
    assert "exit code unknown" in outcome.error


def test_a_registered_format_is_left_to_the_kernel(executable, tmp_path, monkeypatch):
    """An emulator may run a binary of another machine."""
    (tmp_path / "jar").touch()
    monkeypatch.setattr(startup, "_OTHER_FORMATS", tmp_path)
    assert startup.find_fault(str(executable(b"PK\3\4"))) is None


async def test_programs_that_start_together_hold_few_open_files(executable):
    """A start does not wait while it holds both ends of its pipes: OPEN_FILES each, and few more."""
    path = str(executable(b"#!/bin/sh\nread line; exit 0\n"))
    before = len(open_files())
    with few_open_files(20 * process_group.OPEN_FILES + 4):
        start = process_group.ProcessGroup.start
        groups = await asyncio.gather(*(start([path], os.environ, b"") for _ in range(20)))
    for group in groups:
        await group.stop(set())
    await wait_until(lambda: len(open_files()) <= before, what="all to be closed")


def test_noexec_is_named(executable, tmp_path):
    """A program on a file system without exec is refused with that reason."""
    executable(b"#!/bin/sh\n")
    script = (
        f"mount -t tmpfs -o noexec none {tmp_path} && printf '#!/bin/sh\\n' >{tmp_path}/p"
        f" && chmod +x {tmp_path}/p && exec {sys.executable} -c "
        f"'from aragora_q.executors import startup;"
        f' print(startup.find_fault("{tmp_path}/p"))\''
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=env(),
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("needs a mount namespace")
    assert "without exec" in done.stdout, done.stderr
