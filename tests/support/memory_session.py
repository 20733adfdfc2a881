"""The part of a `WorkerSession` that an attempt uses, in memory: for tests that do not need Redis."""

import json

from aragora_q.attempt import Attempt
from aragora_q.base import Completed, Identity, Job, WorkerSession
from aragora_q.retry import RetryPolicy


class MemorySession(WorkerSession):
    """Keeps what an attempt sends. `refuse_with` holds errors that are raised, one per call."""

    identity = Identity("w1")

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
        self.kept[name] = value

    async def checkpoints(self, job):
        self._maybe_refuse()
        return dict(self.kept)

    async def register(self, info, *, dead_boot_id=""):
        raise NotImplementedError

    async def current_boot(self):
        raise NotImplementedError

    async def start(self, limit, *, low_first=False):
        raise NotImplementedError

    async def wait_for_work(self, resume_from, timeout_seconds):
        raise NotImplementedError

    async def start_next(self, resume_from, timeout_seconds):
        raise NotImplementedError

    async def report(self, reports):
        raise NotImplementedError

    async def recover(self, known, *, min_idle_seconds):
        raise NotImplementedError

    def lease_renewer(self):
        raise NotImplementedError

    async def unregister(self):
        raise NotImplementedError


def make_attempt(
    executor, *, session=None, job=None, payload=b"{}", max_result_bytes=1000, **job_fields
):
    """An attempt of a job as a worker would start it, with delays of exactly 1, 2, 4 … seconds."""
    job = job or Job({}, raw_payload=payload, **{"attempts": 1, "max_attempts": 3, **job_fields})
    policy = RetryPolicy(jitter=False)
    return Attempt(job, executor, policy, session or MemorySession(), max_result_bytes)


def result_of(outcome):
    """The decoded result of an attempt that completed."""
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.result)
