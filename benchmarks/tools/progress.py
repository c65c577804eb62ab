"""How far a benchmark's training is."""

from __future__ import annotations

import json
import time


class Line:
    """Prints a line a minute, and the last; to be called as training's `progress`."""

    def __init__(self, name: str) -> None:
        self.name, self.shown = name, time.monotonic()

    def __call__(self, step: int, total: int, loss: float | None, left: float | None) -> None:
        if time.monotonic() - self.shown > 60 or step == total:
            self.shown = time.monotonic()
            said = {"run": self.name, "step": step, "of": total, "loss": round(loss or 0, 4)}
            print(json.dumps(said | {"seconds_left": round(left or 0)}), flush=True)
