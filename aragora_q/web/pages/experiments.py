"""The pages of what a group came to: its debates as a table, its arms side by side, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q.experiments.counts import arm_json
from aragora_q.experiments.rows import name_of
from aragora_q.formats import count, safe_text
from aragora_q.loose import text
from aragora_q.web import charts
from aragora_q.web.access import Access, Viewer
from aragora_q.web.charts import Point, Scatter
from aragora_q.web.lookup import require_group
from aragora_q.web.pages.forms import query_number
from aragora_q.web.pages.rendering import command_line, render
from aragora_q.web.results import GroupTooLarge, Results

if TYPE_CHECKING:
    from markupsafe import Markup

    from aragora_q.base import Group
    from aragora_q.experiments.comparison import Comparison, Difference, Pair
    from aragora_q.experiments.counts import ArmJson
    from aragora_q.experiments.evaluation import ArmResult

router = APIRouter()

PAGE = 200
"""Rows on one page."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """A group, and its results if there are not too many."""

    group: Group
    results: Results | None = None
    problem: str = ""
    """Why there are none, if they were asked for."""
    again: float = 0.0
    """Seconds until newer ones can be had; 0: they are new."""

    def context(self, tab: str) -> dict[str, Any]:
        """Return what the frame of the pages shows."""
        return {"group": self.group, "problem": self.problem, "again": self.again, "tab": tab}


async def read_results(access: Access, group: Group) -> Shown:
    """Return the results of a group for a page."""
    try:
        results, again = await access.console.results.of(access.queue, group)
    except GroupTooLarge as error:
        return Shown(group, problem=f"{error}.")
    return Shown(group, results, "", again)


@dataclass(frozen=True)
class Part(Generic[T]):
    """The rows of a long table that fit onto one page."""

    items: Sequence[T]
    start: int
    """Rows before them."""
    total: int
    address: str
    query: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, request: Request, items: Sequence[T]) -> Part[T]:
        """Return the part that the query names by its first row, from 1."""
        start = query_number(request, "from", 1, max(1, len(items))) - 1
        query = [each for each in request.query_params.multi_items() if each[0] != "from"]
        part = items[start : start + PAGE]
        return cls(part, start, len(items), request.url.path, query)

    def context(self, name: str) -> dict[str, Any]:
        """Return what the page shows of it; `name` is what a row is."""
        end = self.start + len(self.items)
        is_whole = len(self.items) == self.total
        return {
            "shown": f"{count(self.total, name)}{'' if is_whole else f': {self.start + 1:,} to {end:,}'}",
            "first": self._link(1) if self.start else "",
            "next": self._link(end + 1) if end < self.total else "",
        }

    def _link(self, row: int) -> str:
        query = [*self.query, *([("from", str(row))] if row > 1 else [])]
        return f"{self.address}{'?' if query else ''}{urlencode(query, errors='replace')}"


@router.get("/groups/{name}/table")
async def table_page(request: Request, access: Viewer, name: str) -> Response:
    """Show the debates of a group, or of one arm."""
    shown = await read_results(access, await require_group(access.queue, name))
    arm = request.query_params.get("arm") or None
    rows = shown.results.rows if shown.results else []
    arms = dict.fromkeys(row.arm for row in rows if row.arm)
    part = Part.of(request, [row for row in rows if arm in (None, row.arm)])
    return render(
        request,
        "group_table.html",
        now=await access.queue.tracker.server_time(),
        **shown.context("table"),
        arm=arm,
        names=[("", "all"), *((each, each) for each in arms)] if arms else [],
        has_arms=bool(arms) and arm is None,
        **part.context("debate"),
        rows=part.items,
        command=command_line(
            access.console.config, "table", name, *(("--arm", arm) if arm else ())
        ),
    )


@router.get("/groups/{name}/compare")
async def compare_page(request: Request, access: Viewer, name: str) -> Response:
    """Show the arms of a group side by side, and the questions on which they differ."""
    shown = await read_results(access, await require_group(access.queue, name))
    found = await shown.results.comparison() if shown.results else None
    pairs = found.pairs if found else []
    part = Part.of(request, found.differences if found else [])
    columns = list(map(name_of, found.arms)) if found else []
    return render(
        request,
        "group_compare.html",
        now=await access.queue.tracker.server_time(),
        **shown.context("compare"),
        arms=arms_of(found),
        not_counted=found.not_counted if found else 0,
        columns=columns,
        number_columns=[(name, "number") for name in columns],
        matrix=_matrix(found),
        has_kappa=any(pair.kappa is not None for pair in pairs),
        by_wording=any(pair.by_wording for pair in pairs),
        **part.context("question"),
        differences=[_difference(each) for each in part.items],
    )


@router.get("/groups/{name}/eval")
async def evaluation_page(request: Request, access: Viewer, name: str) -> Response:
    """Show how good the arms of a group are, and what they cost."""
    shown = await read_results(access, await require_group(access.queue, name))
    found = await shown.results.evaluation() if shown.results else None
    arms = found.arms if found else []
    return render(
        request,
        "group_eval.html",
        now=await access.queue.tracker.server_time(),
        **shown.context("eval"),
        evaluation=found,
        chart=_plot(arms),
        not_drawn=_not_drawn(arms),
        has_flips=any(each.flips for each in arms),
        has_ballots=any(each.label for each in arms),
        has_calibration=any(each.calibration for each in arms),
    )


def arms_of(found: Comparison | None) -> list[ArmJson]:
    """Return the arms of a group, counted."""
    return [arm_json(arm, rows) for arm, rows in found.arms.items()] if found else []


def _matrix(found: Comparison | None) -> list[tuple[str, list[Pair | None]]]:
    """Return the pairs of arms by both of them; None where an arm meets itself."""
    if found is None:
        return []
    pairs = {arms: pair for pair in found.pairs for arms in (pair.arms, pair.arms[::-1])}
    return [(one, [pairs.get((one, other)) for other in found.arms]) for one in found.arms]


def _difference(each: Difference) -> dict[str, Any]:
    return {
        "number": each.number,
        "question": each.question,
        "expected": " or ".join(map(text, each.expected)),
        "rows": list(each.rows.values()),
    }


@dataclass(frozen=True)
class _Axis:
    """What an arm takes: its cost; its calls, if none has a price."""

    field: str
    name: str
    unit: charts.Unit


_COST = _Axis("cost_per_question_usd", "cost per question", charts.USD)
_CALLS = _Axis("calls_per_question", "calls per question", charts.COUNT)


def _axis(arms: Sequence[ArmResult]) -> _Axis:
    return _COST if any(each.cost_per_question_usd for each in arms) else _CALLS


def _point(arm: ArmResult, axis: _Axis) -> Point | None:
    takes = getattr(arm, axis.field)
    if takes is None or arm.accuracy is None:
        return None
    interval = (arm.interval.low, arm.interval.high) if arm.interval else None
    return Point(safe_text(name_of(arm.arm)), takes, arm.accuracy, interval)


def _not_drawn(arms: Sequence[ArmResult]) -> list[str]:
    """Return the names of the arms that the plot lacks; none if there is no plot."""
    names = [name_of(each.arm) for each in arms if _point(each, _axis(arms)) is None]
    return names if len(names) < len(arms) else []


def _plot(arms: Sequence[ArmResult]) -> Markup:
    """Return the accuracy of arms by what they take."""
    axis = _axis(arms)
    points = [point for arm in arms if (point := _point(arm, axis))]
    intervals = ", with 95% intervals" if any(point.interval for point in points) else ""
    empty = "Nothing to draw: no debate with an expected verdict has ended."
    title = f"Accuracy by {axis.name}{intervals}"
    return charts.scatter(Scatter("accuracy", title, axis.name, axis.unit, points, empty))
