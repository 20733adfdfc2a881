"""Charts as inline SVG: pure functions from the series of `samples.py` to markup for templates.

A chart has no style attribute and no script: classes get their colors from the section "charts" of `style.css`,
and the drawing stretches to any width while its texts keep their size. Every chart has a summary for screen
readers and a table of its numbers. Times are in UTC; `data-time` is for scripts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from markupsafe import Markup

from aragora_q import formats
from aragora_q.samples import DAY, HOUR, MINUTE, Series

WIDTH, HEIGHT = 1000, 150
"""Size of the drawing in its own units; its width is stretched, its height is in pixels."""

TOP, LABELS = 16, 22
"""Pixels above the drawing, for the label of the highest line, and below it, for the times."""

NEAR_END = 0.92
"""Share of the width after which a label ends at its place, so that it is not cut off."""

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Unit:
    """How the numbers of an axis are written, and at which of them it has lines."""

    text: Callable[[float], str]
    top: Callable[[float], float]
    """Returns the highest line's value for a largest value."""


@dataclass(frozen=True, slots=True)
class Line:
    """The values of one name; `style` is its class in the style sheet."""

    name: str
    style: str
    values: Values


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows. `is_gap` marks the intervals of which nothing is known."""

    name: str
    """Used in ids: unique on a page."""
    title: str
    unit: Unit
    times: Sequence[int]
    step: int
    lines: Sequence[Line]
    is_gap: Sequence[bool]
    is_stacked: bool = False
    """Columns on top of each other, not lines."""


def queue_charts(series: Series) -> list[Markup]:
    """Return the charts of a queue: throughput, durations, spending, backlog."""
    # Counts of the last interval come with the next sample: only without any sample it is a gap.
    unknown = [count is None for count in series.counts["completed"][:-1]] + [series.is_gap[-1]]

    def chart(
        name: str, title: str, unit: Unit, lines: Sequence[Line], *, is_stacked: bool = False
    ) -> Markup:
        gaps = series.is_gap if name == "backlog" else unknown
        return render(
            Chart(name, title, unit, series.times, series.step, lines, gaps, is_stacked=is_stacked)
        )

    every = {MINUTE: "minute", DAY: "day"}.get(series.step) or formats.duration(series.step)
    ended = [Line(name, name, series.counts[name]) for name in ("completed", "failed", "cancelled")]
    backlog = [
        Line(name, name, series.gauges[name]) for name in ("waiting", "running", "delayed", "held")
    ]
    run, total = (
        [Line("median", "p50", values["p50"]), Line("95th percentile", "p95", values["p95"])]
        for values in (series.run_seconds, series.total_seconds)
    )
    spent = [Line("spent", "spent", series.spent_usd)]
    return [
        chart("throughput", f"Jobs ended per {every}", COUNT, ended, is_stacked=True),
        chart("run", "Run time of completed jobs", DURATION, run),
        chart("total", "Time from enqueue to completion", DURATION, total),
        chart("spending", f"Spent per {every}", USD, spent, is_stacked=True),
        chart("backlog", "Jobs in the queue", COUNT, backlog),
    ]


def render(chart: Chart) -> Markup:
    """Return a figure with the chart, its legend, and a table of its numbers."""
    heading = Markup("<figcaption>{}</figcaption>").format(chart.title)
    if all(value is None for line in chart.lines for value in line.values):
        empty = "No samples yet. Workers write one a minute; without workers, aragora-q reap does."
        if not all(chart.is_gap):
            empty = "Nothing to show for this time."
        return Markup('<figure class="chart">{}<p class="empty">{}</p></figure>').format(
            heading, empty
        )
    return Markup('<figure class="chart">{}{}{}{}</figure>').format(
        heading, _legend(chart), _picture(chart), _table(chart)
    )


# -- numbers


def _short(number: float) -> str:
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            scaled = number / limit
            return f"{scaled:,.0f}{suffix}" if scaled >= 100 else f"{scaled:.3g}{suffix}"
    return f"{number:.3g}"


def _round_up(largest: float, least: float) -> float:
    """Return 1, 2, 4, 6 or 8 times a power of ten, not below `largest`: half of it is a short number, too."""
    largest = max(largest, least)
    power = math.pow(10, math.floor(math.log10(largest)))
    tops = (n * power for n in (1, 2, 4, 6, 8, 10, 20))
    return next(top for top in tops if top >= largest)


_LINES_OF_TIME = (
    *(2, 4, 10, 20, 30, 60),
    *(n * MINUTE for n in (2, 4, 10, 20, 30, 60)),
    *(n * HOUR for n in (2, 4, 8, 12, 24)),
)  # fmt: skip


def _time_line(largest: float) -> float:
    fits = (float(line) for line in _LINES_OF_TIME if line >= largest)
    return next(fits, None) or _round_up(largest / DAY, 2) * DAY


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "0"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{_rounded(seconds / unit)} {name}"
    return f"{_rounded(seconds)} s"


def _usd(dollars: float) -> str:
    if dollars >= 1000:
        return f"${_short(dollars)}"
    return formats.dollars(dollars)


COUNT = Unit(_short, lambda largest: _round_up(largest, 2))
DURATION = Unit(_duration, _time_line)
USD = Unit(_usd, lambda largest: _round_up(largest, 0.0002))


def _number(value: float) -> str:
    """Return a coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")


