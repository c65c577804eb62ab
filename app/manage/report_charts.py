"""Charts as inline SVG: no script, no file, colours from the page's style sheet.

Everything that is drawn is escaped: labels come from documents.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

WIDTH: Final = 480
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
MATRIX: Final = 40  # labels in a confusion matrix: those with the most mistakes
UNSAFE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Point = tuple[float, float]


def esc(value: object, most: int = 400) -> str:
    """Text for an element or an attribute: cut, escaped, without what no page may hold."""
    text = str(value)
    text = text if len(text) <= most else text[: most - 1] + "…"
    return html.escape(UNSAFE.sub("\ufffd", text))


def finite(value: object) -> float | None:
    """A number that can be drawn, or nothing."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None  # type: ignore[arg-type]


def line_chart(series: Mapping[str, tuple[str, Sequence[Point]]], x_name: str, y_name: str) -> str:
    """Lines over a common x; by name a CSS class and its points. Both axes begin at 0."""
    points = [p for _, line in series.values() for p in line]
    right = max((x for x, _ in points), default=1.0) or 1.0
    top = _round_up(max((y for _, y in points), default=1.0) or 1.0)
    drawn = []
    for name, (kind, line) in series.items():
        places = " ".join(f"{_x(x / right):.1f},{_y(y / top):.1f}" for x, y in line)
        drawn.append(f'<polyline class="{kind}" points="{places}"><title>{esc(name)}</title>')
        drawn.append("</polyline>")
        if len(line) <= 50:
            drawn += [
                f'<circle class="{kind}" cx="{_x(x / right):.1f}" cy="{_y(y / top):.1f}" r="3">'
                f"<title>{esc(name)}: {y:.4f}</title></circle>"
                for x, y in line
            ]
    return _svg(_axes(right, top, x_name, y_name) + "".join(drawn), f"{y_name} over {x_name}")


def reliability_chart(bins: Iterable[Mapping[str, Any]]) -> str:
    """Accuracy in each bin of confidence as a bar; the diagonal is where both agree."""
    drawn = []
    for one in bins:
        low, high, seen = float(one["low"]), float(one["high"]), float(one["confidence"])
        right, rows = float(one["accuracy"]), int(one["rows"])
        left, top = _x(low) + 1, _y(right)
        deep = " deep" if right > 0.1 else ""
        said = f"{rows} rows, confidence {seen:.3f}, accuracy {right:.3f}"
        drawn.append(
            f'<g><title>{said}</title><rect class="bar" x="{left:.1f}" y="{top:.1f}" '
            f'width="{_x(high) - left - 1:.1f}" height="{_y(0) - top:.1f}"/>'
            f'<circle class="held" cx="{_x(seen):.1f}" cy="{top:.1f}" r="3"/>'
            f'<text class="count{deep}" x="{(left + _x(high)) / 2:.1f}" y="{_y(0) - 7}">'
            f"{rows}</text></g>"
        )
    diagonal = f'<line class="even" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    axes = _axes(1.0, 1.0, "confidence", "accuracy")
    return _svg(axes + "".join(drawn) + diagonal, "Accuracy by confidence")


def bar(value: float, mark: float | None) -> str:
    """A bar of 0 to 1 across a table's cell, with a mark where another model stands."""
    tick = ""
    if mark is not None:
        tick = (
            f'<rect class="mark" x="{min(max(mark, 0), 1) * 99:.1f}" y="0" width="1" height="8"/>'
        )
    return (
        '<svg class="f1" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" x="0" y="1" width="100" height="6"/>'
        f'<rect class="bar" x="0" y="1" width="{min(max(value, 0), 1) * 100:.1f}" height="6"/>'
        f"{tick}</svg>"
    )


def shown_labels(pairs: Iterable[tuple[str, str, int]]) -> tuple[list[str], int]:
    """The labels of a matrix in order: those with most mistakes, if not all fit; and of how many.

    ``pairs``: (truth, said, rows).
    """
    wrong: dict[str, int] = {}
    for truth, said, rows in pairs:
        for label in (truth, said):
            wrong[label] = wrong.get(label, 0) + (rows if truth != said else 0)
    most = sorted(wrong, key=lambda label: (-wrong[label], label))[:MATRIX]
    return sorted(most), len(wrong)


def matrix(pairs: Sequence[tuple[str, str, int]], labels: Sequence[str]) -> str:
    """A confusion matrix: a row for each true label, darker the larger its share of that row."""
    side = 26 if len(labels) <= 16 else 18
    margin = 12 + min(max((len(label) for label in labels), default=0), 20) * 7
    place = {label: i for i, label in enumerate(labels)}
    totals: dict[str, int] = {}
    for truth, _, rows in pairs:
        totals[truth] = totals.get(truth, 0) + rows
    cells = []
    for truth, said, rows in pairs:
        if truth not in place or said not in place:
            continue
        share, x, y = rows / totals[truth], margin + place[said] * side, place[truth] * side
        kind = "right" if truth == said else "wrong"
        deep = " deep" if share > 0.55 else ""
        cells.append(
            f"<g><title>{esc(truth)} answered as {esc(said)}: {rows} of {totals[truth]}</title>"
            f'<rect class="{kind}" x="{x + 1}" y="{y + 1}" width="{side - 2}" height="{side - 2}" '
            f'fill-opacity="{0.12 + 0.88 * share:.2f}"/><text class="count{deep}" '
            f'x="{x + side / 2}" y="{y + side / 2 + 4}">{rows}</text></g>'
        )
    size = side * len(labels)
    names = []
    for i, label in enumerate(labels):
        middle = i * side + side / 2 + 4
        turned = f"translate({margin + middle} {size + 8}) rotate(-90)"
        name = esc(label, 20)
        names.append(f'<text class="end" x="{margin - 6}" y="{middle}">{name}</text>')
        names.append(f'<text class="end" transform="{turned}">{name}</text>')
    frame = f'<rect class="frame" x="{margin}" y="0" width="{size}" height="{size}"/>'
    width, height = margin + size + 2, size + margin + 4
    return (
        f'<svg class="matrix" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="Confusion matrix">{frame}{"".join(cells + names)}</svg>'
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - min(share, 1.0) * (HEIGHT - TOP - BOTTOM)


def _axes(right: float, top: float, x_name: str, y_name: str) -> str:
    parts = []
    whole = ".0f" if right >= 4 else ".2g"
    for i in range(5):
        x, y = _x(i / 4), _y(i / 4)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4}">{top * i / 4:.3g}</text>')
        anchor = "end" if i == 4 else "count"
        parts.append(
            f'<text class="{anchor}" x="{x}" y="{HEIGHT - 18}">{right * i / 4:{whole}}</text>'
        )
    parts.append(f'<text class="count" x="{_x(0.5)}" y="{HEIGHT - 3}">{esc(x_name)}</text>')
    return "".join(parts)


def _round_up(top: float) -> float:
    """The end of an axis whose four parts are round numbers."""
    unit = 10.0 ** math.floor(math.log10(top / 4))
    return 4 * unit * next(n for n in (1, 2, 2.5, 5, 10) if 4 * unit * n >= top * 0.999)


def _svg(content: str, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{esc(title)}">{content}</svg>'
    )
