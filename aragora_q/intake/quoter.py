"""Quote debates before they are enqueued, from the queue's history, and refuse those above a limit.

The history is read once, when the first debate is quoted. Must not know how a quote is made or shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q.errors import AccessDenied, InvalidPayload
from aragora_q.formats import count
from aragora_q.intake.jobs import check_debate, is_debate
from aragora_q.job_rules import forked_from
from aragora_q.money import MICROS, cost_micros, limit_micros

if TYPE_CHECKING:
    from aragora_q.base import Job
    from aragora_q.executors.debate.estimate import DebateQuote
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.history import CallHistory
    from aragora_q.streams.queue import RedisStreamsQueue

PRICE_HINT = "add the price of its model to [prices] of the configuration"


class Quoted(NamedTuple):
    """The quote of a job."""

    quote: DebateQuote
    unpriced: list[str]
    """Agents whose price is not known."""
    source: str | None = None
    """The debate whose finished calls are taken over; None: none."""
    taken_over: int | None = None
    """How many these are; they are not in the quote. None: not known here, so the quote is an upper bound."""

    @property
    def what_is_taken_over(self) -> str:
        """Say what is taken over; blank: the debate takes over nothing because it is not to."""
        if self.source is None:
            return ""
        if self.taken_over is None:
            return f"an upper bound: what is taken over from {self.source} is not known here"
        if not self.taken_over:
            return f"no call of {self.source} matches: everything is paid for"
        return f"without {count(self.taken_over, 'call')} taken over from {self.source}"

    @property
    def is_paid_for(self) -> bool:
        """True if the debate takes over all its calls, and so costs nothing."""
        return bool(self.taken_over) and not self.quote.most.calls

    @property
    def is_priced(self) -> bool:
        """True if the price of every agent is known."""
        return not self.unpriced and self.quote.expected.usd is not None

    @property
    def no_price(self) -> str:
        """Why a price of the quote is not known; empty if all of it is priced."""
        if self.is_priced:
            return "" if self.quote.most.usd is not None else "no price for a fallback"
        if not self.unpriced:
            return "no price for one of its models"
        return f"no price for agent {_first_of(self.unpriced)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the quote as JSON data."""
        fork = {"forked_from": self.source, "taken_over": self.taken_over} if self.source else {}
        return {**self.quote.to_dict(), "unpriced_agents": self.unpriced, **fork}


class Quoter:
    """Quotes the debates of a queue. `warn` takes a warning about the basis of all quotes."""

    def __init__(
        self, queue: RedisStreamsQueue, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.queue = queue
        self._warn = warn
        self._history: CallHistory | None = None
        self._may_read = True
        self._latest: tuple[Mapping[str, Any], Quoted] | None = None

    async def quote(self, payload: Mapping[str, Any]) -> Quoted:
        """Return the quote of a job. The same payload, asked for again, is not quoted again.

        Raises:
            InvalidPayload: the job is not a debate.
            ConfigError: a price is in a list that is not installed.
        """
        if self._latest is not None and self._latest[0] is payload:
            return self._latest[1]
        check_debate("this job cannot be quoted: it", payload, self.queue.config)
        from aragora_q.executors import debate

        unpriced = debate.agents_without_price(payload, self.queue.config)
        if self._history is None:
            self._history = await self._read_history()
        quoted = Quoted(debate.quote_of(payload, self.queue.config, self._history), unpriced)
        if source := forked_from(payload):
            quoted = await self._left_of(quoted, payload, source)
        self._latest = payload, quoted
        return quoted

    async def approval(self, payload: Mapping[str, Any], max_usd: float | None) -> Approval | None:
        """Return why a job needs an approval: it may cost more than `max_usd`.

        None: it needs none, as does a debate that takes over all its calls.
        """
        if max_usd is None:
            return None
        from aragora_q.executors.debate import approval_above, quote

        if not is_debate(payload, self.queue.config):
            return quote.Approval("cannot be priced: it is not a debate", None)
        approval = approval_above(max_usd, payload, self.queue.config)
        if approval is None or forked_from(payload) is None:
            return approval
        return None if (await self.quote(payload)).is_paid_for else approval

    async def _left_of(self, quoted: Quoted, payload: Mapping[str, Any], source: str) -> Quoted:
        """Return the quote of what is left to be paid for by a debate that takes over calls of another one."""
        from aragora_q.executors import debate
        from aragora_q.executors.debate.estimate import left_to_pay

        try:
            journal = await self.queue.tracker.checkpoints(source)
        except (AccessDenied, InvalidPayload):
            return quoted._replace(source=source)
        found = await debate.calls_to_take_over(payload, source, journal, self.queue.config)
        if found is None:
            return quoted._replace(source=source)
        taken, is_complete = found
        left = left_to_pay(quoted.quote, taken, is_complete=is_complete)
        return quoted._replace(quote=left, source=source, taken_over=taken.total())

    async def check(self, job: Job, max_usd: float | None) -> None:
        """Check that a debate is not expected to cost more than `max_usd`; None: it may.

        A job whose id exists passes: enqueueing it changes nothing.

        Raises:
            InvalidPayload: it is, or its price is not known, or it is not a debate.
            ConfigError: a price is in a list that is not installed.
        """
        if max_usd is None:
            return
        try:
            check_quote(await self.quote(job.payload), max_usd)
        except InvalidPayload:
            if (await self.queue.get_statuses([job.id]))[job.id] is None:
                raise

    async def _read_history(self) -> CallHistory:
        try:
            return await self.queue.call_history()
        except AccessDenied as error:
            from aragora_q.history import CallHistory

            self._may_read = False
            self._warn(f"quotes are based on the form of the debate, not on history: {error}")
            return CallHistory()

    def basis(self, debates: int, agents_without_history: Iterable[str]) -> str:
        """Return what a quote from that many finished debates is based on, on one line."""
        if debates:
            unknown = list(agents_without_history)
            gap = f"; no history of agent {_first_of(unknown)}" if unknown else ""
            of = f"of queue {self.queue.config.queue}"
            return f"based on {count(debates, 'debate')} {of}{gap}"
        why = "no history" if self._may_read else "this user may not read the history"
        return f"based on the form of the debate: {why}"


def check_quote(quoted: Quoted, max_usd: float) -> None:
    """Raise InvalidPayload if a debate is expected to cost more than `max_usd`, or has no known price."""
    limit, usd = f"max_quote_usd is {max_usd:.12g}", quoted.quote.expected.usd
    if usd is None or not quoted.is_priced:
        raise InvalidPayload(f"{limit}, but there is {quoted.no_price}", hint=PRICE_HINT)
    if cost_micros(usd) > limit_micros(max_usd):
        raise InvalidPayload(
            f"{limit}, but this debate is expected to cost {usd_text(usd)} USD",
            hint="raise it, or ask fewer or cheaper agents: --quote shows what each costs",
        )


def _first_of(names: Sequence[str]) -> str:
    """Return the first name, and how many others there are."""
    first, *others = names
    return f"{first:.100}" + (f" and {count(len(others), 'other')}" if others else "")


def usd_text(usd: float) -> str:
    """Return US dollars as a plain number, exact to the millionth, rounded up."""
    return f"{cost_micros(usd) / MICROS:.6f}".rstrip("0").rstrip(".")