# -- the picture


def _picture(chart: Chart) -> Markup:
    top = chart.unit.top(_largest(chart))
    summary = _summary(chart)
    return Markup(
        '<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc" '
        'width="100%" height="{height}">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{summary}</desc>'
        '{grid}<svg y="{y}" width="100%" height="{inner}" viewBox="0 0 {width} {inner}" '
        'preserveAspectRatio="none">{gaps}{lines}</svg>{labels}</svg>'
    ).format(
        name=f"chart-{chart.name}",
        title=chart.title,
        summary=summary,
        y=TOP,
        width=WIDTH,
        inner=HEIGHT,
        height=TOP + HEIGHT + LABELS,
        grid=_grid(),
        gaps=_gaps(chart),
        lines=(_columns if chart.is_stacked else _lines)(chart, top),
        labels=_labels(chart, top),
    )


def _largest(chart: Chart) -> float:
    columns = zip(*(line.values for line in chart.lines), strict=True)
    each: list[list[float]] = [
        [value for value in column if value is not None] for column in columns
    ]
    return max(sum(column) if chart.is_stacked else max(column) for column in each if column)


def _y_of(line: float) -> int:
    """Return the pixel of one of the horizontal lines: 0 is the lowest, 1 the highest."""
    return round(TOP + HEIGHT * (1 - line))


def _grid() -> Markup:
    rows = (_y_of(line) for line in (0, 0.5, 1))
    return Markup("").join(
        Markup('<line class="grid" x2="100%" y1="{0}" y2="{0}"/>').format(y) for y in rows
    )


def _labels(chart: Chart, top: float) -> Markup:
    """Return the labels of the lines, on top of them, and the times below the drawing."""
    values = [
        Markup('<text class="value" y="{}">{}</text>').format(
            _y_of(line) - 4, chart.unit.text(top * line)
        )
        for line in (0.5, 1)
    ]
    begin, seconds = chart.times[0], len(chart.times) * chart.step
    times = []
    for moment in _ticks(begin, seconds):
        share = (moment - begin) / seconds
        anchor = "start" if share < 1 - NEAR_END else "end" if share > NEAR_END else "middle"
        times.append(
            Markup(
                '<text class="time" x="{}%" y="{}" text-anchor="{}" data-time="{}">{}</text>'
            ).format(
                _number(share * 100),
                TOP + HEIGHT + LABELS - 6,
                anchor,
                _moment(moment),
                _time(moment, "%b %-d" if seconds > 3 * DAY else "%H:%M"),
            )
        )
    return Markup("").join([*values, *times])


_TICK_SECONDS = (
    *(n * MINUTE for n in (5, 15, 30)),
    *(n * HOUR for n in (1, 3, 6, 12)),
    *(n * DAY for n in (1, 7, 14, 28, 91, 364)),
)  # fmt: skip


