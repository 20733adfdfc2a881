"""Charts: well-formed SVG without styles and scripts, for every series that a queue can have."""

import itertools
import re
from xml.etree import ElementTree as ET

import pytest
from support.paths import ROOT

from aragora_q.redis.keys import SAMPLED_COUNTERS
from aragora_q.samples import BUCKETS, Sample, Samples
from aragora_q.web import charts
from aragora_q.web.charts import Chart, Line, Point, Scatter, queue_charts, render, scatter

SVG = "{http://www.w3.org/2000/svg}"
BEGIN = 1_800_000_000


def chart(*values, unit=charts.COUNT, is_stacked=False, gaps=None, title="Jobs", name="jobs"):
    lines = [Line(f"line {n}", f"style-{n}", line) for n, line in enumerate(values)]
    size = len(values[0])
    times = [BEGIN + 60 * n for n in range(size)]
    is_gap = gaps or [all(line[n] is None for line in values) for n in range(size)]
    return parse(render(Chart(name, title, unit, times, 60, lines, is_gap, is_stacked=is_stacked)))


def parse(markup):
    return ET.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))


def paths(figure, kind):
    """The drawn paths of a kind, without the legend's."""
    [drawing] = figure.findall(f"{SVG}svg/{SVG}svg")
    return [path for path in drawing if path.get("class").startswith(kind)]


def texts(figure, kind):
    return [text.text for text in figure.iter(f"{SVG}text") if text.get("class") == kind]


def rows(figure):
    return [[cell.text for cell in row] for row in figure.iter("tr")]


def test_a_line_breaks_at_a_gap():
    """Values on both sides of a gap are not connected; the gap is an area, and a row of the table."""
    figure = chart([1, 2, None, None, 3, 1])
    [line] = paths(figure, "line")
    assert line.get("d").count("M") == 2
    [gap] = paths(figure, "gap")
    assert gap.get("d") == "M333.3 0H666.7V150H333.3z"
    assert rows(figure)[3] == ["08:02 to 08:04", "no samples"]
    assert rows(figure)[4] == ["08:04", "3"]


def test_a_single_value_is_a_point():
    """It is drawn, with round ends, though it has no neighbor."""
    [line] = paths(chart([None, 7, None]), "line")
    assert re.fullmatch(r"M500 [\d.]+h0", line.get("d"))


def test_columns_are_stacked():
    """The second one stands on the first; the axis has room for both; the smallest value is seen."""
    first, second = paths(chart([40, 0], [40, 0.001], is_stacked=True), "column")
    assert first.get("d") == "M50 75H450V150H50z"
    assert second.get("d") == "M50 0H450V75H50zM550 149H950V150H550z"


def test_nothing_but_zeros():
    """A line at the bottom, an axis that is not empty, no division by zero."""
    figure = chart([0, 0, 0])
    assert paths(figure, "line")[0].get("d").startswith("M166.7 150h0")
    assert texts(figure, "value") == ["1", "2"]


@pytest.mark.parametrize("values", [[None, None], []])
def test_nothing_at_all(values):
    """A sentence, no picture."""
    figure = chart(values, gaps=[True] * len(values))
    assert figure.find(f"{SVG}svg") is None
    assert "No samples yet" in figure.find("p").text


@pytest.mark.parametrize(
    ("unit", "largest", "labels"),
    [
        (charts.COUNT, 1, ["1", "2"]),
        (charts.COUNT, 7, ["4", "8"]),
        (charts.COUNT, 1234, ["1k", "2k"]),
        (charts.COUNT, 999_999, ["500k", "1M"]),
        (charts.COUNT, 2**62, ["3,000,000T", "6,000,000T"]),
        (charts.DURATION, 0.5, ["1 s", "2 s"]),
        (charts.DURATION, 45, ["30 s", "1 min"]),
        (charts.DURATION, 1500, ["15 min", "30 min"]),
        (charts.DURATION, 86_400, ["12 h", "1 d"]),
        (charts.DURATION, 300_000, ["2 d", "4 d"]),
        (charts.USD, 0.00005, ["$0.0001", "$0.0002"]),
        (charts.USD, 0.03, ["$0.02", "$0.04"]),
        (charts.USD, 5, ["$3.00", "$6.00"]),
        (charts.USD, 123_456, ["$100k", "$200k"]),
    ],
)
def test_axes_have_round_numbers(unit, largest, labels):
    """Short, and the largest value fits."""
    figure = chart([0, largest], unit=unit)
    assert texts(figure, "value") == labels
    lowest = min(
        float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", paths(figure, "line")[0].get("d"))
    )
    assert lowest >= 0


