"""Reads that viewers share."""

import asyncio

import pytest

from aragora_q.web.snapshot import ClearAfterChanges, SharedReads


class Source:
    def __init__(self):
        self.calls = 0
        self.may_answer = asyncio.Event()

    async def read(self):
        self.calls += 1
        call = self.calls
        await self.may_answer.wait()
        if call == 1 and self.error:
            raise self.error
        return call

    error = None


def lasting(**options):
    """Shared reads whose answers do not become old during a test."""
    return SharedReads(max_age_seconds=600.0, **options)


async def test_viewers_share_one_read():
    """All who ask at the same time, and shortly after, get one answer."""
    shared, source = lasting(), Source()
    viewers = [asyncio.create_task(shared.get("stats", source.read)) for _ in range(50)]
    await asyncio.sleep(0)
    viewers.pop(0).cancel()  # who began the read leaves
    source.may_answer.set()
    assert await asyncio.gather(*viewers) == [1] * 49
    assert await shared.get("stats", source.read) == 1
    assert await shared.get("other", source.read) == 2


async def test_an_old_answer_is_not_given():
    """An answer is not given when it is older than a second, or when something was changed since."""
    shared, source = SharedReads(), Source()
    source.may_answer.set()
    assert await shared.get("stats", source.read) == 1
    shared.clear()
    assert await shared.get("stats", source.read) == 2
    shared = SharedReads(max_age_seconds=0)
    assert await shared.get("stats", source.read) == 3
    assert await shared.get("stats", source.read) == 4


async def test_the_answers_that_were_asked_for_last_are_kept():
    """Beyond the most, the answer is forgotten that was asked for the longest time ago."""
    shared, source = lasting(most=2), Source()
    source.may_answer.set()
    assert [await shared.get(name, source.read) for name in "abacab"] == [1, 2, 1, 3, 1, 4]


async def test_an_error_is_not_kept():
    """Those who wait for a read that fails get its error; the next one reads again."""
    shared, source = SharedReads(), Source()
    source.error = OSError("away")
    source.may_answer.set()
    with pytest.raises(OSError, match="away"):
        await shared.get("stats", source.read)
    assert await shared.get("stats", source.read) == 2


async def test_close_stops_reads():
    """Nothing runs on after the end."""
    shared, source = SharedReads(), Source()
    viewer = asyncio.create_task(shared.get("stats", source.read))
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await viewer


async def test_an_answer_to_a_change_clears():
    """Who changed something and looks again sees it: what was read is dropped before the answer to a change."""
    shared, source = lasting(), Source()
    source.may_answer.set()

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start"})

    async def send(_message):
        seen.append(await shared.get("stats", source.read))

    seen = []
    guarded = ClearAfterChanges(app, shared)
    for method in ("GET", "GET", "POST", "GET"):
        await guarded({"type": "http", "method": method}, None, send)
    assert seen == [1, 1, 2, 2]
