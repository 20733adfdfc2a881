"""Log lines and metrics that name the span to which they belong."""

import json
import logging
import subprocess
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import servers
from support.workers import LONG_LEASE

from aragora_q import tracing
from aragora_q.observability.http import serving
from aragora_q.observability.logs import JsonFormatter, TextFormatter, get_logger

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 asks for where it does not ask for its binary format."""

logger = get_logger("aragora_q.test")


def _of(span):
    context = span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


async def test_lines_of_an_attempt_have_its_ids(new_harness, worker_pool, spans, caplog):
    """Both the lines of its executor and the lines about it, which are logged outside its span, have them."""
    caplog.set_level(logging.INFO)
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        logger.info("thinking", extra={"job": job.id})
        return {}

    await harness.enqueue("j")
    await worker_pool.start(harness, executor, burst=True).task
    [attempt] = [span for span in spans.get_finished_spans() if span.name == "run debates"]
    lines = {record.msg.event: record for record in caplog.records if hasattr(record, "job")}
    assert set(lines) == {"job started", "thinking", "job completed"}
    for record in lines.values():
        assert {name: getattr(record, name) for name in ("trace_id", "span_id")} == _of(attempt)
        assert f"trace_id={record.trace_id} span_id={record.span_id}" in record.message
    assert not [each for each in caplog.records if each.msg.event == "worker started"
                and hasattr(each, "trace_id")]  # fmt: skip


def test_both_formats_have_the_ids_once_also_for_lines_of_other_packages(spans, caplog):
    """Without a span, a line has none."""
    with tracing.span("here") as span:
        logger.warning("ours")
        logging.getLogger("another").warning("theirs")
        for record in caplog.records:
            assert span.ids.items() <= json.loads(JsonFormatter().format(record)).items()
            text = TextFormatter().format(record)
            assert text.endswith(f"trace_id={span.ids['trace_id']} span_id={span.ids['span_id']}")
            assert text.count("trace_id") == 1
    logger.warning("later")
    assert "trace_id" not in JsonFormatter().format(caplog.records[-1])


def _scrape(port, accept):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


async def test_durations_name_the_trace_where_the_scraper_can_read_that(
    new_harness, worker_pool, spans
):
    """Exemplars are in OpenMetrics only, and of sampled spans; both formats are sound."""
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        if job.id == "bad":
            raise ValueError("never")
        return {}

    worker = worker_pool.start(harness, executor, burst=True, max_concurrent=1)
    for job_id in ("good", "bad"):
        await harness.enqueue(job_id)
    token = tracing.received.set(f"00-{'a' * 32}-{'b' * 16}-00")
    await harness.enqueue("last")
    tracing.received.reset(token)
    await worker.task
    ids = {
        span.attributes["messaging.message.id"]: _of(span)
        for span in spans.get_finished_spans()
        if span.name == "run debates"
    }
    port = servers.free_port()  # others may use all default ports
    with serving(worker.metrics.registry, "127.0.0.1", port, lambda: True):
        kind, text = _scrape(port, PROMETHEUS)
        plain_kind, plain = _scrape(port, "text/plain;version=0.0.4")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert "aragora_q_attempts" in {family.name for family in text_string_to_metric_families(text)}
    for job_id, outcome in {"good": "completed", "bad": "failed"}.items():
        exemplar = '# {{span_id="{span_id}",trace_id="{trace_id}"}}'.format(**ids[job_id])
        [line] = [line for line in text.splitlines() if exemplar in line and "job_dur" in line]
        assert f'outcome="{outcome}"' in line
    assert any("attempt_duration_seconds_bucket" in line and "trace_id=" in line
               for line in text.splitlines())  # fmt: skip
    assert "a" * 32 not in text
    assert plain_kind.startswith("text/plain; version=0.0.4")
    assert "trace_id" not in plain
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=plain, capture_output=True, check=False, text=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_the_duration_of_a_job_is_from_its_enqueue_to_its_end(new_harness, worker_pool):
    """All attempts, delays and pauses count, once."""
    harness = new_harness(**LONG_LEASE)

    async def executor(job):
        if job.attempts == 1:
            raise RuntimeError("again")
        return {}

    worker = worker_pool.start(harness, executor)
    await harness.enqueue("j", delay_seconds=0.3)
    job = await harness.wait_for_end("j")
    await worker.stop()
    get = worker.metrics.registry.get_sample_value
    name, labels = "aragora_q_job_duration_seconds", {"queue": "debates", "outcome": "completed"}
    assert get(f"{name}_count", labels) == 1
    assert get(f"{name}_count", {**labels, "outcome": "failed"}) == 0
    assert 0.3 <= get(f"{name}_sum", labels) <= job.completed_at - job.created_at + 0.1
