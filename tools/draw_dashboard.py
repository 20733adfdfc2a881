"""Draw docs/dashboard.svg: the panels of deploy/grafana's dashboard after a run. For `make screenshots`.

Every number is the answer of a real Prometheus to the panel's query. Grafana is not used: titles,
positions, units, thresholds, colors and legends come from the dashboard's JSON.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import math
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from tools import demo_workload
from tools.monitored_stack import (
    DASHBOARD,
    QUEUE,
    SCRAPE_SECONDS,
    Prometheus,
    Series,
    monitored_stack,
)

PICTURE = Path(__file__).parents[1] / "docs/dashboard.svg"
FONTS = "Inter, Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
"""Text is drawn in the reader's fonts; positions are computed for DejaVu, the widest of them."""

PAGE, PANEL, BORDER, GRID, TEXT, FAINT = (
    "#111217", "#181b1f", "#2a2d33", "#2b2e35", "#d5d6e0", "#9a9ca8",
)  # fmt: skip
COLORS = {
    "green": "#73bf69", "yellow": "#f2cc0c", "blue": "#5794f2", "orange": "#ff9830", "red": "#f2495c",
    "purple": "#b877d9", "dark-red": "#c4162a",
}  # fmt: skip
PALETTE = tuple(COLORS[name] for name in ("green", "yellow", "blue", "orange", "red", "purple"))

WIDTH, UNIT, HEAD, GAP = 920, 23, 34, 4
"""Pixels: the picture's width, one row of the grid, the title line, the gap between panels."""
COLUMNS = 24
EDGE = 12
"""Seconds at both ends without a time label, which would not fit in the panel."""


def format_value(value: float, unit: str) -> str:
    """Format a number as Grafana does, for the units that the dashboard uses."""
    if unit == "s" and 0 < value < 1:
        return f"{_plain(value * 1000)} ms"
    if unit == "s":
        return f"{_plain(value)} s"
    if unit == "currencyUSD":
        return f"${_plain(value)}"
    if unit == "percentunit":
        return f"{_plain(value * 100)}%"
    if unit == "bytes":
        power = min(int(math.log(value, 1024)), 3) if value >= 1 else 0
        return f"{_plain(value / 1024**power)} {('B', 'KiB', 'MiB', 'GiB')[power]}"
    return _plain(value) + (unit.removeprefix("suffix:") if unit.startswith("suffix:") else "")


def _plain(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


class Drawing:
    """The dashboard for a time range."""

    def __init__(self, start: float, end: float) -> None:
        self._times = [
            start + SCRAPE_SECONDS * n for n in range(int((end - start) / SCRAPE_SECONDS) + 1)
        ]
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in DASHBOARD["panels"])
        self._height = HEAD + rows * UNIT + GAP
        self.figure = Figure(figsize=(WIDTH / 100, self._height / 100), dpi=100, facecolor=PAGE)
        self._head()

    def _head(self) -> None:
        began, ended = (_utc(self._times[n]) for n in (0, -1))
        self._text(12, HEAD / 2 + 2, DASHBOARD["title"], size=11, weight="bold", va="center")
        self._text(108, HEAD / 2 + 2, f"queue: {QUEUE}", size=8, color=FAINT, va="center")
        self._text(
            WIDTH - 12,
            HEAD / 2 + 2,
            f"{began:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC",
            size=8,
            color=FAINT,
            ha="right",
            va="center",
        )

    def _text(
        self, x: float, y: float, text: str, *, size: float, color: str = TEXT, **options: Any
    ) -> None:
        self.figure.text(
            x / WIDTH, 1 - y / self._height, text, fontsize=size, color=color, **options
        )

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / WIDTH, 1 - (y + height) / self._height, width / WIDTH, height / self._height)
        return self.figure.add_axes(box, facecolor="none")

    def panel(self, panel: dict[str, Any], series: list[Series]) -> None:
        """Draw one panel."""
        grid, column = panel["gridPos"], (WIDTH - GAP) / COLUMNS
        x, y = GAP + grid["x"] * column, HEAD + grid["y"] * UNIT
        width, height = grid["w"] * column - GAP, grid["h"] * UNIT - GAP
        self.figure.add_artist(
            FancyBboxPatch(
                (x / WIDTH, 1 - (y + height) / self._height),
                width / WIDTH,
                height / self._height,
                boxstyle="round,pad=0,rounding_size=0.002",
                facecolor=PANEL,
                edgecolor=BORDER,
                linewidth=0.8,
                mutation_aspect=WIDTH / self._height,
                zorder=-1,
            )
        )
        self._text(x + 8, y + 8, panel["title"], size=8, weight="bold", va="top")
        if panel["type"] == "stat":
            self._stat(panel, series[0], x, y, width, height)
        else:
            self._graph(panel, series, x, y, width, height)

    def _stat(
        self, panel: dict[str, Any], series: Series, x: float, y: float, width: float, height: float
    ) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        values = self._values(series)
        last = next(value for value in reversed(values) if not math.isnan(value))
        color = COLORS[_step(defaults["thresholds"]["steps"], last)]
        axes = self._axes(x + 1, y + height * 0.62, width - 2, height * 0.38 - 1)
        axes.axis("off")
        axes.plot(self._times, values, color=color, linewidth=1)
        axes.fill_between(self._times, values, color=color, alpha=0.2, linewidth=0)
        axes.set(xlim=(self._times[0], self._times[-1]), ylim=(0, max(1e-9, _top([values]) * 1.05)))
        [mapping] = defaults.get("mappings", [{"options": {}}])
        mapped = mapping["options"].get(f"{last:g}")
        text = mapped["text"] if mapped else format_value(last, defaults["unit"])
        self._text(
            x + width / 2,
            y + height * 0.46,
            text,
            size=17,
            color=color,
            weight="bold",
            ha="center",
            va="center",
        )

    def _graph(
        self,
        panel: dict[str, Any],
        series: list[Series],
        x: float,
        y: float,
        width: float,
        height: float,
    ) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        legend_rows = 1 if len(series) <= 4 else 2
        axes = self._axes(x + 46, y + 28, width - 56, height - 28 - 20 - 14 * legend_rows)
        times = self._times
        colors = _colors(panel, [name for name, _ in series])
        base, tops = [0.0] * len(times), []
        is_stacked = custom["stacking"]["mode"] == "normal"
        for name, points in series:
            values = self._values((name, points))
            top = [b + v for b, v in zip(base, values, strict=True)] if is_stacked else values
            axes.plot(
                times, top, color=colors[name], linewidth=1.1, label=name, solid_joinstyle="round"
            )
            if opacity := custom["fillOpacity"] / 100:
                axes.fill_between(times, base, top, color=colors[name], alpha=opacity, linewidth=0)
            base = top if is_stacked else base
            tops.append(top)
        axes.set(xlim=(times[0], times[-1]), ylim=(0, _top(tops) * 1.08 or 1))
        _dress(axes, unit)
        if not series:  # nothing was measured yet
            return
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-40 / (width - 56), -16 / (height - 48 - 14 * legend_rows)),
            ncols=4 if legend_rows == 1 else -(-len(series) // 2),
            fontsize=7,
            frameon=False,
            labelcolor=FAINT,
            handlelength=1.1,
            handletextpad=0.4,
            columnspacing=1.0,
            borderpad=0,
            borderaxespad=0,
            labelspacing=0.35,
        )

    def _values(self, series: Series) -> list[float]:
        return [series[1].get(at, math.nan) for at in self._times]

    def svg(self) -> str:
        """Return the picture; equal numbers give equal bytes."""
        written = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aragora-q"}):
            self.figure.savefig(
                written, format="svg", metadata={"Date": None, "Title": DASHBOARD["title"]}
            )
        picture = written.getvalue().replace("'DejaVu Sans'", FONTS)
        return re.sub(r"(?<=\d\.\d)\d+", "", picture)  # a tenth of a pixel is precise enough


