"""Print what debates will probably take: `enqueue --quote`.

Used by `enqueue`. Must not know how a quote is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

from aragora_q.cli import bulk, output, reports
from aragora_q.errors import InvalidPayload
from aragora_q.executors.debate.estimate import DebateQuote, Estimate, QuoteLine, combined
from aragora_q.formats import dollars, dollars_or_unknown, duration
from aragora_q.intake.checks import held_fields
from aragora_q.intake.lines import max_line_bytes
from aragora_q.intake.quoter import Quoted, usd_text
from aragora_q.money import USD_DIGITS
from aragora_q.report.document import Block, Notice, Report, Row, Section, Table, Tone

if TYPE_CHECKING:
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.intake.bulk import LineChecker
    from aragora_q.intake.quoter import Quoter

UNKNOWN = "unknown"
NUMBERS = ("Calls", "Tokens in", "Out", "Cost", "Time")


class Total:
    """The sum of quotes. A price or duration is None if one of them is not known."""

    def __init__(self) -> None:
        self.quoted = 0
        self.unpriced = 0
        """Debates without a known price."""
        self.first_unpriced = ""
        self.unpriced_agents: dict[str, None] = {}
        self.priced_usd = 0.0
        """What the others are expected to cost."""
        self.debates = 0
        """How many finished debates of the queue a quote is based on, at most."""
        self.without_history = 0
        """Debates whose quote is based on none."""
        self.agents_without_history: dict[str, None] = {}
        """Agents of the others whose models are not known."""
        self.least = self.expected = self.most = Estimate(0, 0, 0, 0.0, 0.0)

    def add(self, number: int, quoted: Quoted) -> None:
        """Add the quote of a line."""
        quote = quoted.quote
        self.quoted += 1
        self.debates = max(self.debates, quote.debates)
        self.without_history += not quote.debates
        if quote.debates:
            self.agents_without_history |= dict.fromkeys(quote.agents_without_history)
        self.least = combined(_sum, self.least, quote.least)
        self.expected = combined(_sum, self.expected, quote.expected)
        self.most = combined(_sum, self.most, quote.most)
        if quoted.is_priced:
            self.priced_usd += quote.expected.usd or 0.0
        else:
            self.unpriced += 1
            self.first_unpriced = self.first_unpriced or f"line {number}: {quoted.no_price}"
            self.unpriced_agents |= dict.fromkeys(quoted.unpriced)

    @property
    def no_price(self) -> str:
        """Which prices are not known; empty if all are."""
        if not self.unpriced:
            return ""
        of = f"{self.unpriced:,} of {output.count(self.quoted, 'debate')}"
        why = f"{of}, the first on {self.first_unpriced}"
        if len(self.unpriced_agents) > 1:
            why += f"; agents without a price: {', '.join(self.unpriced_agents):.300}"
        if self.unpriced < self.quoted:
            why += f"; the others: {dollars(self.priced_usd)} expected"
        return why

    def to_dict(self) -> dict[str, Any]:
        """Return the sum as JSON data."""
        return {
            "quoted": self.quoted,
            "unpriced": self.unpriced,
            "unpriced_agents": list(self.unpriced_agents),
            "least": asdict(self.least),
            "expected": asdict(self.expected),
            "most": asdict(self.most),
            "debates": self.debates,
            "without_history": self.without_history,
        }


def print_quote(
    quoter: Quoter, quoted: Quoted, approval: Approval | None, *, as_json: bool, quiet: bool
) -> None:
    """Print the quote of one debate: JSON, what it is expected to cost, or tables.

    `approval` is why the debate would be held.
    """
    if as_json:
        output.json_line({**quoted.to_dict(), **held_fields(approval)})
        return
    if approval is not None and not quiet:
        output.info(f"it would be held: it {approval.reason}")
    quote, why = quoted.quote, quoted.no_price
    if quiet:
        _print_usd(quote.expected.usd, why)
        return
    sections = [Section("Expected, by agent and phase", [_parts(quote.lines)])]
    basis = quoter.basis(quote.debates, quote.agents_without_history)
    basis = "; ".join(filter(None, [basis, quoted.what_is_taken_over]))
    _print(_headline("Quote", quote), quote, why, basis, sections if quote.lines else [])


async def quote_lines(
    checker: LineChecker,
    stream: BinaryIO,
    progress: bulk.Progress,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the sum of the quotes of lines; as JSON, the quote of each line first.

    Raises:
        InvalidPayload: the input is in another encoding than UTF-8.
        ConfigError: a price is in a list that is not installed.
    """
    quoter, total, summary = checker.quoter, Total(), checker.summary
    for items in bulk.read_items(stream, max_line_bytes(quoter.queue.config)):
        for number, parse in items:
            result: dict[str, Any] = {"line": number}
            try:
                line = parse()
                has_id = isinstance(line, dict) and "id" in line
                found = await checker.check(number, line)
                quoted = await quoter.quote(found.job.payload)
                total.add(number, quoted)
                result |= {"id": found.job.id} if has_id else {}
                result |= {"quote": quoted.to_dict(), **held_fields(found.approval)}
                if found.approval is not None:
                    summary.held += 1
                    first = f"line {number}: it {found.approval.reason}"
                    summary.first_held = summary.first_held or first
            except InvalidPayload as error:
                result["error"] = summary.refuse(number, error)
            if as_json:
                output.json_line(result)
        output.flush()
        progress.show(f"{output.count(total.quoted, 'debate')} quoted", total.quoted)
    progress.clear()
    _print_total(quoter, total, summary.refused, as_json=as_json, quiet=quiet)


