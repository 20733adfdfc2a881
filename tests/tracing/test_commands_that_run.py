"""Spans of commands that run jobs or maintain a queue, as a receiver gets them."""

from support import processes

CALLER = f"00-{'a' * 32}-{'b' * 16}-01"


def test_a_demo_is_one_trace_with_its_caller(receiver):
    """The enqueue and the debate continue the trace of the shell."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "TRACEPARENT": CALLER}
    done = processes.run_command(
        "demo", "Tea?", "--agents", "demo,demo", "--rounds", "1", **variables
    )
    assert done.returncode == 0, done.stderr
    [attempt] = receiver.named("run demo")
    assert attempt.trace_id == "a" * 32
    assert receiver.parents(attempt)[0].startswith("enqueue ")


async def test_reap_sends_what_it_did_in_its_own_trace(harness, receiver, redis_url):
    """The trace of its caller, such as cron, is not that of the jobs which it promotes."""
    await harness.enqueue("due", delay_seconds=3600)
    harness.redis.zadd(harness.keys.delayed, {"due": 0})
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "TRACEPARENT": CALLER}
    done = processes.run_command("reap", url=redis_url, **variables)
    assert done.returncode == 0, done.stderr
    [span] = receiver.spans
    assert (span.name, span.parent_id, span.trace_id == "a" * 32) == ("maintain debates", "", False)
    assert span.attributes["aragora_q.promoted"] == 1
