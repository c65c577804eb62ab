"""Where everything is in the charts of a report; the templates in ``report/`` draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from app.web.html import cut

WIDTH: Final = 480
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
MATRIX: Final = 40  # labels in a confusion matrix: those with the most mistakes
DOTS: Final = 50  # points of a line up to which each has a dot
Point = tuple[float, float]


class Tick(NamedTuple):
    """A place on both axes: x and y in pixels, and what stands there."""

    x: float
    y: float
    across: str
    up: str


class Frame(NamedTuple):
    """The axes around a chart."""

    title: str
    across: str
    ticks: list[Tick]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT


class Line(NamedTuple):
    """A line of a chart: its CSS class, the places of SVG, and (x, y, value) of each dot."""

    name: str
    kind: str
    places: str
    dots: list[tuple[float, float, float]]


class LineChart(NamedTuple):
    """Lines over a common x."""

    frame: Frame
    lines: list[Line]


class Column(NamedTuple):
    """A bin of confidence: a bar, its dot at the mean confidence, the number of rows."""

    title: str
    x: float
    y: float
    width: float
    height: float
    dot: float
    middle: float
    rows: int
    deep: bool


class ReliabilityChart(NamedTuple):
    """Accuracy by confidence; ``diagonal`` is x and y of both ends, where both agree."""

    frame: Frame
    columns: list[Column]
    diagonal: tuple[float, float, float, float]
    text_y: float


class Cell(NamedTuple):
    """A pair of true label and answer; ``share`` of the rows of that true label."""

    title: str
    kind: str
    x: int
    y: int
    share: float
    rows: int
    deep: bool


class Matrix(NamedTuple):
    """A confusion matrix; ``names`` with the middle of each line."""

    margin: int
    side: int
    size: int
    names: list[tuple[str, float]]
    cells: list[Cell]


def finite(value: object) -> float | None:
    """A number that can be drawn, or nothing."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None  # type: ignore[arg-type]


def line_chart(
    series: Mapping[str, tuple[str, Sequence[Point]]], x_name: str, y_name: str
) -> LineChart:
    """Lines over a common x; by name a CSS class and its points. Both axes begin at 0."""
    points = [p for _, line in series.values() for p in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = _round_up(max((y for _, y in points), default=1.0) or 1.0)
    lines = []
    for name, (kind, line) in series.items():
        dots = [(round(_x(x / right), 1), round(_y(y / top), 1), y) for x, y in line]
        places = " ".join(f"{x},{y}" for x, y, _ in dots)
        lines.append(Line(name, kind, places, dots if len(dots) <= DOTS else []))
    return LineChart(_frame(f"{y_name} over {x_name}", x_name, right, top), lines)


def reliability_chart(bins: Iterable[Mapping[str, Any]]) -> ReliabilityChart:
    """Accuracy in each bin of confidence as a bar; the diagonal is where both agree."""
    columns = []
    for one in bins:
        low, high, seen = float(one["low"]), float(one["high"]), float(one["confidence"])
        right, rows = float(one["accuracy"]), int(one["rows"])
        left, top = _x(low) + 1, _y(right)
        columns.append(
            Column(
                f"{rows} rows, confidence {seen:.3f}, accuracy {right:.3f}",
                round(left, 1),
                round(top, 1),
                round(_x(high) - left - 1, 1),
                round(_y(0) - top, 1),
                round(_x(seen), 1),
                round((left + _x(high)) / 2, 1),
                rows,
                right > 0.1,
            )
        )
    frame = _frame("Accuracy by confidence", "confidence", 1.0, 1.0)
    return ReliabilityChart(frame, columns, (_x(0), _y(0), _x(1), _y(1)), _y(0) - 7)


def shown_labels(pairs: Iterable[tuple[str, str, int]]) -> tuple[list[str], int]:
    """The labels of a matrix in order: those with most mistakes, if not all fit; and of how many.

    ``pairs``: (truth, answer, rows).
    """
    wrong: dict[str, int] = {}
    for truth, answer, rows in pairs:
        for label in (truth, answer):
            wrong[label] = wrong.get(label, 0) + (rows if truth != answer else 0)
    most = sorted(wrong, key=lambda label: (-wrong[label], label))[:MATRIX]
    return sorted(most), len(wrong)


def matrix(pairs: Sequence[tuple[str, str, int]], labels: Sequence[str]) -> Matrix:
    """A confusion matrix: a row for each true label, darker the larger its share of that row."""
    side = 26 if len(labels) <= 16 else 18
    margin = 12 + min(max((len(label) for label in labels), default=0), 20) * 7
    place = {label: i for i, label in enumerate(labels)}
    totals: dict[str, int] = {}
    for truth, _, rows in pairs:
        totals[truth] = totals.get(truth, 0) + rows
    cells = [
        Cell(
            f"{cut(truth)} answered as {cut(answer)}: {rows} of {totals[truth]}",
            "right" if truth == answer else "wrong",
            margin + place[answer] * side,
            place[truth] * side,
            rows / totals[truth],
            rows,
            rows / totals[truth] > 0.55,
        )
        for truth, answer, rows in pairs
        if truth in place and answer in place
    ]
    names = [(cut(label, 20), i * side + side / 2 + 4) for i, label in enumerate(labels)]
    return Matrix(margin, side, side * len(labels), names, cells)


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - min(share, 1.0) * (HEIGHT - TOP - BOTTOM)


def _frame(title: str, across: str, right: float, top: float) -> Frame:
    whole = ".0f" if right >= 4 else ".2g"
    ticks = [
        Tick(_x(i / 4), _y(i / 4), f"{right * i / 4:{whole}}", f"{top * i / 4:.3g}")
        for i in range(5)
    ]
    return Frame(title, across, ticks)


def _round_up(top: float) -> float:
    """The end of an axis whose four parts are round numbers."""
    unit = 10.0 ** math.floor(math.log10(top / 4))
    return 4 * unit * next(n for n in (1, 2, 2.5, 5, 10) if 4 * unit * n >= top * 0.999)
