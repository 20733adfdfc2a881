"""Read the messages of an event stream as a browser does."""

import asyncio
import json
from contextlib import asynccontextmanager


class Reader:
    """The messages of a subscription, or of any other iterator over parts of a stream."""

    def __init__(self, chunks):
        self._chunks = aiter(chunks)
        self._text = ""
        self.last_event_id = None
        self.comments = 0

    async def next(self, timeout=30):
        """The data of the next message; None at the end of the stream."""
        async with asyncio.timeout(timeout):
            while True:
                block, found, rest = self._text.partition("\n\n")
                if found:
                    self._text = rest
                    if message := self._message(block):
                        return message
                    continue
                try:
                    chunk = await anext(self._chunks)
                except StopAsyncIteration:
                    return None
                self._text += chunk.decode() if isinstance(chunk, bytes) else chunk

    async def take(self, count, timeout=30):
        return [await self.next(timeout) for _ in range(count)]

    def _message(self, block):
        fields = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            assert name in {"id", "event", "data", "retry", ":"}, block
            self.comments += name == ":"
            fields[name] = value
        self.last_event_id = fields.get("id", self.last_event_id)
        if "data" not in fields:
            return None
        message = json.loads(fields["data"])
        assert fields.get("event", message["event"]) == message["event"]
        return message


@asynccontextmanager
async def following(feed, last_event_id=None, **options):
    """A reader on a new subscription that has begun."""
    options.setdefault("address", "127.0.0.1")
    with feed.subscribe(last_event_id, **options) as subscription:
        yield Reader(subscription)
