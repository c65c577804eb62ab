"""The job that builds an index generation: aside and in its own process, then published.

The old generation serves until the new one is whole. Vectors of unchanged passages are taken over,
so both modes build a whole generation and only what is new is encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.inference.indexer import Indexer
from app.jobs.inputs import child_part, load_encoder, reading
from app.jobs.job import Job, JobKind
from app.jobs.queue import Jobs
from app.jobs.reindex_promotion import compare, decide
from app.records.encoders import EncoderChoice
from app.settings import Settings
from app.worker import Reporter

if TYPE_CHECKING:
    from index_data.generations.index import Index

logger = logging.getLogger(__name__)

TYPE: Final = "reindex"


def kind(
    settings: Settings,
    indexer: Indexer,
    encoders: EncoderChoice,
    published: Callable[[list[str]], None],
    change_encoder: Callable[[Path, str | None], None],
) -> JobKind:
    """The reindexing job of a server.

    ``published`` is called when the new generation serves, with the ids of documents that it lacks
    since they are damaged; ``change_encoder`` serves a generation together with the encoder that
    made its vectors, where that is another one than before. With ``if_better`` one of another
    encoder or analyzer serves only where it passes its paired test; else it is kept.
    """

    def prepare(job: Job) -> dict[str, Any]:
        return {
            **reading(settings, encoders.source),
            "_dtype": settings.dtype,
            "_analyzer": indexer.index.searcher.analyzer.name,
            "_checkpoints": str(settings.checkpoint_dir),
        }

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        served = indexer.index
        before = served.searcher.generation
        folder = Path(result["folder"])
        promotion = None
        if result.get("compared") is not None:
            promotion = decide(result["compared"], float(job.params.get("margin") or 0.0))
        refused = promotion is not None and not promotion["activate"]
        if refused or activation_mode(job.params.get("activate")) == "never":
            served.keep(folder)
        elif result["encoder_sha"] != served.encoder_sha:
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
            "gate": promotion,
        }

    return JobKind("app.jobs.reindex:run", prepare, finish)


def activation_mode(activate: object) -> str:
    """``never``, ``if_better`` or ``always``, by what a request or an older job says."""
    if isinstance(activate, str):
        return activate
    return "never" if activate is False else "always"


@child_part()
def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Build a generation from the store and, where it may be refused, compare it (in the child)."""
    from index_data.generations.build import build_generation, generation_folders
    from index_data.text.analysis import ANALYZERS
    from model.config import pick_device, pick_dtype

    dtype = pick_dtype(params["_dtype"], pick_device(params["_device"]))
    source = params.get("encoder") or params["_encoder"]
    encoder = load_encoder({**params, "_encoder": source}, reporter, dtype)
    damaged: list[str] = []
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
    number = next(n for n, path in generation_folders(folder.parent) if path == folder)
    result = {
        "folder": str(folder),
        "number": number,
        "encoder": source,
        "encoder_sha": encoder.sha256,
        "damaged": damaged,
    }
    if activation_mode(params.get("activate")) == "if_better":
        result["compared"] = compare(params, folder, source, reporter)
    return result


def submit_if_due(jobs: Jobs, index: Index, documents: int) -> Job | None:
    """Queue a reindex when enough was written since the last generation, and none is on its way.

    Due: the delta holds ``documents``, and at least a quarter of what the generation holds, so
    that a large index is not rebuilt for every small import. 0 never queues one.
    """
    if not documents or jobs.active(TYPE):
        return None
    views = index.searcher.views
    base = views[0].count if views else 0
    delta = sum(view.count for view in views[1:])
    if delta < max(documents, base // 4):
        return None
    logger.info("index: %d documents since the last generation, building a new one", delta)
    return jobs.submit(TYPE, {"mode": "incremental", "activate": True})
