"""The report of a debate, for a person: `read_calls`, `build_report`, then `render` of a layout.

The layouts are the modules `plain`, `markdown` and `page`. Many debates make one document: `build_front` and
`front` its beginning, then `build_chapter` and `chapter` a part for each. Used by `aragora-q show`; `status`
and `wait` use `outcome_of`. Pure: jobs and journals go in, text comes out. Must not know queues, Redis,
files, or how debates run.
"""

from __future__ import annotations

from aragora_q.report.calls import BEGUN, Calls, read_calls
from aragora_q.report.content import build_report
from aragora_q.report.document import Front, Report
from aragora_q.report.grid import Grid, build_grid
from aragora_q.report.group import Entry, Title, build_chapter, build_front
from aragora_q.report.outcome import has_outcome, is_debate, outcome_of, quote_usd

__all__ = [
    "BEGUN",
    "Calls",
    "Entry",
    "Front",
    "Grid",
    "Report",
    "Title",
    "build_chapter",
    "build_front",
    "build_grid",
    "build_report",
    "has_outcome",
    "is_debate",
    "outcome_of",
    "quote_usd",
    "read_calls",
]
