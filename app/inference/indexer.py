"""From stored to searchable: the thread that encodes new documents and puts them into the index.

It reads the changes of the store in the order of their sequence, so writes never overtake each
other, nothing is held in memory however long an import is, and what a restart left undone is done
by the same code. Many small writes that wait together are encoded and applied together.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from app.inference.model_thread import EngineClosed
from app.inference.snapshot import Snapshots
from app.problems import Problem, invalid
from index_data.documents import Document
from index_data.generations.index import EncoderChanged, Index
from index_data.storage.store import DocumentStore, StoredVectors, Tombstone

logger = logging.getLogger(__name__)

BATCH = 128  # changes applied together
WRITES = "writes"  # the part that is degraded while writes cannot be taken up
Vectors = dict[str, NDArray[np.float32]]
Change = Document | Tombstone


class Indexer:
    """Keeps the index up with the store. One thread; all methods may be called from any.

    Vectors are made by the encoder of the model that serves; without one documents go in without.
    """

    def __init__(self, store: DocumentStore, snapshots: Snapshots) -> None:
        self._store = store
        self._snapshots = snapshots
        self._index: Index | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._reached = 0
        self._waiters: list[tuple[int, Future[None]]] = []
        self._bare: list[Document] = []  # that were stored, and have no vectors yet
        self._putting: Future[int] | None = None
        self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)

    @property
    def index(self) -> Index:
        """The index. Raises ``not-ready`` while it is not open."""
        if self._index is None:
            raise Problem("not-ready", "The index is not open yet.", retry_after=1)
        return self._index

    @property
    def is_open(self) -> bool:
        """Whether there is an index."""
        return self._index is not None

    def check_open(self) -> None:
        """Raise ``not-ready`` while no index is open."""
        _ = self.index

    @property
    def reached(self) -> int:
        """The sequence up to which every write is in the index."""
        return self._reached

    @property
    def bare(self) -> int:
        """How many documents are searched without vectors until they are encoded."""
        return len(self._bare)

    def open(self, index: Index) -> None:
        """Serve an index that was opened, and begin: what it has not seen is taken up first."""
        self._reached = index.searcher.sequence
        self._bare = index.without_vectors()
        self._index = index
        self._thread.start()
        index.watch(lambda searcher: self._snapshots.put(searcher=searcher))

    def notify(self) -> None:
        """Say that something was written, or that another model serves."""
        with self._wake:
            self._wake.notify()

    def after(self, sequence: int) -> Future[None]:
        """A future that is done once the index has this write; at once where no index is open."""
        future: Future[None] = Future()
        with self._wake:
            if self._reached >= sequence or self._index is None:
                future.set_result(None)
            else:
                self._waiters.append((sequence, future))
                self._wake.notify()
        return future

    async def wait(self, sequence: int) -> None:
        """Wait until the index has this write, where one is open."""
        await asyncio.wrap_future(self.after(sequence))

    async def reach(self, sequence: int, pointer: str) -> None:
        """Wait until the index has a write that a request names at ``pointer``.

        Raises ``validation`` for one that was never made, ``not-ready`` while no index is open.
        """
        if sequence > self._store.sequence:
            raise invalid(pointer, "no write has this number yet")
        self.check_open()
        await self.wait(sequence)

    def close(self) -> None:
        """End the thread. What is not in the index yet is taken up at the next start."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while self._sleep():
            try:
                self._backfill()
                end = self._store.sequence
                for batch in batches(self._store.changes(self._reached, until=end)):
                    self._apply(batch)
                    if self._closing:
                        return
                self._arrived(end)  # the last writes may have been overwritten, or be damaged
                if WRITES in self._snapshots.faults:
                    self._snapshots.put(repaired=(WRITES,))
            except (OSError, RuntimeError, ValueError):
                logger.exception("the index could not take up what was written; trying again")
                self._snapshots.degrade(WRITES, "index: not all writes are in it; trying again")
                with self._wake:
                    self._wake.wait(1.0)

    def _sleep(self) -> bool:
        """Wait until there is something to do; False when it is time to end."""
        with self._wake:
            while not self._closing and self._store.sequence <= self._reached:
                if self._bare and self._snapshots.now().serving is not None:
                    break
                self._wake.wait(1.0)
            return not self._closing

    def _apply(self, batch: list[Change]) -> None:
        documents = [change for change in batch if isinstance(change, Document)]
        tombstones = [change for change in batch if not isinstance(change, Document)]
        vectors, encoder_sha = self._vectors(documents)
        self.index.apply(documents, tombstones, vectors, encoder_sha=encoder_sha)
        self._arrived(batch[-1].sequence)

    def _arrived(self, sequence: int) -> None:
        with self._wake:
            self._reached = max(self._reached, sequence)
            done = [f for s, f in self._waiters if s <= self._reached]
            self._waiters = [(s, f) for s, f in self._waiters if s > self._reached]
        for future in done:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _vectors(self, documents: list[Document]) -> tuple[Vectors | None, str | None]:
        """Vectors of all passages, kept in the store too, and the sha256 of their encoder.

        None where there is no encoder.
        """
        serving = self._snapshots.now().serving
        if serving is None or not documents:
            return None, None
        texts = [self.index.passage_texts(document) for document in documents]
        flat = [text for passages in texts for text in passages]
        try:
            rows = serving.engine.encode(flat).result()
        except EngineClosed:  # a swap happened in between; the new model is known by now
            closing = self._snapshots.now().serving is serving
            return (None, None) if closing else self._vectors(documents)
        vectors: Vectors = {}
        first = 0
        for document, passages in zip(documents, texts, strict=True):
            vectors[document.id] = rows[first : first + len(passages)]
            first += len(passages)
        stored = [
            StoredVectors(d.id, d.sequence, vectors[d.id].astype(np.float16)) for d in documents
        ]
        # A request that waits to be indexed need not wait for this commit: what is lost with the
        # power is made again. One may be on its way, so that an import does not run ahead.
        putting, self._putting = self._putting, None  # one that failed raises once
        if putting is not None:
            putting.result()
        encoder_sha = serving.model.encoder_sha256
        self._putting = self._store.put_vectors(stored, encoder_sha)
        return vectors, encoder_sha

    def _backfill(self) -> None:
        """Give vectors to documents that a stop of the server left without, a batch at a time."""
        while self._snapshots.now().serving is not None and self._bare and not self._closing:
            batch = self._bare[-BATCH:]
            try:
                vectors, encoder_sha = self._vectors(batch)
                self.index.apply(batch, (), vectors, encoder_sha=encoder_sha)
            except EncoderChanged:  # the new one is known by now
                continue
            except (OSError, RuntimeError, ValueError):  # left without, so that writes go on
                del self._bare[-BATCH:]
                raise
            del self._bare[-BATCH:]


def batches(changes: Iterator[Change]) -> Iterator[list[Change]]:
    """Changes in groups of about :data:`BATCH` that never part one write (one sequence)."""
    group: list[Change] = []
    for change in changes:
        if len(group) >= BATCH and change.sequence != group[-1].sequence:
            yield group
            group = []
        group.append(change)
    if group:
        yield group
