"""What all requests of a console share: its configuration, and its queue as each role uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.errors import AccessDenied, AragoraQError, ConfigError, UnsupportedServer
from aragora_q.observability.logs import get_logger
from aragora_q.redis.connection import Connection
from aragora_q.redis.server import check_server
from aragora_q.redis.users import EmbeddedUsers
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.feed import Feed
from aragora_q.web.results import ResultsOfGroups
from aragora_q.web.roles import Role
from aragora_q.web.snapshot import ServerClock, SharedReads

logger = get_logger(__name__)

CHECK_SECONDS = 2.0
"""Longest wait for Redis at the start; then it is served as one that does not answer."""

RETRY_SECONDS = 1.0

URL_SETTINGS = {
    Role.VIEWER: "redis_url",
    Role.PRODUCER: "web_producer_redis_url",
    Role.OPERATOR: "web_operator_redis_url",
}
"""The setting with the credential of each role."""

ACL_ROLES = {Role.VIEWER: "stats", Role.PRODUCER: "producer", Role.OPERATOR: "operator"}
"""What `aragora-q acl` calls the Redis user of each role."""

MAKE_USER = "aragora-q acl stats --password-file FILE | redis-cli"


@dataclass(frozen=True, slots=True)
class RoleConnections:
    """The queue and the gates, with the credential of one role."""

    queue: RedisStreamsQueue
    gates: Connection


@dataclass(slots=True)
class Console:
    """One process' state. A role that is not in `roles` does not exist in this process."""

    config: QueueConfig
    roles: Mapping[Role, RoleConnections]
    feed: Feed
    shared: SharedReads
    """Of pages and API: cleared when something happens in the queue, or is changed here."""
    probed: SharedReads = field(default_factory=SharedReads)
    """Of probes: never cleared, so that no one can make them read more often."""
    results: ResultsOfGroups = field(default_factory=ResultsOfGroups)
    clock: ServerClock = field(default_factory=ServerClock)
    viewer_may_write: bool | None = None
    """Whether the Redis user of the viewer may do more than read; None: Redis has not answered yet."""


@asynccontextmanager
async def open_console(config: QueueConfig) -> AsyncIterator[Console]:
    """Connect as each role that has a credential, and yield the console. Redis may be away.

    Raises:
        ConfigError: the settings do not fit together.
        UnsupportedServer, AccessDenied: Redis answers, but the console cannot work with it.
        RedisUnreachable: the embedded server fails to start.
    """
    async with AsyncExitStack() as stack:
        roles = {}
        for role, queue in (await _queues(config, stack)).items():
            stack.push_async_callback(queue.close)
            gates = queue.connection.for_gates()
            stack.push_async_callback(gates.close)
            roles[role] = RoleConnections(queue, gates)
        await _check(roles)
        shared = SharedReads()
        stack.push_async_callback(shared.close)
        # Who learns of an event and looks at once sees no answer from before it.
        feed = Feed(roles[Role.VIEWER].queue, on_news=shared.clear)
        await stack.enter_async_context(feed.running())
        console = Console(config, roles, feed, shared)
        stack.push_async_callback(console.probed.close)
        stack.push_async_callback(console.results.close)
        task = asyncio.create_task(_check_viewer(console), name="check-viewer")
        stack.push_async_callback(_cancel, task)
        yield console


async def _queues(config: QueueConfig, stack: AsyncExitStack) -> dict[Role, RedisStreamsQueue]:
    """Return the queue as each role that has a credential uses it."""
    if RedisUrl.parse(config.redis_url).kind != "embedded":
        return {role: RedisStreamsQueue(each) for role, each in role_configs(config).items()}
    if config.web_producer_redis_url or config.web_operator_redis_url:
        raise ConfigError(
            "web_producer_redis_url and web_operator_redis_url are of another server than redis_url",
            hint="with embedded://, the console makes the Redis users itself",
        )
    users = EmbeddedUsers(config)
    stack.push_async_callback(_close, users)
    return {
        role: RedisStreamsQueue(config, connection=users.connect(ACL_ROLES[role])) for role in Role
    }


async def _close(users: EmbeddedUsers) -> None:
    with suppress(AragoraQError):
        await users.close()


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


async def _check(roles: Mapping[Role, RoleConnections]) -> None:
    """Check the server as each role. An outage is left to the pages, which show it."""
    for role, connections in roles.items():
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check_server(connections.queue.connection)
        except (UnsupportedServer, AccessDenied) as error:
            raise type(error)(f"{URL_SETTINGS[role]}: {error}", hint=error.hint) from None
        except (AragoraQError, TimeoutError) as error:
            logger.warning("Redis does not answer yet", extra={"role": role, "error": str(error)})
            return


async def _check_viewer(console: Console) -> None:
    """Find out what the viewer's Redis user may do, as soon as Redis answers."""
    queue = console.roles[Role.VIEWER].queue
    while console.viewer_may_write is None:
        try:
            console.viewer_may_write = await queue.may_write()
        except AragoraQError:
            await asyncio.sleep(RETRY_SECONDS)
    if console.viewer_may_write:
        logger.warning(
            "the Redis user of role viewer may write: a fault of this process could change the queue",
            extra={"setting": "redis_url", "remedy": MAKE_USER},
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
