"""What a running executor may use: progress, checkpoints, paid calls, the attempt it belongs to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from aragora_q.base import MAX_HOLD_BY_BYTES, MAX_USD, Job

if TYPE_CHECKING:
    from aragora_q.history import CallHistory

CallOutcome = Literal[
    "ok",
    "unusable",
    "refused",
    "cut",
    "rate_limited",
    "overloaded",
    "no_capacity",
    "unavailable",
    "timeout",
    "rejected",
    "credit_exhausted",
    "not_sent",
    "unknown",
]
"""What became of a call. `ok` to `cut`: the provider replied. `rate_limited`: 429; `overloaded`: 503 or 529;
`no_capacity`: the flex tier takes no call now; `unavailable`: another fault that may pass; `rejected`: one that
cannot; `not_sent`: nothing was sent; `unknown`: its executor does not say, which counts neither for nor against
the provider."""

Refusal = Literal[
    "rate_limited",
    "overloaded",
    "unavailable",
    "timeout",
    "rejected",
    "credit_exhausted",
    "not_sent",
]
"""Outcomes of calls that brought no reply."""

NOT_BILLED = frozenset(
    ("rate_limited", "overloaded", "no_capacity", "rejected", "credit_exhausted", "not_sent")
)
"""Outcomes of calls that cost nothing. What another call cost is unknown, unless its provider says it."""

FLEX_GATE = "/flex"
"""End of the name of an account's gate for calls of the flex tier."""

MAX_CALL_USD, MAX_CALL_TOKENS = float(MAX_USD), 1_000_000_000_000
MAX_CALL_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Call:
    """A paid call before it is sent: who asks whom, and what it can take at most."""

    id: str
    """From `AttemptContext.call_id`: names this one request, also when it is settled again later."""
    agent: str
    provider: str
    account: str
    """What shares the provider's limits: a provider, its address and an API key; without the key itself."""
    model: str
    max_input_tokens: int
    max_output_tokens: int
    max_cost_usd: float | None
    """The price of these tokens; None: unknown, which a budget in US dollars refuses."""
    timeout_seconds: float = 900.0
    """After this time the call is over, whatever became of it."""
    is_reported: bool = False
    """It was not asked for, because a program reports it afterwards: it is not an overrun."""
    job_max_tokens: int | None = None
    job_max_cost_usd: float | None = None
    """What all calls of the job, of all its attempts, may take together."""
    least_usd: float | None = None
    """What the job needs at least to end, this call included, if it is known."""
    expected_usd: float | None = None
    """What the job will probably take, if this is its first call: a budget that holds jobs, and sees all of
    this one, has to have room for that."""
    is_fallback: bool = False
    """The agent is asked in place of another one, whose provider takes no calls."""

    def __post_init__(self) -> None:
        dollars = ("max_cost_usd", "job_max_cost_usd", "least_usd", "expected_usd")
        _check_amounts(self, *dollars, most=MAX_CALL_USD)
        _check_amounts(
            self, "max_input_tokens", "max_output_tokens", "job_max_tokens", most=MAX_CALL_TOKENS
        )
        if not (_is_number(self.timeout_seconds) and 0 < self.timeout_seconds <= MAX_CALL_SECONDS):
            raise ValueError(
                f"timeout_seconds is {self.timeout_seconds!r}, must be above 0, at most {MAX_CALL_SECONDS}"
            )


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a call, and what it took."""

    outcome: CallOutcome
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that came from the provider's cache."""
    cost_usd: float | None = None
    """None: unknown."""
    retry_after_seconds: float | None = None
    """How long the provider asked to wait."""

    def __post_init__(self) -> None:
        _check_amounts(self, "cost_usd", most=MAX_CALL_USD)
        _check_amounts(self, "input_tokens", "output_tokens", "cached_tokens", most=MAX_CALL_TOKENS)


MAX_KEY_CHARS = 100
MAX_ACCOUNT_BYTES = MAX_HOLD_BY_BYTES
"""Of a provider's or an account's name: a job that it holds keeps all of it."""

MAX_NAME_BYTES = 200


def check_key(key: object) -> None:
    """Raise ValueError unless this is a key of `AttemptContext.call`."""
    if not (isinstance(key, str) and key.isprintable() and 0 < len(key) <= MAX_KEY_CHARS):
        raise ValueError(f"key is {key!r:.200}, must be 1 to {MAX_KEY_CHARS} printable characters")


def new_call(
    call_id: str,
    provider: str,
    *,
    max_cost_usd: float | None,
    model: str = "",
    agent: str = "",
    account: str | None = None,
    max_input_tokens: int = 0,
    max_output_tokens: int = 0,
    timeout_seconds: float = 900.0,
) -> Call:
    """Return a call as `AttemptContext.call` makes it. Raises ValueError if an argument breaks a rule."""
    account = provider if account is None else account
    _check_name("provider", provider, MAX_ACCOUNT_BYTES)
    _check_name("account", account, MAX_ACCOUNT_BYTES)
    _check_name("model", model, MAX_NAME_BYTES, least=0)
    _check_name("agent", agent, MAX_NAME_BYTES, least=0)
    return Call(
        id=call_id,
        agent=agent,
        provider=provider,
        account=account,
        model=model,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        max_cost_usd=max_cost_usd,
        timeout_seconds=timeout_seconds,
    )


