"""Table of results with their targets, and the page benchmarks/RESULTS.md."""

from __future__ import annotations

from aragora_q.bench import HEAD, Result
from benchmarks.targets import TARGETS

TITLE = """# Results

Written by `make bench` (`python -m benchmarks.run [SERVER]`): one section for each server it was run on.
[docs/performance.md](../docs/performance.md) explains the measurements.
"""


def cells(result: Result) -> list[str]:
    """Return a table row: the result, its target if it has one, and whether the median meets the target."""
    target = TARGETS.get(result.name)
    judged = [target.cell(result), target.verdict(result)] if target else ["", ""]
    return [*result.cells(), *judged]


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table of `cells`."""
    head = [*HEAD, "required / goal", "met"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_section(page: str, section: str) -> str:
    """Return `page` with the section of the same heading replaced or appended."""
    heading = section.splitlines()[0]
    head, *sections = page.split("\n## ")
    kept = [f"## {text}" for text in sections if f"## {text}".splitlines()[0] != heading]
    return "\n".join([head.rstrip() + "\n", *(text.rstrip() + "\n" for text in kept), section])
