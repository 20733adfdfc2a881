"""The rate limit of repeated log lines."""

from aragora_q import logs


def test_rate_limit_counts_what_it_holds_back(monkeypatch):
    """A number of permits per second; the number of suppressed lines is reported once."""
    now = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    limit = logs.RateLimit(2)
    assert [limit.allows() for _ in range(5)] == [True, True, False, False, False]
    assert limit.take_suppressed() == 3
    assert limit.take_suppressed() == 0
    now[0] = 101.0
    assert limit.allows()
