"""Admission: how many inputs may be in flight at once."""

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
        """Hold ``count`` permits. Raises ``queue-full`` at once when too few are left.

        A batch larger than the whole queue is admitted when nothing else is in flight.
        """
        if self.taken and self.taken + count > self.capacity:
            raise self.full()
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    def check(self) -> None:
        """Raise ``queue-full`` when no permit is left. Called before a body is read."""
        if self.taken >= self.capacity:
            raise self.full()

    def full(self) -> Problem:
        """The refusal, counted."""
        self.refused += 1
        return Problem(
            "queue-full", "All places in the queue are taken. Retry later.", retry_after=1
        )
