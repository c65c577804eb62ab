"""Plots as SVG files by matplotlib (the extra `bench`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, ROW = 11.0, 0.27  # inches
BETTER, WORSE, EQUAL = "#1f5fa8", "#c4531b", "#777777"
Row = tuple[str, float, float, float]
# The same report gives the same file: ids from a fixed salt, text as text.
mpl.rcParams.update({"svg.hashsalt": "footnote", "svg.fonttype": "none", "font.size": 9})


def blank(title: str, height: float) -> tuple[Figure, Axes]:
    """A new figure so many inches high, and its axes, which have a left and a lower line."""
    figure = Figure((WIDTH, height), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def forest(title: str, rows: Sequence[Row], unit: str, *, higher_is_better: bool = False) -> Figure:
    """A dot and an interval a row: name, value, low, high; the line at 0 is no difference.

    Blue: the whole interval is better than no difference, orange: worse.
    """
    figure, left = blank(title, 1.0 + ROW * len(rows))
    left.axvline(0, color="#888888", linestyle="--", linewidth=1)
    for y, (_, value, low, high) in enumerate(rows):
        better, worse = (low > 0, high < 0) if higher_is_better else (high < 0, low > 0)
        colour = BETTER if better else WORSE if worse else EQUAL
        left.plot([low, high], [y, y], color=colour, linewidth=2)
        left.plot([value], [y], "o", color=colour)
    right = left.twinx()  # the numbers, at the right of their rows
    for side, labels in (
        (left, [name for name, *_ in rows]),
        (right, [f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for _, value, low, high in rows]),
    ):
        side.set_ylim(len(rows) - 0.5, -0.5)
        side.set_yticks(range(len(rows)), labels)
        side.tick_params(axis="y", length=0)
    right.spines[:].set_visible(False)
    left.set_xlabel(unit)
    return figure


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> Figure:
    """Points (x, y) joined by a line, one line a name; `unit` is that of x."""
    figure, axes = blank(title, 4.5)
    for name, points in sorted(lines.items()):
        axes.plot([x for x, _ in points], [y for _, y in points], label=name)
    if lines:
        axes.legend(frameon=False)
    axes.set_xlabel(unit)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, without the date."""
    figure.savefig(path, format="svg", metadata={"Date": None})
