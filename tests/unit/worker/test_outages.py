"""What a worker logs during an outage of Redis."""

import itertools
import logging
import time

from aragora_q.errors import RedisUnreachable
from aragora_q.observability.worker_metrics import WorkerMetrics
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
