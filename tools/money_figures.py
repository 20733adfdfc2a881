"""Compute what a month of debates costs, for docs/money.md.

Debates of scripted agents run through the real engine; tokens are characters of real prompts divided by 4,
and prices are those of the list. A prompt is read from the cache up to the last point that an earlier one of
its model has, too, and written to it up to its own last point.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import AgentConfig
from aragora_q.executors.debate.prices import Price, price_list, price_of
from aragora_q.executors.debate.prompts import prompt_for
from aragora_q.executors.debate.quote import highest, terms_of
from aragora_q.executors.debate.requests import (
    MIN_PREFIX_TOKENS,
    PLAIN,
    AgentRequest,
    Manner,
    Reply,
)
from aragora_q.job import DebateJobPayload
from tools.debate_figures import CHARS_PER_TOKEN, OPTIONS, Scripted, hold, replaced

MODELS = ("openai:gpt-6-sol", "openai:gpt-6.1-terra", "openai:gpt-6-luna")
QUESTION = (
    "Should we accept this change of our billing service, and why?\n\n"
    + "The worker reads an invoice, computes the tax of each line and writes the sum to the ledger. "
    * 63
)
"""About 1,500 tokens."""

DAYS = 30
COUNTS = (24 * DAYS, 16 * DAYS)
"""Debates of a month whose agents agree at once, and of those that converge in the first round."""

AT_ONCE = 10
"""Debates that run at the same time."""

DIGITS = 5
"""After the point, of the cost of a debate."""

ROOM = (
    "So an expected day costs ${day:.2f}. Calls under way reserve their highest price: about ${reserved:.2f} "
    "for the three calls of a phase, ${room:.2f} for {count} debates at once. A budget needs that much "
    "room above what it is meant to allow. These limits allow twice the expected day, and a quarter more than "
    "the expected month:"
)
WORST = (
    "`--approve-above` compares with the worst case of a debate, here ${usd:.2f}: every round, the longest "
    "answers, every call repeated."
)


class Usage(NamedTuple):
    """What one seat took in one debate."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    output_tokens: int = 0


