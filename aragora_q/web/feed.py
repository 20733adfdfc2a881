"""The queue's events for any number of streams, from one reader: encoded once, kept once, sent to all.

`Feed` follows the queue's events and keeps the latest ones in memory, so that a stream that resumes reads
nothing from Redis, and a stream that is behind takes no memory. `EventStream` is the response that sends them.
Used by the API's and the pages' events, and by requests that wait for a job. Knows nothing of roles.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import Response

from aragora_q import codec
from aragora_q.backoff import Backoff
from aragora_q.base import LIVE
from aragora_q.errors import AragoraQError, TryAgain
from aragora_q.events import ENDINGS, EventId, job_event, job_ids
from aragora_q.observability.logs import get_logger
from aragora_q.redis.scripts import BATCH_LIMIT
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.auth import network_of
from aragora_q.web.media import EVENTS

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = get_logger(__name__)

MAX_STREAMS = 1_000
"""Streams and requests that wait for a job in one process; each takes a file descriptor and about 60 KB."""

MAX_STREAMS_PER_ADDRESS = 100
"""Those of one client, so that it cannot take those of all others."""

KEPT_EVENTS = 2_000
"""Events that are kept in memory: more than the server keeps."""

KEPT_BYTES = 8 * 1024 * 1024
"""Memory for them: an event of a batch of jobs has one message for each."""

MESSAGE_OVERHEAD_BYTES = 100
"""Memory that a message takes besides its text."""

HEARTBEAT_SECONDS = 15.0
"""Silence after which a stream sends a comment, so that proxies do not close it."""

TICK_SECONDS = 5.0
"""How often streams without news are looked at."""

RETRY_MS = 2_000
"""How long a browser waits before it connects again."""

PAUSE_SECONDS, PAUSE_PER_STREAM_SECONDS = 0.1, 0.001
"""Pause between two deliveries, and more for each stream: most of the process' time is left to requests."""

STREAMS_PER_STEP = 10
"""Streams that are served at once; requests are served between two steps."""

RECONNECT_SECONDS = (0.25, 5.0)
"""First and longest pause before Redis is tried again."""

OLDEST = EventId(0, 0)
"""Where a stream of all kept events begins."""


class TooManyStreams(TryAgain):
    """The process, or one client, has as many event streams and waits as are allowed."""


class _Kept(NamedTuple):
    """One event: its message for each of its jobs; for None if it is of the queue itself."""

    id: EventId
    messages: Mapping[str | None, bytes]
    size: int


