"""Streams of events: what they send, where they go on, and what they do when Redis or a client is away."""

import asyncio
import signal

import pytest
from support.event_streams import following
from support.queue_harness import QueueHarness
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.errors import InvalidPayload
from aragora_q.web import feed as feeds
from aragora_q.web.feed import Feed, TooManyStreams


@pytest.fixture
async def feed(harness):
    """A feed that is connected to the queue of `harness`."""
    feed = Feed(harness.queue, max_streams=600, max_streams_per_address=550)
    async with feed.running():
        await wait_until(lambda: feed.is_connected)
        yield feed


def brief(messages):
    return [(message["event"], message.get("id")) for message in messages]


async def test_a_new_stream_begins_with_the_next_event(feed, harness):
    """A stream without an id sends what happens from now on, one message per job, with the fields of `tail`."""
    await harness.enqueue("a")
    await wait_until(lambda: feed.newest.at)
    async with following(feed) as reader:
        waiting = asyncio.create_task(reader.take(3))
        await wait_until(lambda: reader.last_event_id)  # set without a message
        await harness.queue.enqueue_many(
            [Job({"n": 1}, id=name, tenant="t", group="g") for name in ("b", "c")]
        )
        await harness.queue.cancel("b")
        messages = await waiting
    assert brief(messages) == [("enqueued", "b"), ("enqueued", "c"), ("cancelled", "b")]
    assert messages[0] == {
        "event_id": messages[1]["event_id"],
        "at": int(messages[0]["event_id"].partition("-")[0]),
        "event": "enqueued",
        "id": "b",
        "worker_id": None,
        "progress": None,
        "group": "g",
        "tenant": "t",
        "tags": {},
        "subject": None,
        "by": None,
        "reason": None,
    }
    assert reader.last_event_id == messages[2]["event_id"]


async def test_a_stream_resumes_after_its_last_id(feed, harness):
    """A client that was away receives every event that it missed, once; an interrupted event again, whole."""
    await harness.queue.enqueue_many([Job({"n": 1}, id=name) for name in ("a", "b")])
    async with following(feed, "0") as reader:
        before = reader.last_event_id
        await reader.next()
        assert reader.last_event_id == before  # `b`, of the same event, would be missed else
        await reader.next()
        last = reader.last_event_id
    await harness.queue.cancel("a")
    await harness.queue.cancel("b")
    async with following(feed, last) as reader:
        assert brief(await reader.take(2)) == [("cancelled", "a"), ("cancelled", "b")]


async def test_a_stream_of_one_job(feed, harness):
    """A stream of one job sends no other job's events, and each has its id."""
    async with following(feed, "0", job_id="b") as reader:
        await harness.queue.enqueue_many([Job({"n": 1}, id=name) for name in ("a", "b", "c")])
        assert brief([await reader.next()]) == [("enqueued", "b")]
        assert reader.last_event_id == str(feed.newest)
        await harness.queue.cancel("a")
        await harness.queue.cancel("b")
        assert brief([await reader.next()]) == [("cancelled", "b")]


async def test_progress_cannot_forge_a_message(feed, harness):
    """Line breaks in a job's texts stay inside its message, and what is not JSON is left out."""
    session = await harness.worker()
    await harness.enqueue("a")
    job = await harness.start_one(session)
    hostile = {"text": "x\n\nevent: gap\r\ndata: {}\u2028\r\r"}
    await session.report_progress(job, hostile)
    harness.redis.xadd(harness.keys.events, {"event": "progress\n\nid: 1", "ids": "a", "data": "{"})
    async with following(feed, "0", job_id="a") as reader:
        messages = await reader.take(4)
    assert messages[2]["progress"] == hostile
    assert (messages[3]["event"], messages[3]["progress"]) == ("progress\n\nid: 1", None)


async def test_no_foreign_event_stops_the_stream(feed, harness):
    """Whatever another program wrote among the events, those after it arrive."""
    for fields in (
        {"x": "y"},
        {"event": "progress", "ids": "a", "data": "[" * 198 + "]" * 198},
        {"event": "progress", "ids": "a", "data": "9" * 5000},
        {"event": "progress", "ids": "a", "data": '"\\ud800"'},
        {"event": b"\xff\xfe", "ids": b"\xff a \xff", "data": b"\xff"},
        {"event": "enqueued", "ids": " ".join(["a"] * 3)},
    ):
        harness.redis.xadd(harness.keys.events, fields)
    harness.redis.hset(harness.keys.labels, "a", "not labels")
    async with following(feed, "0") as reader:
        await harness.enqueue("last")
        while (await reader.next())["id"] != "last":
            pass
    harness.redis.delete(harness.keys.labels)


