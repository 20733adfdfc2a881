"""Turn an error of pydantic-ai, or of a provider's client below it, into one that the queue understands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelTimeoutError,
    ModelUnavailableError,
    UserError,
)

from aragora_q.context import CallOutcome
from aragora_q.errors import (
    AgentUnavailable,
    AragoraQError,
    GateClosed,
    HoldJob,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors.debate import keys
from aragora_q.executors.debate.requests import CallFault
from aragora_q.retry import describe, is_machine_limit

MAX_ERROR_CHARS = 300

PAYMENT_REQUIRED, TOO_MANY_REQUESTS = 402, 429
OVERLOAD_STATUS_CODES = frozenset({503, 529})
LIMIT_STATUS_CODES = OVERLOAD_STATUS_CODES | {TOO_MANY_REQUESTS}
CREDIT_STATUS_CODES = frozenset({400, 403, TOO_MANY_REQUESTS})
CREDIT_WORDS = re.compile(
    "(?i)insufficient[ _](?:quota|balance|credit|fund)|(?:credit|account) balance|out of credits?\b"
    "|exceeded your current quota|billing (?:hard )?limit|payment required"
)
"""What providers say if the account's credit is used up."""

NO_CAPACITY_STATUS_CODES = OVERLOAD_STATUS_CODES | {498}
NO_CAPACITY_WORDS = re.compile(
    "(?i)resource[ _]unavailable|resource (?:has been )?exhausted|capacity"
)
"""What providers say if their flex tier has no capacity: OpenAI and Google Cloud with 429, Gemini and Bedrock
with 503, Groq with 498.
"""
NO_CAPACITY_DELAY_SECONDS = 5.0
"""Wait if the provider names none; meanwhile the gate closes, and says for how long."""

_DURATION_PART = (
    r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)"
)
DURATION_PART = re.compile(_DURATION_PART)
DURATION = re.compile(rf"(?:{_DURATION_PART}\s*)+")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
TRY_AGAIN = re.compile(
    rf"(?i)(?:try again|retry|wait)(?: (?:in|after|for))? ((?:{_DURATION_PART}\s*)+)\b"
)
MIN_UNIX_SECONDS = 1e9
"""A greater number is a time, not a duration."""

TRANSIENT_STATUS_CODES = frozenset({408, 409, 425})
OVERLOADS = (ModelRateLimitError, ModelOverloadedError, ModelUnavailableError)
PERMANENT_ERRORS = (
    ContentFilterError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    UserError,
)


def fault_of(
    error: Exception,
    account: str = "",
    known_keys: Iterable[str | None] = (),
    *,
    has_begun: bool = False,
    is_flex: bool = False,
) -> CallFault:
    """Return what `error` means for the debate, without keys in its message. `has_begun`: part of a reply came.

    `is_flex`: it was asked in the flex tier.
    A request that was refused, or never sent, costs nothing. Otherwise the cost is unknown.
    """
    text, outcome = message(error, known_keys), outcome_of(error)
    if is_flex and outcome != "credit_exhausted" and _says_no_capacity(error):
        outcome = "no_capacity"
    is_unbilled = not has_begun and (status_code(error) is not None or not _was_sent(error))
    cost_usd = 0.0 if is_unbilled else None
    if is_machine_limit(error):
        return CallFault(WorkerUnable(text), outcome, cost_usd=cost_usd)
    delay = None
    if outcome not in ("credit_exhausted", "rejected"):
        delay = retry_after_seconds(error, is_rate_limit=outcome != "no_capacity")
    meaning: AragoraQError
    if outcome == "credit_exhausted":
        why = f"{account or 'the provider'}: the account's credit is used up: {text}"
        meaning = HoldJob(why, cause="provider", by=account)
    elif outcome in ("rejected", "refused"):
        meaning = PermanentError(text)
    elif outcome == "no_capacity":
        meaning = GateClosed(text, delay_seconds=delay or NO_CAPACITY_DELAY_SECONDS)
    elif delay is not None or outcome in ("rate_limited", "overloaded"):
        meaning = RetryLater(text, delay_seconds=delay or 0)
    else:
        meaning = AgentUnavailable(text)
    return CallFault(meaning, outcome, cost_usd=cost_usd, retry_after_seconds=delay)


def outcome_of(error: Exception) -> CallOutcome:
    """Return what became of the call that ended in `error`, of whatever tier."""
    code = status_code(error)
    if (
        isinstance(error, ModelQuotaExceededError)
        or code == PAYMENT_REQUIRED
        or _says_no_credit(error)
    ):
        return "credit_exhausted"
    if isinstance(error, ContentFilterError):
        return "refused"
    if isinstance(error, ModelRateLimitError) or code == TOO_MANY_REQUESTS:
        return "rate_limited"
    if isinstance(error, ModelUnavailableError) or code in OVERLOAD_STATUS_CODES:
        return "overloaded"
    if is_permanent(error):
        return "rejected"
    is_timeout = isinstance(error, ModelTimeoutError | ModelRequestTimeout | TimeoutError)
    return "timeout" if is_timeout and _was_sent(error) else "unavailable"


