"""A job of the `command` executor that is stopped, and the processes of its program."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.memory_session import MemorySession, make_attempt, result_of
from support.processes import is_running
from support.wait import wait_until, wait_until_sync

from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Released, Retry
from aragora_q.errors import LeaseLost
from aragora_q.executors import command, process_group
from aragora_q.executors.process_group import ProcessGroup


async def _stop_when_ready(attempt, pid_file, reason, is_read=lambda: True):
    """Run an attempt, and cancel it after its program has written its pids, and `is_read`; return outcome and
    pids.
    """
    task = asyncio.create_task(attempt.run())
    await wait_until(
        lambda: pid_file.exists() and pid_file.read_text().endswith("\n") and is_read()
    )
    attempt.cancel(reason)
    return await task, [int(pid) for pid in pid_file.read_text().split()]


STUBBORN = """
trap '' TERM
sleep 1000 &
echo $$ $! > {pids}.part
mv {pids}.part {pids}
sleep 1000
"""


OBEDIENT = """
echo '{{"checkpoint": "begun", "value": {{}}}}' >&3
trap 'echo "{{\\"checkpoint\\": \\"saved\\", \\"value\\": {{}}}}" >&3; exit 0' TERM
sleep 1000 &
echo $$ $! > {pids}.part
mv {pids}.part {pids}
wait
"""


@pytest.mark.parametrize(
    ("reason", "outcome"), [("cancelled", None), ("lost", None), ("released", Released())]
)
def test_stopped_job_leaves_no_process(on_loop, program, tmp_path, monkeypatch, reason, outcome):
    """Cancel, lost lease and shutdown end the program and its children, even if they ignore TERM."""
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.2)
    pids = tmp_path / "pids"
    config = QueueConfig(exec_command=program(STUBBORN.format(pids=pids)))
    attempt = make_attempt(command.create(config))
    got, running = on_loop(_stop_when_ready(attempt, pids, reason))
    assert got == outcome
    for pid in running:
        wait_until_sync(lambda pid=pid: not is_running(pid), what=f"the end of {pid}")


def test_program_that_obeys_term_can_still_save(on_loop, program, tmp_path, monkeypatch):
    """Messages between TERM and KILL are read: a last checkpoint is kept."""
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 60.0)
    pids, session = tmp_path / "pids", MemorySession()
    config = QueueConfig(exec_command=program(OBEDIENT.format(pids=pids)))
    attempt = make_attempt(command.create(config), session=session)
    outcome, running = on_loop(
        _stop_when_ready(attempt, pids, "released", lambda: "begun" in session.kept)
    )
    assert outcome == Released()
    assert session.kept == {"begun": {}, "saved": {}}
    for pid in running:
        wait_until_sync(lambda pid=pid: not is_running(pid), what=f"the end of {pid}")


@pytest.mark.slow
def test_timeout_ends_the_program(on_loop, program, tmp_path, monkeypatch):
    """timeout_seconds of a debate holds for programs and their children, and is a charged retry."""
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.2)
    config = QueueConfig(exec_command=program(STUBBORN.format(pids=tmp_path / "pids")))
    attempt = make_attempt(
        command.create(config), payload=b'{"timeout_seconds": 1.0}', id=tmp_path.as_posix()
    )
    assert on_loop(attempt.run()) == Retry(
        "TimeoutError: no result within timeout_seconds (1.0)", 1.0
    )
    wait_until_sync(lambda: not _processes_of(attempt.job), what="the end of its processes")


def _processes_of(job):
    """The processes of a job's program that run, whether or not it came to write their pids."""
    variable, found = f"ARAGORA_JOB_ID={job.id}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable in path.read_bytes().split(b"\0") and is_running(path.parent.name):
                found.append(path.parent.name)
    return found


def test_second_cancel_kills_at_once(on_loop, program, tmp_path, monkeypatch):
    """A worker that must stop at once does not wait after TERM."""
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 60.0)
    pids = tmp_path / "pids"
    config = QueueConfig(exec_command=program(STUBBORN.format(pids=pids)))
    attempt = make_attempt(command.create(config))

    async def cancel_twice():
        task = asyncio.create_task(attempt.run())
        await wait_until(pids.exists)
        attempt.cancel("released")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert on_loop(cancel_twice()) == Released()
    for pid in pids.read_text().split():
        wait_until_sync(lambda pid=pid: not is_running(pid), what=f"the end of {pid}")


@pytest.mark.parametrize("turns", range(6))
def test_start_that_is_cancelled_leaves_nothing_open(on_loop, monkeypatch, turns):
    """A cancel while the pipes of a program are opened: they are closed, and the program is ended."""
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.2)

    def pipes():
        return sum(each.is_fifo() for each in Path("/proc/self/fd").iterdir())

    async def cancel_start():
        before = pipes()
        task = asyncio.create_task(ProcessGroup.start(["/bin/sleep", "1000"], {}, b""))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await (await task).stop(set())
        await wait_until(lambda: pipes() <= before, what="closed pipes")

    on_loop(cancel_start())


def test_program_that_ends_ends_its_children(run_program, tmp_path):
    """Processes left in the program's group are killed, and do not delay the job."""
    started = time.monotonic()
    outcome, _ = run_program(f"sleep 1000 & echo $! > {tmp_path}/pid; echo '{{}}'")
    assert result_of(outcome) == {}
    assert time.monotonic() - started < 30
    pid = (tmp_path / "pid").read_text().strip()
    wait_until_sync(lambda: not is_running(pid), what="the end of the child")


def test_child_that_left_the_group_does_not_delay_the_job(run_program, tmp_path, monkeypatch):
    """A daemon that keeps the pipes open does not keep the job from ending."""
    monkeypatch.setattr(process_group, "ORPHAN_GRACE_SECONDS", 0.1)
    outcome, _ = run_program(
        f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000' & "
        f"while ! test -s {tmp_path}/pid; do sleep 0.01; done; echo '{{}}'"
    )
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert result_of(outcome) == {}


def test_lost_lease_ends_the_program(run_program, tmp_path):
    """If a checkpoint is refused because the lease is lost, the program is stopped, without a report."""
    session = MemorySession()
    session.refuse_with = []
    original = session.checkpoint

    async def refuse(job, name, value):
        session.refuse_with = [LeaseLost("gone")]
        await original(job, name, value)

    session.checkpoint = refuse
    outcome, _ = run_program(
        f"""echo $$ > {tmp_path}/pid; echo '{{"checkpoint": "a", "value": {{}}}}' >&3; sleep 1000""",
        session=session,
    )
    assert outcome is None
    pid = (tmp_path / "pid").read_text().strip()
    wait_until_sync(lambda: not is_running(pid), what="the end of the program")
