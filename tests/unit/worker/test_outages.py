"""What a worker logs during an outage of Redis."""

import itertools
import logging
import time

import pytest

from aragora_q.errors import NotPrimary, RedisUnreachable, UnsupportedServer
from aragora_q.observability.worker_metrics import WorkerMetrics
from aragora_q.redis.errors import CommandUnsupported
from aragora_q.worker.outages import OutageTracker


def test_an_outage_is_logged_once_a_minute(monkeypatch, caplog):
    """Each of a worker's loops reports a failure once; a lasting outage is repeated once a minute."""
    seconds = itertools.count(1000, 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    tracker = OutageTracker("w", WorkerMetrics("debates"))
    with caplog.at_level(logging.INFO):
        tracker.record_failure("fetch", RedisUnreachable("closed"))
        logged = len(caplog.records)
        for _ in range(200):
            for operation in ("fetch", "report", "renew"):
                tracker.record_failure(operation, RedisUnreachable("connection refused"))
        minutes = (next(seconds) - 1000) / 60
        assert minutes > 5
        assert logged == 1
        assert minutes - 1 <= len(caplog.records) - logged <= minutes + 3
        for operation in ("fetch", "report", "renew"):
            tracker.record_success(operation)
    assert caplog.records[-1].msg.event == "Redis available again"


def test_another_error_is_logged_at_once(monkeypatch, caplog):
    """A refusal shortly after a closed connection is another error: it is not suppressed."""
    seconds = itertools.count(1000, 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    tracker = OutageTracker("w", WorkerMetrics("debates"))
    tracker.record_failure("fetch", RedisUnreachable("closed"))
    for _ in range(20):
        tracker.record_failure("fetch", RedisUnreachable("denied"))
    assert [record.error for record in caplog.records] == ["closed", "denied"]


def test_a_lasting_refusal_is_not_healthy(monkeypatch, caplog):
    """A replica that refuses one operation for longer than the limit: one line, until it is served again."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tracker = OutageTracker("w", WorkerMetrics("debates"), max_refusal_seconds=60)
    for second in range(130):
        now[0] = 1000.0 + second
        tracker.record_failure("fetch", NotPrimary("READONLY"))
        tracker.record_success("renew")
        tracker.record_failure("report", RedisUnreachable("closed"))
        assert tracker.is_refused_too_long == (second > 60)
    assert sum("not healthy" in record.getMessage() for record in caplog.records) == 1
    tracker.record_failure("fetch", RedisUnreachable("closed"))
    assert not tracker.is_refused_too_long, "an outage, not a refusal"


async def test_what_a_server_lacks_is_final_at_the_start_only(caplog):
    """An operation that was never served ends with UnsupportedServer; one that was is waited for."""
    tracker = OutageTracker("w", WorkerMetrics("debates"))
    errors = [CommandUnsupported("unknown command"), None, CommandUnsupported("unknown command")]

    async def call():
        error = errors.pop() if errors else None
        if error:
            raise error
        return "served"

    with pytest.raises(UnsupportedServer):
        await tracker.retry_until_available("fetch", call)
    assert await tracker.retry_until_available("fetch", call) == "served"
    assert await tracker.retry_until_available("fetch", call) == "served"
    assert [record.error for record in caplog.records] == ["unknown command"]
