"""Training curves: a line of JSON for each step, and TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CURVE = "curve.jsonl"


@contextlib.contextmanager
def curve(folder: Path, *, start: int = 0) -> Iterator[Callable[..., None]]:
    """Continue the curve of a run from a step on: a function of a step and of named figures."""
    folder.mkdir(parents=True, exist_ok=True)
    # Points of an epoch that was cut off are recorded again when it is done again.
    points = read_curve(folder, before=start)
    (folder / CURVE).write_text("".join(json.dumps(p) + "\n" for p in points), encoding="utf-8")
    with (folder / CURVE).open("a", encoding="utf-8") as file, _board(folder) as board:

        def add(step: int, **values: float) -> None:
            file.write(json.dumps({"step": step, **values}) + "\n")
            file.flush()
            if board is not None:
                for name, value in values.items():
                    board.add_scalar(name, value, step)

        yield add


def read_curve(folder: Path, *, before: int | None = None) -> list[dict[str, Any]]:
    """The points of a run so far, those of steps up to `before` only; a torn last line is left."""
    path = folder / CURVE
    points: list[dict[str, Any]] = []
    if not path.exists():
        return points
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except ValueError:
            continue
        if before is None or point["step"] <= before:
            points.append(point)
    return points


def thin(points: list[dict[str, Any]], most: int = 400) -> list[dict[str, Any]]:
    """At most so many points of a curve; those with a held-out figure stay."""
    every = -(-len(points) // most) if points else 1
    return [
        p
        for i, p in enumerate(points)
        if i % every == 0 or any(name.startswith("held_out") for name in p)
    ]


def _board(folder: Path) -> contextlib.AbstractContextManager[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra that is not there, or not whole
        return contextlib.nullcontext()
    return SummaryWriter(log_dir=str(folder / "tensorboard"))
