"""Arrange what is known about a debate, for a person: the verdict first, then how it came about.

Must not know how a report is laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aragora_q.base import Job, JobStatus
from aragora_q.formats import count, dollars, duration
from aragora_q.loose import mapping, number_or_none, text, texts, whole
from aragora_q.report import accounts, outcome, rounds, summary
from aragora_q.report.calls import Calls
from aragora_q.report.debate import Debate
from aragora_q.report.document import Facts, Notice, Report, Section, Speech, Tone

MAX_TITLE_CHARS = 150


def build_report(job: Job, calls: Calls) -> Report:
    """Return the report of a debate. `job` is one for which `is_debate` is true."""
    debate = Debate(job, calls)
    question = text(debate.payload.get("question")).strip()
    first = question.partition("\n")[0]
    is_whole = question == first and len(first) <= MAX_TITLE_CHARS
    title = first if len(first) <= MAX_TITLE_CHARS else f"{first[:MAX_TITLE_CHARS]}…"
    asked = [] if is_whole else [Section("Question", [Speech(body=question)])]
    return Report(
        title,
        [*_notices(debate), _terms(debate)],
        [*asked, *outcome.sections(debate)],
        [*rounds.sections(debate), *accounts.sections(debate)],
    )


def _notices(debate: Debate) -> Iterator[Notice]:
    status = debate.job.status
    if status is JobStatus.COMPLETED:
        yield _verdict_notice(debate)
    elif status is JobStatus.FAILED:
        yield Notice(f"Failed: {debate.job.error or 'the reason is not known'}", Tone.BAD)
        if debate.result:
            yield Notice(
                "The result is partial: what was there when the job failed. "
                f"To continue: aragora-q requeue {debate.job.id}"
            )
    elif status is JobStatus.CANCELLED:
        yield Notice("Cancelled.", Tone.CAUTION)
    else:
        name = "Running" if status is JobStatus.PROCESSING else status.value.capitalize()
        yield Notice(f"{name}{_position(debate)}.")
        if debate.job.hold:
            held = "Held" if status is JobStatus.HELD else "To be held"
            yield Notice(f"{held} {debate.job.hold.text}", Tone.CAUTION)
        if status is JobStatus.RETRYING and debate.job.error:
            yield Notice(f"Last error: {debate.job.error}", Tone.CAUTION)
    if debate.calls.problem:
        yield Notice(f"Not complete: {debate.calls.problem}.", Tone.CAUTION)


def _verdict_notice(debate: Debate) -> Notice:
    degraded = summary.degraded(debate)
    if debate.mode == "none":
        found = "No vote was held: consensus mode none"
        return Notice(f"{found}; {degraded}.", Tone.CAUTION) if degraded else Notice(f"{found}.")
    if debate.is_single:
        return Notice("One agent was asked once: there was no vote.")
    is_reached = debate.result.get("consensus_reached") is True
    found = f"{'Consensus' if is_reached else 'No consensus'} ({debate.mode})"
    if agreement := debate.agreement():
        found += f", agreement {agreement}"
    if debate.ties():
        found += "; a tie"
    if debate.result.get("decided_by") == "judge":
        found += f"; decided by the judge, {debate.judge}"
    if degraded:
        found += f"; {degraded}"
    return Notice(f"{found}.", Tone.GOOD if is_reached and not degraded else Tone.CAUTION)


def _position(debate: Debate) -> str:
    """Return where a debate is that has not ended."""
    progress = mapping(debate.job.progress)
    phase, number = text(progress.get("phase")), whole(progress.get("round"))
    if not phase and debate.calls.phases:
        phase, number = debate.calls.phases[-1].name, debate.calls.phases[-1].round
    position = [f"round {number} of {debate.max_rounds()}" if number else "", phase]
    if agents := whole(progress.get("agents")):
        position.append(f"{whole(progress.get('agents_done'))} of {count(agents, 'agent')} done")
    shown = ", ".join(filter(None, position))
    return f": {shown}" if shown else ""


def _escalated(debate: Debate) -> str:
    names = debate.joining
    numbers = range(len(debate.names) - len(names), len(debate.names))
    has_joined = any(whole(each.get("seat")) in numbers for each in debate.seats)
    is_needless = bool(names and debate.result) and not has_joined
    return ", ".join(names) + (" (not needed)" if is_needless else "")


def _limits(debate: Debate) -> Iterator[str]:
    if tokens := whole(debate.payload.get("max_tokens")):
        yield count(tokens, "token")
    if cost := number_or_none(debate.payload.get("max_cost_usd")):
        yield dollars(cost)
    if seconds := number_or_none(debate.payload.get("timeout_seconds")):
        yield duration(seconds)


def _terms(debate: Debate) -> Facts:
    """What was asked, and how."""
    form = debate.payload.get("answer_form") or "text"
    named = f"JSON of the schema {text(form)}" if isinstance(form, Mapping) else text(form)
    options = texts(debate.payload.get("options") or [])
    rows = [
        ("job", debate.job.id),
        ("agents", ", ".join(texts(debate.payload.get("agents")))),
        ("joining on disagreement", _escalated(debate)),
        ("judge", debate.judge),
        ("consensus mode", debate.mode),
        ("rounds", debate.rounds_at_most() if debate.max_rounds() else "none"),
        ("limits", ", ".join(_limits(debate))),
        ("service tier", text(debate.payload.get("service_tier") or "")),
        ("quoted", dollars(quote) if (quote := debate.quote()) and not debate.result else ""),
        ("answer form", named),
        ("options", "; ".join(options)),
    ]
    return Facts([row for row in rows if row[1]])
