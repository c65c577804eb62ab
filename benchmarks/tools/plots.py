"""Plots as SVG files: figures with their intervals, a dot and a line a row."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 860, 430, 120, 20, 46
COLOURS = ("#1f5fa8", "#c4531b", "#2b8a3e", "#7048a8", "#8a6d1d", "#b02a5b", "#4a5568")
STYLE = "font-family:sans-serif;font-size:12px;fill:#222"
Row = tuple[str, float, float, float]


def forest(title: str, rows: Sequence[Row], unit: str, *, higher_is_better: bool = False) -> str:
    """A dot and an interval a row: name, value, low, high; the line at 0 is no difference.

    Blue: surely better than no difference, orange: surely worse.
    """
    low = min([0.0, *(row[2] for row in rows)])
    high = max([0.0, *(row[3] for row in rows)])
    room = WIDTH - LEFT - RIGHT
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return LEFT + room * (value - low) / span

    height = TOP + ROW * len(rows) + 24
    parts = [text(8, 20, title, weight="bold"), text(8, 36, unit)]
    parts.append(
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 6}" y2="{height - 20}" '
        'stroke="#888" stroke-dasharray="3 3"/>'
    )
    for i, (name, value, least, most) in enumerate(rows):
        y = TOP + ROW * i + 8
        above, below = least > 0, most < 0
        better, worse = (above, below) if higher_is_better else (below, above)
        colour = COLOURS[0] if better else COLOURS[1] if worse else "#777"
        parts.append(text(8, y + 4, name))
        parts.append(
            f'<line x1="{x(least):.1f}" x2="{x(most):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="{colour}"/>'
        )
        parts.append(text(WIDTH - RIGHT + 8, y + 4, f"{value:+.2f} [{least:+.2f}, {most:+.2f}]"))
    return svg(height, parts)


def text(x: float, y: float, said: str, weight: str = "normal", colour: str = "#222") -> str:
    """A line of text at a place in pixels, escaped."""
    return (
        f'<text x="{x}" y="{y}" style="{STYLE};font-weight:{weight};fill:{colour}">'
        f"{escape(said)}</text>"
    )


def svg(height: int, parts: Sequence[str]) -> str:
    """A whole file of such parts, so many pixels high."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 80} {height}" '
        f'width="{WIDTH + 80}" height="{height}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
