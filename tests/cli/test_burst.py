"""`worker --burst` and jobs that fell due before it began."""

import time

import pytest

pytestmark = pytest.mark.slow


def test_burst_runs_what_fell_due_before(run_cli, cli_command):
    """`enqueue --delay 1`, two seconds later a burst: the job has run, every time."""
    for n in range(5):
        enqueued = run_cli(
            "enqueue", f"{n}?", "--agents", "demo,demo", "--id", f"j{n}", "--delay", "1s"
        )
        assert enqueued.code == 0, enqueued.err
        time.sleep(2)
        done = cli_command(
            "worker", "--burst", "--metrics-port", "0", "--executor", "support.executors:make"
        )
        assert done.code == 0, done.err
        assert run_cli("status", f"j{n}", "--json").object["status"] == "completed"
