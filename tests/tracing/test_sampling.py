"""A retry is sampled if the attempt before was."""

import pytest
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.trace import Link, SpanContext, TraceFlags

from aragora_q.observability.otel.sampling import FollowsLinks


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_span_that_begins_a_trace_follows_its_link(flag, ratio):
    """A link overrides the sampler, which decides only about spans without one."""
    sampler = FollowsLinks(sampling.ParentBasedTraceIdRatio(ratio))
    tracer = TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("test")
    before = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(flag))
    linked = tracer.start_span("run", links=[Link(before)])
    assert linked.get_span_context().trace_flags.sampled == bool(flag)
    assert tracer.start_span("run").get_span_context().trace_flags.sampled == bool(ratio)
