"""Label audits: findings, corrected and dismissed. It knows no HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

from app.inference.indexer import Indexer
from app.jobs import audit as audit_job
from app.jobs.job import Job
from app.jobs.queue import Jobs
from app.problems import Problem, invalid
from app.records.audits import Audits
from app.schemas import admin as bodies
from index_data.documents import Document, InvalidDocument, parse_document
from index_data.storage.store import DocumentStore


def audit_of(jobs: Jobs, audit_id: str) -> Job:
    """The finished job of an audit.

    Raises ``not-found``, or ``job-conflict`` while it has no findings yet.
    """
    job = jobs.get(audit_id)
    if job.type != audit_job.TYPE:
        raise Problem("not-found", "There is no audit with this id.")
    if job.result is None:
        raise Problem("job-conflict", f"The audit has no findings: it is {job.state}.")
    return job


def page(
    job: Job, audits: Audits, store: DocumentStore, *, offset: int, limit: int
) -> bodies.AuditPage:
    """Some findings, with the texts as they stand now."""
    result = job.result or {}
    field = str(result["field"])
    listed = audits.page(job.id, offset, limit)
    dismissed = audits.dismissed(field)
    findings: list[dict[str, Any]] = []
    for one in listed:
        document = store.get(one.doc_id)
        more = {
            "text": _text(document),
            "contradicting": [
                {**c, "text": _text(store.get(c["doc_id"]))} for c in one.contradicting
            ],
            "state": _state(document, field, one.label, dismissed.get(one.doc_id)),
        }
        findings.append(asdict(one) | more)
    end = offset + len(listed)
    return bodies.AuditPage(
        audit_id=job.id,
        field=field,
        documents=result["documents"],
        total=result["found"],
        findings=[bodies.AuditFinding.model_validate(finding) for finding in findings],
        next_offset=end if listed and end < result["found"] else None,
    )


async def decide(
    job: Job,
    body: bodies.AuditDecision,
    audits: Audits,
    store: DocumentStore,
    indexer: Indexer,
) -> bodies.AuditDecided:
    """Correct and dismiss. Nothing is written if any of it is not a finding of this audit."""
    field = str((job.result or {})["field"])
    indexer.check_open()
    ids = [one.doc_id for one in body.correct]
    known = await asyncio.to_thread(audits.of, job.id, [*ids, *body.dismiss])
    for pointer, names in (("#/correct/{}/doc_id", ids), ("#/dismiss/{}", body.dismiss)):
        for i, name in enumerate(names):
            if name not in known:
                raise invalid(pointer.format(i), "not a finding of this audit")
    changed = []
    for i, one in enumerate(body.correct):
        document = await asyncio.to_thread(store.get, one.doc_id)
        if document is None:
            raise invalid(f"#/correct/{i}/doc_id", "the document was deleted")
        label = one.label or known[one.doc_id].suggested
        relabelled = replace(document, labels={**document.labels, field: label})
        try:
            parse_document({k: v for k, v in relabelled.to_json().items() if k != "label"})
        except InvalidDocument as error:
            raise invalid(f"#/correct/{i}/label", error.detail) from None
        changed.append(relabelled)
    sequence = store.sequence
    if changed:
        sequence = (await asyncio.wrap_future(store.upsert(changed))).sequence
        await indexer.wait(sequence)
    labels = {name: known[name].label for name in body.dismiss}
    if labels:
        await asyncio.wrap_future(audits.dismiss(field, labels))
    return bodies.AuditDecided(corrected=len(changed), dismissed=len(labels), sequence=sequence)


def _text(document: Document | None) -> str | None:
    return None if document is None else document.text[:2_000]


def _state(document: Document | None, field: str, label: str, dismissed: str | None) -> Any:
    if document is None:
        return "gone"
    if document.labels.get(field) != label:
        return "corrected"
    return "dismissed" if dismissed == label else "open"