def _print_total(quoter: Quoter, total: Total, refused: int, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        output.json_line({"sum": {**total.to_dict(), "refused": refused}})
    elif quiet:
        _print_usd(total.expected.usd, total.no_price)
    elif not total.quoted:
        output.info("no debate was quoted")
    else:
        print_total(total, quoter.basis(total.debates, total.agents_without_history))


def print_total(total: Total, basis: str) -> None:
    """Print the sum of the quotes of at least one debate, and what it is based on."""
    if total.debates and total.without_history:
        basis += f"; {total.without_history:,} on the form of the debate: no history of its agents"
    if total.expected.seconds:
        basis += "; time: one debate after another"
    name = f"Quote of {output.count(total.quoted, 'debate')}"
    _print(_headline(name, total), total, total.no_price, basis)


def _print_usd(usd: float | None, why: str) -> None:
    output.line(UNKNOWN if usd is None else usd_text(usd))
    if usd is None:
        output.info(f"{UNKNOWN}: {why}")


def _print(
    title: str,
    quote: DebateQuote | Total,
    why: str,
    basis: str,
    sections: Sequence[Section] = (),
) -> None:
    blocks: list[Block] = [_estimates(quote)]
    if why:
        blocks.append(Notice(f"{UNKNOWN}: {why}", Tone.CAUTION))
    blocks.append(Notice(basis))
    reports.write_report(Report(title, blocks, sections))


def _headline(name: str, quote: DebateQuote | Total) -> str:
    """Return, for example, `Quote: $0.42 expected, $0.10 to $1.80`."""
    least, expected, most = (
        dollars_or_unknown(each.usd) for each in (quote.least, quote.expected, quote.most)
    )
    if quote.expected.usd is None:
        return f"{name}: {UNKNOWN}"
    span = f", {least} to {most}" if least != most else ""
    return f"{name}: {expected} expected{span}"


def _estimates(quote: DebateQuote | Total) -> Table:
    rows = [("least", quote.least), ("expected", quote.expected), ("most", quote.most)]
    has_times = any(each.seconds is not None for _, each in rows)
    return Table(
        ("", *NUMBERS),
        [Row([name, *_numbers(each), _time(each) if has_times else ""]) for name, each in rows],
        frozenset(NUMBERS),
    )


def _parts(lines: Sequence[QuoteLine]) -> Table:
    """Return the parts by agent; what agents are called, and which models they are, stands once.

    Agents that are called as their models have "-" for a name, if others have names.
    """
    has_names = any(line.agent != line.model for line in lines)
    by_agent: dict[tuple[str, ...], list[QuoteLine]] = {}
    for line in lines:
        names = (line.agent if line.agent != line.model else "-", line.model)
        if not has_names:
            names = line.agent, ""
        by_agent.setdefault((*names, line.service_tier or ""), []).append(line)
    rows = [
        Row([*(("", "", "") if n else agent), line.phase, *_numbers(line)])
        for agent, own in by_agent.items()
        for n, line in enumerate(own)
    ]
    head = ("Agent", "Model", "Tier", "Phase", *NUMBERS[:-1])
    return Table(head, rows, frozenset(NUMBERS))


def _numbers(part: Estimate | QuoteLine) -> tuple[str, ...]:
    tokens = f"{part.input_tokens:,}", f"{part.output_tokens:,}"
    return _calls(part.calls), *tokens, dollars_or_unknown(part.usd)


def _calls(calls: float) -> str:
    """Return a mean number of calls: `3`, `7.5`, `< 0.1`."""
    if 0 < calls < 0.05:
        return "< 0.1"
    return f"{calls:,.1f}".removesuffix(".0")


def _time(estimate: Estimate) -> str:
    return UNKNOWN if estimate.seconds is None else duration(estimate.seconds)


def _sum(one: float, other: float) -> float:
    """Return a sum without the error of a float, which adds up over many lines."""
    return round(one + other, USD_DIGITS)
