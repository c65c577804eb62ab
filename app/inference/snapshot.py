"""What one request answers from: one index state, one model, one generator, captured once."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from app.inference.engine import Engine
from app.inference.generator_engine import GeneratorEngine
from app.problems import Problem
from app.records.feedback import feedback_id
from index_data.search.searcher import Hit, Searcher

if TYPE_CHECKING:
    from model.encoder.encoder import Encoder
    from model.reader import Reader

MODEL_NAME = "footnote"
INDEX_NAME = "documents"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What never changes about a loaded model, to be read from any thread."""

    version: str
    sha256: str
    heads: Mapping[str, Any]  # by field: model.reader.HeadInfo
    encoder_sha256: str
    dim: int
    neighbours: int  # hits that a field without a head counts
    span_heads: Mapping[str, int] = field(default_factory=dict)  # of questions: passages read

    @classmethod
    def of(cls, reader: Reader, version: str) -> ModelInfo:
        """What a reader is, under the version by which its checkpoint is known."""
        encoder = reader.encoder
        heads, neighbours = dict(reader.heads), reader.wanted("")
        return cls(
            version,
            reader.sha256,
            heads,
            encoder.sha256,
            encoder.dim,
            neighbours,
            reader.span_heads,
        )

    def counted(self, field: str) -> int:
        """How many documents an answer to ``field`` counts when the request does not say."""
        head = self.heads.get(field)
        return self.neighbours if head is None else int(head.k)

    def to_json(self) -> dict[str, Any]:
        """The ``model`` of an answer."""
        return {"name": MODEL_NAME, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Serving:
    """A model with the thread that runs it; replaced whole when another is activated."""

    engine: Engine
    model: ModelInfo
    encoder: Encoder  # to be forked for the next model; not to be run on another thread


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One searcher, one model, one generator; each may be missing where it did not load."""

    searcher: Searcher | None = None
    serving: Serving | None = None
    degraded: tuple[str, ...] = ()
    generator: GeneratorEngine | None = None

    def index(self) -> Searcher:
        """The searcher. Raises ``not-ready`` when no index is open."""
        if self.searcher is None:
            raise Problem("not-ready", "The index is not open yet.", retry_after=1)
        return self.searcher

    def model(self) -> Serving:
        """The model. Raises ``not-ready`` when none is loaded."""
        if self.serving is None:
            raise Problem("not-ready", "No model is loaded.", retry_after=1)
        return self.serving

    def model_json(self) -> dict[str, Any]:
        """The ``model`` of an answer that may be generated."""
        known, generator = self.model().model.to_json(), self.generator_json()
        return known if generator is None else {**known, "generator": generator}

    def generator_json(self) -> dict[str, Any] | None:
        """The ``generator`` of a ``model``, where there is one."""
        return None if self.generator is None else self.generator.info.to_json()

    @property
    def vectors_fit(self) -> bool:
        """Whether queries can be compared with the index's vectors: one encoder made both."""
        return (
            self.searcher is not None
            and self.serving is not None
            and self.searcher.has_vectors
            and self.searcher.encoder_sha == self.serving.model.encoder_sha256
        )

    def index_json(self) -> dict[str, Any]:
        """The ``index`` of an answer."""
        generation, sequence = 0, 0
        if self.searcher is not None:
            generation, sequence = self.searcher.generation, self.searcher.sequence
        return {"name": INDEX_NAME, "generation": generation, "sequence": sequence}


class Snapshots:
    """The snapshot that the next request answers from.

    Whoever changes a part of it (the index after a write, an activation) replaces the whole under
    one lock, so that a request reads one that fits without waiting for anything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._faults: dict[str, str] = {}

    def now(self) -> Snapshot:
        """What the next request answers from."""
        return self._now

    def put(
        self,
        *,
        searcher: Searcher | None = None,
        serving: Serving | None = None,
        generator: GeneratorEngine | None = None,
        repaired: Collection[str] = (),
    ) -> None:
        """Replace the parts that are given, all at once; ``repaired`` parts are faultless again."""
        with self._lock:
            self._faults = {k: v for k, v in self._faults.items() if k not in repaired}
            self._now = Snapshot(
                searcher or self._now.searcher,
                serving or self._now.serving,
                tuple(self._faults.values()),
                generator or self._now.generator,
            )

    def degrade(self, part: str, why: str) -> None:
        """Say of a part that it does not serve as it should."""
        with self._lock:
            self._faults = {**self._faults, part: why}
            self._now = replace(self._now, degraded=tuple(self._faults.values()))

    @property
    def faults(self) -> Mapping[str, str]:
        """By part, why it does not serve as it should."""
        return self._faults


def corrected(searcher: Searcher, text: str) -> Hit | None:
    """The document by which a person corrected this very text, if there is one.

    Found by its id, so that it counts whatever the retrieval method would have found.
    """
    doc_id = feedback_id(text)
    for view in searcher.views:
        row = view.find(doc_id)
        if row is not None:
            segment, passage = view.segment, int(view.segment.offsets[row])
            start, end = (int(v) for v in segment.spans[passage])
            document, vector = segment.documents[row], segment.vector(passage)
            return Hit(doc_id, 1, 0.0, {}, document, start, end, vector)
    return None
