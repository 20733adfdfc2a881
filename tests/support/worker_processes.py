"""Real worker processes, to be killed, stopped and cut off; ended by pid when the test is over."""

import signal
import subprocess
from pathlib import Path

import processes
from waiting import wait_until_sync

TESTS = Path(__file__).parent
LEASE_MS = 1000


class WorkerProcess:
    """`aragora-q worker` with the executor of `fault_jobs`; its log is kept. Run by `before`, if given."""

    def __init__(
        self, directory, worker_id, environment, *args, lease_ms=LEASE_MS, slots=4, before=()
    ):
        self.worker_id = worker_id
        self.log = Path(directory) / f"{worker_id}.log"
        command = processes.cli(
            "worker", "--worker-id", worker_id, "--metrics-port", "0",
            *(("--concurrency", str(slots)) if slots else ()),
            "--executor", "fault_jobs:make", *args,
        )  # fmt: skip
        settings = {
            "ARAGORA_QUEUE_CLAIM_IDLE_MS": str(lease_ms),
            "ARAGORA_QUEUE_RETRY_BASE_DELAY": "0.05",
            "ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS": "10",
            "PYTHONPATH": str(TESTS),
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

    def wait_until_started(self, timeout=20):
        wait_until_sync(
            lambda: "worker started" in self.text() or self.process.poll() is not None,
            timeout,
            f"{self.worker_id} to start",
        )
        assert self.process.poll() is None, self.text()
        return self

    def text(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self):
        """As a crash does it: nothing is said, nothing handed back."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, timeout=30):
        """As an operator does it; returns the exit status."""
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
