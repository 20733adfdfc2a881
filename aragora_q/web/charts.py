"""Charts as inline SVG: pure functions from numbers, such as those of `samples.py`, to markup for templates.

A chart has no style attribute and no script: classes get their colors from the section "charts" of `style.css`,
and the drawing stretches to any width while its texts keep their size. Every chart has a summary for screen
readers; one over time also has a table of its numbers. Times are in UTC; `data-time` is for scripts.
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


@dataclass(frozen=True, slots=True)
class Point:
    """A share from 0 to 1 of something that has a name, and what it takes."""

    name: str
    x: float
    """Not negative."""
    y: float
    interval: tuple[float, float] | None = None
    """What `y` may be."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Shares by what they take."""

    name: str
    """Used in ids: unique on a page."""
    title: str
    x_name: str
    """What `x` is, such as `cost per question`."""
    unit: Unit
    """Of `x`."""
    points: Sequence[Point]
    empty: str
    """What stands in its place without points."""


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
    if 1e-9 < dollars < 0.0001:  # decades of an axis differ
        return "$" + f"{float(f'{dollars:.2g}'):.10f}".rstrip("0")
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


# -- a scatter

PLOT_HEIGHT, MARGIN = 240, 30
"""Pixels of its drawing, if the labels fit into it, and below it, for the numbers and the name of the axis."""

LEFT, RIGHT = 12.0, 96.0
"""Percent of the width between which the points are: the labels of the lines are on the left."""

NEAR = 0.05
"""Share of the axis: points that are nearer are drawn next to each other, so that all are seen."""

WIDE = 100
"""Times the smallest `x`: if the largest is more, the axis is logarithmic, so that small ones are apart."""

MAX_DECADES = 5
"""Labels of a logarithmic axis at most, after the first."""

STEP, REACH = 11, 44
"""Pixels from one of these points to the next, and at most from the first to the last."""

LABEL_HEIGHT, LABEL_CHARS, CHAR_WIDTH = 16, 14, 8
"""Pixels from one label to the next below it, characters of the longest one, and pixels of a wide character."""

LEAST_WIDTH = 330
"""Pixels of the narrowest drawing: labels that do not overlap there do not overlap in a wider one."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """The axis of `x`: from `low` to `high`, logarithmic if `low` is not 0."""

    low: float
    high: float

    @classmethod
    def of(cls, chart: Scatter) -> _Scale:
        """Return the axis on which all points of a chart are."""
        least, largest = (pick(point.x for point in chart.points) for pick in (min, max))
        if least <= 0 or largest <= WIDE * least:
            return cls(0, chart.unit.top(largest))
        return cls(10.0 ** math.floor(math.log10(least)), 10.0 ** math.ceil(math.log10(largest)))

    def share(self, x: float) -> float:
        """Return where a value is, from 0 to 1."""
        if not self.low:
            return x / self.high
        return math.log10(x / self.low) / math.log10(self.high / self.low)

    def lines(self) -> list[float]:
        """Return the values that have labels."""
        if not self.low:
            return [0, self.high / 2, self.high]
        decades = round(math.log10(self.high / self.low))
        step = math.ceil(decades / MAX_DECADES)
        return [self.low * 10.0**n for n in range(0, decades + 1, step)]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a point and its label are: at a share of the width, and pixels from there."""

    point: Point
    percent: float
    dx: float
    """Of the point."""
    label_dx: float
    side: int
    """1: the label begins there; -1: it ends there."""

    @property
    def label(self) -> str:
        """The name; of a long one, its begin and its end."""
        name, half = self.point.name, LABEL_CHARS // 2
        return name if len(name) <= LABEL_CHARS else f"{name[: half - 1]}…{name[-half:]}"

    @property
    def extent(self) -> tuple[float, float]:
        """The begin and end of the label in the narrowest drawing."""
        anchor = self.percent * LEAST_WIDTH / 100 + self.label_dx
        begin, end = sorted((anchor, anchor + self.side * CHAR_WIDTH * len(self.label)))
        return begin, end


def scatter(chart: Scatter) -> Markup:
    """Return a figure with a point for each share, its interval as a bar, and its name next to it.

    Names do not overlap each other at any width.
    """
    heading = Markup("<figcaption>{}</figcaption>").format(chart.title)
    if not chart.points:
        return Markup('<figure class="chart scatter">{}<p class="empty">{}</p></figure>').format(
            heading, chart.empty
        )
    height = max(PLOT_HEIGHT, LABEL_HEIGHT * len(chart.points))
    scale = _Scale.of(chart)
    marks = _marks(chart.points, scale)
    rows = _label_rows(marks, height)
    return Markup(
        '<figure class="chart scatter">{heading}<svg role="img" aria-labelledby="{name}-title" '
        'aria-describedby="{name}-desc" width="100%" height="{height}">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{summary}</desc>'
        "{axes}{marks}</svg></figure>"
    ).format(
        heading=heading,
        name=f"chart-{chart.name}",
        title=chart.title,
        summary=" ".join(_point_text(chart, each) for each in chart.points),
        height=TOP + height + MARGIN,
        axes=_axes(chart, scale, height),
        marks=Markup("").join(
            _drawn(mark, row, height) for mark, row in zip(marks, rows, strict=True)
        ),
    )