def _utc(unix_seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_seconds, dt.UTC)


def _dress(axes: Axes, unit: str) -> None:
    ticks = MaxNLocator(4, integer=unit == "short", steps=[1, 2, 2.5, 5, 10])
    if unit == "bytes":
        ticks = MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 4)))
    axes.yaxis.set_major_locator(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value, unit)))
    first, last = axes.get_xlim()
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_minor_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(
        FuncFormatter(
            lambda at, _: f"{_utc(at):%H:%M:%S}" if first + EDGE < at < last - EDGE else ""
        )
    )
    axes.tick_params(which="both", labelsize=7, labelcolor=FAINT, length=0, pad=3)
    axes.grid(which="both", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _top(many: list[list[float]]) -> float:
    return max((value for values in many for value in values if not math.isnan(value)), default=0.0)


def _step(steps: list[dict[str, Any]], value: float) -> str:
    """Return the color of the highest threshold that the value has reached."""
    color: str = steps[0]["color"]
    for step in steps[1:]:
        if value >= step["value"]:
            color = step["color"]
    return color


def _colors(panel: dict[str, Any], names: list[str]) -> dict[str, str]:
    """Return each series' color: the dashboard's override, or the next one of the palette."""
    fixed = {
        override["matcher"]["options"]: COLORS[override["properties"][0]["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
    }
    free = [color for color in PALETTE if color not in fixed.values()] or list(PALETTE)
    others = [name for name in names if name not in fixed]
    return fixed | {name: free[n % len(free)] for n, name in enumerate(others)}


def draw(prometheus: Prometheus, start: float, end: float) -> str:
    """Return a picture of the dashboard between two Unix times, rounded down to seconds."""
    start, end = math.floor(start), math.floor(end)
    drawing = Drawing(start, end)
    for panel in DASHBOARD["panels"]:
        drawing.panel(panel, prometheus.panel(panel, start, end))
    return drawing.svg()


def main() -> None:
    """Run the workload and draw the dashboard."""
    if shutil.which("prometheus") is None:
        sys.exit("prometheus not found: apt-get install prometheus")
    workload = demo_workload
    executor = ("--executor", "tools.demo_workload:executor")
    options = (*executor, "--concurrency", str(workload.CONCURRENCY))
    with monitored_stack(*options, workers=workload.WORKERS, lease_ms=workload.LEASE_MS) as stack:
        start = time.time()
        asyncio.run(workload.run(stack))
        PICTURE.write_text(draw(stack.prometheus, start, time.time()), encoding="utf-8")


if __name__ == "__main__":
    main()
