"""The stages in which a server comes up, on a thread of their own while the port is open.

What does not load is named in ``degraded``, and the rest serves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.inference.indexer import WRITES, Indexer
from app.inference.loading import load_generator, load_serving
from app.inference.snapshot import Snapshots
from app.jobs import reindex
from app.jobs.inputs import index_folder
from app.jobs.queue import Jobs
from app.jobs.train import sweep
from app.metrics import Metrics
from app.problems import Problem
from app.records.encoders import EncoderChoice
from app.records.erased import outdated_generations
from app.records.registry import NO_CHECKPOINT, Registry
from app.settings import Settings
from index_data.generations.index import Index, NoGeneration
from index_data.storage.store import DocumentStore

logger = logging.getLogger(__name__)

READY: Final = "ready"


@dataclass(slots=True)
class Status:
    """How far a server has come up."""

    stage: str = "starting"
    detail: str = ""
    failed: bool = False
    loaded: bool = False  # model and generator are there, or are named in ``degraded``

    @property
    def ready(self) -> bool:
        """Whether the store is served whole, but for what ``degraded`` names."""
        return self.stage == READY

    def check(self, *, index: bool) -> None:
        """Raise ``not-ready`` for a prediction that came too early.

        ``index``: it is answered from the index too.
        """
        if self.ready or (self.loaded and not index):
            return
        said = f"The server is not ready: {self.stage}."
        if self.failed:
            said = f"The start of the server failed: {self.stage}. /health/ready says why."
        raise Problem("not-ready", said, retry_after=1)


@dataclass(kw_only=True)
class StartUp:
    """Loads model, generator, index and sample, and hands them to the snapshots and the indexer."""

    settings: Settings
    metrics: Metrics
    store: DocumentStore
    registry: Registry
    encoders: EncoderChoice
    snapshots: Snapshots
    indexer: Indexer
    jobs: Jobs
    status: Status = field(default_factory=Status)

    def __post_init__(self) -> None:
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self.run, name="start-up", daemon=True)

    def start(self) -> None:
        """Begin; :attr:`status` tells how far it is."""
        self._thread.start()

    def close(self) -> None:
        """End after the present stage, and wait for that, 30 seconds at most."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def run(self) -> None:
        """Go through the stages."""
        status = self.status
        generator = (("loading the generator", self._load_generator),)
        stages: tuple[tuple[str, Callable[[], None]], ...] = (
            ("loading the model", self._load_model),
            *(generator if self.settings.generator else ()),
            ("opening the index", self._open_index),
            ("filling the store with the sample", self._fill_sample),
            ("catching up with the store", self._catch_up),
        )
        began = time.monotonic()
        for stage, work in stages:
            status.stage = stage
            logger.info("start: %s", stage)
            try:
                work()
            except Exception as error:  # told by /health/ready; the process serves the store
                logger.exception("start: %s failed", stage)
                status.failed = True
                status.detail = f"{type(error).__name__}: {error}"[:300]
                return
            if self._closing.is_set():
                return
        self.jobs.start()
        sweep(self.settings, self.jobs.all())
        status.stage, status.detail = READY, ""
        logger.info("start: ready after %.1f s", time.monotonic() - began)
        self._reindex_if_needed()

    def _reindex_if_needed(self) -> None:
        """Queue a generation where there is none, or none of the encoder that is asked for."""
        index, serving = self.indexer.index, self.snapshots.now().serving
        params: dict[str, Any] = {"mode": "full", "activate": True}
        if self.encoders.pending:
            self.jobs.submit(reindex.TYPE, params | {"encoder": self.encoders.requested})
        elif self.store.count() and (
            index.searcher.generation == 0
            or "index" in self.snapshots.faults
            or (serving is not None and index.searcher.views[0].segment.vectors is None)
            or outdated_generations(self.store, index)
        ):
            self.jobs.submit(reindex.TYPE, params)

    def _load_model(self) -> None:
        from model.encoder.encoder import EncoderRefused
        from model.folders import CheckpointRefused

        choice = self.registry.choose()
        problems = list(choice.problems)
        try:
            self._serve(choice.version, choice.folder)
        except CheckpointRefused as error:
            problems.append(f"checkpoint {choice.version}: {error}")
            self._degrade("checkpoint", "; ".join(problems))
            try:
                self._serve(NO_CHECKPOINT, None)
            except EncoderRefused as refused:
                self._degrade("encoder", str(refused))
            return
        except (EncoderRefused, ValueError, RuntimeError) as error:
            self._degrade("encoder", f"the encoder does not load: {error}")
        if problems:
            self._degrade("checkpoint", "; ".join(problems))

    def _serve(self, version: str, folder: Path | None) -> None:
        source = self.encoders.source
        self.snapshots.put(
            serving=load_serving(self.settings, self.metrics, version, folder, source)
        )

    def _degrade(self, part: str, why: str) -> None:
        self.snapshots.degrade(part, why[:500])
        logger.warning("start: %s", why[:500])

    def _load_generator(self) -> None:
        from model.text_generation.generator_files import GeneratorRefused

        try:
            self.snapshots.put(generator=load_generator(self.settings, self.metrics))
        except (GeneratorRefused, ValueError) as error:
            self._degrade("generator", f"FOOTNOTE_GENERATOR is not loaded: {error}")

    def _open_index(self) -> None:
        from index_data.generations.warmup import warm_up

        self.status.loaded = True
        warm_up()
        settings, serving = self.settings, self.snapshots.now().serving
        index = Index(
            self.store,
            index_folder(settings),
            scorer="whoosh" if settings.scorer == "whoosh" else "compiled",
            passage_words=settings.passage_words,
            encoder_sha=None if serving is None else serving.model.encoder_sha256,
        )
        try:
            problems: Sequence[str] = index.open(self._progress)
        except NoGeneration as reason:
            logger.info("start: %s; serving from memory until one is built", reason)
            problems = reason.problems
            index.open_without_generation(self._progress)
        if problems:
            why = f"index: {'; '.join(problems)[:400]}; a new generation is being built"
            self.snapshots.degrade("index", why)
        self.indexer.open(index)

    def _fill_sample(self) -> None:
        """Fill a store that has never been written to, and wait until it is searchable."""
        if not self.settings.sample or self.store.sequence:
            return
        from index_data.sample import helpdesk

        indexer, first = self.indexer, self.store.sequence
        result = self.store.upsert(list(helpdesk())).result()
        indexer.notify()
        while indexer.reached < result.sequence and WRITES not in self.snapshots.faults:
            if self._closing.wait(0.2):
                return
            self._progress(indexer.reached - first, result.sequence - first, "documents encoded")

    def _catch_up(self) -> None:
        """Wait until the index has what was stored by now, with vectors where they can be made.

        What the indexer cannot take up is named in ``degraded``, and is not waited for.
        """
        indexer, end = self.indexer, self.store.sequence
        while indexer.reached < end or (self.snapshots.now().serving and indexer.bare):
            if WRITES in self.snapshots.faults or self._closing.wait(0.05):
                return
            self.status.detail = f"documents to encode: {indexer.bare}"

    def _progress(self, step: int, total: int, what: str) -> None:
        detail = f"{what}: {step} of {total}"
        if detail != self.status.detail and (step % 100 == 0 or step == total):
            logger.info("start: %s", detail)
        self.status.detail = detail