def _point_text(chart: Scatter, point: Point) -> str:
    between = ""
    if point.interval is not None:
        low, high = point.interval
        between = f" ({low:.0%} to {high:.0%})"
    return f"{point.name}: {point.y:.0%}{between}, {chart.x_name} {chart.unit.text(point.x)}."


def _axes(chart: Scatter, scale: _Scale, height: int) -> Markup:
    rows = [
        Markup(
            '<line class="grid" x2="100%" y1="{0}" y2="{0}"/><text class="value" y="{1}">{2:.0%}</text>'
        ).format(y := _share_y(share, height), y - 4, share)
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    columns = [
        Markup('<text class="time" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
            _number(_percent(scale.share(x))),
            TOP + height + 13,
            "end" if scale.share(x) > NEAR_END else "middle",
            chart.unit.text(x),
        )
        for x in scale.lines()
    ]
    name = Markup('<text class="axis" x="{}%" y="{}" text-anchor="end">{}</text>').format(
        _number(RIGHT),
        TOP + height + MARGIN - 2,
        f"{chart.x_name}{', logarithmic' if scale.low else ''}",
    )
    return Markup("").join([*rows, *columns, name])


def _percent(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _share_y(share: float, height: int) -> float:
    return round(TOP + height * (1 - share), 1)


def _marks(points: Sequence[Point], scale: _Scale) -> list[_Mark]:
    """Return where the points are, and their labels: all labels of near points are on one side of them."""
    groups = _near(points, scale)
    places = [
        _percent(sum(scale.share(point.x) for point in group) / len(group)) for group in groups
    ]
    marks: list[_Mark] = []
    for group, percent in zip(groups, places, strict=True):
        others = [each for each in places if each != percent]
        right, left = (_group_marks(group, percent, side) for side in (1, -1))
        marks += right if _covered(right, others) <= _covered(left, others) else left
    return marks


def _group_marks(group: Sequence[Point], percent: float, side: int) -> list[_Mark]:
    step = min(STEP, REACH / max(1, len(group) - 1))
    width = step * (len(group) - 1)
    first, label_dx = (0.0, width + 14) if side > 0 else (-width, -width - 14)
    return [
        _Mark(point, percent, first + n * step, label_dx, side) for n, point in enumerate(group)
    ]


def _covered(marks: Sequence[_Mark], others: Sequence[float]) -> tuple[float, int]:
    """Return how many pixels of labels are cut off in the narrowest drawing, and how many points they cover."""
    begin = min(mark.extent[0] for mark in marks)
    end = max(mark.extent[1] for mark in marks)
    covered = sum(begin < other * LEAST_WIDTH / 100 < end for other in others)
    return max(0, -begin, end - LEAST_WIDTH), covered


def _near(points: Sequence[Point], scale: _Scale) -> list[list[Point]]:
    """Return the points in groups of those that are drawn next to each other, by `x`."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda each: each.x):
        if groups and scale.share(point.x) - scale.share(groups[-1][0].x) <= NEAR:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _label_rows(marks: Sequence[_Mark], height: int) -> list[float]:
    """Return a height for each label, near its point: first pushed down from each other, then up again."""
    rows = [_share_y(mark.point.y, height) for mark in marks]
    order = sorted(range(len(marks)), key=lambda n: rows[n])
    for direction, sequence, end in ((1, order, TOP), (-1, order[::-1], TOP + height - 8)):
        placed: list[int] = []
        for n in sequence:
            limits = [
                direction * rows[m] + LABEL_HEIGHT
                for m in placed
                if _overlap(marks[m].extent, marks[n].extent)
            ]
            rows[n] = direction * max(direction * rows[n], direction * float(end), *limits)
            placed.append(n)
    return rows


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _drawn(mark: _Mark, row: float, height: int) -> Markup:
    """Return a point with its bar, and its label with a line that leads to it."""
    y, x = _number(_share_y(mark.point.y, height)), _number(mark.dx)
    bar = Markup("")
    if mark.point.interval is not None:
        low, high = (_number(_share_y(each, height)) for each in mark.point.interval)
        cap = f"M{_number(mark.dx - 4)} %sh8"
        bar = _path("interval", [f"M{x} {high}V{low}", cap % high, cap % low])
    return Markup(
        '<svg x="{}%"><title>{}</title>{}{}<circle cx="{}" cy="{}" r="5"/>'
        '<text class="name" x="{}" y="{}" text-anchor="{}">{}</text></svg>'
    ).format(
        _number(mark.percent),
        f"{mark.point.name}: {mark.point.y:.0%}",
        _path("leader", [f"M{x} {y}L{_number(mark.label_dx - mark.side * 2)} {_number(row)}"]),
        bar,
        x,
        y,
        _number(mark.label_dx),
        _number(row + 4),
        "start" if mark.side > 0 else "end",
        mark.label,
    )
