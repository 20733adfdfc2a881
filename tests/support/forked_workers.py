"""Dozens of worker processes, forked from one that has imported everything.

`python forked_workers.py` forks a worker for every line of JSON on stdin (`worker_id` and settings) and
prints its process id. The parent starts neither a loop nor a thread, so forking is safe.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Workers:
    """Starts workers; kills those that still run when it is closed."""

    def __init__(self, log, environment):
        with Path(log).open("ab") as stderr:
            self._forker = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )
        self._started = []

    def start(self, worker_id, **settings):
        """Start a worker, and return its process id."""
        self._forker.stdin.write(json.dumps({"worker_id": worker_id, **settings}) + "\n")
        self._forker.stdin.flush()
        self._started.append(int(self._forker.stdout.readline()))
        return self._started[-1]

    def kill(self, pid):
        """Kill a worker as a crash does."""
        os.kill(pid, signal.SIGKILL)
        self._started.remove(pid)

    def close(self):
        for pid in list(self._started):
            self.kill(pid)
        self._forker.kill()
        self._forker.wait(10)
        self._forker.stdin.close()
        self._forker.stdout.close()


def _fork_on_demand():
    from aragora_q import launcher
    from aragora_q.config.settings import QueueConfig
    from aragora_q.executors import debate
    from aragora_q.executors.debate.llm import models as connecting

    # Building agents imports what takes two seconds; here once for all.
    nowhere = {"base_url": "http://127.0.0.1:9", "api_key_env": "STUB_KEY"}
    models = {api: {"model": f"{api}:m", **nowhere} for api in ("openai", "anthropic")}
    debate.create(QueueConfig(agents=models))
    # Dozens that begin at once keep each other from connecting in time, which would cost attempts.
    connecting.CONNECT_SECONDS = 100.0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    for line in sys.stdin:
        settings = json.loads(line)
        worker_id = settings.pop("worker_id")
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(0)
            launcher.run_worker(QueueConfig(**settings), worker_id=worker_id)
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _fork_on_demand()
