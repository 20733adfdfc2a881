"""`worker --burst`: jobs that fell due before it began, and Redis away."""

import time

import pytest
from support import servers

from aragora_q import launcher
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import RedisUnreachable


def test_burst_gives_up_when_redis_stays_away(monkeypatch):
    """Workers of cron do not pile up: 69, and the reason, after a minute (here 1 s)."""
    monkeypatch.setattr(launcher, "BURST_OUTAGE_SECONDS", 1.0)
    url = f"redis://127.0.0.1:{servers.free_port()}"
    config = QueueConfig(redis_url=url, executor="support.executors:make", metrics_port=0)
    with pytest.raises(RedisUnreachable, match=r"unavailable for 1 s: .*connection refused"):
        launcher.run_worker(config, burst=True)


@pytest.mark.slow
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
