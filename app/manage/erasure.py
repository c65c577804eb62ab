"""Erasing a document from everything that is stored, with a receipt of what derived from it.

Text, vectors, feedback and what stored predictions quote of it go at once; the states of the index
that are kept for replaying are dropped. Published generations are folders that never change, so a
new one is built and those from before the erasure are removed when it serves. A checkpoint cannot
forget: those that were trained on the document are named.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.history.pins import Pins
from app.history.predictions import Predictions
from app.inference.indexer import Indexer
from app.inference.language_models import LanguageModels
from app.jobs import pretrain, reindex
from app.jobs.inputs import WORK
from app.jobs.job import FINISHED
from app.jobs.queue import Jobs
from app.problems import Problem
from app.records import erased
from app.records.feedback import Feedback
from app.records.registry import Registry
from app.training.frozen_rows import FEEDBACK
from index_data.documents import normalise
from index_data.storage.store import DeleteResult, DocumentStore, delete_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """Everything that may hold something of a document."""

    store: DocumentStore
    indexer: Indexer
    feedback: Feedback
    predictions: Predictions
    pins: Pins
    jobs: Jobs
    registry: Registry
    language_models: LanguageModels


async def erase(holders: Holders, name: str, *, if_match: str | None) -> dict[str, Any]:
    """Erase a document, also one that was deleted before; the receipt.

    Raises ``not-found`` for an id that no document ever had, and ``PreconditionFailed``.
    """
    return await asyncio.to_thread(_erase, holders, name, if_match)


def _erase(holders: Holders, name: str, if_match: str | None) -> dict[str, Any]:
    store = holders.store
    document = store.get(name)
    if document is None and not _was_deleted(store, name):
        raise Problem("not-found", "There is no document with this id.")
    text = None if document is None else normalise(document.text)
    feedback_items = [
        one["id"]
        for one in holders.feedback.export()
        if name in (one["doc_id"], (one["answer"] or {}).get("doc_id"))
        or (text is not None and normalise(one["text"]) == text)
    ]
    result, vectors = store.write(
        lambda connection: _delete(connection, name, feedback_items, if_match)
    ).result()
    holders.indexer.notify()
    holders.indexer.after(result.sequence).result()
    snapshots = holders.pins.forget(result.sequence)
    in_memory, stored = holders.predictions.erase(name, text, result.sequence)
    sets = _drop_training_sets(store.folder / WORK, holders.jobs, {name, *feedback_items})
    store.scrub()
    trained, unknown = _checkpoints(holders, name)
    generations, job = _rebuild(holders)
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
        "running_jobs": [job.id for job in holders.jobs.all() if job.state == "running"],
    }


def _was_deleted(store: DocumentStore, name: str) -> bool:
    with store.read() as connection:
        row = connection.execute("SELECT 1 FROM tombstones WHERE id = ?", (name,)).fetchone()
    return row is not None


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
        erased.note_erasure(connection, result.sequence)
    finally:
        connection.execute("PRAGMA secure_delete = OFF")
    return result, vectors


def _drop_training_sets(work: Path, jobs: Jobs, names: set[str]) -> list[str]:
    """Remove the frozen rows of jobs that do not run and hold the document or feedback on it."""
    running = {job.id for job in jobs.all() if job.state not in FINISHED}
    dropped = []
    for folder in work.glob("job_*"):
        if folder.name not in running and _holds(folder, names):
            shutil.rmtree(folder, ignore_errors=True)
            dropped.append(folder.name)
    return sorted(dropped)


def _holds(folder: Path, names: set[str]) -> bool:
    files = (
        ("rows.jsonl", "id"),
        (FEEDBACK, "id"),
        ("passages.jsonl", "doc_id"),
        (pretrain.DOCUMENTS, "id"),
    )
    for path, key in ((folder / file, key) for file, key in files):
        if path.is_file():
            with path.open("rb") as lines:
                if any(orjson.loads(line)[key] in names for line in lines):
                    return True
    return False


def _checkpoints(holders: Holders, name: str) -> tuple[list[str], list[str]]:
    """The checkpoints that were trained on a document, and those that do not say."""
    from model.provenance import trained_on

    trained: list[str] = []
    unknown: list[str] = []
    for version, folder in [*holders.registry.folders(), *holders.language_models.folders()]:
        try:
            known = trained_on(folder, name)
        except OSError:
            known = None
        if known is not False:
            (trained if known else unknown).append(version)
    return trained, unknown


def _rebuild(holders: Holders) -> tuple[list[int], str | None]:
    """The generations that may hold what was erased, and the job that replaces them."""
    if not holders.indexer.is_open:
        return [], None
    outdated = erased.outdated_generations(holders.store, holders.indexer.index)
    if not outdated:
        return [], None
    try:
        job = holders.jobs.submit(reindex.TYPE, {"mode": "full", "activate": True})
    except Problem:  # the queue is full; whichever reindex comes next will do
        return outdated, None
    return outdated, job.id
