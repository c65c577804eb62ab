"""Putting a model in use: loaded and warmed up first, then swapped in, then written down."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from app.inference.indexer import Indexer
from app.inference.loading import load_serving
from app.inference.snapshot import ModelInfo, Serving, Snapshots
from app.metrics import Metrics
from app.problems import Problem
from app.records.encoders import EncoderChoice
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from index_data.search.searcher import Searcher

logger = logging.getLogger(__name__)


class Activation:
    """The one way by which the model that serves changes.

    One change at a time, so that what serves and what is written down cannot come apart. Requests
    under way keep the old model, which ends when the last of them is answered.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: Registry,
        encoders: EncoderChoice,
        snapshots: Snapshots,
        indexer: Indexer,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._registry = registry
        self._encoders = encoders
        self._snapshots = snapshots
        self._indexer = indexer
        self._lock = threading.Lock()

    def activate(self, version: str) -> ModelInfo:
        """Serve a version; blocks. Raises ``not-found``, or ``validation`` if it does not load."""
        with self._lock:
            info = self._swap(version)
            self._registry.set_active(version)
            return info

    def rollback(self) -> ModelInfo:
        """Serve what served before; blocks. Raises ``job-conflict`` when nothing did."""
        with self._lock:
            info = self._swap(self._registry.previous())
            self._registry.set_rolled_back()
            return info

    def change_encoder(self, generation: Path, source: str | None) -> None:
        """Serve a generation that another encoder made, with that encoder; blocks.

        Its newest checkpoint goes live with it, or the neighbours alone. Raises what loading
        raises, and leaves everything as it was.
        """
        with self._lock:
            old = self._snapshots.now().serving
            new = load_serving(self._settings, self._metrics, NO_CHECKPOINT, None, source)
            choice = self._registry.fitting(new.model.encoder_sha256)
            if choice.folder is not None:
                first, new = new, self.load_beside(choice.version, choice.folder, new)
                first.engine.retire()

            def serve(searcher: Searcher) -> None:
                repaired = ("checkpoint", "encoder")
                self._snapshots.put(searcher=searcher, serving=new, repaired=repaired)

            encoder_sha = new.model.encoder_sha256
            self._indexer.index.publish(generation, encoder_sha=encoder_sha, serve=serve)
            self._encoders.choose(source)
            self._registry.set_active(choice.version)
            self._replaced(old)
        logger.info("encoder %s serves, with checkpoint %s", source, choice.version)

    def load_beside(self, version: str, folder: Path | None, serving: Serving) -> Serving:
        """A checkpoint over the encoder of another model; nothing is swapped."""
        return load_serving(self._settings, self._metrics, version, folder, serving.encoder)

    def _swap(self, version: str) -> ModelInfo:
        from model.folders import CheckpointRefused  # brings torch along, which serves by now

        folder = None if version == NO_CHECKPOINT else self._registry.find(version)
        old = self._snapshots.now().serving
        encoder = self._encoders.source if old is None else old.encoder
        try:
            new = load_serving(self._settings, self._metrics, version, folder, encoder)
        except CheckpointRefused as refused:
            raise Problem("validation", f"The checkpoint does not load: {refused}") from refused
        self._snapshots.put(serving=new, repaired=("checkpoint",))
        self._replaced(old)
        logger.info("model %s serves", version)
        return new.model

    def _replaced(self, old: Serving | None) -> None:
        self._indexer.notify()  # documents without vectors can be encoded, if there was no model
        if old is not None:
            old.engine.retire()
