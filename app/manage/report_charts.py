"""Where everything is in the charts of a report; the templates in ``report/`` draw them as SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from app.web.html import cut

WIDTH: Final = 480
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
MATRIX: Final = 40  # labels in a confusion matrix: those with the most mistakes
DOTS: Final = 50  # points of a line up to which each has a dot
Point = tuple[float, float]
Chart = dict[str, Any]  # what a template draws, in pixels


def finite(value: object) -> float | None:
    """A number that can be drawn, or nothing."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None  # type: ignore[arg-type]


def line_chart(
    series: Mapping[str, tuple[str, Sequence[Point]]], x_name: str, y_name: str
) -> Chart:
    """Lines over a common x; by name a CSS class and its points. Both axes begin at 0."""
    points = [p for _, line in series.values() for p in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = _round_up(max((y for _, y in points), default=1.0) or 1.0)
    lines = []
    for name, (kind, line) in series.items():
        dots = [(round(_x(x / right), 1), round(_y(y / top), 1), y) for x, y in line]
        path = " ".join(f"{x},{y}" for x, y, _ in dots)
        shown = dots if len(dots) <= DOTS else []
        lines.append({"name": name, "kind": kind, "path": path, "dots": shown})
    return {"frame": _frame(f"{y_name} over {x_name}", x_name, right, top), "lines": lines}


def reliability_chart(bins: Iterable[Mapping[str, Any]]) -> Chart:
    """Accuracy in each bin of confidence as a bar; the diagonal is where both agree."""
    columns = []
    for one in bins:
        low, high, mean = float(one["low"]), float(one["high"]), float(one["confidence"])
        accuracy, rows = float(one["accuracy"]), int(one["rows"])
        left, top = _x(low) + 1, _y(accuracy)
        columns.append(
            {
                "title": f"{rows} rows, confidence {mean:.3f}, accuracy {accuracy:.3f}",
                "x": round(left, 1),
                "y": round(top, 1),
                "width": round(_x(high) - left - 1, 1),
                "height": round(_y(0) - top, 1),
                "dot": round(_x(mean), 1),
                "middle": round((left + _x(high)) / 2, 1),
                "rows": rows,
                "deep": accuracy > 0.1,
            }
        )
    return {
        "frame": _frame("Accuracy by confidence", "confidence", 1.0, 1.0),
        "columns": columns,
        "diagonal": (_x(0), _y(0), _x(1), _y(1)),
        "text_y": _y(0) - 7,
    }


def shown_labels(pairs: Iterable[tuple[str, str, int]]) -> tuple[list[str], int]:
    """The labels of a matrix in order: those with most mistakes, if not all fit; and of how many.

    ``pairs``: (truth, answer, rows).
    """
    wrong: Counter[str] = Counter()
    for truth, answer, rows in pairs:
        for label in (truth, answer):
            wrong[label] += rows if truth != answer else 0
    most = sorted(wrong, key=lambda label: (-wrong[label], label))[:MATRIX]
    return sorted(most), len(wrong)


def matrix(pairs: Sequence[tuple[str, str, int]], labels: Sequence[str]) -> Chart:
    """A confusion matrix: a row for each true label, darker the larger its share of that row."""
    side = 26 if len(labels) <= 16 else 18
    margin = 12 + min(max((len(label) for label in labels), default=0), 20) * 7
    place = {label: i for i, label in enumerate(labels)}
    totals: Counter[str] = Counter()
    for truth, _, rows in pairs:
        totals[truth] += rows
    cells = [
        {
            "title": f"{cut(truth)} answered as {cut(answer)}: {rows} of {totals[truth]}",
            "kind": "right" if truth == answer else "wrong",
            "x": margin + place[answer] * side,
            "y": place[truth] * side,
            "share": rows / totals[truth],
            "rows": rows,
        }
        for truth, answer, rows in pairs
        if truth in place and answer in place
    ]
    names = [(cut(label, 20), i * side + side / 2 + 4) for i, label in enumerate(labels)]
    size = side * len(labels)
    return {"margin": margin, "side": side, "size": size, "names": names, "cells": cells}


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - min(share, 1.0) * (HEIGHT - TOP - BOTTOM)


def _frame(title: str, across: str, right: float, top: float) -> Chart:
    whole = ".0f" if right >= 4 else ".2g"
    ticks = [
        {
            "x": _x(i / 4),
            "y": _y(i / 4),
            "across": f"{right * i / 4:{whole}}",
            "up": f"{top * i / 4:.3g}",
        }
        for i in range(5)
    ]
    size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT}
    return {"title": title, "across": across, "ticks": ticks, **size}


def _round_up(top: float) -> float:
    """The end of an axis whose four parts are round numbers."""
    unit = 10.0 ** math.floor(math.log10(top / 4))
    return 4 * unit * next(n for n in (1, 2, 2.5, 5, 10) if 4 * unit * n >= top * 0.999)
