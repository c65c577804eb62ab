"""What an answer says of its own cost: the same shape for every task."""

from __future__ import annotations

import time


def usage(*, tokens: int, retrieved: int, used: int, new: int = 0) -> dict[str, int]:
    """What was read for a request; ``new``: tokens that were written, by the tasks that write."""
    return {
        "prompt_tokens": tokens,
        "completion_tokens": new,
        "total_tokens": tokens + new,
        "retrieved": retrieved,
        "used": used,
    }


def timing(
    began: float, *, retrieve: float, predict: float, queue: float = 0.0
) -> dict[str, float]:
    """Milliseconds of each part; ``began`` is what ``time.perf_counter`` said at the start."""
    return {
        "queue": round(queue, 3),
        "retrieve": round(retrieve, 3),
        "predict": round(predict, 3),
        "total": round(1000 * (time.perf_counter() - began), 3),
    }
