"""A checkpoint store in memory, for claims about attempts that do not concern Redis."""

import json

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.contracts import CheckpointStore, Completed, Failed
from aragora_q.retry import RetryPolicy
from aragora_q.worker.attempt import Attempt


class MemorySession(CheckpointStore):
    """Keeps what an attempt says. `refuse_with` is raised, one per call, before anything is kept."""

    def __init__(self, checkpoints=None):
        self.progress = []
        self.kept = dict(checkpoints or {})
        self.refuse_with = []

    def _maybe_refuse(self):
        if self.refuse_with:
            raise self.refuse_with.pop(0)

    async def report_progress(self, job, progress):
        self._maybe_refuse()
        self.progress.append(progress)

    async def checkpoint(self, job, name, value):
        self._maybe_refuse()
        codec.encode(value)  # raises if Redis could not keep it
        self.kept[name] = value

    def requeue(self):
        """As `requeue` does: checkpoints named `life/…` are deleted."""
        self.kept = {name: each for name, each in self.kept.items() if not name.startswith("life/")}

    async def checkpoints(self, job):
        self._maybe_refuse()
        return dict(self.kept)


def make_attempt(
    executor,
    *,
    session=None,
    job=None,
    payload=b"{}",
    max_result_bytes=1000,
    jitter=False,
    gates=None,
    **job_fields,
):
    """An attempt as a worker would start it; without `jitter`, with delays of exactly 1, 2, 4 … seconds."""
    job = job or Job({}, raw_payload=payload, **{"attempts": 1, "max_attempts": 3, **job_fields})
    policy = RetryPolicy(jitter=jitter)
    session = session or MemorySession()
    return Attempt(job, executor, policy, session, max_result_bytes, gates=gates)


def result_of(outcome):
    """The decoded result of an attempt that completed, or its partial result if it failed."""
    assert isinstance(outcome, Completed | Failed), outcome
    return json.loads(outcome.result)
