"""Plots of a report of `benchmarks.language_model`: ``python -m benchmarks.language_model_plots``.

Three SVG files: the comparisons with their intervals, the same by class of token, and the loss in
training over compute. Nothing is drawn that is not in the report or in a curve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 430, 120, 20, 46
COLOURS = ("#1f5fa8", "#c4531b", "#2b8a3e", "#7048a8", "#8a6d1d", "#b02a5b", "#4a5568")
STYLE = "font-family:sans-serif;font-size:12px;fill:#222"
Row = tuple[str, float, float, float]
MEAN = 20


def forest(title: str, rows: Sequence[Row], unit: str) -> str:
    """A dot and an interval a row: name, value, low, high; the line at 0 is no difference."""
    low = min([0.0, *(row[2] for row in rows)])
    high = max([0.0, *(row[3] for row in rows)])
    room = WIDTH - LEFT - RIGHT
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return LEFT + room * (value - low) / span

    height = TOP + ROW * len(rows) + 24
    parts = [_text(8, 20, title, weight="bold"), _text(8, 36, unit)]
    parts.append(
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 6}" y2="{height - 20}" '
        'stroke="#888" stroke-dasharray="3 3"/>'
    )
    for i, (name, value, least, most) in enumerate(rows):
        y = TOP + ROW * i + 8
        sure = least > 0 or most < 0
        colour = COLOURS[0] if sure and most < 0 else COLOURS[1] if sure else "#777"
        parts.append(_text(8, y + 4, name))
        parts.append(
            f'<line x1="{x(least):.1f}" x2="{x(most):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="{colour}"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 8, y + 4, f"{value:+.2f} [{least:+.2f}, {most:+.2f}]"))
    return _svg(height, parts)


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The loss over compute, a line a model."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return _svg(60, [_text(8, 20, title, weight="bold"), _text(8, 40, "no points")])
    right = max(p[0] for p in points) or 1.0
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    high = high if high > low else low + 1.0

    def place(x: float, y: float) -> str:
        return f"{60 + 620 * x / right:.1f},{40 + 300 * (high - y) / (high - low):.1f}"

    parts = [_text(8, 20, title, weight="bold")]
    parts += [_text(8, 44, f"{high:.2f}"), _text(8, 344, f"{low:.2f}")]
    parts.append(_text(560, 366, f"{right:.3g} PFLOP"))
    for i, (name, line) in enumerate(sorted(lines.items())):
        colour = COLOURS[i % len(COLOURS)]
        drawn = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(690, 56 + 18 * i, name, colour=colour))
    return _svg(380, parts)


def comparison_rows(report: Mapping[str, Any], model: str, kind: str) -> list[Row]:
    """One class of token of each source: the model on, against each rival."""
    rows = []
    for source, found in report.items():
        if source == "models":
            continue
        for name, by_kind in found["comparisons"].items():
            if name.startswith(f"{model}, on - ") and kind in by_kind:
                rows.append(_row(f"{source}: {name}", by_kind[kind]))
    return rows


def class_rows(report: Mapping[str, Any], model: str, rival: str) -> list[Row]:
    """All classes of token of each source: the model on, against one rival."""
    return [
        _row(f"{source}: {kind}", one)
        for source, found in report.items()
        if source != "models"
        for kind, one in found["comparisons"].get(f"{model}, on - {rival}", {}).items()
        if one["tokens"] > 0
    ]


def curve_points(folder: Path, model: str) -> list[tuple[float, float]]:
    """(PFLOP, nats a token, mean of MEAN points) as a trained model's own report has them."""
    report = json.loads((folder / model / "report.json").read_text(encoding="utf-8"))
    step = report["flops_a_token"] * report["tokens"] / max(report["step"], 1) / 1e15
    points = [p for p in report["curve"] if "loss" in p]
    return [
        ((points[i]["step"] + 1) * step, fmean(p["loss"] for p in points[i + 1 - MEAN : i + 1]))
        for i in range(2 * MEAN, len(points))  # the first steps would take all of the height
    ]


def _row(name: str, one: Mapping[str, float]) -> Row:
    return (name, one["perplexity_percent"], one["percent_low"], one["percent_high"])


def _text(x: float, y: float, said: str, weight: str = "normal", colour: str = "#222") -> str:
    return (
        f'<text x="{x}" y="{y}" style="{STYLE};font-weight:{weight};fill:{colour}">'
        f"{escape(said)}</text>"
    )


def _svg(height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 80} {height}" '
        f'width="{WIDTH + 80}" height="{height}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with report.json and the models")
    parser.add_argument("--model", default="copy")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    report = json.loads((given.folder / "report.json").read_text(encoding="utf-8"))
    unit = "change of perplexity in per cent, 95 % interval over documents; below 0: better"
    drawn = {
        "comparisons": forest(
            f"{given.model} with retrieval on, without leaks",
            comparison_rows(report, given.model, "without leaks"),
            unit,
        ),
        "classes": forest(
            f"{given.model}, on against off, by class of token",
            class_rows(report, given.model, f"{given.model}, off"),
            unit,
        ),
        "curves": curves(
            f"loss in training (nats a token, mean of {MEAN} points) over compute",
            {m: curve_points(given.folder, m) for m in report["models"]},
        ),
    }
    for name, svg in drawn.items():
        path = given.out / f"language-model-{name}.svg"
        path.write_text(svg, encoding="utf-8")
    print(json.dumps([f"language-model-{name}.svg" for name in drawn]))


if __name__ == "__main__":
    main()
