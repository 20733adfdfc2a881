"""Find what a path names, or say that it does not exist. Used by the pages and by the API."""

from __future__ import annotations

from aragora_q.base import Group, Job, is_job_id
from aragora_q.errors import GroupNotFound, InvalidPayload, JobNotFound
from aragora_q.labels import check_labels
from aragora_q.streams.queue import RedisStreamsQueue


async def require_job(queue: RedisStreamsQueue, job_id: str) -> Job:
    """Return a job. Raises JobNotFound."""
    require_job_id(queue, job_id)
    job = await queue.get_job(job_id)
    if job is None:
        raise JobNotFound(job_id, queue.config.queue)
    return job


def require_job_id(queue: RedisStreamsQueue, job_id: str) -> None:
    """Raise JobNotFound if no job can have this id."""
    if not is_job_id(job_id):
        raise JobNotFound(job_id, queue.config.queue)


async def require_group(queue: RedisStreamsQueue, name: str) -> Group:
    """Return a group. Raises GroupNotFound, also if no group can have this name."""
    try:
        check_labels(name, None, {})
    except InvalidPayload:
        raise GroupNotFound(name, queue.config.queue) from None
    group = await queue.tracker.get_group(name)
    if group is None:
        raise GroupNotFound(name, queue.config.queue)
    return group