@pytest.mark.parametrize(("count", "step"), [(120, 60), (96, 1800), (90, 86_400), (1, 60)])
def test_times_are_few_and_round(count, step):
    """At most five, each with the moment for scripts, within the picture."""
    times = [BEGIN // step * step + step * n for n in range(count)]
    line = Line("jobs", "jobs", [1] * count)
    figure = parse(
        render(Chart("jobs", "Jobs", charts.COUNT, times, step, [line], [False] * count))
    )
    labels = [text for text in figure.iter(f"{SVG}text") if text.get("class") == "time"]
    assert len(labels) <= 5
    assert all(0 <= float(text.get("x").rstrip("%")) <= 100 for text in labels)
    assert all(text.get("data-time").endswith("Z") for text in labels)


def test_texts_are_escaped():
    """A title that is markup is text."""
    figure = chart([1], title='<script>"&', name="a")
    assert figure.find("figcaption").text == '<script>"&'


def _queue(*numbers):
    return Samples(
        "2h",
        BEGIN + 7200,
        [
            Sample(
                BEGIN + 60 * n, (n * number,) * len(SAMPLED_COUNTERS), (number,) * 5, n * number, 0,
                {0: number}, {BUCKETS - 1: number},
            )
            for n, number in enumerate(numbers, start=60)
            if number is not None
        ],
    ).series()  # fmt: skip


@pytest.mark.parametrize(
    "numbers", [(), (0,), (0, 0, 0), (5, None, 5, 5), (5, 5), (10**15,) * 4, (5, 1, 0)]
)
def test_all_charts_of_a_queue(numbers):
    """Well formed; unique ids; no style, no script; each picture has a title and a summary."""
    figures = [parse(markup) for markup in queue_charts(_queue(*numbers))]
    assert len(figures) == 5
    elements = [element for figure in figures for element in figure.iter()]
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    assert not [e for e in elements if e.get("style") or e.tag.endswith("script")]
    assert not [name for e in elements for name in e.attrib if name.startswith("on")]
    for figure in figures:
        for picture in figure.findall(f"{SVG}svg"):
            assert picture.get("role") == "img"
            assert {picture.get("aria-labelledby"), picture.get("aria-describedby")} <= set(ids)
            assert picture.find(f"{SVG}desc").text


def test_the_style_sheet_has_every_class():
    """No line or column is without a color."""
    sheet = (ROOT / "aragora_q/web/static/style.css").read_text()
    drawn = {
        name
        for markup in queue_charts(_queue(5, 5, None, 5, 5))
        for names in re.findall(r'<path class="([^"]+)"', str(markup))
        for name in names.split()
    }
    assert [name for name in sorted(drawn) if f".chart .{name}" not in sheet] == []


def plot(*points):
    """A scatter as a tree, its labels as rectangles at a width in pixels, and its points there."""
    figure = parse(scatter(Scatter("s", "Accuracy", "cost", charts.USD, points, "nothing")))

    def at(width, kind):
        places = []
        for mark in figure.iter(f"{SVG}svg"):
            if not (mark.get("x") or "").endswith("%"):
                continue
            left = float(mark.get("x")[:-1]) * width / 100
            circle, text = mark.find(f"{SVG}circle"), mark.find(f"{SVG}text")
            if kind == "point":
                places.append((left + float(circle.get("cx")), float(circle.get("cy"))))
                continue
            anchor, length = left + float(text.get("x")), 7.2 * len(text.text)
            begin = anchor if text.get("text-anchor") == "start" else anchor - length
            places.append((begin, begin + length, float(text.get("y"))))
        return places

    return figure, at


ARMS = [
    [("one", 0.001, 0.6), ("samples", 0.004, 0.7), ("vote", 0.0041, 0.7), ("debate", 0.0042, 0.7)],
    [(f"arm-{n}-of-a-very-long-name-that-ends-{n}", 0, 0.5) for n in range(20)],
    [(f"a{n}", n % 7 / 7, n / 30) for n in range(30)],
    [("x" * 48, 1, 1), ("y" * 48, 0.5, 1), ("z" * 48, 0, 1), ("w" * 48, 1, 0)],
]


@pytest.mark.parametrize("width", [330, 700, 1300])
@pytest.mark.parametrize("arms", ARMS, ids=["usual", "equal", "many", "long"])
def test_labels_of_a_scatter_do_not_overlap(arms, width):
    """At any width, no name is over another or cut off, and no two points are at one place."""
    _, at = plot(*(Point(name, x, y, (y, y)) for name, x, y in arms))
    labels, points = at(width, "label"), at(width, "point")
    assert len(labels) == len(arms)
    for n, (begin, end, y) in enumerate(labels):
        assert begin >= 0
        assert end <= width
        for other_begin, other_end, other_y in labels[:n]:
            assert abs(y - other_y) >= 14 or end <= other_begin or other_end <= begin
    assert len({(round(x, 1), y) for x, y in points}) == len(arms)


def test_a_scatter_of_decades_is_logarithmic():
    """Costs that are far apart all have a place of their own, with a decade as label; a free one needs 0."""
    costs = (0.00001, 0.0003, 0.01, 1.2)
    figure, at = plot(*(Point(f"a{n}", cost, 0.5) for n, cost in enumerate(costs)))
    places = [x for x, _ in at(1000, "point")]
    assert all(after - before > 100 for before, after in itertools.pairwise(places))
    words = "".join(figure.itertext())
    assert "logarithmic" in words
    assert "$0.00001" in words
    linear, _ = plot(Point("free", 0, 0.5), Point("dear", 1.2, 0.5))
    assert "logarithmic" not in "".join(linear.itertext())


def test_a_scatter_says_its_numbers():
    """Its description has each share, its interval and what it takes; a name is text, whatever it is."""
    figure, _ = plot(Point("<b>", 0.002, 0.75, (0.5, 0.9)), Point("no interval", 0, 1))
    described = figure.find(f"{SVG}svg/{SVG}desc").text
    assert "<b>: 75% (50% to 90%), cost $0.0020." in described
    assert "no interval: 100%, cost $0." in described
    assert "style=" not in str(ET.tostring(figure))
    empty = parse(scatter(Scatter("s", "Accuracy", "cost", charts.USD, [], "nothing yet")))
    assert empty.find("p").text == "nothing yet"
