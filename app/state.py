"""The application: everything that one server holds.

The store is opened first and at once, since a second server on it must be refused before it does
anything. Model, index and sample follow on a thread (`app.startup`), so that the port is open
meanwhile.
"""

from __future__ import annotations

import logging
import time

from app.history.pins import Pins
from app.history.predictions import Predictions
from app.inference.ablation import Ablations
from app.inference.activation import Activation
from app.inference.admission import Permits
from app.inference.calibration import NeighbourCalibrations
from app.inference.indexer import Indexer
from app.inference.language_models import LanguageModels
from app.inference.loading import generator_threads, inference_threads, set_threads
from app.inference.pipeline import Pipeline
from app.inference.snapshot import Snapshot, Snapshots
from app.jobs import audit, evaluate, pretrain, reindex, train
from app.jobs.queue import Jobs
from app.metrics import Metrics
from app.records.audits import Audits
from app.records.datasets import Datasets
from app.records.encoders import EncoderChoice
from app.records.erased import remove_outdated
from app.records.feedback import Feedback
from app.records.keys import Keys, is_loopback
from app.records.registry import Registry
from app.settings import Settings, revealed
from app.startup import StartUp
from index_data.generations.index import Index
from index_data.storage.store import DocumentStore

logger = logging.getLogger(__name__)


class Footnote:
    """One server's whole state. Made by the application, closed with it.

    Raises (on construction): ``StoreLocked`` when another server has the store, ``StoreCorrupt``,
    ``StoreTooNew`` and ``StorageError``.
    """

    def __init__(self, settings: Settings, *, address: str | None = None) -> None:
        self.settings = settings
        self.started = int(time.time())
        self.metrics = Metrics()
        self.store = DocumentStore(settings.store_dir, address=address)
        self._open_records()
        self._make_inference()
        self._make_jobs()
        self._add_gauges()

    def _open_records(self) -> None:
        """What is kept: keys, choices, checkpoints, feedback, datasets, audits, predictions."""
        settings, store = self.settings, self.store
        self.keys = Keys(
            store,
            admin=revealed(settings.admin_key),
            write=revealed(settings.write_key),
            predict=revealed(settings.predict_key),
            loopback=is_loopback(settings.host),
        )
        self.new_key = self.keys.prepare()
        self.encoders = EncoderChoice(store, settings.encoder)
        self.registry = Registry(settings.checkpoint_dir)
        self.language_models = LanguageModels(settings.checkpoint_dir)
        self.feedback = Feedback(store)
        self.datasets = Datasets(settings.store_dir)
        self.audits = Audits(store)
        self.predictions = Predictions(store if settings.store_predictions else None)

    def _make_inference(self) -> None:
        """What answers, with nothing loaded yet."""
        settings = self.settings
        self.permits = Permits(settings.queue_size)
        self.ablations = Ablations(self.metrics)
        self.calibrations = NeighbourCalibrations()
        self.snapshots = Snapshots()
        self.indexer = Indexer(self.store, self.snapshots)
        self.activation = Activation(
            settings, self.metrics, self.registry, self.encoders, self.snapshots, self.indexer
        )
        self.pins = Pins(
            keep=settings.keep_snapshots,
            registry=self.registry,
            load=self.activation.load_beside,
        )
        self.pipeline = Pipeline(
            retrieval_threads=settings.retrieval_threads,
            ablation_share=settings.ablation_share,
            calibration=self.calibrations.of,
        )

    def _make_jobs(self) -> None:
        settings, registry, encoders = self.settings, self.registry, self.encoders
        kinds = {
            train.TYPE: train.kind(settings, registry, encoders, self.activation.activate),
            reindex.TYPE: reindex.kind(
                settings,
                self.indexer,
                encoders,
                self._index_published,
                self.activation.change_encoder,
            ),
            evaluate.TYPE: evaluate.kind(settings, registry, encoders),
            pretrain.TYPE: pretrain.kind(settings),
            audit.TYPE: audit.kind(settings, self.audits, encoders),
        }
        self.jobs = Jobs(self.store, kinds, busy=self._set_busy)
        self._startup = StartUp(
            settings=settings,
            metrics=self.metrics,
            store=self.store,
            registry=registry,
            encoders=encoders,
            snapshots=self.snapshots,
            indexer=self.indexer,
            jobs=self.jobs,
        )
        self.status = self._startup.status

    def _add_gauges(self) -> None:
        permits, store, now = self.permits, self.store, self.snapshots.now

        def waiting() -> float:
            serving = now().serving
            return 0 if serving is None else serving.engine.waiting()

        def writing() -> float:
            generator = now().generator
            return 0 if generator is None else generator.active()

        def passages() -> float:
            searcher = now().searcher
            return 0 if searcher is None else searcher.size

        self.metrics.gauges(
            {
                "footnote_in_flight": ("Inputs admitted.", lambda: permits.taken),
                "footnote_queue": ("Inputs waiting for the model.", waiting),
                "footnote_writing": ("Texts being written or waiting.", writing),
                "footnote_refused": ("Requests refused with 429.", lambda: permits.refused),
                "footnote_passages": ("Passages in the index.", passages),
                "footnote_store_sequence": ("The last write.", lambda: store.sequence),
                "footnote_index_sequence": (
                    "The last write in the index.",
                    lambda: self.indexer.reached,
                ),
            }
        )

    def start(self) -> None:
        """Begin to load; :attr:`status` tells how far it is."""
        self._startup.start()

    def close(self) -> None:
        """End every thread in order and give the store back. Blocks for some seconds at most."""
        self._startup.close()
        self.jobs.close()
        self.calibrations.close()
        self.indexer.close()
        snapshot = self.snapshots.now()
        if snapshot.serving is not None:
            snapshot.serving.engine.retire()
            snapshot.serving.engine.join(timeout=10)
        if snapshot.generator is not None:
            snapshot.generator.close()
        self.pins.close()
        self.pipeline.close()
        self.store.close()

    def snapshot(self) -> Snapshot:
        """What the next request answers from."""
        return self.snapshots.now()

    def open_index(self) -> Index:
        """The index. Raises ``not-ready`` while it is not open."""
        return self.indexer.index

    def degraded(self) -> list[str]:
        """What does not serve as it should, and why."""
        reasons = list(self.snapshots.now().degraded)
        if damaged := len(self.store.damaged()):
            reasons.append(
                f"store: {damaged} damaged and left out (`footnote doctor` names each): "
                "import them again"
            )
        return reasons

    def imported(self) -> None:
        """Told after an import: builds a new generation when enough was written since the last."""
        if self.status.ready:
            reindex.submit_if_due(self.jobs, self.indexer.index, self.settings.reindex_after)

    def _index_published(self, damaged: list[str]) -> None:
        """Told when a new generation serves: what was wrong with the old one no longer counts.

        Documents that the build found damaged are looked at, so that ``degraded`` tells of them.
        """
        self.snapshots.put(repaired=("index",))
        remove_outdated(self.store, self.indexer.index)
        self.store.get_many(damaged)

    def _set_busy(self, busy: bool) -> None:
        """Leave a core to a job while it runs: two busy pools on the same cores collapse."""
        count = 1 if busy else inference_threads(self.settings)
        snapshot = self.snapshots.now()
        if snapshot.serving is not None:
            snapshot.serving.engine.call(lambda reader: set_threads(count))
        if snapshot.generator is not None:
            writing = 1 if busy else generator_threads(self.settings)
            snapshot.generator.call(lambda generator: set_threads(writing))
