"""The rate limit of repeated log lines."""

from aragora_q import rate_limit


def test_rate_limit_counts_what_it_holds_back(monkeypatch):
    """A number of permits per second; the number of suppressed lines is reported once."""
    now = [100.0]
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now[0])
    limit = rate_limit.RateLimit(2)
    assert [limit.allow() for _ in range(5)] == [True, True, False, False, False]
    assert limit.pop_suppressed() == 3
    assert limit.pop_suppressed() == 0
    now[0] = 101.0
    assert limit.allow()