class PaidCall:
    """A granted call: its executor sends the request and reports what it took. The last report counts."""

    def __init__(self, call: Call) -> None:
        self.id = call.id
        """Names this one request, for example in a header by which the provider does a request once."""
        self.settlement: Settlement | None = None
        """What was reported; None: nothing yet."""

    def spent(
        self,
        *,
        cost_usd: float | None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        """Report what an answered call took. `cost_usd` None: not known; then its reservation counts.

        Raises ValueError, and reports nothing, if an amount is negative or larger than sums can hold.
        """
        self.settlement = Settlement(
            "ok", input_tokens, output_tokens, cached_tokens, cost_usd=cost_usd
        )

    def refused(self, outcome: Refusal, *, retry_after_seconds: float | None = None) -> None:
        """Report that there was no answer, and why: the gate learns from it, and closes for all if it has to.

        A call that is `unavailable` or had a `timeout` may have been billed: its reservation counts as spent.
        The others cost nothing. `retry_after_seconds` is how long the provider asked to wait.
        """
        if outcome not in get_args(Refusal):
            raise ValueError(
                f"outcome is {outcome!r:.100}, must be one of {', '.join(get_args(Refusal))}"
            )
        if retry_after_seconds is not None and not _is_number(retry_after_seconds):
            raise ValueError(
                f"retry_after_seconds is {retry_after_seconds!r:.100}, must be an int or float"
            )
        self.settlement = Settlement(
            outcome,
            cost_usd=0.0 if outcome in NOT_BILLED else None,
            retry_after_seconds=retry_after_seconds,
        )


def call_prefix(job: Job) -> str:
    """Return how the ids of all calls begin that this attempt of the job makes."""
    return f"{job.id}/{job.fence}/"


def _check_amounts(of: object, *names: str, most: float) -> None:
    """Raise ValueError unless sums can hold these amounts: a negative one would make room in budgets."""
    for name in names:
        value = getattr(of, name)
        fits = _is_number(value) and (isinstance(most, float) or isinstance(value, int))
        if value is not None and not (fits and 0 <= value <= most):  # NaN is in no range
            kind = "an int or float" if isinstance(most, float) else "a whole number"
            raise ValueError(f"{name} is {value!r:.100}, must be {kind} from 0 to {most:,}")


def _is_number(value: object) -> bool:
    """Return True for what can be stored and sent as a number: not for a Decimal or a text."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_name(field: str, name: object, most: int, *, least: int = 1) -> None:
    """Raise ValueError unless a name can be kept, shown and compared as it is."""
    if isinstance(name, str) and (name.isprintable() and least <= len(name.encode()) <= most):
        return
    raise ValueError(f"{field} is {name!r:.100}, must be {least} to {most} bytes of printable text")


class WaitClock:
    """The time that an attempt spends waiting at gates, which no time limit of the job counts."""

    def __init__(self) -> None:
        self._waiting = 0
        self._since = 0.0
        self._ended_seconds = 0.0
        self._timeouts: dict[asyncio.Timeout, float] = {}
        """Time limits that are running, and the seconds that each had left when the wait began."""

    @property
    def seconds(self) -> float:
        """How long calls have waited so far; several at the same time count once."""
        return self._ended_seconds + (time.monotonic() - self._since if self._waiting else 0.0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Stop the clocks of all time limits meanwhile."""
        self._waiting += 1
        if self._waiting == 1:
            self._since = time.monotonic()
            for timeout in self._timeouts:
                self._stop(timeout)
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._ended_seconds += time.monotonic() - self._since
                for timeout, left in self._timeouts.items():
                    if not timeout.expired():
                        timeout.reschedule(asyncio.get_running_loop().time() + left)

    def _stop(self, timeout: asyncio.Timeout) -> None:
        when = timeout.when()
        if when is not None and not timeout.expired():
            self._timeouts[timeout] = when - asyncio.get_running_loop().time()
            timeout.reschedule(None)

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
        """As `asyncio.timeout`, but waits at gates do not count."""
        async with asyncio.timeout(seconds) as timeout:
            if seconds is not None:
                self._timeouts[timeout] = seconds
                if self._waiting:
                    self._stop(timeout)
            try:
                yield timeout
            finally:
                self._timeouts.pop(timeout, None)


class AttemptContext(Protocol):
    """The attempt that an executor runs in, from `current_attempt()`.

    All writes are fenced: they raise LeaseLost when the job no longer belongs to this attempt. While
    Redis is unavailable, checkpoints wait for it; progress raises RedisUnreachable, which may be ignored.
    """

    waits: WaitClock
    """How long calls have waited at gates."""

    @property
    def is_last_attempt(self) -> bool:
        """True if the job fails when this attempt does: it has no attempts left."""

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Show `progress`, a JSON object of at most 4 KiB, in `status` and in the queue's events."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep `value` under `name` for this and later attempts of the job.

        A JSON object; a job has at most 10,000 checkpoints of 4 MiB together, else PermanentError. Those
        named `life/…` are deleted when an operator requeues the job.
        """

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Return all checkpoints of the job so far, by name."""

    def call_id(self, key: str) -> str:
        """Return the id of a paid call, from a key that is unique within the job, of at most 100 characters."""

    async def acquire(self, call: Call) -> None:
        """Wait until a call may be sent, and reserve what it can cost. Each call is settled afterwards.

        Raises:
            GateClosed: the provider takes no calls for longer than it is worth waiting here.
            HoldJob: a budget has no room, or the provider takes no calls until someone acts.
            JobLimitReached: the job's own limits leave no room for the call.
            PermanentError: a budget that fails jobs has no room, or a budget can never have room.
        """

    async def check(self, call: Call) -> None:
        """Raise as `acquire` does if no call can be granted now, whatever it costs. Reserves nothing.

        `call.max_cost_usd` is what the job needs to go on, if a budget holds it.
        """

    def call(
        self,
        provider: str,
        *,
        key: str,
        max_cost_usd: float | None,
        model: str = "",
        agent: str = "",
        account: str | None = None,
        max_input_tokens: int = 0,
        max_output_tokens: int = 0,
        timeout_seconds: float = 900.0,
    ) -> AbstractAsyncContextManager[PaidCall]:
        """Acquire a paid call, run the body that sends the request, and book what the body reports.

        `key` names the call within the job, in at most 100 characters; it may be used again. `max_cost_usd` is
        reserved meanwhile; None: the price is not known, which a budget in US dollars refuses. `account` is
        what shares the provider's limits, by default the provider. After `timeout_seconds`, which the body
        has to enforce, the reservation counts as spent until a report replaces it.

        What was spent is booked, and kept with the job meanwhile: if a crash leaves only that, the next attempt
        books it before its first call, and it counts once. If the body reports neither `spent` nor `refused`,
        the reservation counts as spent, estimated.

        Raises:
            GateClosed: as `acquire`, before the body begins; an executor lets it pass. So do HoldJob and
                PermanentError.
            LeaseLost: the call is booked, but the job belongs to another attempt.
            ValueError: an argument breaks a rule.
        """

    async def settle(self, call: Call, settlement: Settlement) -> None:
        """Book what a call took, and end its reservation. Settling again changes nothing.

        A call whose outcome will never be known is not settled: its reservation counts as spent when its
        time is over.
        """

    async def call_history(self) -> CallHistory:
        """Return what calls of the queue's finished debates took; empty if it cannot be read."""

    async def learn(self, debate: CallHistory) -> None:
        """Add what the calls of one finished debate took to that. If it cannot be kept, nothing happens."""


class DetachedAttempt:
    """Used where no worker runs the executor, as in tests: keeps checkpoints in memory."""

    is_last_attempt = False

    def __init__(self) -> None:
        self.waits = WaitClock()
        self._kept: dict[str, dict[str, Any]] = {}

    async def report_progress(self, progress: Mapping[str, Any]) -> None:
        """Discard the report: a detached attempt has no queue."""

    async def checkpoint(self, name: str, value: Mapping[str, Any]) -> None:
        self._kept[name] = dict(value)

    async def checkpoints(self) -> dict[str, dict[str, Any]]:
        return dict(self._kept)

    def call_id(self, key: str) -> str:
        return key

    async def acquire(self, call: Call) -> None:
        """Grant the call: a detached attempt has no gates."""

    async def check(self, call: Call) -> None:
        """Do nothing: a detached attempt has no gates."""

    @asynccontextmanager
    async def call(self, provider: str, *, key: str, **options: Any) -> AsyncIterator[PaidCall]:
        """Grant the call, and book nothing."""
        check_key(key)
        yield PaidCall(new_call(self.call_id(key), provider, **options))

    async def settle(self, call: Call, settlement: Settlement) -> None:
        """Do nothing: a detached attempt has no books."""

    async def call_history(self) -> CallHistory:
        from aragora_q.history import CallHistory  # noqa: PLC0415 - clients check names without it

        return CallHistory()

    async def learn(self, debate: CallHistory) -> None:
        """Do nothing: a detached attempt has no queue."""


attempt_context: ContextVar[AttemptContext] = ContextVar("attempt_context")


def current_attempt() -> AttemptContext:
    """Return the attempt in whose task the caller runs; outside a worker, a new one that keeps data in memory.

    Example:
        async def summarize(job: Job) -> dict[str, str]:
            attempt = current_attempt()
            done = await attempt.checkpoints()
            draft = done.get("draft") or {"text": await write(job.payload["topic"])}
            await attempt.checkpoint("draft", draft)  # a retry does not write it again
            return {"summary": await shorten(draft["text"])}
    """
    return attempt_context.get(None) or DetachedAttempt()


Executor = Callable[[Job], Awaitable[Mapping[str, Any]]]
"""Does a job's work: takes the job and returns its result as a JSON object, or raises.

PermanentError fails the job, RetryLater postpones it uncharged; `retry.is_retryable_error` decides
about other errors. Any async function with this signature is an executor.
"""
