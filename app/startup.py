"""The stages in which a server comes up, on a thread of their own while the port is open.

What does not load is named in ``degraded``, and the rest serves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.inference.indexer import Indexer
from app.inference.loading import load_generator, load_serving
from app.jobs import reindex as indexing_job
from app.jobs import train as training_job
from app.manage import erasure
from app.records.registry import NO_CHECKPOINT
from app.status import READY
from index_data.generations.index import Index, NoGeneration

if TYPE_CHECKING:
    from app.state import Footnote

logger = logging.getLogger(__name__)


class StartUp:
    """Loads the model, the generator, the index and the sample into a server's state."""

    def __init__(self, footnote: Footnote, closing: threading.Event) -> None:
        self._footnote = footnote
        self._status = footnote.status
        self._closing = closing

    def run(self) -> None:
        """Go through the stages; `Status` tells how far it is."""
        footnote, status = self._footnote, self._status
        writing = (("loading the generator", self._load_generator),)
        stages: tuple[tuple[str, Callable[[], None]], ...] = (
            ("loading the model", self._load_model),
            *(writing if footnote.settings.generator else ()),
            ("opening the index", self._open_index),
            ("filling the store with the sample", self._fill_sample),
        )
        began = time.monotonic()
        for stage, work in stages:
            status.stage, status.since = stage, time.monotonic()
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
        footnote.jobs.start()
        training_job.sweep(footnote.settings, footnote.jobs.all())
        status.stage, status.detail = READY, ""
        logger.info("start: ready after %.1f s", time.monotonic() - began)
        self._reindex_if_needed()

    def _reindex_if_needed(self) -> None:
        """Queue a generation where there is none, or none that fits the encoder that is wanted."""
        footnote = self._footnote
        searcher = footnote.open_index().searcher
        order = {"mode": "full", "activate": True}
        if footnote.encoders.pending:
            wanted = {"encoder": footnote.encoders.wanted}
            footnote.jobs.submit(indexing_job.TYPE, order | wanted)
        elif footnote.store.count() and (
            searcher.generation == 0
            or "index" in self._status.degraded
            or (footnote.serving is not None and searcher.views[0].segment.vectors is None)
            or erasure.pending(footnote)
        ):
            footnote.jobs.submit(indexing_job.TYPE, order)

    def _load_model(self) -> None:
        from model.encoder.encoder import EncoderRefused
        from model.folders import CheckpointRefused

        footnote, degraded = self._footnote, self._status.degraded
        settings, metrics = footnote.settings, footnote.metrics
        choice = footnote.registry.choose()
        if choice.problems:
            degraded["checkpoint"] = "; ".join(choice.problems)[:500]
        try:
            footnote.serving = load_serving(settings, metrics, choice.version, choice.folder)
        except CheckpointRefused as error:
            refused = f"checkpoint {choice.version}: {error}"
            degraded["checkpoint"] = "; ".join([*choice.problems, refused])[:500]
            try:
                footnote.serving = load_serving(settings, metrics, NO_CHECKPOINT, None)
            except EncoderRefused as problem:
                degraded["encoder"] = str(problem)[:500]
        except (EncoderRefused, ValueError, RuntimeError) as error:
            degraded["encoder"] = f"the encoder does not load: {error}"[:500]
        for text in degraded.values():
            logger.warning("start: %s", text)

    def _load_generator(self) -> None:
        from model.text_generation.generator_files import GeneratorRefused

        footnote = self._footnote
        try:
            footnote.generator = load_generator(footnote.settings, footnote.metrics)
        except (GeneratorRefused, ValueError) as error:
            told = f"FOOTNOTE_GENERATOR is not loaded: {error}"[:500]
            self._status.degraded["generator"] = told
            logger.warning("start: %s", told)

    def _open_index(self) -> None:
        from index_data.generations.warmup import warm_up

        warm_up()
        footnote, settings = self._footnote, self._footnote.settings
        serving = footnote.serving
        index = Index(
            footnote.store,
            indexing_job.index_folder(settings),
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
            told = "; ".join(problems)[:400]
            self._status.degraded["index"] = f"index: {told}; a new generation is being built"
        footnote.index = index
        footnote.indexer = Indexer(footnote.store, index)
        footnote.indexer.encode_with(serving)
        footnote.indexer.start()

    def _fill_sample(self) -> None:
        """Fill a store that has never been written to, and wait until it is searchable."""
        footnote = self._footnote
        if not footnote.settings.sample or footnote.store.sequence:
            return
        from index_data.sample import helpdesk

        documents = list(helpdesk())
        first = footnote.store.sequence
        result = footnote.store.upsert(documents).result()
        indexer = footnote.open_indexer()
        indexer.notify()
        while indexer.reached < result.sequence and not self._closing.wait(0.2):
            self._progress(indexer.reached - first, result.sequence - first, "documents encoded")

    def _progress(self, step: int, total: int, what: str) -> None:
        detail = f"{what}: {step} of {total}"
        if detail != self._status.detail and (step % 100 == 0 or step == total):
            logger.info("start: %s", detail)
        self._status.detail = detail
