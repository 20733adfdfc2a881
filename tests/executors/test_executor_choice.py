"""Executors in worker processes: programs and factories chosen by options."""

import json
import os
import signal

import pytest
from support.processes import is_running
from support.queue_harness import enqueue_debate, get_job, run_on_queue
from support.wait import wait_until_sync
from support.worker_processes import run_burst_worker

from aragora_q.base import JobStatus


@pytest.mark.slow
def test_exec_runs_jobs_with_a_program(redis_url, program):
    """`--exec` alone chooses the command executor; result, error and log are the program's."""
    enqueue_debate(redis_url, "good")
    enqueue_debate(redis_url, "bad", question="")
    said = run_burst_worker(
        redis_url,
        "--exec",
        program(
            "grep -q '\"question\":\"\"' && { echo 'no question' >&2; exit 65; }; echo '{\"a\": 1}'"
        ),
    )
    assert get_job(redis_url, "good").result == {"a": 1}
    assert get_job(redis_url, "bad").error == "PermanentError: exit code 65: no question"
    [line] = [line for line in said.splitlines() if "command output" in line]
    assert 'job=bad attempt=1 text="no question"' in line


@pytest.mark.slow
def test_exec_by_environment(redis_url, program):
    """A unit file can choose the program without flags."""
    enqueue_debate(redis_url, "j1")
    run_burst_worker(
        redis_url,
        ARAGORA_QUEUE_EXECUTOR="command",
        ARAGORA_QUEUE_EXEC_COMMAND=program("echo '{}'"),
    )
    assert get_job(redis_url, "j1").status == JobStatus.COMPLETED


def test_checkpoint_survives_the_attempt(redis_url, program):
    """What a failing program saved, the next attempt gets, through Redis."""
    enqueue_debate(redis_url, "j1")
    run_burst_worker(
        redis_url,
        "--exec",
        program(
            """
            if grep -q '"saved":{"n":1}'; then echo '{"resumed": true}'; exit; fi
            echo '{"checkpoint": "saved", "value": {"n": 1}}' >&3
            exit 1
            """
        ),
    )
    done = get_job(redis_url, "j1")
    assert done.result == {"resumed": True}
    assert done.attempts == 2


SLEEPER = """
sleep 1000 &
echo $$ $! > {pids}.part
mv {pids}.part {pids}
wait
"""


def start_worker(worker_process, redis_url, line, **options):
    """A worker process that runs jobs with this command line."""
    return worker_process(redis_url, "w1", "--exec", line, executor=None, **options)


def running_pids(pids):
    wait_until_sync(pids.exists, 30, what="the start of the program")
    return pids.read_text().split()


@pytest.mark.slow
def test_cancelled_job_ends_its_program(redis_url, worker_process, program, tmp_path):
    """`cancel` reaches a running program and its children within the worker's next renewal."""
    pids = tmp_path / "pids"
    enqueue_debate(redis_url, "j1")
    start_worker(worker_process, redis_url, program(SLEEPER.format(pids=pids)))
    running = running_pids(pids)
    assert run_on_queue(redis_url, lambda harness: harness.queue.cancel("j1"))
    for pid in running:
        wait_until_sync(lambda pid=pid: not is_running(pid), what=f"the end of {pid}")
    assert get_job(redis_url, "j1").status == JobStatus.CANCELLED


@pytest.mark.slow
def test_stopped_worker_ends_programs_and_releases_jobs(
    redis_url, worker_process, program, tmp_path
):
    """A second SIGTERM does not wait: the program is gone and the job is released, uncharged."""
    pids = tmp_path / "pids"
    enqueue_debate(redis_url, "j1")
    line = program(SLEEPER.format(pids=pids))
    worker = start_worker(worker_process, redis_url, line, lease_ms=60_000)
    running = running_pids(pids)
    worker.signal(signal.SIGTERM)
    wait_until_sync(lambda: "draining" in worker.text(), what="draining")
    assert worker.stop() == -signal.SIGTERM
    wait_until_sync(lambda: not any(map(is_running, running)), what="the end of the program")
    waiting = get_job(redis_url, "j1")
    assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)


@pytest.mark.slow
def test_setpriv_ends_the_program_of_a_killed_worker(redis_url, worker_process, program, tmp_path):
    """The documented remedy holds: a program under setpriv does not outlive a SIGKILLed worker."""
    pids = tmp_path / "pids"
    enqueue_debate(redis_url, "j1")
    line = "setpriv --pdeathsig KILL " + program(f"echo $$ > {pids}; exec sleep 1000")
    worker = start_worker(worker_process, redis_url, line)
    wait_until_sync(lambda: pids.exists() and pids.read_text(), 30, what="the program")
    worker.kill()
    [pid] = running_pids(pids)
    wait_until_sync(lambda: not is_running(pid), what="the end of the program")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--exec", "no-such-program"], 78, "'no-such-program' not found or not executable"),
        (["--executor", "command"], 78, "exec_command is empty"),
        (
            ["--executor", "debate", "--exec", "true"],
            2,
            "--exec requires --executor command, not --executor debate",
        ),
        (["--executor", "nonsense"], 78, "must be debate, command or package.module:factory"),
        (["--executor", "no.such:thing"], 78, "No module named 'no'"),
        (["--executor", "json:loads"], 78, "missing 1 required positional argument"),
        (["--executor", "time:time"], 78, "the factory returned a float, not a function"),
    ],
)
def test_invalid_executor_prevents_the_start(redis_url, args, code, said):
    """One clear line and the documented exit code, before any job is started."""
    enqueue_debate(redis_url, "j1")
    stderr = run_burst_worker(redis_url, *args, expect=code)
    assert said in stderr
    assert "Traceback" not in stderr
    assert get_job(redis_url, "j1").status == JobStatus.PENDING


@pytest.mark.slow
def test_factory_of_a_module(redis_url, tmp_path):
    """`package.module:factory` may be async; its executor's errors decide like any other's."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "made.py").write_text(
        "import os\n"
        "async def factory():\n"
        "    async def run(job):\n"
        "        if not job.payload['question']: raise ValueError('nothing asked')\n"
        "        return {'pid': os.getpid(), 'question': job.payload['question']}\n"
        "    return run\n"
    )
    enqueue_debate(redis_url, "good")
    enqueue_debate(redis_url, "bad", question="")
    run_burst_worker(redis_url, "--executor", "mine.made:factory", PYTHONPATH=str(tmp_path))
    good = get_job(redis_url, "good").result
    assert good["question"] == "To be or not to be?"
    assert good["pid"] != os.getpid()
    assert get_job(redis_url, "bad").error == "ValueError: nothing asked"


@pytest.mark.slow
def test_hostile_program_cannot_forge_a_log_line(redis_url, program):
    """Escape sequences and line breaks of a program's stderr reach the terminal as text only."""
    enqueue_debate(redis_url, "j1")
    said = run_burst_worker(
        redis_url,
        "--exec",
        program(r"""printf '\033[2Jred\r12:00:00 INFO forged\v\f\302\205x\n' >&2; echo '{}'"""),
    )
    assert "\x1b" not in said
    assert "\r" not in said
    assert not [line for line in said.splitlines() if line.startswith("12:00:00 INFO forged")]
    [line] = [line for line in said.splitlines() if "command output" in line]
    text = json.loads(line.partition("text=")[2])
    assert text.startswith("\x1b[2Jred\r12:00:00 INFO forged")
