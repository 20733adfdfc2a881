"""A retry is sampled if the attempt before was, although it begins another trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import Link


class FollowsLinks(sampling.Sampler):
    """Decides about a span that begins a trace as was decided about what it is linked to; else as `sampler`."""

    def __init__(self, sampler: sampling.Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> sampling.SamplingResult:
        sampler = self._sampler
        if links:
            is_sampled = links[0].context.trace_flags.sampled
            sampler = sampling.ALWAYS_ON if is_sampled else sampling.ALWAYS_OFF
        return sampler.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return f"FollowsLinks({self._sampler.get_description()})"
