"""`aragora-q doctor`: what is wrong with server, settings, workers and data; mends data if asked to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import AsJson, ConfigFile, QueueName, RedisUrl

if TYPE_CHECKING:
    from aragora_q.doctor.checks import Finding
    from aragora_q.doctor.integrity import IntegrityReport

STYLES = {"error": "31", "warning": "33", "note": "2"}


def doctor(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend the data: shows the plan, then asks.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    budget: Annotated[
        float,
        typer.Option("--max-time", metavar="SECONDS", min=1, help="Walk through data for so long."),
    ] = 60.0,
    resume_at: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="Go on where a walk ran out of time."),
    ] = "",
    as_json: AsJson = False,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Find what is wrong with the server, the settings, the workers and the data.

    Every finding comes with evidence and a remedy. What --repair mends is mended job by job, each in
    one step, and nothing is deleted that could still be needed.

    Example:
      aragora-q doctor
      aragora-q doctor --repair

    Exit codes:
      0 nothing is wrong, notes aside   1 something is   69 Redis unreachable
      77 access denied

    """
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    findings, seen = options.run(_examine(settings, resume_at, budget))
    if not as_json:
        _tell(findings, seen)
    mendable = [each for each in findings if each.remedy.startswith("--repair")]
    if repair and mendable:
        _ask(len(mendable), yes=yes)
        mended, seen = options.run(_repair(settings, resume_at, budget))
        findings = [each for each in findings if each.check != "data"] + mended
        if not as_json:
            _tell(mended, seen)
    if as_json:
        output.json_line(_as_json(findings, seen))
    raise typer.Exit(1 if any(each.severity != "note" for each in findings) else 0)


def _ask(kinds: int, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("say --yes: there is no terminal to ask on", param_hint="--repair")
    typer.confirm(f"Mend {output.count(kinds, 'kind')} of problem?", abort=True, err=True)


def _as_json(findings: list[Finding], seen: IntegrityReport) -> dict[str, Any]:
    """`findings` (each `severity` error, warning or note, `check`, `evidence`, `remedy`), `jobs_examined`,
    `stopped_at` (null, or what to give to --from).
    """
    return {
        "findings": [vars(each) for each in findings],
        "jobs_examined": seen.jobs,
        "stopped_at": seen.stopped_at or None,
    }


def _tell(findings: list[Finding], seen: IntegrityReport) -> None:
    for each in findings:
        head = output.styled(f"{each.severity:<8}", STYLES[each.severity])
        first, *rest = output.wrapped(f"{each.check}: {each.detail}", 8)
        output.write(head + first)
        for row in (*rest, *output.wrapped(each.remedy, 8)):
            output.write(f"{'':8}{row}")
    if not findings:
        output.line("nothing is wrong")
    output.note(f"looked at {output.count(seen.jobs, 'job')}")
    if seen.stopped_at:
        output.note(f"time ran out: go on with --from {seen.stopped_at}")


async def _examine(
    settings: Any, resume_at: str, budget_seconds: float
) -> tuple[list[Finding], IntegrityReport]:
    from aragora_q.doctor import checks as diagnosis
    from aragora_q.doctor import integrity as consistency
    from aragora_q.streams.queue import RedisStreamsQueue

    queue = RedisStreamsQueue(settings)
    try:
        findings = [each async for each in diagnosis.check_all(queue)]
        if any(each.check == "server" for each in findings):
            return findings, consistency.IntegrityReport(stopped_at=resume_at)
        seen = await _walk(
            consistency.examine(
                queue.connection, resume_at=resume_at, budget_seconds=budget_seconds
            )
        )
    finally:
        await queue.close()
    return [*findings, *diagnosis.of_data(seen, repaired=False)], seen


async def _repair(
    settings: Any, resume_at: str, budget_seconds: float
) -> tuple[list[Finding], IntegrityReport]:
    from aragora_q.doctor import checks as diagnosis
    from aragora_q.doctor import integrity as consistency

    async with options.opened(settings) as queue:
        seen = await consistency.examine(
            queue.connection, repair=True, resume_at=resume_at, budget_seconds=budget_seconds
        )
    return list(diagnosis.of_data(seen, repaired=True)), seen


async def _walk(walk: Any) -> IntegrityReport:
    from aragora_q.doctor.integrity import UnknownCursor

    try:
        return await walk  # type: ignore[no-any-return]
    except UnknownCursor as error:
        raise typer.BadParameter(str(error), param_hint="--from") from None
