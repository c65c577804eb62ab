"""The index of a store: the published generation, and in memory what was written since.

One `Index` belongs to the process that holds the store. Reading is `index.searcher`, a snapshot;
writing makes the next snapshot and puts it in place by one assignment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index_data.documents import Document
from index_data.generations.build import WHOOSH, Progress
from index_data.generations.delta import State
from index_data.generations.published import (
    GenerationInfo,
    NeverPublished,
    PublishedGenerations,
    analyzer_for,
)
from index_data.search.fusion import Fusion
from index_data.search.searcher import Searcher
from index_data.segment import whoosh_index
from index_data.segment.files import load_segment
from index_data.segment.manifest import GenerationCorrupt, Manifest, manifest_sha256, verify
from index_data.segment.segment import passage_texts, segment_of
from index_data.segment.view import ScorerOf, compiled, whole, whoosh_in_memory
from index_data.storage.store import DocumentStore, ReadOnlyStore, StoredVectors, Tombstone
from index_data.text.analysis import STANDARD, analyzer_of

log = logging.getLogger(__name__)

REPLAYED_AT_ONCE = 2_000
_ACTIVE = "index:active"
_ANALYZER = "index:analyzer"


Serve = Callable[[Searcher], None]
"""Called with the searcher that answers from now on, while no write is applied; must not block."""


class EncoderChanged(RuntimeError):
    """Vectors of another encoder than the one that the index serves with by now."""


class NoGeneration(RuntimeError):
    """No generation verifies: one must be built. `problems` says what was wrong with each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems) or "the index has not been built yet")
        self.problems = tuple(problems)


