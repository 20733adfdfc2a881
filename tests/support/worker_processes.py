"""Worker processes that a test may kill, freeze or stop; each logs to a file."""

import signal
import subprocess
from pathlib import Path

from support import processes
from support.wait import wait_until_sync

LEASE_MS = 2000


class WorkerProcess:
    """`aragora-q worker` with the executor of `support.executors`, or with none if `executor` is None.

    `before` is a command that runs the worker, for example `("unshare", "--pid")`.
    """

    def __init__(
        self, directory, worker_id, environment, *args,
        lease_ms=LEASE_MS, slots=4, before=(), executor="support.executors:make",
    ):  # fmt: skip
        self.worker_id = worker_id
        self.log = Path(directory) / f"{worker_id}.log"
        command = processes.cli(
            "worker", "--worker-id", worker_id, "--metrics-port", "0",
            *(("--concurrency", str(slots)) if slots else ()),
            *(("--executor", executor) if executor else ()), *args,
        )  # fmt: skip
        settings = {
            "ARAGORA_QUEUE_CLAIM_IDLE_MS": str(lease_ms),
            "ARAGORA_QUEUE_RETRY_BASE_DELAY": "0.05",
            "ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS": "10",
        }
        self._start = ([*before, *command], {**settings, **environment})
        self.process = None

    def start(self):
        command, environment = self._start
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def wait_until_started(self, timeout=60):
        wait_until_sync(
            lambda: "worker started" in self.text() or self.process.poll() is not None,
            timeout,
            f"{self.worker_id} to start",
        )
        assert self.process.poll() is None, self.text()
        return self

    def wait_for_exit(self, timeout=60):
        """The exit status as a shell reports it: 128 plus the number of the signal that ended it."""
        status = self.process.wait(timeout)
        return status if status >= 0 else 128 - status

    def text(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self):
        """End it as a crash does: it reports nothing and releases nothing."""
        self.signal(signal.SIGKILL)
        self.process.wait(60)

    def stop(self, timeout=60):
        """End it with SIGTERM as an operator does; return the process's return code."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def is_alive(self):
        return self.process is not None and self.process.poll() is None


def run_burst_worker(url, *args, expect=0, **variables):
    """Run a worker until the queue is empty, assert its exit code, and return its log."""
    settings = {
        "ARAGORA_QUEUE_CLAIM_IDLE_MS": "60000",  # no job runs again because the machine stood still
        "ARAGORA_QUEUE_RETRY_BASE_DELAY": "0.01",
        **variables,
    }
    done = processes.run_command(
        "worker", "--burst", "--metrics-port", "0", *args, url=url, **settings
    )
    assert done.returncode == expect, done.stderr
    assert not done.stdout
    return done.stderr
