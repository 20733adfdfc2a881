"""Table of results with their targets, and the page benchmarks/RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from aragora_q.bench import HEAD, Result
from benchmarks.targets import TARGETS

TITLE = """# Results

Written by `make bench` (`python -m benchmarks.run --server PATH`): one section for each server it was run on.
[docs/performance.md](../docs/performance.md) explains the measurements.
"""


def cells(result: Result) -> list[str]:
    """Return a table row: the result, its target if it has one, and whether the median meets the target."""
    target = TARGETS.get(result.name)
    judged = [target.cell(result), target.verdict(result)] if target else ["", ""]
    return [*result.cells(), *judged]


def table(found: Sequence[Result], *, with_verdicts: bool = True) -> str:
    """Return a Markdown table of results."""
    names = {"baseline": "compared with", "ratio": "ratio or value"}
    head = [names.get(cell, cell) for cell in HEAD]
    rows = [result.cells() for result in found]
    if with_verdicts:
        head += ["required / goal", "met"]
        rows = [cells(result) for result in found]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_section(page: str, section: str) -> str:
    """Return `page` with its title renewed, and the section of the same heading replaced or appended."""
    heading = section.splitlines()[0]
    _, *sections = page.split("\n## ")
    kept = [f"## {text}" for text in sections if f"## {text}".splitlines()[0] != heading]
    return "\n".join([TITLE, *(text.rstrip() + "\n" for text in kept), section])
