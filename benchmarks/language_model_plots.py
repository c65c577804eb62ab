"""Plots of a report of `benchmarks.language_model`: ``python -m benchmarks.language_model_plots``.

Three SVG files: the comparisons with their intervals, the same by class of token, and the loss in
training over compute. Nothing is drawn that is not in the report or in a curve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.tools.plots import Row, curves, forest, save

MEAN = 20


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
            "PFLOP",
        ),
    }
    for name, plot in drawn.items():
        save(plot, given.out / f"language-model-{name}.svg")
    print(json.dumps([f"language-model-{name}.svg" for name in drawn]))


if __name__ == "__main__":
    main()
