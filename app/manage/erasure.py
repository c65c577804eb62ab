"""Erasing a document from everything that is kept, with a receipt of what derived from it.

Text, vectors, feedback and what stored predictions quote of it go at once; the states of the index
that are kept for replaying are dropped. Published generations are folders that never change, so a
new one is built and those from before the erasure are removed when it serves. A checkpoint cannot
forget: those that were trained on the document are named.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from app.jobs import pretrain as pretrain_job
from app.jobs import reindex as indexing_job
from app.jobs import train as training_job
from app.jobs.job import FINISHED
from app.problems import Problem
from app.training.frozen_rows import FEEDBACK
from index_data.documents import normalise
from index_data.storage.store import DeleteResult, delete_documents

if TYPE_CHECKING:
    from app.state import Footnote

logger = logging.getLogger(__name__)

ERASED: Final = "erased:sequence"  # the last erasure: a generation must reach it


async def erase(footnote: Footnote, name: str, *, if_match: str | None) -> dict[str, Any]:
    """Erase a document, also one that was deleted before; the receipt.

    Raises ``not-found`` for an id that no document ever had, and ``PreconditionFailed``.
    """
    return await asyncio.to_thread(_erase, footnote, name, if_match)


def _erase(footnote: Footnote, name: str, if_match: str | None) -> dict[str, Any]:
    document = footnote.store.get(name)
    if document is None and not _was_deleted(footnote, name):
        raise Problem("not-found", "There is no document with this id.")
    text = None if document is None else normalise(document.text)
    feedback_items = [
        one["id"]
        for one in footnote.feedback.export()
        if name in (one["doc_id"], (one["answer"] or {}).get("doc_id"))
        or (text is not None and normalise(one["text"]) == text)
    ]
    result, vectors = footnote.store.write(
        lambda connection: _delete(connection, name, feedback_items, if_match)
    ).result()
    if footnote.indexer is not None:
        footnote.indexer.notify()
        footnote.indexer.after(result.sequence).result()
    snapshots = footnote.pins.forget(result.sequence)
    in_memory, stored = footnote.predictions.erase(name, text, result.sequence)
    sets = _drop_training_sets(footnote, {name, *feedback_items})
    footnote.store.scrub()
    trained, unknown = _checkpoints(footnote, name)
    generations, job = _rebuild(footnote)
    return {
        "id": f"erasure_{secrets.token_hex(8)}",
        "doc_id": name,
        "sequence": result.sequence,
        "erased": time.time(),
        "document": document is not None,
        "vectors": vectors,
        "feedback": len(feedback_items),
        "predictions": {"memory": in_memory, "stored": stored},
        "snapshots": snapshots,
        "training_sets": sets,
        "generations": generations,
        "reindex_job": job,
        "checkpoints": trained,
        "checkpoints_unknown": unknown,
        "running_jobs": [job.id for job in footnote.jobs.all() if job.state == "running"],
    }


def pending(footnote: Footnote) -> bool:
    """Whether a generation is kept that does not reach the last erasure."""
    erased = footnote.store.meta_get(ERASED)
    if erased is None or footnote.index is None:
        return False
    return bool(_before(footnote, int(erased)))


def finish(footnote: Footnote) -> None:
    """Remove the generations from before the last erasure, all but one that serves."""
    erased = footnote.store.meta_get(ERASED)
    if erased is not None:
        removed = footnote.open_index().forget_before(int(erased))
        if removed:
            logger.info("erasure: generations %s are removed", removed)


def _was_deleted(footnote: Footnote, name: str) -> bool:
    with footnote.store.read() as connection:
        found = connection.execute("SELECT 1 FROM tombstones WHERE id = ?", (name,)).fetchone()
    return found is not None


def _delete(
    connection: sqlite3.Connection, name: str, feedback_items: list[str], if_match: str | None
) -> tuple[DeleteResult, int]:
    connection.execute("PRAGMA secure_delete = ON")  # zeros over what was there
    try:
        (vectors,) = connection.execute(
            "SELECT count(*) FROM vectors WHERE doc_id = ?", (name,)
        ).fetchone()
        result = delete_documents(connection, [name], if_match=if_match)
        connection.executemany(
            "DELETE FROM feedback WHERE id = ?", [(one,) for one in feedback_items]
        )
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (ERASED, str(result.sequence))
        )
    finally:
        connection.execute("PRAGMA secure_delete = OFF")
    return result, vectors


def _drop_training_sets(footnote: Footnote, names: set[str]) -> list[str]:
    """Remove the frozen rows of jobs that do not run and hold the document or feedback on it."""
    running = {job.id for job in footnote.jobs.all() if job.state not in FINISHED}
    found = []
    for folder in (footnote.settings.store_dir / training_job.WORK).glob("job_*"):
        if folder.name not in running and _holds(folder, names):
            shutil.rmtree(folder, ignore_errors=True)
            found.append(folder.name)
    return sorted(found)


def _holds(folder: Path, names: set[str]) -> bool:
    files = (
        ("rows.jsonl", "id"),
        (FEEDBACK, "id"),
        ("passages.jsonl", "doc_id"),
        (pretrain_job.DOCUMENTS, "id"),
    )
    for path, key in ((folder / file, key) for file, key in files):
        if path.is_file():
            with path.open("rb") as lines:
                if any(orjson.loads(line)[key] in names for line in lines):
                    return True
    return False


def _checkpoints(footnote: Footnote, name: str) -> tuple[list[str], list[str]]:
    """The checkpoints that were trained on a document, and those that do not say."""
    from model.provenance import trained_on

    trained: list[str] = []
    unknown: list[str] = []
    for version, folder in [*footnote.registry.folders(), *footnote.language_models.folders()]:
        try:
            known = trained_on(folder, name)
        except OSError:
            known = None
        if known is not False:
            (trained if known else unknown).append(version)
    return trained, unknown


def _before(footnote: Footnote, sequence: int) -> list[int]:
    found = footnote.open_index().generations()
    return [g.number for g in found if g.sequence is None or g.sequence < sequence]


def _rebuild(footnote: Footnote) -> tuple[list[int], str | None]:
    """The generations that may hold what was erased, and the job that replaces them."""
    if footnote.index is None:
        return [], None
    old = _before(footnote, int(footnote.store.meta_get(ERASED) or 0))
    if not old:
        return [], None
    try:
        job = footnote.jobs.submit(indexing_job.TYPE, {"mode": "full", "activate": True})
    except Problem:  # the queue is full; whichever reindex comes next will do
        return old, None
    return old, job.id
