"""A job as it stands, what a type of job does, and the table that jobs are kept in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from app.problems import KINDS, Problem, Slug

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
FINISHED: Final = frozenset({"succeeded", "failed", "cancelled", "interrupted"})
RESUMABLE: Final = frozenset({"failed", "cancelled", "interrupted"})

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    heartbeat REAL,
    body TEXT NOT NULL
)
"""
BODY: Final = ("type", "params", "progress", "result", "problem", "started", "finished")
KEPT: Final = 1000  # finished jobs that stay in the table


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands; replaced whole on every change. Times are seconds since 1970."""

    id: str
    type: str
    state: JobState
    params: dict[str, Any]
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    created: float
    started: float | None = None
    finished: float | None = None
    heartbeat: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The shape of ``GET /admin/jobs/{id}``."""
        shown = {name: getattr(self, name) for name in ("id", "state", "created", *BODY)}
        shown["progress"] = self.progress or {"step": 0, "total": None, "eta_s": None}
        shown["params"] = {k: v for k, v in self.params.items() if not k.startswith("_")}
        return shown


@dataclass(frozen=True, slots=True)
class JobKind:
    """What a type of job does: ``target`` in the child, then ``finish`` in the server.

    ``target`` is ``package.module:function``. ``prepare`` adds
    what the child needs to know to the parameters when the job starts; ``finish`` takes the
    parameters and the child's result, puts it in use and returns the job's result.
    """

    target: str
    prepare: Callable[[Job], dict[str, Any]]
    finish: Callable[[Job, dict[str, Any]], dict[str, Any]]


def stopped_body(title: str, detail: str) -> dict[str, Any]:
    """The problem of a job that was stopped: nothing is wrong with it, so it has no type."""
    return {"type": "about:blank", "title": title, "detail": detail}


def problem_body(slug: str, detail: str) -> dict[str, Any]:
    """What a failed job's ``problem`` holds; a slug that the table does not know is a fault."""
    known: Slug = slug if slug in KINDS else "internal"  # type: ignore[assignment]
    return Problem(known, detail).to_json()


def save_job(connection: sqlite3.Connection, job: Job) -> None:
    """Write a job's row, in a transaction of the store."""
    body = {name: getattr(job, name) for name in BODY}
    connection.execute(
        "INSERT INTO jobs (id, created, state, heartbeat, body) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET state = excluded.state, "
        "heartbeat = excluded.heartbeat, body = excluded.body",
        (job.id, job.created, job.state, job.heartbeat, json.dumps(body)),
    )


def load_jobs(connection: sqlite3.Connection) -> list[Job]:
    """All rows, the oldest first; the table is made, and kept to the newest :data:`KEPT`."""
    connection.execute(SCHEMA)
    connection.execute(
        "DELETE FROM jobs WHERE id NOT IN (SELECT id FROM jobs ORDER BY created DESC LIMIT ?)",
        (KEPT,),
    )
    rows = connection.execute(
        "SELECT id, created, state, heartbeat, body FROM jobs ORDER BY created, rowid"
    ).fetchall()
    return [
        Job(id=row[0], created=row[1], state=row[2], heartbeat=row[3], **json.loads(row[4]))
        for row in rows
    ]
