"""The job that looks for wrong labels among the index's own documents.

It trains nothing that serves: a small head is fitted on all folds but one and asked about the rest,
and the neighbours vote without the document itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.jobs.inputs import child_part, load_encoder, opened, reading
from app.jobs.job import Job, JobKind
from app.records.audits import Audits
from app.records.encoders import EncoderChoice
from app.settings import Settings
from app.worker import JobRefused, Reporter
from index_data.documents import Document, normalise

if TYPE_CHECKING:
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder
    from model.training.audit import Audit, Floats

TYPE: Final = "audit-labels"
FIRST: Final = 10  # findings that the job's own result shows
CONTRADICTING: Final = 5
SUSPICIOUS: Final = 0.5
ENCODED_AT_ONCE: Final = 64


def kind(settings: Settings, audits: Audits, encoders: EncoderChoice) -> JobKind:
    """The audit job of a server."""

    def prepare(job: Job) -> dict[str, Any]:
        dismissed = audits.dismissed(str(job.params["field"]))
        return {**reading(settings, encoders.source), "_dismissed": dismissed}

    def finish(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        findings = result.pop("findings")
        audits.put(job.id, findings)
        return {**result, "found": len(findings), "first": findings[:FIRST]}

    return JobKind("app.jobs.audit:run", prepare, finish)


@child_part()
def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Judge every label of a field (the child's part)."""
    from model.training.audit import audit

    field, folds = str(params["field"]), int(params["folds"])
    encoder = load_encoder(params, reporter)
    with opened(params, encoder) as searcher:
        sequence = searcher.sequence
        documents, known = labelled(searcher, field)
    counts = Counter(str(d.labels[field]) for d in documents)
    names = sorted(name for name, count in counts.items() if count > 1)
    if len(names) < 2:
        raise JobRefused(
            f"Two labels with two documents each are needed; {len(names)} of the field {field!r} "
            "has as many."
        )
    usable = [i for i, d in enumerate(documents) if counts[str(d.labels[field])] > 1]
    rows = [documents[i] for i in usable]
    vectors = encoded(rows, [known[i] for i in usable], encoder, reporter)
    labels = np.array([names.index(str(d.labels[field])) for d in rows], dtype=np.int64)
    texts: dict[str, int] = {}
    groups = [texts.setdefault(normalise(d.text), len(texts)) for d in rows]
    result = audit(
        vectors, labels, groups, folds=folds, seed=int(params["seed"]), tick=reporter.progress
    )
    dismissed = {d.id for d in rows if params["_dismissed"].get(d.id) == d.labels[field]}
    listed = findings(result, rows, labels, names, dismissed, int(params["limit"]))
    return {
        "field": field,
        "sequence": sequence,
        "documents": len(rows),
        "labels": len(names),
        "suspicious": int((result.score >= SUSPICIOUS).sum()),
        "dismissed": len(dismissed),
        "left_out": len(documents) - len(rows),
        "folds": folds,
        "findings": listed,
    }


def labelled(searcher: Searcher, field: str) -> tuple[list[Document], list[Floats | None]]:
    """The documents with one label of the field, and the vectors of those in one passage."""
    documents: list[Document] = []
    vectors: list[Floats | None] = []
    for view in searcher.views:
        segment = view.segment
        for row in view.live_rows():
            document = segment.documents[row]
            if not isinstance(document.labels.get(field), str):
                continue
            first, end = int(segment.offsets[row]), int(segment.offsets[row + 1])
            documents.append(document)
            vectors.append(segment.vector(first) if end == first + 1 else None)
    return documents, vectors


def encoded(
    rows: Sequence[Document],
    known: Sequence[Floats | None],
    encoder: Encoder,
    reporter: Reporter,
) -> Floats:
    """A vector of length 1 for each document; those that the index does not have are made."""
    vectors = np.zeros((len(rows), encoder.dim), dtype=np.float32)
    missing = [i for i, vector in enumerate(known) if vector is None]
    for i, vector in enumerate(known):
        if vector is not None:
            vectors[i] = vector
    for start in range(0, len(missing), ENCODED_AT_ONCE):
        reporter.progress(start, len(missing), "encode")
        part = missing[start : start + ENCODED_AT_ONCE]
        vectors[part] = encoder.encode([rows[i].text for i in part])
    return vectors


def findings(
    result: Audit,
    rows: Sequence[Document],
    labels: np.ndarray[Any, np.dtype[np.int64]],
    names: Sequence[str],
    dismissed: set[str],
    limit: int,
) -> list[dict[str, Any]]:
    """The labels that another one beats, worst first; without those that were dismissed."""
    listed: list[dict[str, Any]] = []
    for i in np.argsort(-result.score, kind="stable").tolist():
        if len(listed) == limit or result.score[i] < SUSPICIOUS:
            break
        if rows[i].id in dismissed:
            continue
        own, other = int(labels[i]), int(result.suggested[i])
        against = [
            j
            for j in np.argsort(-result.weights[i], kind="stable").tolist()
            if result.weights[i, j] > 0 and labels[result.nearest[i, j]] != own
        ]
        listed.append(
            {
                "doc_id": rows[i].id,
                "label": names[own],
                "suggested": names[other],
                "score": _round(result.score[i]),
                "head": _pair(result.head[i], own, other),
                "neighbours": _pair(result.neighbours[i], own, other),
                "contradicting": [
                    {
                        "doc_id": rows[int(result.nearest[i, j])].id,
                        "label": names[int(labels[result.nearest[i, j]])],
                        "similarity": _round(result.similarity[i, j]),
                        "weight": _round(result.weights[i, j]),
                    }
                    for j in against[:CONTRADICTING]
                ],
            }
        )
    return listed


def _pair(probs: Floats, own: int, other: int) -> dict[str, float]:
    return {"label": _round(probs[own]), "suggested": _round(probs[other])}


def _round(value: Any) -> float:
    return round(float(value), 4)
