"""Permits: how many inputs may be in the house at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.problems import Problem


class Permits:
    """A bounded count of inputs being answered or waiting. Used on the event loop only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.refused = 0

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Hold ``count`` permits. Raises ``queue-full`` at once when there are not that many.

        A batch larger than the whole queue is let in when nothing else is there.
        """
        if self.taken and self.taken + count > self.capacity:
            raise self.full()
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    def check(self) -> None:
        """Raise ``queue-full`` when no permit is left: asked before a body is even read."""
        if self.taken >= self.capacity:
            raise self.full()

    def full(self) -> Problem:
        """The refusal, counted."""
        self.refused += 1
        return Problem("queue-full", "All places in the queue are taken.", retry_after=1)
