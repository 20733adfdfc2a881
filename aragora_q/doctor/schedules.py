"""Check the schedules: those of this configuration, and those that the queue has a state of.

Used by `checks.py`. Expressions, time zones and jobs were checked when the configuration was read.
"""

from __future__ import annotations

from collections.abc import Iterator

from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import SchedulesRead
from aragora_q.doctor.report import Finding
from aragora_q.formats import duration


def of_schedules(config: QueueConfig, read: SchedulesRead) -> Iterator[Finding]:
    """Yield what is wrong with schedules. A host may lack those that other hosts have."""
    own = config.schedules_of(config.queue)
    planned = {name for name, state in read.states.items() if state.is_planned}
    for name in sorted(own.keys() - planned):
        yield Finding(
            "warning",
            "schedules",
            f"no process has run schedule {name} yet: its times pass without jobs",
            "restart the workers if they were started before it was added, or run aragora-q reap",
        )
    for name, state in read.states.items():
        if state.is_overdue(read.now):
            since = duration(state.overdue_seconds(read.now))
            yield Finding(
                "warning",
                "schedules",
                f"schedule {name} was due {since} ago, and its job is not enqueued",
                "check that workers, or the timer of reap, run with a configuration that has it, and that the "
                f"queue is not full; if it was removed: aragora-q schedule forget {name}",
            )
        elif name not in own:
            yield Finding(
                "note",
                "schedules",
                f"schedule {name} is not in this configuration",
                f"if no other host has it: aragora-q schedule forget {name}",
            )
        if state.is_ahead(read.now) and state.paused is None:
            ahead = duration((state.last_at or 0.0) - read.now)
            yield Finding(
                "warning",
                "schedules",
                f"schedule {name} enqueues nothing for {ahead}: the server's clock was ahead, and the schedule "
                "is done with the times until then",
                f"to go on now: aragora-q schedule pause {name}, then aragora-q schedule resume {name}",
            )
        if state.error is not None:
            yield Finding(
                "warning",
                "schedules",
                f"the last job of schedule {name} was refused: {state.error}",
                f"change its job, and run aragora-q schedule run {name} if the job is wanted now",
            )
        if state.paused is not None:
            why = f": {state.paused.reason}" if state.paused.reason else ""
            since = duration(max(0.0, read.now - state.paused.at))
            yield Finding(
                "note",
                "schedules",
                f"schedule {name} was paused {since} ago by {state.paused.by}{why}",
                f"aragora-q schedule resume {name}",
            )