class Feed:
    """Follows the events of `queue` while `running`, for `subscribe` and `wait_until_ended`.

    `on_news` is called before each delivery of events.
    """

    def __init__(
        self,
        queue: RedisStreamsQueue,
        *,
        on_news: Callable[[], None] = lambda: None,
        max_streams: int = MAX_STREAMS,
        max_streams_per_address: int = MAX_STREAMS_PER_ADDRESS,
    ) -> None:
        self.queue = queue
        self.is_connected = False
        """All events up to now were read, and the next ones are being waited for."""
        self.is_away = False
        """Redis does not answer."""
        self.is_ending = False
        self.newest = self.floor = OLDEST
        """The latest event that was read; the one after which all are kept."""
        self.losses = 0
        """How often the server's events were found to be others than before."""
        self._on_news = on_news
        self._joined_for: tuple[EventId, EventId, str | None] | None = None
        self._joined = b""
        self._max_streams, self._max_per_address = max_streams, max_streams_per_address
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._subscriptions: dict[Subscription, None] = {}
        self._places = 0
        self._addresses: Counter[str] = Counter()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._news = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the events in the body. Its end ends all streams."""
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._deliver())]
        try:
            yield
        finally:
            self.end_streams()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return len(self._subscriptions)

    def end_streams(self) -> None:
        """End all streams and waits, and those that come later, because the process stops."""
        self.is_ending = True
        for subscription in self._subscriptions:
            subscription.wake()
        self._wake_waiting(self._waiting)

    @contextmanager
    def subscribe(
        self,
        last_event_id: str | None,
        *,
        job_id: str | None = None,
        address: str,
        is_brief: bool = False,
    ) -> Iterator[Subscription]:
        """Yield the messages of all events after `last_event_id`; without it, of those from now on.

        With `job_id`, only those of this job. `is_brief`: only that there were some. `last_event_id` 0: all
        that are kept. `address` is the client's.

        Raises:
            InvalidPayload: `last_event_id` is not an event id.
            TooManyStreams: as many as are allowed are open.
        """
        after = EventId.parse(last_event_id) if last_event_id else None
        with self._place(address):
            subscription = Subscription(self, after, job_id, is_brief=is_brief)
            self._subscriptions[subscription] = None
            try:
                yield subscription
            finally:
                del self._subscriptions[subscription]

    @contextmanager
    def _place(self, address: str) -> Iterator[None]:
        """Take a place for a stream or a wait: each holds a connection. Raises TooManyStreams."""
        if self._places >= self._max_streams:
            raise TooManyStreams(
                f"{self._places:,} event streams and waits are open, as many as are allowed"
            )
        client = network_of(address)
        if self._addresses[client] >= self._max_per_address:
            raise TooManyStreams(
                f"{client} has {self._addresses[client]:,} event streams and waits, as many as are allowed"
            )
        self._places += 1
        self._addresses[client] += 1
        try:
            yield
        finally:
            self._places -= 1
            self._addresses[client] -= 1
            if not self._addresses[client]:
                del self._addresses[client]

    async def wait_until_ended(
        self, job_id: str, timeout_seconds: float, receive: Receive, *, address: str
    ) -> None:
        """Return when a job has ended or does not exist, at the latest after `timeout_seconds`.

        Returns also when the client leaves that `receive` is of: who leaves takes no memory. The caller reads
        the job afterwards. `address` is the client's.

        Raises:
            TooManyStreams: as many streams and waits as are allowed are open.
        """
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(changed)
        try:
            with (
                self._place(address),
                suppress(TimeoutError),
                _watching(receive, changed.set) as gone,
            ):
                async with asyncio.timeout(timeout_seconds):
                    while not (self.is_ending or gone.done()):
                        changed.clear()
                        if self.is_connected and await self.queue.get_status(job_id) not in LIVE:
                            return
                        await changed.wait()
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def messages(self, after: EventId, job_id: str | None) -> bytes:
        """Return the messages of all kept events after `after`, of all jobs or of one."""
        wanted = after, self.newest, job_id
        if wanted != self._joined_for:  # most streams are at the same place
            self._joined_for, self._joined = wanted, self._join(after, job_id)
        return self._joined

    def _join(self, after: EventId, job_id: str | None) -> bytes:
        news: list[bytes] = []
        for kept in reversed(self._kept):
            if kept.id <= after:
                break
            if job_id is None:
                *others, last = kept.messages.values()
                news += (last, _id_line(kept.id), *others)
            elif message := kept.messages.get(job_id):
                news += (message, _id_line(kept.id))
        return b"".join(reversed(news))

    # -- reading

    async def _follow(self) -> None:
        backoff = Backoff(*RECONNECT_SECONDS)
        while True:
            try:
                until = await self._check_kept()
                while True:
                    if self.newest >= until and not self.is_connected:
                        backoff = Backoff(*RECONNECT_SECONDS)
                        self._set_connected()
                    if not (batch := await self.queue.read_events(str(self.newest))):
                        break
                    await self._keep(batch)
            except AragoraQError as error:
                if not self.is_away:
                    logger.warning("events cannot be read", extra={"error": str(error)})
                self.is_connected, self.is_away = False, True
                self._news.set()
                await asyncio.sleep(backoff.next_seconds())

    async def _check_kept(self) -> EventId:
        """Find out whether the server has the events after `newest`, and return the id of its latest one."""
        oldest, latest = map(EventId.parse, await self.queue.kept_event_ids())
        if latest < self.newest:  # it lost its data, or is another server
            self.losses += 1
            self.is_connected = False
            self._forget(oldest.before)
        elif oldest > self.newest and (self.newest > OLDEST or not self.is_connected):
            self._forget(oldest.before)
        return latest

    def _forget(self, floor: EventId) -> None:
        """Drop all events, and go on after `floor`."""
        self._kept.clear()
        self._kept_bytes = 0
        self.newest = self.floor = floor

    async def _keep(self, batch: Sequence[Mapping[str, str]]) -> None:
        """Encode events, keep them, and drop the oldest that are too many."""
        if len(batch) == BATCH_LIMIT:
            # This reader is behind: events may have been dropped meanwhile.
            oldest, _ = map(EventId.parse, await self.queue.kept_event_ids())
            if oldest > self.newest:
                self._forget(EventId.parse(batch[0]["id"]).before)
        labels = await self.queue.tracker.labels(
            [*{job_id for event in batch for job_id in job_ids(event) if job_id}]
        )
        for event in batch:
            kept = _encode(event, labels)
            self._kept.append(kept)
            self._kept_bytes += kept.size
            self.newest = kept.id
            if event.get("event") in ENDINGS:
                self._wake_waiting(kept.messages)
        while len(self._kept) > KEPT_EVENTS or self._kept_bytes > KEPT_BYTES:
            dropped = self._kept.popleft()
            self._kept_bytes -= dropped.size
            self.floor = dropped.id
        self._news.set()

    def _set_connected(self) -> None:
        if self.is_away:
            logger.info("events are read again")
        self.is_connected, self.is_away = True, False
        self._news.set()
        self._wake_waiting(self._waiting)  # what they wait for may be among lost events

    # -- sending

    def _wake_waiting(self, ids: Iterable[str | None]) -> None:
        for job_id in ids:
            for changed in self._waiting.get(job_id or "", ()):
                changed.set()

    async def _deliver(self) -> None:
        """Wake the streams when there is news, some at a time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._news.wait()
                self._on_news()
            self._news.clear()
            subscriptions = [*self._subscriptions]
            for first in range(0, len(subscriptions), STREAMS_PER_STEP):
                for subscription in subscriptions[first : first + STREAMS_PER_STEP]:
                    subscription.wake()
                await asyncio.sleep(0)
            await asyncio.sleep(PAUSE_SECONDS + PAUSE_PER_STREAM_SECONDS * len(subscriptions))


