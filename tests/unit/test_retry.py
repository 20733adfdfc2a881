"""When to retry and after which delay: the specification's policy, table and lists."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q import errors
from aragora_q.errors import PermanentError, RetryLater
from aragora_q.retry import JITTER, PERMANENT_WORDS, RetryPolicy, describe, is_retryable_error

policies = st.builds(
    lambda base, spread, exponential, jitter: RetryPolicy(
        base_delay_seconds=base,
        max_delay_seconds=base + spread,
        exponential_base=exponential,
        jitter=jitter,
    ),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(1, 1e3),
    st.booleans(),
)


def test_defaults_are_as_specified():
    """A policy without arguments is the one that the specification prints."""
    assert RetryPolicy() == RetryPolicy(
        max_attempts=3,
        base_delay_seconds=1.0,
        max_delay_seconds=300.0,
        exponential_base=2.0,
        jitter=True,
    )


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 1.0), (1, 2.0), (2, 4.0)])
def test_delays_are_as_specified(attempt, seconds):
    """Attempt 0: 1 s, 1: 2 s, 2: 4 s; with jitter never further than 20 % from it, and on both sides."""
    assert RetryPolicy(jitter=False).delay_seconds(attempt) == seconds
    delays = [RetryPolicy().delay_seconds(attempt) for _ in range(1000)]
    assert seconds * 0.8 <= min(delays) < seconds * 0.85
    assert seconds * 1.15 < max(delays) <= seconds * 1.2


@given(policies, st.integers(0, 10**6))
def test_every_delay_is_within_its_bounds(policy, attempt):
    """Whatever the settings and however late the attempt: between zero and the cap, jitter or not."""
    delay = policy.delay_seconds(attempt)
    assert 0 <= delay <= policy.max_delay_seconds
    assert math.isfinite(delay)


@given(policies, st.integers(0, 50))
def test_jitter_stays_within_its_share(policy, attempt):
    """A delay below the cap differs from the plain one by 20 % at most."""
    plain = policy.base_delay_seconds * policy.exponential_base**attempt
    delay = policy.delay_seconds(attempt)
    low = min(plain * (1 - JITTER), policy.max_delay_seconds)
    high = min(plain * (1 + JITTER), policy.max_delay_seconds)
    assert low * (1 - 1e-9) <= delay <= high * (1 + 1e-9)


def test_cap_holds_after_jitter():
    """No jitter lifts a delay over the cap."""
    policy = RetryPolicy(base_delay_seconds=300.0)
    assert max(policy.delay_seconds(3) for _ in range(200)) == 300.0


def test_base_of_one_is_a_constant_delay():
    """The smallest base is legal, and means the same delay each time."""
    policy = RetryPolicy(exponential_base=1, jitter=False)
    assert {policy.delay_seconds(attempt) for attempt in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_attempts": 0}, "max_attempts is 0, must be at least 1"),
        ({"base_delay_seconds": -1}, "base_delay_seconds is -1, must be between 0 and"),
        ({"base_delay_seconds": 301}, r"between 0 and max_delay_seconds \(300.0\)"),
        ({"base_delay_seconds": math.nan}, "base_delay_seconds is nan"),
        ({"max_delay_seconds": math.nan}, r"max_delay_seconds \(nan\)"),
        ({"max_delay_seconds": math.inf}, "max_delay_seconds is inf"),
        ({"exponential_base": 0.5}, "exponential_base is 0.5, must be"),
        ({"exponential_base": math.nan}, "exponential_base is nan, must be"),
        ({"exponential_base": math.inf}, "exponential_base is inf, must be"),
    ],
)
def test_invalid_policy_is_refused(settings, error):
    """The message names the value and the rule."""
    with pytest.raises(ValueError, match=error):
        RetryPolicy(**settings)


class DerivedError(ValueError):
    """An error that another library derives from a permanent one."""


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        ConnectionResetError("reset"),
        TimeoutError(),
        RuntimeError("boom"),
        Exception("rate limit exceeded"),
        OSError("no space left on device"),
        SystemExit(1),
        RetryLater("later", delay_seconds=1),
    ],
)
def test_retryable_errors(error):
    """The specification's first list: connection, timeout, runtime and generic errors are tried again."""
    assert is_retryable_error(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        TypeError("x"),
        KeyError("x"),
        DerivedError("x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
        PermanentError("x"),
        errors.InvalidPayload("x"),
        RuntimeError("Invalid API key"),
        Exception("model NOT FOUND"),
        Exception("Validation failed"),
    ],
)
def test_non_retryable_errors(error):
    """The specification's second list: value, type and key errors, and three patterns in the message."""
    assert not is_retryable_error(error)


@pytest.mark.parametrize("pattern", PERMANENT_WORDS)
def test_patterns_do_not_outvote_the_type(pattern):
    """A ConnectionError with "not found" in its message is retried: the type decides first."""
    assert is_retryable_error(ConnectionError(f"host {pattern}"))
    assert is_retryable_error(TimeoutError(pattern))
    assert is_retryable_error(RetryLater(pattern, delay_seconds=1))
    assert is_retryable_error(errors.RedisUnreachable(f"name {pattern}"))
    assert not is_retryable_error(PermanentError("fine"))


def test_patterns_are_sought_in_the_message_only():
    """The name of an exception's class is not its message."""

    class InvalidNotFoundValidation(Exception):
        """Named like the patterns."""

    assert is_retryable_error(InvalidNotFoundValidation("boom"))
    assert is_retryable_error(InvalidNotFoundValidation())


class Broken(Exception):
    """An exception whose message cannot be read."""

    def __str__(self):
        raise ValueError("no message for you")


@given(st.text())
def test_describe_gives_text_that_can_be_stored(text):
    """Any message, lone surrogates included, becomes valid UTF-8 that begins with the class."""
    described = describe(RuntimeError(text))
    assert described.encode().decode() == described
    assert described.startswith("RuntimeError")


def test_describe_survives_a_broken_exception():
    """An exception that fails while being printed still has a name, and is judged by its class."""
    assert describe(Broken()) == "Broken: (message cannot be read)"
    assert describe(RuntimeError()) == "RuntimeError"
    assert is_retryable_error(Broken())
