"""Every Redis key of a queue, and the limits on names that go into keys.

The only module that spells a key. Used by the queue, the tracker and the scripts' loader.
On a single Redis the names are literal (`aragora:queue:debates:stream`); on a Redis Cluster the
queue's name is the hash tag (`aragora:queue:{debates}:stream`), so all keys of a queue share a slot.

| key                        | type   | holds                                                         |
|----------------------------|--------|---------------------------------------------------------------|
| `stream`, `stream:high`, `stream:low` | stream | runnable and running jobs of a lane: `id`, `payload` |
| `delayed`                  | zset   | job id by due time, ms                                        |
| `completed`, `failed`, `cancelled` | zset | job id by end time, ms                                   |
| `job:<id>`                 | hash   | the small fields of a job, every value at most 64 bytes       |
| `job:<id>:payload`         | string | the payload, while no stream entry holds it                   |
| `job:<id>:result`          | string | of a completed job: payload JSON, newline, result JSON        |
| `job:<id>:history`         | list   | what went wrong, one JSON object each, the last 20            |
| `job:<id>:journal`         | hash   | progress and checkpoints of the executor                      |
| `counters`                 | hash   | lifetime totals by transition and cause, last reap and purge  |
| `control`                  | hash   | paused, schema, maintenance_lock, grace_*, last_heartbeat_seen  |
| `workers`                  | zset   | worker id by last heartbeat, ms                               |
| `worker:<id>`              | hash   | one worker: boot, host, pid, version, slots, port, jobs, suspect |
| `events`                   | stream | capped tail of transitions                                    |
| `guard`                    | none   | never exists: what scripts on a cluster declare besides       |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from aragora_q.base import LANES, lane_of

GROUP = "aragora-workers"
"""The consumer group of every lane."""


@dataclass(frozen=True)
class QueueKeys:
    """The keys of one queue. `cluster` puts the queue's name in a hash tag."""

    prefix: str
    queue: str
    cluster: bool = False

    @cached_property
    def stem(self) -> str:
        """What every key of the queue begins with, the colon included."""
        name = f"{{{self.queue}}}" if self.cluster else self.queue
        return f"{self.prefix}{name}:"

    @cached_property
    def stream_high(self) -> str:
        return f"{self.stem}stream:high"

    @cached_property
    def stream_normal(self) -> str:
        return f"{self.stem}stream"

    @cached_property
    def stream_low(self) -> str:
        return f"{self.stem}stream:low"

    @property
    def streams(self) -> tuple[str, str, str]:
        """The lanes' streams, in the order of `LANES`."""
        return (self.stream_high, self.stream_normal, self.stream_low)

    def stream_of(self, priority: int) -> str:
        """The stream of a priority's lane."""
        return self.streams[LANES.index(lane_of(priority))]

    @cached_property
    def delayed(self) -> str:
        return f"{self.stem}delayed"

    @cached_property
    def completed(self) -> str:
        return f"{self.stem}completed"

    @cached_property
    def failed(self) -> str:
        return f"{self.stem}failed"

    @cached_property
    def cancelled(self) -> str:
        return f"{self.stem}cancelled"

    @cached_property
    def counters(self) -> str:
        return f"{self.stem}counters"

    @cached_property
    def control(self) -> str:
        return f"{self.stem}control"

    @cached_property
    def workers(self) -> str:
        return f"{self.stem}workers"

    @cached_property
    def events(self) -> str:
        return f"{self.stem}events"

    @cached_property
    def guard(self) -> tuple[str, ...]:
        """On a cluster, a key that never exists, for every script to declare.

        While a slot moves, a script fails halfway when it touches a key that was not declared and is
        not there. With one declared key missing it does not begin: the node answers TRYAGAIN.
        """
        return (f"{self.stem}guard",) if self.cluster else ()

    @cached_property
    def job_prefix(self) -> str:
        """What a job's hash key begins with; scripts append the id they find in an entry."""
        return f"{self.stem}job:"

    def job(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}"

    def payload(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:payload"

    def result(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:result"

    def history(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:history"

    def journal(self, job_id: str) -> str:
        return f"{self.job_prefix}{job_id}:journal"

    def worker(self, worker_id: str) -> str:
        return f"{self.stem}worker:{worker_id}"