async def test_an_id_before_the_kept_events_gives_a_gap(harness):
    """Where the kept events do not reach back, the stream says so first, and goes on with the oldest."""
    await harness.enqueue("a")
    feed = Feed(harness.queue)
    async with feed.running():
        async with following(feed, "5-1") as reader:
            gap, event = await reader.take(2)
            assert (gap["event"], gap["from"]) == ("gap", "5-1")
            assert event["id"] == "a"
        async with following(feed, gap["to"]) as reader:
            assert brief([await reader.next()]) == [("enqueued", "a")]
        async with following(feed, "99999999999999-0") as reader:  # of a server that lost its data
            gap = await reader.next()
            assert (gap["event"], gap["to"]) == ("gap", str(feed.newest))


async def test_the_oldest_id_gives_no_gap(feed, harness):
    """Id 0 asks for all that is kept, so nothing is missing."""
    await harness.enqueue("a")
    async with following(feed, "0") as reader:
        assert brief([await reader.next()]) == [("enqueued", "a")]


async def test_kept_events_are_bounded(harness, monkeypatch):
    """Memory holds the latest events only; a stream that is behind gets a gap and then these."""
    monkeypatch.setattr(feeds, "KEPT_BYTES", 3_000)
    feed = Feed(harness.queue)
    async with feed.running(), following(feed, "0") as slow:
        await harness.enqueue("first")
        assert brief([await slow.next()]) == [("enqueued", "first")]
        await harness.queue.enqueue_many([Job({"n": 1}) for _ in range(3)])
        for n in range(20):
            await harness.enqueue(f"a{n}")
        await wait_until(lambda: feed.messages(feed.floor, "a19"))
        gap, *rest = await slow.take(5)
    assert gap["event"] == "gap"
    assert rest[-1]["event"] == "enqueued"


@pytest.mark.parametrize("text", ["x", "-1", "1-", "1-2-3", str(2**64), "1-0\nx: y", "\u0661"])
async def test_an_invalid_id_is_refused(harness, text):
    """What is not the id of an event is refused, and named."""
    with (
        pytest.raises(InvalidPayload, match="is not an event id"),
        Feed(harness.queue).subscribe(text, address="a"),
    ):
        pass


async def test_streams_are_limited(harness):
    """Beyond the limits, in all and of one address, streams and waits are refused; a closed one makes room.

    All addresses of an IPv6 /64 are one client's.
    """
    feed = Feed(harness.queue, max_streams=3, max_streams_per_address=2)
    with (
        feed.subscribe(None, address="2001:db8::1"),
        feed.subscribe(None, address="2001:db8::2"),
        pytest.raises(TooManyStreams, match="2001:db8::/64 has 2"),
        feed.subscribe(None, address="2001:db8::3"),
    ):
        pass
    with feed.subscribe(None, address="a"):
        with feed.subscribe(None, address="a"):
            with pytest.raises(TooManyStreams, match="a has 2"), feed.subscribe(None, address="a"):
                pass
            with (
                feed.subscribe(None, address="b"),
                pytest.raises(TooManyStreams, match="3 event streams and waits are open"),
                feed.subscribe(None, address="c"),
            ):
                pass
            with pytest.raises(TooManyStreams, match="a has 2"):
                await feed.wait_until_ended("j1", 60, stays, address="a")
        with feed.subscribe(None, address="a"):
            pass
    assert (feed.streams, feed._addresses) == (0, {})


async def test_five_hundred_streams_have_one_reader(feed, harness):
    """All streams are fed by one connection to Redis, and each receives every event."""
    readers = [following(feed, "0") for _ in range(500)]
    opened = [await reader.__aenter__() for reader in readers]
    tasks = [asyncio.create_task(reader.take(2)) for reader in opened]
    await harness.enqueue("a")
    await harness.queue.cancel("a")
    for messages in await asyncio.gather(*tasks):
        assert brief(messages) == [("enqueued", "a"), ("cancelled", "a")]
    for reader in readers:
        await reader.__aexit__(None, None, None)
    blocked = [c for c in harness.redis.client_list() if c["cmd"] == "xread"]
    assert len(blocked) == 1


async def test_an_outage_is_said_and_nothing_is_missed(own_server):
    """While Redis does not answer, streams stay open and say so; afterwards they send what happened since."""
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    harness = QueueHarness(server.url)
    feed = Feed(harness.queue)
    async with feed.running(), following(feed, "0") as reader:
        await harness.enqueue("a")
        assert brief([await reader.next()]) == [("enqueued", "a")]
        server.kill()
        assert (await reader.next())["event"] == "away"
        async with following(feed) as late:
            assert (await late.next())["event"] == "away"
            server.start()
            await harness.enqueue("b")
            assert brief(await reader.take(2)) == [("back", None), ("enqueued", "b")]
            assert (await late.next())["event"] == "back"
    await harness.close()


