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
    patience = OutageTracker("w", WorkerMetrics("debates"))
    with caplog.at_level(logging.INFO):
        patience.record_failure("fetch", RedisUnreachable("closed"))
        told = len(caplog.records)
        for _ in range(200):
            for what in ("fetch", "report", "renew"):
                patience.record_failure(what, RedisUnreachable("connection refused"))
        minutes = (next(seconds) - 1000) / 60
        assert minutes > 5
        assert told == 1
        assert minutes - 1 <= len(caplog.records) - told <= minutes + 3
        for what in ("fetch", "report", "renew"):
            patience.record_success(what)
    assert caplog.records[-1].message == "Redis serves us again"


def test_another_fault_is_logged_however_soon_it_comes(monkeypatch, caplog):
    """A refusal directly after a closed connection is logged at the next opportunity."""
    seconds = itertools.count(1000, 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    patience = OutageTracker("w", WorkerMetrics("debates"))
    patience.record_failure("fetch", RedisUnreachable("closed"))
    for _ in range(20):
        patience.record_failure("fetch", RedisUnreachable("denied"))
    assert [record.error for record in caplog.records] == ["closed", "denied"]
