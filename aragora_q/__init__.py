"""aragora-q: a job queue on Redis Streams for multi-agent LLM debates.

The public names. Each is imported when it is first used, so that a command that needs few of them starts
fast.

Example:
    >>> import asyncio
    >>> from aragora_q import create_debate_job, create_redis_queue
    >>> async def main() -> None:
    ...     queue = await create_redis_queue()
    ...     job_id = await queue.enqueue(create_debate_job("Tea or coffee?", ["demo", "demo"]))
    ...     print(await queue.get_status(job_id))
    ...     await queue.close()
    >>> asyncio.run(main())
    pending
"""

from __future__ import annotations

from aragora_q._version import __version__

TYPE_CHECKING = False  # importing typing takes as long as all else that `--version` does
if TYPE_CHECKING:
    from typing import Any

    from aragora_q.base import EnqueueResult, Group, Hold, Job, JobQueue, JobStatus
    from aragora_q.config import QueueConfig, get_queue_config, set_queue_config
    from aragora_q.context import Executor, current_attempt
    from aragora_q.errors import AragoraQError, HoldJob, PermanentError, RetryLater, WorkerUnable
    from aragora_q.executors import create_default_executor
    from aragora_q.job import DebateJobPayload, DebateResult, create_debate_job
    from aragora_q.labels import JobFilter
    from aragora_q.retry import RetryPolicy
    from aragora_q.status import JobStatusTracker
    from aragora_q.streams import RedisStreamsQueue, create_redis_queue
    from aragora_q.worker import DebateWorker

_HOMES = {
    "AragoraQError": "errors",
    "DebateJobPayload": "job",
    "DebateResult": "job",
    "DebateWorker": "worker",
    "EnqueueResult": "base",
    "Executor": "context",
    "Group": "base",
    "Hold": "base",
    "HoldJob": "errors",
    "Job": "base",
    "JobFilter": "labels",
    "JobQueue": "base",
    "JobStatus": "base",
    "JobStatusTracker": "status",
    "PermanentError": "errors",
    "QueueConfig": "config",
    "RedisStreamsQueue": "streams",
    "RetryLater": "errors",
    "RetryPolicy": "retry",
    "WorkerUnable": "errors",
    "create_debate_job": "job",
    "create_default_executor": "executors",
    "create_redis_queue": "streams",
    "current_attempt": "context",
    "get_queue_config": "config",
    "set_queue_config": "config",
}

__all__ = [
    "AragoraQError",
    "DebateJobPayload",
    "DebateResult",
    "DebateWorker",
    "EnqueueResult",
    "Executor",
    "Group",
    "Hold",
    "HoldJob",
    "Job",
    "JobFilter",
    "JobQueue",
    "JobStatus",
    "JobStatusTracker",
    "PermanentError",
    "QueueConfig",
    "RedisStreamsQueue",
    "RetryLater",
    "RetryPolicy",
    "WorkerUnable",
    "__version__",
    "create_debate_job",
    "create_default_executor",
    "create_redis_queue",
    "current_attempt",
    "get_queue_config",
    "set_queue_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - --version does without it

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
