"""Turn an error of pydantic-ai, or of a provider's client below it, into one that the queue understands."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from email.utils import parsedate_to_datetime

from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelUnavailableError,
    UserError,
)

from aragora_q.errors import (
    AgentUnavailable,
    AragoraQError,
    PermanentError,
    RetryLater,
    WorkerUnable,
)
from aragora_q.executors.debate import keys
from aragora_q.retry import describe, is_machine_limit

MAX_ERROR_CHARS = 300

TRANSIENT_STATUS_CODES = frozenset({408, 409, 425})
OVERLOADS = (ModelRateLimitError, ModelOverloadedError, ModelUnavailableError)
PERMANENT_ERRORS = (
    ContentFilterError,
    ModelQuotaExceededError,
    ModelRequestRejectedError,
    UserError,
)


def translate(error: Exception, known_keys: Iterable[str | None] = ()) -> AragoraQError:
    """Return what `error` means for the queue, without keys in its message."""
    text = message(error, known_keys)
    if is_machine_limit(error):
        return WorkerUnable(text)
    if is_permanent(error):
        return PermanentError(text)
    delay = retry_after_seconds(error)
    if delay is not None or isinstance(error, OVERLOADS):
        return RetryLater(text, delay_seconds=delay or 0)
    return AgentUnavailable(text)


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
    code = getattr(
        error.__cause__, "status_code", None
    )  # the library does not raise an HTTP error for a redirect
    return code if isinstance(code, int) else None


def retry_after_seconds(error: Exception) -> float | None:
    """Return the delay that the provider asks for. A date counts from the provider's clock, not from ours."""
    if not isinstance(error, ModelAPIError):
        return None
    headers = getattr(error, "headers", None) or {}
    with suppress(KeyError, TypeError, ValueError):  # one of them is missing, or not a date
        until, now = (parsedate_to_datetime(headers[name]) for name in ("retry-after", "date"))
        return max(0.0, (until - now).total_seconds())
    return error.retry_after