class Index:
    """Generations under `folder`, and the delta. All methods may be called from any thread.

    Over a store that is open for reading only it can be opened and searched; nothing is marked or
    swept then, since that is for the process that owns the store.
    `encoder_sha` names the encoder that queries come with: a generation's vectors of another one
    are left aside. None takes whatever vectors there are.
    """

    def __init__(
        self,
        store: ReadOnlyStore,
        folder: Path,
        *,
        scorer: Literal["compiled", "whoosh"] = "compiled",
        passage_words: int = 200,
        encoder_sha: str | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self._store = store
        self._published = PublishedGenerations(store, folder)
        self._whoosh = scorer == "whoosh"
        self._scorer: ScorerOf = whoosh_in_memory if self._whoosh else compiled
        self._passage_words = passage_words
        self._encoder_sha = encoder_sha
        self._fusion = fusion
        self._lock = threading.RLock()
        self._serve: Serve = lambda searcher: None
        self._number = 0
        self._state = self._empty()
        self._searcher = self._snapshot(0, self._state, encoder_sha)

    @property
    def searcher(self) -> Searcher:
        """The present snapshot."""
        return self._searcher

    @property
    def encoder_sha(self) -> str | None:
        """The encoder whose vectors are used."""
        return self._encoder_sha

    def watch(self, serve: Serve) -> None:
        """Hand the searcher over, the present one now and every one that follows."""
        with self._lock:
            self._serve = serve
            serve(self._searcher)

    def open(self, progress: Progress | None = None) -> list[str]:
        """Serve the newest generation that verifies, brought up to the store's sequence.

        The one that was activated last comes first; what was wrong with those passed over is
        returned. Raises NoGeneration when there is none.
        """
        problems = []
        active = self._store.meta_get(_ACTIVE)
        folders = sorted(
            self._published.folders(),
            key=lambda f: (f[1].name == active, f[0]),
            reverse=True,
        )
        if active is not None and active not in (path.name for _, path in folders):
            problems.append(f"{active}: is missing")
        for _, path in folders:
            try:
                self._switch(path, self._published.known(path), self._encoder_sha, progress)
            except NeverPublished as problem:
                log.info("index: %s", problem)
            except GenerationCorrupt as problem:
                log.warning("index: %s", problem)
                problems.append(str(problem))
            else:
                self._published.sweep(path)
                return problems
        raise NoGeneration(problems)

    def open_without_generation(self, progress: Progress | None = None) -> None:
        """Serve the whole store from memory, until a generation is published."""
        with self._lock:
            state = self._replay(self._empty(), progress)
            self._put(0, state)

    def passage_texts(self, document: Document) -> list[str]:
        """The texts to encode for a document's vectors, one a passage."""
        return passage_texts(document, self._passage_words)

    def apply(
        self,
        documents: Iterable[Document] = (),
        tombstones: Iterable[Tombstone] = (),
        vectors: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        encoder_sha: str | None = None,
    ) -> None:
        """Count these writes from the next search on. `vectors`: by id, [passages, dim].

        Writes may arrive in any order; of one document the last by sequence stands. Giving a
        document again with vectors adds them. `encoder_sha`: of the encoder that made them.
        Raises ValueError when vectors do not fit, and EncoderChanged.
        """
        gone = {tombstone.id: tombstone.sequence for tombstone in tombstones}
        with self._lock:
            self._check_encoder(encoder_sha)
            self._put(self._number, self._state.apply(list(documents), gone, vectors))

    def as_if(
        self, document: Document, vectors: NDArray[np.float32], *, encoder_sha: str | None = None
    ) -> tuple[Searcher, Searcher]:
        """The present searcher, and what it would be with this document written now.

        Both of one state; nothing changes. `vectors`: [passages, dim], by the encoder of this
        sha256. Raises EncoderChanged.
        """
        with self._lock:
            self._check_encoder(encoder_sha)
            searcher, state = self._searcher, self._state
        changed = replace(document, sequence=state.sequence + 1)
        after = state.apply([changed], {}, {document.id: vectors})
        return searcher, self._snapshot(searcher.generation, after, searcher.encoder_sha)

    def publish(
        self,
        path: Path,
        *,
        encoder_sha: str | None = None,
        serve: Serve | None = None,
    ) -> None:
        """Take a generation that was just built: register it, switch, remove the older ones.

        `encoder_sha`: from now on queries come with this encoder. `serve`: called with the new
        searcher in place of what watches, to change more together with it. Raises
        GenerationCorrupt when the folder is not whole; the old one goes on serving then.
        """
        manifest = self._published.register(path)
        before = self._number
        self._switch(path, manifest, encoder_sha or self._encoder_sha, serve=serve)
        self._keep_only(before, manifest.number)

    def keep(self, path: Path) -> None:
        """Take a generation that was just built without serving it; the one that serves stays.

        Raises GenerationCorrupt when the folder is not whole.
        """
        self._keep_only(self._number, self._published.register(path).number)

    def try_out(self, path: Path) -> None:
        """Search a generation that was just built; over a store that is open for reading only.

        Nothing is registered. Raises GenerationCorrupt when the folder is not whole.
        """
        manifest = verify(path, sha256=manifest_sha256(path))
        self._switch(path, manifest, self._encoder_sha)

    def activate(self, number: int) -> None:
        """Serve another generation that is kept. Raises GenerationCorrupt, or KeyError for none."""
        path = dict(self._published.folders())[number]
        self._switch(path, self._published.known(path), self._encoder_sha)

    def forget_before(self, sequence: int) -> list[int]:
        """Remove the generations that do not reach a write, but not the one that serves."""
        short = {
            one.number
            for one in self.generations()
            if not one.active and (one.sequence is None or one.sequence < sequence)
        }
        return self._published.remove(short.__contains__)

    def generations(self) -> list[GenerationInfo]:
        """The generations that are kept, the newest first."""
        return self._published.all(self._number)

    def without_vectors(self) -> list[Document]:
        """Documents written since the generation that have no vectors: power went in between.

        What a generation lacks, the next one brings.
        """
        return [
            view.segment.documents[row]
            for view in self._searcher.views[1:]
            for row in view.live_rows()
            if view.segment.vector(int(view.segment.offsets[row])) is None
        ]

    def _switch(
        self,
        path: Path,
        manifest: Manifest,
        encoder_sha: str | None,
        progress: Progress | None = None,
        serve: Serve | None = None,
    ) -> None:
        """Open a generation, bring it up to date beside the one that serves, then swap."""
        fits = encoder_sha in (None, manifest.encoder_sha)
        if not fits and manifest.encoder_sha is not None:
            log.warning("index: the vectors of %s are of another encoder", path.name)
        segment = load_segment(path, manifest, with_vectors=fits)
        average = manifest.average_length
        lexical = self._scorer(segment, average)
        if self._whoosh:
            index = whoosh_index.open_index(path / WHOOSH)
            lexical = whoosh_index.WhooshScorer(index, segment.postings.lengths, average)
        state = State(
            views=(whole(segment, lexical),),
            average_length=average,
            basis=manifest.passages,
            sequence=manifest.sequence,
            passage_words=self._passage_words,
            scorer=self._scorer,
            analyzer=analyzer_for(path, manifest),
        )
        state = self._replay(state, progress, encoder_sha)
        with self._lock:  # no write is applied now: take what came during the replay
            state = self._replay(state, progress, encoder_sha)
            self._encoder_sha = encoder_sha
            self._put(manifest.number, state, serve)
        self._mark(_ACTIVE, path.name)
        self._mark(_ANALYZER, state.analyzer.version)

    def _replay(
        self, state: State, progress: Progress | None, encoder_sha: str | None = None
    ) -> State:
        """The state after all writes of the store that it has not seen."""
        first, end = state.sequence, self._store.sequence
        if end <= first:
            return state
        sha = encoder_sha or self._encoder_sha
        stored = self._store.vectors_after(first, sha) if sha else ()
        known = {vectors.doc_id: vectors for vectors in stored}
        changes = self._store.changes(first, until=end)
        while batch := list(islice(changes, REPLAYED_AT_ONCE)):
            documents = [change for change in batch if isinstance(change, Document)]
            gone = {c.id: c.sequence for c in batch if isinstance(c, Tombstone)}
            vectors = _fitting(documents, known, self._passage_words)
            state = state.apply(documents, gone, vectors)
            if progress is not None:
                progress(state.sequence - first, end - first, "replay")
        return replace(state, sequence=end)  # damaged rows are left out

    def _empty(self) -> State:
        """Nothing yet, under the analyzer that served last."""
        analyzer = analyzer_of(self._store.meta_get(_ANALYZER) or "") or STANDARD
        segment = segment_of((), passage_words=self._passage_words, average_length=0.0)
        return State(
            views=(whole(segment, self._scorer(segment, 0.0)),),
            average_length=0.0,
            basis=0,
            sequence=0,
            passage_words=self._passage_words,
            scorer=self._scorer,
            analyzer=analyzer,
        )

    def _check_encoder(self, encoder_sha: str | None) -> None:
        if None not in (encoder_sha, self._encoder_sha) and encoder_sha != self._encoder_sha:
            raise EncoderChanged("the index serves with another encoder by now")

    def _put(self, number: int, state: State, serve: Serve | None = None) -> None:
        self._number = number
        self._state = state
        self._searcher = self._snapshot(number, state, self._encoder_sha)
        (serve or self._serve)(self._searcher)

    def _snapshot(self, number: int, state: State, encoder_sha: str | None) -> Searcher:
        return Searcher(
            state.views,
            generation=number,
            sequence=state.sequence,
            encoder_sha=encoder_sha,
            fusion=self._fusion or Fusion.over(state.average_length),
            analyzer=state.analyzer,
        )

    def _keep_only(self, *numbers: int) -> None:
        self._published.remove(lambda number: number not in numbers)

    def _mark(self, key: str, value: str) -> None:
        if isinstance(self._store, DocumentStore):
            self._store.meta_set(key, value)


def _fitting(
    documents: Sequence[Document], stored: Mapping[str, StoredVectors], words: int
) -> dict[str, NDArray[np.float32]]:
    """The stored vectors of these very versions, where they are as many as the passages are now."""
    return {
        document.id: known.vectors.astype(np.float32)
        for document in documents
        if (known := stored.get(document.id)) is not None
        and known.sequence == document.sequence
        and len(known.vectors) == len(passage_texts(document, words))
    }