class Subscription:
    """One stream: where it is in the events of its feed. Iterate over it for what to send."""

    def __init__(
        self, feed: Feed, after: EventId | None, job_id: str | None, *, is_brief: bool
    ) -> None:
        self._feed, self._job_id, self._is_brief = feed, job_id, is_brief
        self._position = after
        self._losses = feed.losses
        self._says_away = False
        self._is_closed = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for news."""
        self._woken.set()

    def close(self) -> None:
        """End the iteration."""
        self._is_closed = True
        self._woken.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"retry: %d\n" % RETRY_MS
        sent_at = time.monotonic()
        while not (self._is_closed or self._feed.is_ending):
            self._woken.clear()
            if chunk := b"".join(self._news()):
                yield chunk
                sent_at = time.monotonic()
            elif time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                yield b":\n"  # without an empty line, which some clients take for an event
                sent_at = time.monotonic()
            await self._woken.wait()

    def _news(self) -> Iterator[bytes]:
        feed = self._feed
        if feed.is_away != self._says_away:
            self._says_away = feed.is_away
            name = "away" if feed.is_away else "back"
            yield b"event: %b\n" % name.encode() + _message({"event": name})
        if not feed.is_connected:
            return
        if self._position is None:
            self._position = feed.newest
            yield _id_line(self._position) + b"\n"  # for a resumption before the first event
        elif self._losses != feed.losses or self._position > feed.newest:
            yield self._gap(feed.newest)
        elif self._position < feed.floor:
            if self._position > OLDEST:
                yield self._gap(feed.floor)
            self._position = feed.floor
        self._losses = feed.losses
        if self._position < feed.newest:
            messages = feed.messages(self._position, self._job_id)
            self._position = feed.newest
            yield _id_line(self._position) + CHANGED if messages and self._is_brief else messages

    def _gap(self, to: EventId) -> bytes:
        """Skip the events up to `to`, and return the message that says so."""
        gap = {"event": "gap", "from": str(self._position), "to": str(to)}
        self._position = to
        return b"event: gap\n" + _id_line(to) + _message(gap)


class EventStream(Response):
    """The response that sends the messages of a subscription until the client leaves.

    What `Feed.subscribe` raises surfaces before the response starts. A client that does not read is
    disconnected by the server.
    """

    media_type = EVENTS

    def __init__(
        self,
        feed: Feed,
        last_event_id: str | None,
        *,
        job_id: str | None = None,
        address: str,
        is_brief: bool = False,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._subscribe = partial(
            feed.subscribe, last_event_id, job_id=job_id, address=address, is_brief=is_brief
        )

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        with self._subscribe() as subscription, _watching(receive, subscription.close):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in subscription:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextmanager
def _watching(receive: Receive, on_leave: Callable[[], None]) -> Iterator[asyncio.Task[None]]:
    """Call `on_leave` when the client leaves during the body; yield the task that then is done."""
    gone = asyncio.create_task(_until_gone(receive))
    gone.add_done_callback(lambda _: on_leave())
    try:
        yield gone
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encode(event: Mapping[str, str], labels: Mapping[str, Mapping[str, Any]]) -> _Kept:
    messages = {
        each: _event_message(job_event(event, each, labels.get(each or "", {})))
        for each in job_ids(event)
    }
    size = sum(map(len, messages.values())) + MESSAGE_OVERHEAD_BYTES * len(messages)
    return _Kept(EventId.parse(event["id"]), messages, size)


def _event_message(body: Mapping[str, Any]) -> bytes:
    try:
        return _message(body)
    except ValueError:  # progress that another program wrote, nested too deeply
        return _message({**body, "progress": None})


def _message(body: Mapping[str, Any]) -> bytes:
    """Return the data of a message and its end. JSON has no line breaks, so no text can begin a field."""
    return b"data: %b\n\n" % codec.encode(body)


def _id_line(event_id: EventId) -> bytes:
    return f"id: {event_id}\n".encode()


CHANGED = _message({"event": "changed"})
"""All that a page needs: it reads again what it shows."""
