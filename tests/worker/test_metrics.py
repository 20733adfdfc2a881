"""Log lines and metrics of a worker."""

import logging
import re
import subprocess
import time
import urllib.request

import pytest
from prometheus_client import generate_latest
from support.paid_calls import call as paid_call
from support.servers import free_port
from support.workers import (
    LONG_LEASE,
)

from aragora_q.base import Job
from aragora_q.context import Settlement, current_attempt
from aragora_q.errors import ConfigError
from aragora_q.observability import http
from aragora_q.observability.http import serving
from aragora_q.observability.worker_metrics import WorkerMetrics


async def test_failures_are_logged_among_many_successes(new_harness, worker_pool, caplog):
    """A failed job has its log line, however many jobs complete."""
    caplog.set_level(logging.INFO)
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        return {}

    await harness.queue.enqueue_many(
        [*(Job(payload={}, id=f"j{n}") for n in range(400)), Job(payload={}, id="bad")]
    )
    await worker_pool.start(harness, executor, max_concurrent=50, burst=True).task
    failed = [record for record in caplog.records if record.msg.event == "job failed"]
    assert [(record.job, record.levelno) for record in failed] == [("bad", logging.WARNING)]
    assert sum("job completed" in record.message for record in caplog.records) < 400


def _value(metrics, sample):
    text = generate_latest(metrics.registry).decode()
    return float(re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)[1])


async def test_metrics_count_what_happened(new_harness, worker_pool):
    """Jobs by outcome, run and wait times, slots; clean for promtool."""
    harness = new_harness(retry_base_delay=0.01, **LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        if job.attempts == 1:
            raise RuntimeError("again")
        return {}

    worker = worker_pool.start(harness, executor, max_concurrent=4)
    for name in ("good", "bad"):
        await harness.enqueue(name)
    await harness.wait_for_end("good", "bad")
    await worker.stop()
    for outcome, count in {"completed": 1, "failed": 1, "retrying": 1, "lost": 0}.items():
        sample = f'aragora_q_attempts_total{{outcome="{outcome}",queue="debates"}}'
        assert _value(worker.metrics, sample) == count
    assert _value(worker.metrics, 'aragora_q_attempt_duration_seconds_count{queue="debates"}') == 3
    assert _value(worker.metrics, 'aragora_q_queue_latency_seconds_count{queue="debates"}') == 3
    assert _value(worker.metrics, 'aragora_q_concurrency{queue="debates"}') == 4
    assert _value(worker.metrics, 'aragora_q_jobs_active{queue="debates"}') == 0
    assert abs(_value(worker.metrics, 'aragora_q_last_fetch_timestamp_seconds{queue="debates"}')
               - time.time()) < 60  # fmt: skip
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(worker.metrics.registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


async def test_paid_calls_are_counted_once(new_harness, worker_pool):
    """Calls, tokens, dollars and waits of an executor that knows no metrics; a repeated settlement is not."""
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        attempt = current_attempt()
        call = paid_call(attempt.call_id("a"), provider="openai", model="openai:gpt")
        await attempt.acquire(call)
        for _ in range(2):
            await attempt.settle(call, Settlement("ok", 100, 20, 10, 0.25))
        return {}

    worker = worker_pool.start(harness, executor)
    await harness.enqueue("paid")
    await harness.wait_for_end("paid")
    await worker.stop()
    ok = 'outcome="ok",'
    by = 'model="openai:gpt",{}provider="openai",queue="debates"'
    for sample, value in {
        f"aragora_q_calls_total{{{by.format(ok)}}}": 1,
        f"aragora_q_spend_usd_total{{{by.format('')}}}": 0.25,
        f"aragora_q_unpriced_calls_total{{{by.format('')}}}": 0,
        f'aragora_q_tokens_total{{direction="output",{by.format("")}}}': 20,
        'aragora_q_gate_wait_seconds_count{queue="debates"}': 1,
    }.items():
        assert _value(worker.metrics, sample) == value, sample


def test_metrics_ports(monkeypatch):
    """Unset: the first free one of some ports, or none. Set and taken: refused by name. 0: off."""
    assert list(http.DEFAULT_PORTS) == list(range(9464, 9474))  # other programs may use some
    monkeypatch.setattr(http, "DEFAULT_PORTS", ports := [free_port(), free_port()])
    registry = WorkerMetrics("debates").registry
    with serving(registry, "127.0.0.1", None, lambda: True) as first:
        with serving(registry, "127.0.0.1", None, lambda: True) as second:
            assert [first, second] == ports
            with serving(registry, "127.0.0.1", None, lambda: True) as third:
                assert third is None
        taken = f"metrics on 127.0.0.1:{first}: Address already in use"
        with (
            pytest.raises(ConfigError, match=taken),
            serving(registry, "127.0.0.1", first, lambda: True),
        ):
            pass
    with serving(registry, "127.0.0.1", 0, lambda: True) as off:
        assert off is None


def test_a_format_that_does_not_exist():
    """A scrape that asks for an unknown version gets the oldest format."""
    registry = WorkerMetrics("debates").registry
    with serving(registry, "127.0.0.1", None, lambda: True) as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics", headers={"Accept": "text/plain;version=x"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"aragora_q_" in answer.read()
