"""The confidence of a field that has no head: fitted on the index's own labelled documents.

Each of a sample of them is answered by its neighbours, without itself and its near-duplicates; what
is fitted is a floor (a label that no neighbour has is not impossible) and a temperature:

    p'(y) ~ (p(y) + floor)^(1/T)

Of a field whose values are lists it is the share of the neighbours' weight from which on a label is
answered: the one with the best micro F1 on the sample.

It happens in the background at the first question about a field, once for each generation (and
again when much was written since), and takes at most half of one core.
"""

from __future__ import annotations

import itertools
import logging
import queue
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.inference.influence import as_retrieved
from app.inference.model_thread import EngineClosed
from app.inference.snapshot import Serving, Snapshot
from index_data.documents import Document, near_duplicate
from index_data.search.evidence import label_evidence
from index_data.search.searcher import Searcher

if TYPE_CHECKING:
    from model.labels.prediction import Prediction

logger = logging.getLogger(__name__)

ENOUGH = 50  # labelled documents under which nothing is fitted
SAMPLED = 300
AT_ONCE = 16
RETAINED = 64
TEMPERATURES = np.geomspace(0.25, 4.0, 33)
FLOORS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)

Vector = NDArray[np.float32]
Key = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes votes into probabilities; fitted on ``rows`` documents.

    ``threshold``: that of a field whose values are lists; nothing else is fitted there.
    """

    temperature: float
    floor: float
    rows: int
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class _Fitted:
    calibration: Calibration | None
    rows: int
    sequence: int

    @property
    def due(self) -> int:
        """Writes after which it is looked at again; where rows were too few, so many as lacked."""
        return self.rows if self.rows >= ENOUGH else ENOUGH - self.rows


def tempered(prediction: Prediction, calibration: Calibration | None) -> Prediction:
    """The neighbours' prediction with what was fitted; others as they are."""
    if calibration is None or prediction.calibrated or prediction.abstained:
        return prediction
    if prediction.multi and calibration.threshold is not None:
        return replace(prediction, threshold=calibration.threshold)
    if prediction.multi or calibration.threshold is not None:
        return prediction
    if prediction.decided:  # by a person's label of this text: nothing was voted on
        return replace(prediction, calibrated=True)
    probs = apply(calibration, prediction.probs)
    return replace(prediction, probs=probs, confidence=float(probs.max()), calibrated=True)


def apply(calibration: Calibration, probs: Vector) -> Vector:
    """Votes [..., labels] -> probabilities of the same shape."""
    powered = (probs.astype(np.float64) + calibration.floor) ** (1 / calibration.temperature)
    scaled: Vector = (powered / powered.sum(-1, keepdims=True)).astype(np.float32)
    return scaled


def fit(probs: Vector, truth: NDArray[np.int64]) -> Calibration:
    """The likeliest temperature and floor for votes [rows, labels] with known answers [rows]."""
    rows = np.arange(len(truth))

    def loss(choice: tuple[float, float]) -> float:
        calibrated = apply(Calibration(*choice, len(truth)), probs)
        return float(-np.log(calibrated[rows, truth].clip(1e-9)).mean())

    choices = [(float(t), f) for t, f in itertools.product(TEMPERATURES, FLOORS)]
    return Calibration(*min(choices, key=loss), len(truth))


def fit_threshold(shares: Vector, truth: NDArray[np.float32]) -> Calibration:
    """The threshold for shares [rows, labels] of labels that apply (1) or not (0)."""
    import torch  # seconds to import

    from model.labels.multilabel import best_threshold

    threshold, _ = best_threshold(torch.from_numpy(shares), torch.from_numpy(truth))
    return Calibration(1.0, 0.0, len(truth), threshold)


