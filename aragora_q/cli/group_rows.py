"""Read the debates of a group for a command, and say on stderr which of them are not there.

Shared by `table`, `compare` and `eval`; the name of a group also by `group`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from aragora_q.cli import output
from aragora_q.errors import InvalidPayload

if TYPE_CHECKING:
    from aragora_q.experiments.rows import Row
    from aragora_q.streams.queue import RedisStreamsQueue


def _check_name(name: str) -> str:
    from aragora_q.labels import check_labels

    check_labels(name, None, {})
    return name


GroupName = Annotated[
    str,
    typer.Argument(metavar="G", show_default=False, callback=_check_name, help="Name of a group."),
]

ArmNames = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="A", help="Only this arm (may be repeated)."),
]


class GroupRows(NamedTuple):
    """The rows of a group, and the exit code: 65 if the data of some jobs is corrupted."""

    rows: list[Row]
    exit_code: int


async def read_group(queue: RedisStreamsQueue, name: str) -> GroupRows:
    """Return the rows of a group. Says how many jobs have not ended, or are deleted, and which are corrupted.

    Raises:
        GroupNotFound: the group has no job.
    """
    from aragora_q.experiments.reading import read_rows

    exit_code = total = 0
    try:
        group = await queue.tracker.get_group(name)
        total = group.total if group else 0
    except InvalidPayload as error:  # its jobs can be read
        output.error(str(error), error.hint)
        exit_code = error.exit_code
    rows = await read_rows(queue, name)
    live = [row for row in rows if not row.status.is_terminal]
    if live:
        held = sum(row.status == "held" for row in live)
        output.info(
            f"group {name}: {len(live):,} of {output.count(len(rows), 'job')} have not ended"
            f"{f', {held:,} of them held' if held else ''}: this is what is there so far"
        )
    if total > len(rows):
        output.info(
            f"group {name}: {output.count(total - len(rows), 'job')} not counted: deleted by retention or purge"
        )
    for row in rows:
        if row.is_corrupted:
            output.error(row.error, "aragora-q doctor --repair")
            exit_code = InvalidPayload.exit_code
    return GroupRows(rows, exit_code)