def _says_no_credit(error: Exception) -> bool:
    """Return True if a refusal names the account's credit, and no time after which it is back."""
    if status_code(error) not in CREDIT_STATUS_CODES or not CREDIT_WORDS.search(str(error)):
        return False
    return retry_after_seconds(error) is None


def _says_no_capacity(error: Exception) -> bool:
    code = status_code(error)
    is_refusal = code == TOO_MANY_REQUESTS and NO_CAPACITY_WORDS.search(str(error))
    return code in NO_CAPACITY_STATUS_CODES or bool(is_refusal)


def _was_sent(error: BaseException) -> bool:
    """Return False if there was no connection to send the request on."""
    if getattr(error, "phase", None) in ("pool", "connect"):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def masked(text: str, known_keys: Iterable[str | None] = ()) -> str:
    """Return `text` as one line of at most MAX_ERROR_CHARS, without keys."""
    return keys.mask(" ".join(text.split()), known_keys)[:MAX_ERROR_CHARS]


def message(error: BaseException, known_keys: Iterable[str | None] = ()) -> str:
    """Return the error in one line, without keys."""
    return masked(describe(error), known_keys)


def first_sentence(error: Exception, known_keys: Iterable[str | None] = ()) -> str:
    """Return the error's first sentence, without keys; the rest is advice for users of the library's API."""
    is_plain = isinstance(error, UserError | ImportError | ValueError)
    text = str(error) if is_plain else describe(error)
    return masked(text.partition(". ")[0].partition("\n")[0], known_keys)


def is_permanent(error: Exception) -> bool:
    """Return True if the same call cannot succeed later.

    Errors of unknown kind may be temporary, for example an HTML page of a proxy instead of JSON.
    """
    if isinstance(error, PERMANENT_ERRORS):
        return True
    code = status_code(error)
    return (
        code is not None
        and 300 <= code < 500
        and code not in TRANSIENT_STATUS_CODES
        and not isinstance(error, OVERLOADS)
    )


def status_code(error: BaseException) -> int | None:
    """Return the HTTP status of a provider's response, if there was one."""
    if isinstance(error, ModelHTTPError):
        return error.status_code
    # For a redirect, the library does not raise an HTTP error.
    code = getattr(error.__cause__, "status_code", None)
    return code if isinstance(code, int) else None


def retry_after_seconds(error: Exception, *, is_rate_limit: bool = True) -> float | None:
    """Return the delay that the provider asks for, in seconds; None if it names none.

    Dates count from the provider's clock if it sends the time, not from ours. The time at which a limit is
    reset counts only if the provider says nothing else, and that the limit is the reason: `is_rate_limit`
    says that it may be.
    """
    if not isinstance(error, ModelAPIError):
        return None
    headers = getattr(error, "headers", None) or {}
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    if (until := _date(headers.get("retry-after", ""))) is not None:
        return max(0.0, (until - now).total_seconds())
    if error.retry_after is not None:
        return error.retry_after if 0 <= error.retry_after < math.inf else None
    if status_code(error) not in LIMIT_STATUS_CODES:
        return None
    if (match := TRY_AGAIN.search(str(error))) and (found := _duration(match[1])) is not None:
        return found
    return _reset_seconds(headers, now) if is_rate_limit else None


def _reset_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds until all rate limits are reset that are spent, or if none is, all others."""
    resets = {
        name: seconds
        for name, value in headers.items()
        if "ratelimit" in name and "reset" in name
        and (seconds := _seconds_until(value, now)) is not None
    }  # fmt: skip
    spent = [
        seconds
        for name, seconds in resets.items()
        if headers.get(name.replace("reset", "remaining")) == "0"
    ]
    return max(spent or resets.values(), default=None)


def _date(text: str) -> datetime | None:
    """Return a date in the form of HTTP or of RFC 3339; None if it is neither."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(TypeError, ValueError):
            date = read(text)
            return date if date.tzinfo else date.replace(tzinfo=UTC)
    return None


def _seconds_until(text: str, now: datetime) -> float | None:
    """Return the seconds until a reset: a duration, a date, or a time in Unix seconds or milliseconds."""
    with suppress(ValueError):
        number = float(text)
        if not 0 <= number < math.inf:
            return None
        for unit in (1_000.0, 1.0):
            if number / unit > MIN_UNIX_SECONDS:
                return max(0.0, number / unit - now.timestamp())
        return number
    if (seconds := _duration(text)) is not None:
        return seconds
    until = _date(text)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _duration(text: str) -> float | None:
    """Return the seconds of a duration such as `6m12s`, `250ms`, `1.5s` or `20 seconds`."""
    if not DURATION.fullmatch(text.strip()):
        return None
    return sum(
        float(number) * UNITS["ms" if unit.startswith(("ms", "milli")) else unit[0]]
        for number, unit in DURATION_PART.findall(text)
    )