class NeighbourCalibrations:
    """The calibrations of a server, by generation, encoder and field; found when asked for."""

    def __init__(self) -> None:
        self._known: dict[Key, _Fitted] = {}
        self._waiting: set[Key] = set()
        self._queue: queue.SimpleQueue[tuple[Key, Snapshot, str] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="calibration", daemon=True)

    def of(self, snapshot: Snapshot, field: str) -> Calibration | None:
        """What there is by now; asks for it where there is none, or an old one."""
        serving, searcher = snapshot.serving, snapshot.searcher
        if serving is None or searcher is None or field in serving.model.heads:
            return None
        if not snapshot.vectors_fit:
            return None
        key = (searcher.generation, serving.model.encoder_sha256, field)
        fitted = self._known.get(key)
        if fitted is None or searcher.sequence - fitted.sequence >= fitted.due:
            self._ask(key, snapshot, field)
        return None if fitted is None else fitted.calibration

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _ask(self, key: Key, snapshot: Snapshot, field: str) -> None:
        with self._lock:
            if key in self._waiting or self._closing.is_set():
                return
            self._waiting.add(key)
            if self._thread.ident is None:
                self._thread.start()
        self._queue.put((key, snapshot, field))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            key, snapshot, field = entry
            try:
                fitted = self._fitted(snapshot, field)
            except EngineClosed:  # another model serves by now: asked for again when it is needed
                fitted = None
            except Exception:  # the answers stay uncalibrated, and the log says why
                logger.exception("the calibration of a field failed")
                fitted = _Fitted(None, 0, snapshot.index().sequence)
            del entry, snapshot
            with self._lock:
                self._waiting.discard(key)
                if fitted is not None:
                    self._known.pop(key, None)
                    self._known[key] = fitted
                while len(self._known) > RETAINED:
                    del self._known[next(iter(self._known))]

    def _fitted(self, snapshot: Snapshot, field: str) -> _Fitted | None:
        searcher, serving = snapshot.index(), snapshot.model()
        sample = labelled(searcher, field)
        nothing = _Fitted(None, len(sample), searcher.sequence)
        if len(sample) < ENOUGH:
            return nothing
        labels = searcher.field_labels(field)
        votes: list[tuple[Prediction, list[str]]] = []
        with serving.engine.use():
            for start in range(0, len(sample), AT_ONCE):
                part = sample[start : start + AT_ONCE]
                answers = self._answers(searcher, serving, part, field, labels)
                for (document, _), one in zip(part, answers, strict=True):
                    if not one.abstained:
                        votes.append((one, names_of(document, field)))
                if self._closing.is_set():
                    return None
        lists = any(one.multi for one, _ in votes)
        votes = [(one, names) for one, names in votes if one.multi == lists]
        if len(votes) < ENOUGH:
            return nothing
        probs = np.stack([one.probs for one, _ in votes])
        if lists:
            truth = [[label in names for label in one.labels] for one, names in votes]
            calibration = fit_threshold(probs, np.array(truth, np.float32))
        else:
            places = [one.labels.index(names[0]) for one, names in votes]
            calibration = fit(probs, np.array(places))
        return _Fitted(calibration, len(sample), searcher.sequence)

    def _answers(
        self,
        searcher: Searcher,
        serving: Serving,
        part: list[tuple[Document, Vector]],
        field: str,
        labels: list[str],
    ) -> list[Prediction]:
        from model.labels.query_state import QueryState

        rows = []
        for document, vector in part:
            began = time.perf_counter()
            hits = searcher.search(
                document.text,
                k=serving.model.counted(field),
                lang=document.lang,
                filter=label_evidence(field),
                query_vector=vector,
                exclude_ids=[document.id],
                exclude=lambda other, text=document.text: near_duplicate(text, other.text),  # type: ignore[misc]
            )
            rows.append(as_retrieved(document.text, hits, field))
            self._closing.wait(time.perf_counter() - began)
        states = [QueryState(vector, None, 0) for _, vector in part]
        done = serving.engine.call(
            lambda reader: reader.predict(states, rows, field, index_labels=labels)
        )
        return done.result()


def labelled(searcher: Searcher, field: str) -> list[tuple[Document, Vector]]:
    """A sample of the documents with labels of a field and a vector; always the same one."""
    places = sorted(
        {
            (number, int(row))
            for number, view in enumerate(searcher.views)
            for _, rows in view.segment.columns.holders(f"labels.{field}")
            for row in rows
            if view.segment.vectors is not None and view.is_live(int(row))
        }
    )
    random.Random(0).shuffle(places)
    sample: list[tuple[Document, Vector]] = []
    for number, row in places:
        segment = searcher.views[number].segment
        vector = segment.vector(int(segment.offsets[row]))
        if vector is not None and names_of(segment.documents[row], field):
            sample.append((segment.documents[row], vector))
        if len(sample) == SAMPLED:
            break
    return sample


def names_of(document: Document, field: str) -> list[str]:
    """A document's labels of a field."""
    label = document.labels.get(field)
    return [label] if isinstance(label, str) else [*(label or ())]
