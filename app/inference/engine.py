"""The model's own thread: everything that runs the network runs here, in batches.

Four queues, the most urgent first: the prediction step of requests whose documents are found; the
reading of new requests and, in turns with it, of the passages of questions; and the encoding of
documents. A batch takes what is waiting up to a token
budget (greedy); it waits a few milliseconds for company only when the last batch had company too.
Entries whose client disconnected (their future was cancelled) are dropped before any work.

An engine belongs to one model: whoever captured it keeps it until the answer is whole, so that a
batch never mixes models, and a retired engine ends when its last user is done.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.inference.batching import in_sizes, similar_lengths
from app.inference.model_thread import EngineClosed, ModelThread, fail, settle
from app.inference.question_queue import QaJob, QuestionQueue
from app.metrics import BatchStats, Observe

if TYPE_CHECKING:
    from model.labels.memory import Retrieved
    from model.labels.prediction import Prediction
    from model.labels.query_state import QueryState
    from model.qa.answers import SpanAnswer
    from model.qa.evidence import PassageText
    from model.reader import Reader

logger = logging.getLogger(__name__)

ENCODE_TEXTS = 16  # documents encoded between two looks at the urgent queues,
ENCODE_CHARS = 2_000  # and their characters: about a tenth of a second on one slow core
PREDICT_ITEMS = 64


@dataclass(frozen=True, slots=True)
class TextRead:
    """An input that was read, and how long it had waited (s)."""

    state: QueryState
    waited: float


@dataclass(slots=True)
class _Read:
    text: str
    head: str | None
    came: float = field(default_factory=time.perf_counter)
    future: Future[TextRead] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Predict:
    state: QueryState
    hits: Sequence[Retrieved]
    label_field: str
    index_labels: tuple[str, ...]
    future: Future[Prediction] = field(default_factory=Future)


@dataclass(slots=True)
class _Encode:
    texts: Sequence[str]
    future: Future[NDArray[np.float32]] = field(default_factory=Future)
    done: list[NDArray[np.float32]] = field(default_factory=list)
    next: int = 0


class Engine(ModelThread["Reader"]):
    """One model on one thread.

    Args:
        load: Makes the reader; called on the model's thread, which alone touches it afterwards.
        max_tokens: Tokens of a window; of a text for a head at most `windows` of them are read.
        batch_tokens: Padded tokens of one forward pass.
        batch_wait_s: How long a batch waits for company under load, in seconds.
        observe: Called with every batch.
    """

    def __init__(
        self,
        load: Callable[[], Reader],
        *,
        max_tokens: int,
        windows: int = 1,
        batch_tokens: int,
        batch_wait_s: float = 0.002,
        observe: Observe | None = None,
    ) -> None:
        super().__init__("model", load, observe)
        self._max_tokens = max_tokens
        self._windows = windows
        self._batch_tokens = batch_tokens
        self._batch_wait_s = batch_wait_s
        self._reads: deque[_Read] = deque()
        self._predicts: deque[_Predict] = deque()
        self._questions = QuestionQueue(self._wake, batch_tokens, self._observe)
        self._questions_turn = False
        self._encodes: deque[_Encode] = deque()
        self._users = 0
        self._retired = False
        self._last_batch = 1

    def read(self, text: str, head: str | None) -> Future[TextRead]:
        """Tokenise and encode one input for a field's head (``None``: only the base vector)."""
        return self._put(self._reads, _Read(text, head)).future

    def predict(
        self,
        state: QueryState,
        hits: Sequence[Retrieved],
        field: str,
        *,
        index_labels: tuple[str, ...],
    ) -> Future[Prediction]:
        """The fusion and neighbour step of one input over its hits."""
        return self._put(self._predicts, _Predict(state, hits, field, index_labels)).future

    def answer(
        self, question: str, passages: Sequence[PassageText], head: str
    ) -> Future[SpanAnswer]:
        """Read passages for a question, in batches with those of others, and answer."""
        return self._put(self._questions.waiting, QaJob(question, passages, head)).future

    def encode(self, texts: Sequence[str]) -> Future[NDArray[np.float32]]:
        """Base vectors [n, dim] of documents, whenever no request is waiting."""
        return self._put(self._encodes, _Encode(texts)).future

    @contextmanager
    def use(self) -> Iterator[Engine]:
        """Keep the engine from ending, however long the request takes."""
        with self._wake:
            self._users += 1
        try:
            yield self
        finally:
            with self._wake:
                self._users -= 1
                self._wake.notify()

    def retire(self) -> None:
        """Let the engine end once its users are done and its queues are empty."""
        with self._wake:
            self._retired = True
            self._wake.notify()

    def waiting(self) -> int:
        """Inputs in the queues of requests."""
        return len(self._reads) + len(self._predicts) + len(self._questions.waiting)

    def _check_open(self) -> None:
        if self._retired and not self._users:
            raise EngineClosed("the model was replaced")

    def _serve(self, reader: Reader) -> None:
        while (step := self._next()) is not None:
            step(reader)

    def _fail(self, error: Exception) -> None:
        with self._wake:
            self._retired = True
            entries: list[Any] = [
                *self._reads,
                *self._predicts,
                *self._questions.waiting,
                *self._encodes,
            ]
            futures = [*(entry.future for entry in entries), *(f for _, f in self._calls)]
        for future in futures:
            fail(future, error)

    def _next(self) -> Callable[[Reader], None] | None:
        """Wait for work and say what to do next; None when the engine is to end."""
        with self._wake:
            while True:
                if self._calls:
                    function, future = self._calls.popleft()
                    return partial(settle, function, future)
                if self._predicts:
                    return self._predict_batch
                if self._questions.waiting and (self._questions_turn or not self._reads):
                    self._questions_turn = False
                    return self._questions.read_some
                if self._reads:
                    self._questions_turn = True
                    return self._read_batch
                if self._encodes:
                    return self._encode_some
                if self._retired and not self._users:
                    return None
                self._wake.wait()

    def _predict_batch(self, reader: Reader) -> None:
        groups: dict[tuple[str, tuple[str, ...]], list[_Predict]] = {}
        for _ in range(min(PREDICT_ITEMS, len(self._predicts))):
            entry = self._predicts.popleft()
            if entry.future.set_running_or_notify_cancel():
                groups.setdefault((entry.label_field, entry.index_labels), []).append(entry)
        for (name, labels), whole in groups.items():
            for group in in_sizes(whole):
                states, hits = [e.state for e in group], [e.hits for e in group]
                work = partial(reader.predict, states, hits, name, index_labels=labels)
                self._run_batch("predict", [e.future for e in group], work)

    def _read_batch(self, reader: Reader) -> None:
        if self._last_batch > 1 and len(self._reads) < self._last_batch:
            self._wait_for_company()
        batch: list[_Read] = []
        longest = 0
        while self._reads:
            entry = self._reads[0]
            if not entry.tokens:
                if entry.future.cancelled():
                    self._reads.popleft()
                    continue
                # Without a head only the vector is wanted, which is that of the first window.
                windows = self._windows if entry.head is not None else 1
                entry.tokens = reader.tokenize(
                    entry.text, max_tokens=self._max_tokens, windows=windows
                )
            longest = max(longest, len(entry.tokens))
            if batch and longest * (len(batch) + 1) > self._batch_tokens:
                break
            self._reads.popleft()
            if entry.future.set_running_or_notify_cancel():
                batch.append(entry)
        self._last_batch = len(batch)
        for run in similar_lengths([len(e.tokens) for e in batch]):
            for group in in_sizes([batch[i] for i in run]):
                work = partial(self._read_texts, reader, group)
                self._run_batch("read", [e.future for e in group], work)

    def _read_texts(self, reader: Reader, group: Sequence[_Read]) -> list[TextRead]:
        began = time.perf_counter()
        tokens, heads = [e.tokens for e in group], [e.head for e in group]
        states = reader.read(tokens, heads, window=self._max_tokens)
        return [TextRead(state, began - e.came) for state, e in zip(states, group, strict=True)]

    def _wait_for_company(self) -> None:
        deadline = time.monotonic() + self._batch_wait_s
        with self._wake:
            while len(self._reads) < self._last_batch and not self._predicts:
                left = deadline - time.monotonic()
                if left <= 0 or not self._wake.wait(left):
                    return

    def _encode_some(self, reader: Reader) -> None:
        entry = self._encodes[0]
        if entry.next == 0 and not entry.future.set_running_or_notify_cancel():
            self._encodes.popleft()
            return
        stop, chars = entry.next, 0
        while stop < len(entry.texts) and stop - entry.next < ENCODE_TEXTS and chars < ENCODE_CHARS:
            chars += len(entry.texts[stop])
            stop += 1
        began = time.perf_counter()
        try:
            entry.done.append(reader.encode(list(entry.texts[entry.next : stop])))
        except Exception as error:  # noqa: BLE001  # raised to whoever waits
            self._encodes.popleft()
            entry.future.set_exception(error)
            return
        self._observe(BatchStats("encode", stop - entry.next, time.perf_counter() - began))
        entry.next = stop
        if stop == len(entry.texts):
            self._encodes.popleft()
            entry.future.set_result(np.concatenate(entry.done))

    def _run_batch(
        self, kind: str, futures: list[Future[Any]], work: Callable[[], Sequence[Any]]
    ) -> None:
        began = time.perf_counter()
        try:
            results = work()
        except Exception as error:  # raised to each that waits; the thread lives on
            logger.exception("a batch of %d failed (%s)", len(futures), kind)
            for future in futures:
                future.set_exception(error)
            return
        self._observe(BatchStats(kind, len(futures), time.perf_counter() - began))
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)