async def test_a_server_that_lost_its_data_gives_a_gap(own_server):
    """After an empty server took the place of another, streams say that events may be missing, and go on."""
    server = own_server()
    harness = QueueHarness(server.url)
    feed = Feed(harness.queue)
    async with feed.running(), following(feed, "0") as reader:
        await harness.enqueue("a")
        await reader.next()
        last = reader.last_event_id
        server.kill()
        server.start()
        messages = [await reader.next()]
        while messages[-1]["event"] != "gap":
            messages.append(await reader.next())
        assert messages[-1]["from"] == last
        await harness.enqueue("b")
        assert brief([await reader.next()]) == [("enqueued", "b")]
    await harness.close()


async def test_a_frozen_server_is_away(own_server, monkeypatch):
    """A server that accepts connections and answers nothing is noticed, too."""
    monkeypatch.setattr("aragora_q.redis.connection.READ_SECONDS", 0.2)
    server = own_server()
    harness = QueueHarness(server.url)
    feed = Feed(harness.queue)
    monkeypatch.setattr(harness.queue.connection._blocking, "_timeout_seconds", 0.3, raising=True)
    async with feed.running(), following(feed, "0") as reader:

        async def event(name):  # a slow machine is away, too, for a moment
            while (await reader.next())["event"] != name:
                pass

        await harness.enqueue("a")
        await event("enqueued")
        server.process.send_signal(signal.SIGSTOP)
        await wait_until(lambda: feed.is_away)
        await event("away")
        server.process.send_signal(signal.SIGCONT)
        await event("back")
    await harness.close()


async def stays():
    """A client that waits and says nothing."""
    await asyncio.Event().wait()


async def test_a_wait_ends_with_its_job(feed, harness):
    """A wait returns as soon as the job has ended, at once if it had, and after its time at the latest."""
    await harness.enqueue("a")
    waiting = asyncio.create_task(feed.wait_until_ended("a", 60, stays, address="a"))
    await wait_until(lambda: "a" in feed._waiting)
    await feed.wait_until_ended("a", 0.01, stays, address="a")
    assert not waiting.done()
    await harness.queue.cancel("a")
    await asyncio.wait_for(waiting, 30)
    await asyncio.wait_for(feed.wait_until_ended("a", 60, stays, address="a"), 30)
    await asyncio.wait_for(feed.wait_until_ended("unknown", 60, stays, address="a"), 30)
    assert feed._waiting == {}


async def test_a_wait_ends_with_its_client(feed, harness):
    """Who closes the connection while it waits leaves nothing behind: else waits could take all memory."""
    left = asyncio.Event()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    await harness.enqueue("a")
    waiting = asyncio.create_task(feed.wait_until_ended("a", 60, receive, address="a"))
    await wait_until(lambda: "a" in feed._waiting)
    left.set()
    await asyncio.wait_for(waiting, 30)
    assert feed._waiting == {}


async def test_the_end_of_the_process_ends_streams_and_waits(harness):
    """When the feed stops, streams end and waits return, so that the server can stop."""
    await harness.enqueue("a")
    feed = Feed(harness.queue)
    async with feed.running(), following(feed) as reader:
        reading = asyncio.create_task(reader.next())
        waiting = asyncio.create_task(feed.wait_until_ended("a", 60, stays, address="a"))
        await wait_until(lambda: reader.last_event_id)
        feed.end_streams()
        assert await asyncio.wait_for(reading, 30) is None
        await asyncio.wait_for(waiting, 30)


async def test_silence_sends_comments(feed, monkeypatch):
    """A stream without news sends a comment from time to time, which is not a message."""
    monkeypatch.setattr(feeds, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(feeds, "TICK_SECONDS", 0.02)
    with feed.subscribe("0", address="a") as subscription:
        chunks = aiter(subscription)
        assert await anext(chunks) == b"retry: 2000\n"
        feed._news.set()
        assert await asyncio.wait_for(anext(chunks), 30) == b":\n"


async def test_news_is_announced_before_it_is_delivered(harness):
    """What was read before an event is dropped before a client learns of the event and reads again."""
    announced = []
    feed = Feed(harness.queue, on_news=lambda: announced.append(feed.newest))
    async with feed.running(), following(feed, "0") as reader:
        await harness.enqueue("a")
        event = await reader.next()
        assert str(announced[-1]) == event["event_id"]