class Seat(Scripted):
    """A scripted agent that counts what its provider would bill."""

    def __init__(self, verdict: str, moves_to: str) -> None:
        super().__init__(verdict, moves_to)
        self.used = Usage()
        self._kept: set[str] = set()

    async def reply(
        self,
        request: AgentRequest,
        manner: Manner = PLAIN,
        max_output_tokens: int | None = None,
    ) -> Reply:
        made = await super().reply(request, manner, max_output_tokens)
        prompt = prompt_for(request)
        form = json.dumps(prompt.form.schema) if prompt.form else ""
        begin = form + prompt.instructions  # a provider reads the form first
        ends = [len(begin) + end for end in prompt.shared]
        ends = [end for end in ends if end // CHARS_PER_TOKEN >= MIN_PREFIX_TOKENS]
        text = begin + prompt.text
        read = max((end for end in ends if text[:end] in self._kept), default=0)
        self._kept.update(text[:end] for end in ends)
        cached, shared = (size // CHARS_PER_TOKEN for size in (read, max(ends, default=0)))
        taken = len(text) // CHARS_PER_TOKEN
        took = Usage(1, taken, cached, shared - cached, made.output_tokens)
        self.used = Usage(*map(sum, zip(self.used, took, strict=True)))
        return made


def prices(tier: str | None = None) -> list[Price]:
    """Return the prices of the models, in order."""
    found = [price_of(AgentConfig(model=model, service_tier=tier), None) for model in MODELS]
    return [price for price in found if price is not None]


def debate(kind: str) -> Usage:
    """Return what each seat takes if the agents `agree` at once, `converge`, or hold all rounds (`always`)."""
    verdicts = [OPTIONS[0]] * 3 if kind == "agree" else OPTIONS[:3]
    seats = [Seat(verdict, OPTIONS[0]) for verdict in verdicts]
    mode = "always" if kind == "always" else "auto"
    assert hold(seats, question=QUESTION, debate=mode, rounds=3)
    assert len({seat.used for seat in seats}) == 1, "the table has one column for all seats"
    return seats[0].used


def seats_usd(used: Usage, tier: str | None = None) -> list[float]:
    """Return the US dollars of each seat, rounded as the page shows them, so that its sums add up."""
    return [
        round(
            price.cost_usd(
                used.input_tokens, used.output_tokens, used.cached_tokens, used.written_tokens
            ),
            DIGITS,
        )
        for price in prices(tier)
    ]


def debate_usd(used: Usage, tier: str | None = None) -> float:
    """Return the US dollars of a debate whose seats take that much."""
    return sum(seats_usd(used, tier))


def _worst_usd() -> float:
    """Return what such a debate can cost at most, as `--approve-above` counts."""
    payload = DebateJobPayload.from_dict({"question": QUESTION, "agents": list(MODELS)})
    return highest(payload, terms_of(MODELS, QueueConfig())).usd or 0.0


def _reserved_usd(used: Usage) -> float:
    """Return about what the calls of one phase reserve: input by its bytes, output up to `max_tokens`."""
    each = used.input_tokens // used.calls * 2  # two bytes of prompt count as a token
    return sum(price.worst_usd(each, AgentConfig(model=MODELS[0]).max_tokens) for price in prices())


def seat_table(kinds: Sequence[Usage]) -> Iterator[str]:
    """Yield what each seat takes, by kind of debate."""
    yield "| each of the three seats | agrees at once | goes one round |"
    yield "|---|---|---|"
    titles = (
        "calls",
        "input tokens",
        "of them cached",
        "of them written to the cache",
        "output tokens",
    )
    for title, *numbers in zip(titles, *kinds, strict=True):
        yield f"| {title} | {' | '.join(f'{number:,}' for number in numbers)} |"


def price_table(kinds: Sequence[Usage]) -> Iterator[str]:
    """Yield the prices of the models, and what their seats cost, by kind of debate."""
    yield "| model | input | cached | written to the cache | output | agrees at once | goes one round |"
    yield "|---|---|---|---|---|---|---|"
    for model, price, *costs in zip(MODELS, prices(), *map(seats_usd, kinds), strict=True):
        per_million = (
            price.input_usd_per_million,
            price.cached_input_usd_per_million,
            price.cost_usd(1_000, 0, written_tokens=1_000) * 1_000,
            price.output_usd_per_million,
        )
        cells = [f"{usd:.3f}" for usd in per_million] + [_usd(usd) for usd in costs]
        yield f"| {model.partition(':')[2]} | {' | '.join(cells)} |"
    sums = " | ".join(f"**{_usd(debate_usd(used))}**" for used in kinds)
    yield f"| **one debate** | | | | | {sums} |"


def month_usd(kinds: Sequence[Usage], tier: str | None = None) -> list[float]:
    """Return the US dollars of a month's debates, by kind."""
    return [
        round(count * debate_usd(used, tier), 2) for count, used in zip(COUNTS, kinds, strict=True)
    ]


def month_table(kinds: Sequence[Usage], always: Usage) -> Iterator[str]:
    """Yield what a month costs, as expected and otherwise."""
    debates, usd = sum(COUNTS), month_usd(kinds)
    yield "| a month | debates | US dollars |"
    yield "|---|---|---|"
    rows = zip(("agree at once", "go one round"), COUNTS, kinds, usd, strict=True)
    for title, count, used, cost in rows:
        yield f"| {title} | {count:,} at {_usd(debate_usd(used))} | {cost:.2f} |"
    yield f"| **expected** | {debates:,} | **{sum(usd):.2f}** |"
    bare = [used._replace(cached_tokens=0, written_tokens=0) for used in kinds]
    for title, cost in (
        ("the same, if nothing were cached", sum(month_usd(bare))),
        ('the same, with `service_tier = "flex"`', sum(month_usd(kinds, "flex"))),
        ("all go one round", debates * debate_usd(kinds[1])),
        ("`debate: always`, three rounds", debates * debate_usd(always)),
    ):
        yield f"| {title} | {debates:,} | {cost:.2f} |"


def limits(expected: float, reserved: float) -> Iterator[str]:
    """Yield the budgets for a month that is expected to cost that much; a phase reserves `reserved`."""
    room = AT_ONCE * reserved
    yield ROOM.format(day=expected / DAYS, reserved=reserved, count=AT_ONCE, room=room)
    yield ""
    yield "```toml"
    yield "[budgets.day]"
    yield f"limit_usd = {math.ceil(2 * expected / DAYS + room)}"
    yield 'window = "day"'
    yield ""
    yield "[budgets.month]"
    yield f"limit_usd = {math.ceil(1.25 * expected + room)}"
    yield 'window = "month"'
    yield "```"


def month() -> Iterator[str]:
    """Yield the lines of the worked example."""
    kinds, always = [debate("agree"), debate("converge")], debate("always")
    yield from seat_table(kinds)
    yield ""
    yield f"US dollars per million tokens, from {price_list()}, and what each seat costs:"
    yield ""
    yield from price_table(kinds)
    yield ""
    yield from month_table(kinds, always)
    yield ""
    yield from limits(sum(month_usd(kinds)), _reserved_usd(kinds[1]))
    yield ""
    yield WORST.format(usd=_worst_usd())


def _usd(usd: float) -> str:
    return f"${usd:.{DIGITS}f}"


@cache
def _month() -> str:
    return "\n".join(month())


def page(text: str) -> str:
    """Return docs/money.md with its worked example computed again; as it is, without the list of prices."""
    return replaced(text, "month", _month()) if price_list() else text


if __name__ == "__main__":
    print("\n".join(month()))  # noqa: T201
