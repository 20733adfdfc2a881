"""What all requests of a console share: its configuration, and its queue as each role uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aragora_q.config.settings import QueueConfig
from aragora_q.redis.connection import Connection
from aragora_q.streams.queue import RedisStreamsQueue, create_redis_queue
from aragora_q.web.feed import Feed
from aragora_q.web.roles import Role
from aragora_q.web.snapshot import SharedReads


@dataclass(frozen=True, slots=True)
class RoleConnections:
    """The queue and the gates, with the credential of one role."""

    queue: RedisStreamsQueue
    gates: Connection


@dataclass(frozen=True, slots=True)
class Console:
    """One process' state. A role that is not in `roles` does not exist in this process."""

    config: QueueConfig
    roles: Mapping[Role, RoleConnections]
    feed: Feed
    shared: SharedReads


@asynccontextmanager
async def open_console(config: QueueConfig) -> AsyncIterator[Console]:
    """Connect as each role that has a credential, and yield the console."""
    async with AsyncExitStack() as stack:
        roles = {}
        for role, settings in role_configs(config).items():
            queue = await create_redis_queue(settings)
            stack.push_async_callback(queue.close)
            gates = queue.connection.for_gates()
            stack.push_async_callback(gates.close)
            roles[role] = RoleConnections(queue, gates)
        feed = Feed(roles[Role.VIEWER].queue)
        await stack.enter_async_context(feed.running())
        shared = SharedReads()
        stack.push_async_callback(shared.close)
        yield Console(config, roles, feed, shared)


def role_configs(config: QueueConfig) -> dict[Role, QueueConfig]:
    """Return the configuration of each role that has a credential."""
    urls = {
        Role.PRODUCER: config.web_producer_redis_url,
        Role.OPERATOR: config.web_operator_redis_url,
    }
    given = {
        role: config.model_copy(
            update={"redis_url": url.get_secret_value(), "redis_password": None}
        )
        for role, url in urls.items()
        if url is not None
    }
    return {Role.VIEWER: config, **given}
