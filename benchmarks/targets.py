"""Targets of the benchmark. A result with a baseline is judged by its ratio to the baseline; some have none."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from aragora_q.bench import Result


@dataclass(frozen=True)
class Target:
    """Bounds of a result's median: what is required, and what is the goal."""

    required: float
    goal: float
    lower_is_better: bool = False

    def verdict(self, result: Result) -> str:
        """Return `goal`, `required` or `missed`."""
        value = median(result.values)
        for name, bound in (("goal", self.goal), ("required", self.required)):
            if value <= bound if self.lower_is_better else value >= bound:
                return name
        return "missed"

    def cell(self, result: Result) -> str:
        """Return the bounds as a table shows them."""
        factor = " x" if result.baseline else ""
        return f"{'≤' if self.lower_is_better else '≥'} {self.required:,g} / {self.goal:,g}{factor}"


TARGETS = {
    "drain": Target(1.3, 1.5),
    "bulk": Target(0.75, 0.9),
    "single": Target(0.75, 0.9),
    "latency_p50": Target(2, 1.3, lower_is_better=True),
    "latency_p99": Target(3, 1.5, lower_is_better=True),
    "lines": Target(0.4, 0.6),
    "server_cpu": Target(26, 20, lower_is_better=True),
    "waiting_bytes": Target(540, 510, lower_is_better=True),
    "finished_bytes": Target(1_000, 900, lower_is_better=True),
    "grouped_waiting_bytes": Target(900, 800, lower_is_better=True),
    "grouped_finished_bytes": Target(1_300, 1_100, lower_is_better=True),
    "labeled_waiting_bytes": Target(1_400, 1_200, lower_is_better=True),
    "labeled_finished_bytes": Target(1_800, 1_500, lower_is_better=True),
    "deep_drain": Target(0.9, 0.95),
    "deep_stats": Target(1.5, 1.2, lower_is_better=True),
    "idle_rss": Target(50, 48, lower_is_better=True),
    "ready": Target(1.3, 1.15, lower_is_better=True),
    "debates_300": Target(180, 160, lower_is_better=True),
    "start_version": Target(3, 1.5, lower_is_better=True),
    "start_help": Target(9, 5, lower_is_better=True),
    "start_status": Target(18, 15, lower_is_better=True),
    "start_enqueue": Target(18, 15, lower_is_better=True),
    "start_wait": Target(18, 15, lower_is_better=True),
    "start_list": Target(18, 15, lower_is_better=True),
    "start_stats": Target(18, 15, lower_is_better=True),
    "fleet_100": Target(1.5, 1.2, lower_is_better=True),
    "fleet_300": Target(1.5, 1.2, lower_is_better=True),
    "fleet_enqueue": Target(1.5, 1.2, lower_is_better=True),
    "fleet_1000": Target(1.5, 1.2, lower_is_better=True),
    "fleet_idle": Target(5, 2.5, lower_is_better=True),
    "long_jobs_small": Target(2, 1, lower_is_better=True),
    "long_jobs_large": Target(2, 1, lower_is_better=True),
    "labels_single_life": Target(1.5, 1.2, lower_is_better=True),
    "labels_single_enqueue": Target(1.5, 1.2, lower_is_better=True),
    "labels_single_other": Target(1.5, 1.2, lower_is_better=True),
    "group_single_life": Target(1.3, 1.1, lower_is_better=True),
    "group_single_enqueue": Target(1.3, 1.1, lower_is_better=True),
    "group_single_other": Target(1.3, 1.1, lower_is_better=True),
    "labels_batch_life": Target(1.5, 1.2, lower_is_better=True),
    "labels_batch_enqueue": Target(2, 1.5, lower_is_better=True),
    "labels_batch_other": Target(1.5, 1.2, lower_is_better=True),
    "group_batch_life": Target(1.3, 1.1, lower_is_better=True),
    "group_batch_enqueue": Target(1.3, 1.1, lower_is_better=True),
    "group_batch_other": Target(1.3, 1.1, lower_is_better=True),
    "gates_server": Target(160, 120, lower_is_better=True),
    "gates_worker": Target(0.6, 0.3, lower_is_better=True),
    "call_cpu": Target(3, 2, lower_is_better=True),
    "call_client": Target(6, 4, lower_is_better=True),
    "event_cpu": Target(50, 25, lower_is_better=True),
    "event_client": Target(2, 1.2, lower_is_better=True),
}
