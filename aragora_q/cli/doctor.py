"""`aragora-q doctor`: check server, settings, workers and data; repair data on request."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, LoadConfig, Yes, with_config

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.doctor.agents import Checkup
    from aragora_q.doctor.report import Finding, IntegrityReport

STYLES = {"error": "31", "warning": "33", "note": "2"}
INDENT = 8

EPILOG = """\b
Examples:
  aragora-q doctor
  aragora-q doctor --agents
  aragora-q doctor --repair

\b
Exit codes:
  0 no errors or warnings   1 errors or warnings   2 usage
  69 Redis unreachable   75 try again   77 access denied
  78 invalid configuration
"""


@with_config
def doctor(
    load: LoadConfig,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the data after showing the plan and asking.")
    ] = False,
    yes: Yes = False,
    agents: Annotated[
        bool,
        typer.Option(
            "--agents",
            help="Also ask each configured agent, and those of default_agents, for one ballot: a "
            "paid call.",
        ),
    ] = False,
    max_time: Annotated[
        float,
        typer.Option(
            "--max-time",
            metavar="SECONDS",
            min=1,
            max=options.MAX_SECONDS,
            help="Check data for at most this many seconds.",
        ),
    ] = 60.0,
    resume_from: Annotated[
        str,
        typer.Option(
            "--resume-from", metavar="CURSOR", help="Resume a check that ran out of time."
        ),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Check the server, the settings, the workers and the data.

    Each finding comes with details and a remedy. --repair changes one job or group at a time,
    atomically, and deletes nothing that may still be needed.
    """
    settings = load()
    findings, report = options.run(_check(settings, resume_from, max_time))
    checkups = _ask_agents(settings, findings) if agents else None
    if not as_json:
        _print_findings(findings, report)
    repairable = [finding for finding in findings if finding.remedy.startswith("--repair")]
    if repair and repairable:
        _confirm(len(repairable), yes=yes)
        repaired, report = options.run(_repair(settings, resume_from, max_time))
        findings = [finding for finding in findings if finding.check != "data"] + repaired
        if not as_json:
            _print_findings(repaired, report)
    if as_json:
        output.json_line(_as_json(findings, report, checkups))
    return int(any(finding.severity != "note" for finding in findings))


def _confirm(kinds: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "stdin is not a terminal: add --yes to confirm", param_hint="--repair"
        )
    typer.confirm(f"Repair {output.count(kinds, 'kind')} of problem?", abort=True, err=True)


def _as_json(
    findings: list[Finding], report: IntegrityReport, checkups: list[Checkup] | None
) -> dict[str, Any]:
    """Return the JSON of a check.

    `findings` (each `severity` error, warning or note, `check`, `detail`, `remedy`), `jobs_checked`,
    `resume_from` (null, or the cursor for --resume-from), `agents` (null, or one object per agent asked).
    """
    return {
        "findings": [vars(finding) for finding in findings],
        "jobs_checked": report.jobs,
        "resume_from": report.stopped_at or None,
        "agents": None if checkups is None else [vars(checkup) for checkup in checkups],
    }


def _print_findings(findings: list[Finding], report: IntegrityReport) -> None:
    for finding in findings:
        severity = output.styled(f"{finding.severity:<{INDENT}}", STYLES[finding.severity])
        first, *rest = output.wrapped(f"{finding.check}: {finding.detail}", INDENT)
        output.write(severity + first)
        remedy = output.wrapped(finding.remedy, INDENT) if finding.remedy else []
        for row in (*rest, *remedy):
            output.write(f"{'':{INDENT}}{row}")
    if not findings:
        output.line("no problems found")
    output.info(f"checked {output.count(report.jobs, 'job')}")
    if report.stopped_at:
        output.info(f"time limit reached; continue with --resume-from {report.stopped_at}")


async def _check(
    settings: QueueConfig, resume_from: str, max_seconds: float
) -> tuple[list[Finding], IntegrityReport]:
    from aragora_q.doctor import checks, integrity
    from aragora_q.doctor.report import IntegrityReport
    from aragora_q.streams.queue import RedisStreamsQueue

    queue = RedisStreamsQueue(settings)
    try:
        findings = [finding async for finding in checks.check_all(queue)]
        if any(finding.check in checks.ENDS for finding in findings):
            return findings, IntegrityReport(stopped_at=resume_from)
        report = await _check_cursor(
            integrity.examine(queue.connection, resume_at=resume_from, budget_seconds=max_seconds)
        )
    finally:
        await queue.close()
    return [*findings, *checks.of_data(report, repaired=False)], report


def _ask_agents(settings: QueueConfig, findings: list[Finding]) -> list[Checkup]:
    """Ask the agents, and add a finding for each to `findings`."""
    from aragora_q.doctor import agents

    checkups = options.run(agents.check_agents(settings))
    findings += [checkup.finding() for checkup in checkups] or [agents.none_to_ask()]
    return checkups


async def _repair(
    settings: QueueConfig, resume_from: str, max_seconds: float
) -> tuple[list[Finding], IntegrityReport]:
    from aragora_q.doctor import checks, integrity

    async with options.open_queue(settings) as queue:
        report = await integrity.examine(
            queue.connection, repair=True, resume_at=resume_from, budget_seconds=max_seconds
        )
    return list(checks.of_data(report, repaired=True)), report


async def _check_cursor(check: Awaitable[IntegrityReport]) -> IntegrityReport:
    from aragora_q.doctor.integrity import UnknownCursor

    try:
        return await check
    except UnknownCursor as error:
        raise typer.BadParameter(str(error), param_hint="--resume-from") from None
