"""The job that builds an index generation: aside and in its own process, then published.

The old generation serves until the new one is whole. Vectors of unchanged passages are taken over,
so both modes build a whole generation and only what is new is encoded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.jobs.job import Job, JobKind
from app.jobs.queue import Jobs
from app.problems import Problem
from app.settings import Settings
from app.worker import JobCancelled, JobRefused, Reporter
from index_data.storage.store import StoreError

if TYPE_CHECKING:
    from index_data.generations.index import Index

logger = logging.getLogger(__name__)

TYPE: Final = "reindex"
FOLDER: Final = "index"
WATCH_EVERY_S: Final = 5.0
RETRY_AFTER_S: Final = 600.0


def index_folder(settings: Settings) -> Path:
    """Where the generations lie."""
    return settings.store_dir / FOLDER


def kind(
    settings: Settings,
    index: Callable[[], Index],
    published: Callable[[list[str]], None] = lambda damaged: None,
    change_encoder: Callable[[Path, str | None], None] | None = None,
    decide: Callable[[dict[str, Any], float], dict[str, Any]] | None = None,
) -> JobKind:
    """The reindexing job of a server; ``index`` gives its index when the build is whole.

    ``published`` is called when the new generation serves, with the ids of documents that it lacks
    since they are damaged; ``change_encoder`` serves a generation together with the encoder that
    made its vectors, where that is another one than before. Asked to go live ``if_better``, one of
    another encoder or analyzer was compared, and where ``decide`` says no to the figures it is kept
    without serving.
    """

    def prepare(job: Job) -> dict[str, Any]:
        return {
            "_store": str(settings.store_dir),
            "_index": str(index_folder(settings)),
            "_encoder": settings.encoder,
            "_device": settings.device,
            "_dtype": settings.dtype,
            "_passage_words": settings.passage_words,
            "_analyzer": index().searcher.analyzer.name,
            "_checkpoints": str(settings.checkpoint_dir),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        served = index()
        before = served.searcher.generation
        folder = Path(result["folder"])
        gate = None
        if decide is not None and result.get("compared") is not None:
            gate = decide(result["compared"], float(job.params.get("margin") or 0.0))
        refused = gate is not None and not gate["activate"]
        if refused or wish_of(job.params.get("activate")) == "never":
            served.keep(folder)
        elif change_encoder is not None and result["encoder_sha"] != served.encoder_sha:
            change_encoder(folder, result["encoder"])
            published(result["damaged"])
        else:
            served.publish(folder)
            published(result["damaged"])
        built = next(g for g in served.generations() if g.number == result["number"])
        return {
            "generation": built.number,
            "documents": built.documents,
            "passages": built.passages,
            "sequence": built.sequence,
            "vectors": built.encoder_sha is not None,
            "encoder": result["encoder"],
            "analyzer": built.analyzer,
            "damaged": result["damaged"],
            "activated": built.active,
            "previous": before,
            "gate": gate,
        }

    return JobKind("app.jobs.reindex_promotion:run", prepare, finish)


def wish_of(activate: object) -> str:
    """``never``, ``if_better`` or ``always``, by what a request or an older job says."""
    if isinstance(activate, str):
        return activate
    return "never" if activate is False else "always"


def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Build a generation from the store (the child's part)."""
    import torch

    from index_data.generations.build import BuildCancelled, build_generation, generation_folders
    from index_data.text.analysis import ANALYZERS
    from model.config import pick_dtype
    from model.encoder.encoder import Encoder, EncoderRefused

    torch.set_num_threads(1)
    reporter.progress(0, 1, "load the encoder")
    device = pick_device(params["_device"])
    dtype = pick_dtype(params["_dtype"], device)
    source = params.get("encoder") or params["_encoder"]
    damaged: list[str] = []
    try:
        encoder = Encoder.load(source, device=device, dtype=dtype)
    except EncoderRefused as refused:
        raise JobRefused(str(refused)) from refused
    try:
        folder = build_generation(
            Path(params["_store"]),
            Path(params["_index"]),
            encode=encoder.encode,
            encoder_sha=encoder.sha256,
            passage_words=params["_passage_words"],
            analyzer=ANALYZERS[params.get("analyzer") or params["_analyzer"]],
            progress=reporter.progress,
            cancelled=reporter.cancelled,
            damaged=damaged.extend,
        )
    except BuildCancelled:
        raise JobCancelled from None
    number = next(n for n, path in generation_folders(folder.parent) if path == folder)
    return {
        "folder": str(folder),
        "number": number,
        "encoder": source,
        "encoder_sha": encoder.sha256,
        "damaged": damaged,
    }


def pick_device(name: str) -> str:
    """The device that a setting names; ``auto`` is a GPU where torch sees one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


class DeltaWatch:
    """Queues a reindex when enough was written since the last generation.

    Due: the delta holds ``documents``, and at least a quarter of what the generation holds, so
    that a large index is not rebuilt for every small import. 0 never queues one.
    """

    def __init__(self, jobs: Jobs, index: Callable[[], Index], *, documents: int) -> None:
        self._jobs = jobs
        self._index = index
        self._documents = documents
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delta-watch", daemon=True)

    def start(self) -> None:
        """Look every few seconds from now on."""
        if self._documents:
            self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> Job | None:
        """The job, if one was due and none is queued or running."""
        if not self._documents or self._jobs.active(TYPE):
            return None
        views = self._index().searcher.views
        base = views[0].count if views else 0
        delta = sum(view.count for view in views[1:])
        if delta < max(self._documents, base // 4):
            return None
        logger.info("index: %d documents since the last generation, building a new one", delta)
        return self._jobs.submit(TYPE, {"mode": "incremental", "activate": True})

    def _run(self) -> None:
        while not self._closing.wait(WATCH_EVERY_S):
            last = next((job for job in self._jobs.all() if job.type == TYPE), None)
            if last is not None and last.state in {"failed", "cancelled"}:
                wait = RETRY_AFTER_S  # what failed just now would fail again
            else:
                wait = 0.0
            if last is not None and time.time() - (last.finished or 0.0) < wait:
                continue
            try:
                self.check()
            except (Problem, StoreError):
                logger.exception("a reindex is due and could not be queued")
