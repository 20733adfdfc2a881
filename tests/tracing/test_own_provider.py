"""Programs that configure OpenTelemetry themselves: those that use the library, and executors of a worker."""

import subprocess
import sys

from support import processes

PROVIDER = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.observability import OTelConfig, get_observability_instance

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
metrics.set_meter_provider(MeterProvider([reader]))
get_observability_instance().init(OTelConfig())


def collected():
    return {
        "spans": [span.name for span in exporter.get_finished_spans()],
        "metrics": reader.get_metrics_data() is not None,
    }
"""
EXECUTOR = f"""
import redis.asyncio
{PROVIDER}


def create():
    async def execute(job):
        with trace.get_tracer("mine").start_as_current_span("mine"):
            async with redis.asyncio.from_url(job.payload["url"]) as client:
                await client.ping()
        return collected()

    return execute
"""


async def test_an_executor_may_use_opentelemetry_itself(harness, tmp_path):
    """In a worker without `OTEL_*` variables, it has its own spans, and the metrics of redis-py."""
    (tmp_path / "tracer.py").write_text(EXECUTOR)
    from aragora_q import Job

    job_id = await harness.queue.enqueue(Job({"url": harness.config.redis_url}))
    done = processes.run_command(
        "worker", "--burst", "--executor", "tracer:create", "--metrics-port", "0",
        url=harness.config.redis_url,
        ARAGORA_QUEUE_NAME=harness.config.queue,
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = await harness.queue.get_job(job_id)
    assert job.result == {"spans": ["mine"], "metrics": True}


async def test_a_program_of_the_library_sees_its_enqueue(harness, tmp_path):
    """The enqueue is a span in its trace, even if it sets its provider after it has opened the queue."""
    program = f"""
import asyncio, json, sys
from aragora_q import Job, QueueConfig, create_redis_queue


async def main():
    queue = await create_redis_queue(QueueConfig(redis_url=sys.argv[1], queue=sys.argv[2]))
    await queue.enqueue(Job({{}}))
    exec({PROVIDER!r}, globals())
    with trace.get_tracer("mine").start_as_current_span("mine") as span:
        job = await queue.get_job(await queue.enqueue(Job({{}})))
    await queue.close()
    trace_id = f"{{span.get_span_context().trace_id:032x}}"
    print(json.dumps([collected()["spans"], job.trace[3:35] == trace_id]))


asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, harness.config.redis_url, harness.config.queue],
        capture_output=True, text=True, check=False, env=processes.env(),
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout == f'[["enqueue {harness.config.queue}", "mine"], true]\n'
