"""The instant head: a field's labelled documents, each known from the next request on.

It holds a text of at most `MOST_CHARS`, a vector and a label of each document, and what is summed
over them. One writer: `add`, `remove` and `fit` must not run beside each other or `predict`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.instant import discriminant, ridge
from benchmarks.instant.counts import Counts
from benchmarks.instant.discriminant import Discriminant
from benchmarks.instant.grams import MOST_CHARS, characters, words
from benchmarks.instant.moments import Floats, Moments
from benchmarks.instant.neighbours import log_votes, nearest
from benchmarks.instant.pool import PARTS, Pool, log_loss, prior_weights, softmax
from benchmarks.instant.ridge import Ridge
from benchmarks.instant.rows import Rows

MOST_LEFT_OUT = 1_500
BULK = 64
"""So many documents at once: the sums are solved anew, not updated one by one."""
SCALES = np.geomspace(0.02, 64.0, 24)


class Document(NamedTuple):
    """A labelled document; the vector [d] has unit length."""

    id: str
    text: str
    vector: NDArray[np.float32]
    label: str
    readable: bool = True


class LeftOut(NamedTuple):
    """What the head says of its own documents, each left out: m of them, L labels."""

    ids: list[str]
    labels: list[str]  # [L]
    truth: NDArray[np.int64]  # [m] places in labels
    probabilities: Floats  # [m, L]

    @property
    def accuracy(self) -> float:
        """The share that is right; 0 of none."""
        if not len(self.truth):
            return 0.0
        return float((self.probabilities.argmax(1) == self.truth).mean())


class InstantHead:
    """A classifier of one field, over vectors of one width."""

    def __init__(self, width: int) -> None:
        self._rows = Rows(width)
        self._moments = Moments(width)
        self._ridge = Ridge(self._moments)
        self._discriminant = Discriminant(self._moments)
        self._words, self._characters = Counts(), Counts()
        self._pool: Pool | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id: str) -> bool:
        return id in self._rows

    @property
    def labels(self) -> list[str]:
        """The labels that documents have, in the order of `predict`."""
        return [self._rows.names[i] for i in self._present()]

    @property
    def weights(self) -> dict[str, float]:
        """How much each part counts, the temperature within."""
        pool = self._fitted()
        return dict(zip(PARTS, (pool.weights * pool.temperature).tolist(), strict=True))

    def add(self, *documents: Document) -> None:
        """Learn documents; one whose id is known takes the place of the old."""
        documents = tuple({d.id: d for d in documents}.values())
        self.remove(*(d.id for d in documents if d.id in self._rows))
        bulk = len(documents) >= BULK
        labels = [self._rows.put(d.id, d.text, d.vector, d.label, d.readable) for d in documents]
        for document, label in zip(documents, labels, strict=True):
            text = document.text[:MOST_CHARS]
            self._words.add(words(text), label, recount=bulk)
            self._characters.add(characters(text), label, recount=bulk)
            if not bulk:
                self._move(document.vector.astype(np.float64), label, 1)
        if bulk:
            vectors = np.array([d.vector for d in documents], dtype=np.float64)
            self._moments.add_many(vectors, np.array(labels))
            self._solve()

    def remove(self, *ids: str) -> None:
        """Forget documents exactly. Raises KeyError for an id that is not here."""
        for id in ids:
            row = self._rows.take(id)
            self._words.remove(words(row.text), row.label)
            self._characters.remove(characters(row.text), row.label)
            self._move(row.vector.astype(np.float64), row.label, -1)

    def predict(
        self,
        text: str,
        vector: NDArray[np.float32],
        neighbours: Iterable[tuple[str, float]] | None = None,
        *,
        readable: bool = True,
    ) -> tuple[list[str], Floats]:
        """The labels and their probabilities [L]; nothing where there are no documents.

        `neighbours` are (label, cosine) of the nearest documents; without them they are looked for
        among all vectors. `readable`: whether the encoder can read the text.
        """
        present = self._present()
        if not len(present):
            return [], np.zeros(0)
        parts = self._parts(text, vector, neighbours)[..., present]
        pooled = self._fitted().probabilities(parts, readable=readable)
        return [self._rows.names[i] for i in present], pooled[0]

    def fit(self) -> None:
        """Choose the penalties, the weights and the temperature anew, on rows left out."""
        self._solve()
        rows = self._sample()
        if not len(rows):
            self._pool = None
            return
        self._choose_penalties(rows)
        truth = self._rows.labels[rows]
        parts = self._leave_out(rows)
        several = self._moments.counts[truth] > 1
        present = self._present()
        place = np.searchsorted(present, truth)
        parts = parts[:, several][..., present]
        self._pool = Pool.fit(parts, place[several], self._prior())

    def leave_one_out(self, most: int = MOST_LEFT_OUT) -> LeftOut:
        """What the head says of documents (a fixed sample of so many), each without itself."""
        rows, present = self._sample(most), self._present()
        ids = [self._rows.ids[i] for i in rows]
        names = [self._rows.names[i] for i in present]
        if not len(rows):
            return LeftOut(ids, names, rows, np.zeros((0, len(names))))
        pooled = self._fitted().probabilities(self._leave_out(rows)[..., present])
        return LeftOut(ids, names, np.searchsorted(present, self._rows.labels[rows]), pooled)

    def _move(self, vector: Floats, label: int, sign: int) -> None:
        self._ridge.change(vector, sign)
        self._discriminant.change(vector, label, sign)
        self._moments.add(vector, label, sign)

    def _solve(self) -> None:
        self._ridge.solve(self._ridge.penalty)
        self._discriminant.solve(self._discriminant.penalty)
        self._words.recount()
        self._characters.recount()

    def _present(self) -> NDArray[np.int64]:
        """Numbers of the labels that have documents."""
        return np.flatnonzero(self._moments.counts[: len(self._rows.names)])

    def _prior(self) -> Floats:
        rows, labels = len(self._rows), len(self._present())
        return prior_weights(rows, labels, readable=self._rows.readable)

    def _fitted(self) -> Pool:
        return self._pool or Pool(self._prior())

    def _sample(self, most: int = MOST_LEFT_OUT) -> NDArray[np.int64]:
        """Places of so many rows, the same ones whatever came and went between."""
        ids = self._rows.ids
        order = sorted(
            range(len(ids)), key=lambda i: (zlib.crc32(ids[i].encode("utf-8", "replace")), ids[i])
        )
        return np.array(order[:most], dtype=np.int64)

    def _parts(
        self,
        text: str,
        vector: NDArray[np.float32],
        neighbours: Iterable[tuple[str, float]] | None,
    ) -> Floats:
        """What each part says of a text, [P, 1, labels]."""
        n, query = len(self._rows.names), np.asarray(vector, dtype=np.float64)[None]
        if neighbours is None:
            at, cosines = nearest(self._rows.vectors, query.astype(np.float32))
            votes = log_votes(self._rows.labels[at], cosines, n)
        else:
            votes = self._votes(neighbours)
        return np.stack(
            [
                self._ridge.scores(query)[:, :n],
                self._discriminant.scores(query)[:, :n],
                self._words.scores(words(text))[None, :n],
                self._characters.scores(characters(text))[None, :n],
                votes,
            ]
        )

    def _votes(self, neighbours: Iterable[tuple[str, float]]) -> Floats:
        known = [(self._rows.number[n], s) for n, s in neighbours if n in self._rows.number]
        labels = np.array([[label for label, _ in known]], dtype=np.int64)
        cosines = np.array([[cosine for _, cosine in known]], dtype=np.float64)
        return log_votes(labels, cosines, len(self._rows.names))

    def _choose_penalties(self, rows: NDArray[np.int64]) -> None:
        vectors = self._rows.vectors[rows].astype(np.float64)
        truth = self._rows.labels[rows]
        solved: Sequence[tuple[Ridge | Discriminant, tuple[float, ...]]] = (
            (self._ridge, ridge.PENALTIES),
            (self._discriminant, discriminant.PENALTIES),
        )
        for part, penalties in solved:
            losses = []
            for penalty in penalties:
                part.solve(penalty)
                out = part.leave_one_out(vectors, truth)
                losses.append(min(log_loss(softmax(a * out), truth) for a in SCALES))
            part.solve(penalties[int(np.argmin(losses))])

    def _leave_out(self, rows: NDArray[np.int64]) -> Floats:
        """The outputs of the parts for documents, each left out: [P, m, labels]."""
        vectors = self._rows.vectors[rows].astype(np.float64)
        truth, n = self._rows.labels[rows], len(self._rows.names)
        texts = [self._rows.texts[i] for i in rows]
        pairs = list(zip(texts, truth.tolist(), strict=True))
        at, cosines = nearest(self._rows.vectors, self._rows.vectors[rows], skip=rows)
        return np.stack(
            [
                self._ridge.leave_one_out(vectors, truth)[:, :n],
                self._discriminant.leave_one_out(vectors, truth)[:, :n],
                np.stack([self._words.leave_one_out(words(t), y)[:n] for t, y in pairs]),
                np.stack([self._characters.leave_one_out(characters(t), y)[:n] for t, y in pairs]),
                log_votes(self._rows.labels[at], cosines, n),
            ]
        )
