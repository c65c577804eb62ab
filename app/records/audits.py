"""What label audits found, as rows in the store, and what was dismissed.

A finding holds ids, labels and figures and no text: the text is read when it is shown, so that a
document that was deleted is gone from here too. A dismissal holds as long as the label that was
looked at stays.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import orjson

from index_data.storage.store import DocumentStore

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS audit_findings ("
    "job_id TEXT NOT NULL, rank INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (job_id, rank))",
    "CREATE TABLE IF NOT EXISTS audit_dismissals ("
    "field TEXT NOT NULL, doc_id TEXT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (field, doc_id))",
)
KEPT: Final = 10  # audits whose findings are kept


@dataclass(frozen=True, slots=True)
class Finding:
    """A label that is probably wrong. ``score`` is 0.5 where another label is as likely."""

    rank: int
    doc_id: str
    label: str
    suggested: str
    score: float
    head: dict[str, float]  # what the out-of-fold head gives to `label` and to `suggested`
    neighbours: dict[str, float]
    contradicting: list[dict[str, Any]]  # {"doc_id", "label", "similarity", "weight"}


class Audits:
    """The tables of findings and dismissals. Safe to use from several threads."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        store.write(_create).result()

    def put(self, job_id: str, findings: Sequence[Mapping[str, Any]]) -> None:
        """Keep the findings of a job, best first; those of the oldest jobs go."""
        rows = [(job_id, i, orjson.dumps({**f, "rank": i})) for i, f in enumerate(findings, 1)]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM audit_findings WHERE job_id = ?", (job_id,))
            connection.executemany("INSERT INTO audit_findings VALUES (?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM audit_findings WHERE job_id NOT IN (SELECT job_id FROM audit_findings "
                "GROUP BY job_id ORDER BY max(rowid) DESC LIMIT ?)",
                (KEPT,),
            )

        self._store.write(write).result()

    def page(self, job_id: str, offset: int, limit: int) -> list[Finding]:
        """Some findings of a job, from the one after the first ``offset``."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT body FROM audit_findings WHERE job_id = ? AND rank > ? "
                "ORDER BY rank LIMIT ?",
                (job_id, offset, limit),
            ).fetchall()
        return [Finding(**orjson.loads(body)) for (body,) in rows]

    def of(self, job_id: str, doc_ids: Sequence[str]) -> dict[str, Finding]:
        """The findings of a job about some documents, by id."""
        ids = set(doc_ids)
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT body FROM audit_findings WHERE job_id = ?", (job_id,)
            ).fetchall()
        findings = (Finding(**orjson.loads(body)) for (body,) in rows)
        return {finding.doc_id: finding for finding in findings if finding.doc_id in ids}

    def dismiss(self, field: str, labels: Mapping[str, str]) -> Future[None]:
        """Remember that these documents' labels are right: by id, the label looked at."""
        rows = [(field, doc_id, label) for doc_id, label in labels.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO audit_dismissals VALUES (?, ?, ?)", rows)

        return self._store.write(write)

    def dismissed(self, field: str) -> dict[str, str]:
        """By document, the label that was found right."""
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT doc_id, label FROM audit_dismissals WHERE field = ?", (field,)
            ).fetchall()
        return dict(rows)


def _create(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