def _ticks(begin: int, seconds: int) -> range:
    """Return at most five round times within a span."""
    step = next((step for step in _TICK_SECONDS if seconds / step <= 5), seconds)
    return range(-(-begin // step) * step, begin + seconds, step)


def _gaps(chart: Chart) -> Markup:
    """Return the intervals of which nothing is known, as areas."""
    width = WIDTH / len(chart.times)
    areas, n = [], 0
    for is_gap, group in groupby(chart.is_gap):
        length = len(list(group))
        if is_gap:
            areas.append(_area(n * width, 0, length * width, HEIGHT))
        n += length
    return _path("gap", areas)


def _columns(chart: Chart, top: float) -> Markup:
    width = WIDTH / len(chart.times)
    base = [0.0] * len(chart.times)
    paths = []
    for line in chart.lines:
        areas = []
        for n, value in enumerate(line.values):
            if value:
                height = max(value / top * HEIGHT, 1)  # a single failure is seen
                base[n] += height
                areas.append(_area((n + 0.1) * width, HEIGHT - base[n], width * 0.8, height))
        paths.append(_path(f"column {line.style}", areas))
    return Markup("").join(paths)


def _lines(chart: Chart, top: float) -> Markup:
    width = WIDTH / len(chart.times)
    paths = []
    for line in chart.lines:
        steps, is_drawing = [], False
        for n, value in enumerate(line.values):
            if value is None:
                is_drawing = False
                continue
            x, y = _number((n + 0.5) * width), _number(HEIGHT * (1 - value / top))
            # `h0` makes a point of a value between two gaps: its line has round ends.
            steps.append(f"L{x} {y}" if is_drawing else f"M{x} {y}h0")
            is_drawing = True
        paths.append(_path(f"line {line.style}", steps))
    return Markup("").join(paths)


def _area(x: float, y: float, width: float, height: float) -> str:
    left, right = _number(x), _number(x + width)
    return f"M{left} {_number(y)}H{right}V{_number(y + height)}H{left}z"


def _path(style: str, steps: Sequence[str]) -> Markup:
    if not steps:
        return Markup("")
    return Markup('<path class="{}" d="{}"/>').format(style, "".join(steps))


# -- the texts


def _time(moment: int, form: str) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime(form)


def _moment(moment: int) -> str:
    return _time(moment, "%Y-%m-%dT%H:%MZ")


def _legend(chart: Chart) -> Markup:
    """Return the names of the lines; the name of the only one is the title."""
    shown = [(line.style, line.name) for line in chart.lines] if len(chart.lines) > 1 else []
    if any(chart.is_gap):
        shown.append(("gap", "no samples"))
    items = (
        Markup(
            '<li><svg class="key" width="14" height="10" aria-hidden="true">'
            '<path class="{} {}" d="{}"/></svg> {}</li>'
        ).format(*_key(chart, style), name)
        for style, name in shown
    )
    return Markup("<ul>{}</ul>").format(Markup("").join(items)) if shown else Markup("")


def _key(chart: Chart, style: str) -> tuple[str, str, str]:
    is_area = chart.is_stacked or style == "gap"
    return "column" if is_area else "line", style, "M0 0H14V10H0z" if is_area else "M1 5H13"


def _summary(chart: Chart) -> str:
    """Return the latest and the largest value of each line, and how much is not known."""
    parts = [f"{_moment(chart.times[0])} to {_moment(chart.times[-1] + chart.step)}."]
    for line in chart.lines:
        known = [
            (value, at)
            for value, at in zip(line.values, chart.times, strict=True)
            if value is not None
        ]
        if known:
            largest, at = max(known, key=lambda each: each[0])
            latest, text = known[-1][0], chart.unit.text
            parts.append(
                f"{line.name}: latest {text(latest)}, highest {text(largest)} at {_moment(at)}."
            )
    if gaps := sum(chart.is_gap):
        parts.append(f"No samples in {gaps} of {len(chart.times)} intervals.")
    return " ".join(parts)


def _table(chart: Chart) -> Markup:
    """Return a table of the intervals; neighbors without samples share a row."""
    rows = []
    columns = zip(*(line.values for line in chart.lines), strict=True)
    known = [None if all(value is None for value in column) else column for column in columns]
    for has_values, group in groupby(enumerate(known), lambda each: each[1] is not None):
        numbers = list(group)
        if has_values:
            rows += [_row(chart, n, column or ()) for n, column in numbers]
        else:
            rows.append(_empty_row(chart, numbers[0][0], numbers[-1][0]))
    heads = Markup("").join(
        Markup('<th scope="col">{}</th>').format(line.name) for line in chart.lines
    )
    return Markup(
        '<details id="chart-{}-table"><summary>Table</summary><div class="scroll" tabindex="0" '
        'role="region" aria-label="{}"><table><thead><tr><th scope="col">Time (UTC)</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div></details>"
    ).format(chart.name, chart.title, heads, Markup("").join(rows))


def _row(chart: Chart, n: int, values: Values) -> Markup:
    texts = ["-" if value is None else chart.unit.text(value) for value in values]
    return Markup('<tr><th scope="row">{}</th><td>{}</td></tr>').format(
        _interval(chart, n, n), Markup("</td><td>").join(texts)
    )


def _empty_row(chart: Chart, first: int, last: int) -> Markup:
    text = "no samples" if all(chart.is_gap[first : last + 1]) else "none"
    return Markup('<tr><th scope="row">{}</th><td colspan="{}">{}</td></tr>').format(
        _interval(chart, first, last), len(chart.lines), text
    )


def _interval(chart: Chart, first: int, last: int) -> str:
    form = "%b %-d %H:%M" if len(chart.times) * chart.step > DAY else "%H:%M"
    begin, end = chart.times[first], chart.times[last] + chart.step
    return _time(begin, form) + (f" to {_time(end, form)}" if last > first else "")
