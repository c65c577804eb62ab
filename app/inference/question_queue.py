"""The queue of questions for the model: one forward pass reads passages of several of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.inference.batching import similar_lengths
from app.inference.model_thread import fail
from app.metrics import BatchStats, Observe

if TYPE_CHECKING:
    from model.qa.answers import SpanAnswer
    from model.qa.evidence import PassageText, QaReading
    from model.qa.pairs import Pair
    from model.reader import Reader

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 2_048  # of passages that are read between two looks at the other queues


@dataclass(slots=True, eq=False)
class QaJob:
    """A question over passages for a head; ``progress``: how far its passages are read."""

    text: str
    passages: Sequence[PassageText]
    head: str
    future: Future[SpanAnswer] = field(default_factory=Future)
    progress: QaReading | None = None


class QuestionQueue:
    """Questions in the order they came. Only :attr:`waiting` is touched by other threads.

    Args:
        lock: Held by whoever touches :attr:`waiting`.
        batch_tokens: Padded tokens of one forward pass.
        observe: Called with every batch.
    """

    def __init__(self, lock: threading.Condition, batch_tokens: int, observe: Observe) -> None:
        self.waiting: deque[QaJob] = deque()
        self._lock = lock
        self._most = min(batch_tokens, ANSWER_TOKENS)
        self._observe = observe

    def read_some(self, reader: Reader) -> None:
        """One forward pass over passages of the questions that wait, the oldest first."""
        began = time.perf_counter()
        try:
            batch, readings = self._next_pairs(reader)
            for run in similar_lengths([len(pair.ids) for _, _, pair in batch]):
                group = [batch[i] for i in run]
                logits = reader.spans(group[0][0].head).read([pair for _, _, pair in group])
                for (_, reading, pair), read in zip(group, logits, strict=True):
                    reading.put(pair, read)
            results = [
                (entry, reader.spans(entry.head).answer(reading))
                for entry, reading in readings
                if reading.whole
            ]
        except Exception as error:  # raised to each that waits; the thread goes on
            logger.exception("reading passages failed")
            with self._lock:
                waiting = list(self.waiting)
                self.waiting.clear()
            for entry in waiting:
                fail(entry.future, error)
            return
        if batch:
            self._observe(BatchStats("answer", len(batch), time.perf_counter() - began))
        for entry, result in results:
            self._drop(entry)
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_result(result)

    def _drop(self, entry: QaJob) -> None:
        with self._lock:
            self.waiting.remove(entry)

    def _next_pairs(
        self, reader: Reader
    ) -> tuple[list[tuple[QaJob, QaReading, Pair]], list[tuple[QaJob, QaReading]]]:
        """Pairs within the budget, all of one head, and the questions that were looked at."""
        readings: list[tuple[QaJob, QaReading]] = []
        batch: list[tuple[QaJob, QaReading, Pair]] = []
        longest = 0
        with self._lock:
            waiting = list(self.waiting)
        for entry in waiting:
            if entry.future.cancelled():
                self._drop(entry)
                continue
            if readings and entry.head != readings[0][0].head:
                continue
            if entry.progress is None:
                entry.progress = reader.spans(entry.head).ask(entry.text, entry.passages)
            readings.append((entry, entry.progress))
            for pair in entry.progress.unread():
                longest = max(longest, len(pair.ids))
                if batch and longest * (len(batch) + 1) > self._most:
                    return batch, readings
                batch.append((entry, entry.progress, pair))
        return batch, readings
