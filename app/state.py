"""The application: everything that one server holds.

The store is opened first and at once, since a second server on it must be refused before it does
anything. Model, index and sample follow on a thread (`app.startup`), so that the port is open
meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from app.history.pins import Pins
from app.history.predictions import Predictions
from app.inference.ablation import Ablations
from app.inference.activation import Activation
from app.inference.admission import Permits
from app.inference.calibration import NeighbourCalibrations
from app.inference.generator_engine import GeneratorEngine
from app.inference.indexer import Indexer
from app.inference.language_models import LanguageModels
from app.inference.loading import (
    generator_threads,
    inference_threads,
    load_serving,
    set_threads,
)
from app.inference.pipeline import Pipeline
from app.inference.snapshot import ModelInfo, Serving, Snapshot
from app.jobs import reindex as indexing_job
from app.jobs.kinds import job_kinds
from app.jobs.queue import Jobs
from app.manage import erasure
from app.metrics import Metrics
from app.problems import Problem
from app.records.audits import Audits
from app.records.datasets import Datasets
from app.records.encoders import EncoderChoice
from app.records.feedback import Feedback
from app.records.keys import Keys, is_loopback
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from app.startup import StartUp
from app.status import Status
from index_data.generations.index import Index
from index_data.storage.store import DocumentStore

logger = logging.getLogger(__name__)

TRIES = 20  # to capture a pair of index and model that fit


class Footnote:
    """One server's whole state. Made by the application, closed with it.

    Raises (on construction): ``StoreLocked`` when another server has the store, ``StoreCorrupt``,
    ``StoreTooNew`` and ``StorageError``.
    """

    def __init__(self, settings: Settings, *, address: str | None = None) -> None:
        self.settings = settings
        self.started = int(time.time())
        self.status = Status()
        self.metrics = Metrics()
        self.permits = Permits(settings.queue_size)
        self.ablations = Ablations(self.metrics)
        self.calibrations = NeighbourCalibrations()
        self.store = DocumentStore(settings.store_dir, address=address)
        self.keys = Keys(
            self.store,
            admin=settings.admin_key,
            write=settings.write_key,
            predict=settings.predict_key,
            loopback=is_loopback(settings.host),
        )
        self.new_key = self.keys.prepare()
        self.encoders = EncoderChoice(self.store, settings.encoder)
        self.settings = settings = replace(settings, encoder=self.encoders.source)
        self.registry = Registry(settings.checkpoint_dir)
        self.language_models = LanguageModels(settings.checkpoint_dir)
        self.feedback = Feedback(self.store)
        self.datasets = Datasets(settings.store_dir)
        self.audits = Audits(self.store)
        self.predictions = Predictions(self.store if settings.store_predictions else None)
        self.pins = Pins(
            keep=settings.keep_snapshots, registry=self.registry, load=self._load_beside
        )
        self.pipeline = Pipeline(
            retrieval_threads=settings.retrieval_threads,
            ablation_share=settings.ablation_share,
            calibration=self.calibrations.of,
        )
        self.index: Index | None = None
        self.indexer: Indexer | None = None
        self.serving: Serving | None = None
        self.generator: GeneratorEngine | None = None
        self.activation = Activation(self.registry, self.activate_model)
        self.jobs = Jobs(
            self.store,
            job_kinds(
                settings,
                self.registry,
                self.activation,
                self.open_index,
                self.index_published,
                lambda: self.encoders.source,
                self.change_encoder,
                self.audits,
            ),
            busy=self.set_busy,
        )
        self._watch = indexing_job.DeltaWatch(
            self.jobs, self.open_index, documents=settings.reindex_after
        )
        self._swap = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=StartUp(self, self._closing).run, name="start-up", daemon=True
        )
        self.metrics.gauges(
            {
                "footnote_in_flight": ("Inputs admitted.", lambda: self.permits.taken),
                "footnote_queue": ("Inputs waiting for the model.", self._waiting),
                "footnote_writing": ("Texts being written or waiting.", self._writing),
                "footnote_refused": ("Requests refused with 429.", lambda: self.permits.refused),
                "footnote_passages": ("Passages in the index.", self._passages),
                "footnote_store_sequence": ("The last write.", lambda: self.store.sequence),
                "footnote_index_sequence": ("The last write in the index.", self._reached),
            }
        )

    def start(self) -> None:
        """Begin to load; :attr:`status` tells how far it is."""
        self._thread.start()

    def close(self) -> None:
        """End every thread in order and give the store back. Blocks for some seconds at most."""
        self._closing.set()
        self.jobs.close()
        self.calibrations.close()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        if self.indexer is not None:
            self.indexer.close()
        if self.serving is not None:
            self.serving.engine.retire()
            self.serving.engine.join(timeout=10)
        if self.generator is not None:
            self.generator.close()
        self.pins.close()
        self.pipeline.close()
        self.store.close()

    def snapshot(self) -> Snapshot:
        """What the next request answers from."""
        for _ in range(TRIES):
            searcher = None if self.index is None or self.indexer is None else self.index.searcher
            taken = Snapshot(
                searcher, self.serving, tuple(self.status.degraded.values()), self.generator
            )
            if not taken.torn:
                break
            time.sleep(0.0005)  # a change of encoder is at its last step, two assignments
        return taken

    def open_index(self) -> Index:
        """The index. Raises ``not-ready`` while it is not open."""
        if self.index is None:
            raise Problem("not-ready", "The index is not open yet.", retry_after=1)
        return self.index

    def open_indexer(self) -> Indexer:
        """What puts writes into the index. Raises ``not-ready`` while there is no index."""
        if self.indexer is None:
            raise Problem("not-ready", "The index is not open yet.", retry_after=1)
        return self.indexer

    def activate_model(self, version: str, folder: Path | None) -> ModelInfo:
        """Load a checkpoint beside the one that serves, warm it up, then swap; blocks.

        Requests under way keep the old one, which ends when the last of them is answered. Raises
        ``CheckpointRefused`` and leaves everything as it was.
        """
        with self._swap:
            old = self.serving
            encoder = None if old is None else old.encoder
            new = load_serving(self.settings, self.metrics, version, folder, encoder)
            self.serving = new
            self.status.degraded.pop("checkpoint", None)
            if self.indexer is not None:
                self.indexer.encode_with(new)
            if old is not None:
                old.engine.retire()
        logger.info("model %s serves", version)
        return new.model

    def change_encoder(self, generation: Path, source: str | None) -> None:
        """Serve a generation that another encoder made, with that encoder; blocks.

        Its newest checkpoint goes live with it, or the neighbours alone. Raises what loading
        raises, and leaves everything as it was.
        """
        with self._swap:
            settings = replace(self.settings, encoder=source)
            new = load_serving(settings, self.metrics, NO_CHECKPOINT, None)
            sha256 = new.model.encoder_sha256
            choice = self.registry.fitting(sha256)
            if choice.folder is not None:
                first, new = (
                    new,
                    load_serving(
                        settings, self.metrics, choice.version, choice.folder, new.encoder
                    ),
                )
                first.engine.retire()
            old = self.serving

            def together() -> None:
                self.settings, self.serving = settings, new

            self.open_index().publish(generation, encoder_sha=sha256, together=together)
            self.encoders.choose(source)
            self.registry.set_active(choice.version)
            self.status.degraded.pop("checkpoint", None)
            self.status.degraded.pop("encoder", None)
            self.open_indexer().encode_with(new)
            if old is not None:
                old.engine.retire()
        logger.info("encoder %s serves, with checkpoint %s", source, choice.version)

    def _load_beside(self, version: str, folder: Path | None, serving: Serving) -> Serving:
        return load_serving(self.settings, self.metrics, version, folder, serving.encoder)

    def written(self) -> None:
        """Told after an import: builds a new generation when enough was written since the last."""
        if self.status.ready:
            self._watch.check()

    def index_published(self, damaged: list[str]) -> None:
        """Told when a new generation serves: what was wrong with the old one no longer counts.

        Documents that the build found damaged are looked at, so that ``degraded`` tells of them.
        """
        self.status.degraded.pop("index", None)
        erasure.finish(self)
        self.store.get_many(damaged)

    def degraded(self) -> list[str]:
        """What does not serve as it should, and why."""
        found = list(self.status.degraded.values())
        if damaged := len(self.store.damaged()):
            found.append(
                f"store: {damaged} damaged and left out (`footnote doctor` names each): "
                "import them again"
            )
        return found

    def set_busy(self, busy: bool) -> None:
        """Leave a core to a job while it runs: two busy pools on the same cores collapse."""
        count = 1 if busy else inference_threads(self.settings)
        if self.serving is not None:
            self.serving.engine.call(lambda reader: set_threads(count))
        if self.generator is not None:
            writing = 1 if busy else generator_threads(self.settings)
            self.generator.call(lambda generator: set_threads(writing))

    def _waiting(self) -> float:
        return 0 if self.serving is None else self.serving.engine.waiting()

    def _writing(self) -> float:
        return 0 if self.generator is None else self.generator.active()

    def _passages(self) -> float:
        return 0 if self.index is None else self.index.searcher.size

    def _reached(self) -> float:
        return 0 if self.indexer is None else self.indexer.reached
