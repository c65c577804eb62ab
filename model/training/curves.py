"""Training curves: a line of JSON for each step, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

CURVE = "curve.jsonl"


class Curve:
    """Appends to `curve.jsonl` in a folder from a step on; a context manager."""

    def __init__(self, folder: Path, *, start: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Points of an epoch that was cut off are written again when it is done again.
        kept = read_curve(folder, before=start)
        (folder / CURVE).write_text("".join(json.dumps(p) + "\n" for p in kept), encoding="utf-8")
        self._file = (folder / CURVE).open("a", encoding="utf-8")
        self._board = _board(folder)

    def __enter__(self) -> Curve:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def add(self, step: int, **values: float) -> None:
        """One point; the names are the columns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


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


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an extra that is not there, or not whole
        return None
    return SummaryWriter(log_dir=str(folder / "tensorboard"))
