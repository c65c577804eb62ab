"""The same answer again: from the record of a prediction, by the same model, of the same documents.

A record holds the request, the model's digest, the index state, and which passage of which version
of which document was found with which score. A replay reads these very passages again, so it hangs
neither on how the index is cut into segments now nor on what was written since; it needs the model
and each of the versions, in a kept state of the index or in the present one. What is not there any
more is told by name and never replaced by something near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.history.pins import unavailable
from app.inference.calibration import Calibration
from app.inference.pipeline import Answer, Ask, Evidence
from app.inference.snapshot import Snapshot
from app.schemas.predict import ClassifyRequest, PredictRequest
from index_data.documents import Document
from index_data.search.searcher import Hit, Searcher

if TYPE_CHECKING:
    from app.problems import Problem

EQUAL = 1e-5  # probabilities in fp32; those of another batch in bf16 differ by more
REQUESTS: dict[str, type[PredictRequest] | type[ClassifyRequest]] = {
    "predict": PredictRequest,
    "classify": ClassifyRequest,
    "qa": PredictRequest,
    "ner": PredictRequest,
    "generation": PredictRequest,
    "dialogue": PredictRequest,
}
TASKS = ("qa", "ner", "generation", "dialogue")  # routes of records whose answers have no labels


def record_of(
    request: PredictRequest | ClassifyRequest,
    ask: Ask,
    snapshot: Snapshot,
    answers: Sequence[Answer | Problem],
) -> dict[str, Any]:
    """What it takes to answer a request again, as plain data."""
    inputs = [a.evidence if isinstance(a, Answer) else None for a in answers]
    labels = next((evidence.labels for evidence in inputs if evidence), ())
    return {
        "route": "predict" if isinstance(request, PredictRequest) else "classify",
        "request": request.model_dump(mode="json", exclude_unset=True),
        "thresholds": [ask.min_confidence, ask.min_support],
        "model": snapshot.model().model.to_json(),
        "index": snapshot.index_json(),
        "labels": labels,
        "inputs": [evidence and _evidence_json(evidence, ask) for evidence in inputs],
    }


def task_record(
    request: PredictRequest,
    snapshot: Snapshot,
    thresholds: Sequence[float | None],
    found: Sequence[Sequence[Hit] | None],
) -> dict[str, Any]:
    """The same for questions, entities and texts; ``found``: what the index gave for good inputs.

    Their passages are read as texts, so that no vectors are needed again.
    """
    return {
        "route": request.task,
        "request": request.model_dump(mode="json", exclude_unset=True),
        "thresholds": list(thresholds),
        "model": snapshot.model_json(),
        "index": snapshot.index_json(),
        "labels": [],
        "inputs": [
            None if hits is None else {"calibration": None, "hits": _hits_json(hits, vectors=False)}
            for hits in found
        ],
    }


def _evidence_json(evidence: Evidence, ask: Ask) -> dict[str, Any]:
    found = evidence.hits if ask.mode == "index" else []  # others come with the request again
    return {
        "calibration": evidence.calibration and astuple(evidence.calibration),
        "hits": _hits_json(found, vectors=True),
    }


def _hits_json(hits: Sequence[Hit], *, vectors: bool) -> list[list[Any]]:
    return [
        [
            hit.doc_id,
            hit.document.sequence,
            hit.start,
            hit.end,
            hit.score,
            hit.scores,
            vectors and hit.vector is not None,
        ]
        for hit in hits
    ]


def recorded(
    record: dict[str, Any], searchers: Sequence[Searcher], encoder_sha256: str
) -> list[Evidence | None]:
    """The evidence of each input, out of the states that are there.

    Raises ``pin-unavailable`` when a version of a document is in none of them.
    """
    fitting = [s for s in searchers if s.encoder_sha in (None, encoder_sha256)]
    labels = tuple(record["labels"])
    found: list[Evidence | None] = []
    for given in record["inputs"]:
        if given is None:
            found.append(None)
            continue
        if given.get("erased"):
            raise unavailable("documents", "A document that it was answered from was erased.")
        calibration = given["calibration"] and Calibration(*given["calibration"])
        hits = [_hit(rank, raw, fitting) for rank, raw in enumerate(given["hits"], 1)]
        missing = sum(hit is None for hit in hits)
        if missing:
            raise unavailable(
                "index",
                f"{missing} of {len(hits)} documents that it was answered from have changed or "
                "gone, and no state of the index that still has them is kept.",
            )
        found.append(Evidence([hit for hit in hits if hit is not None], labels, calibration))
    return found


def _hit(rank: int, raw: Sequence[Any], searchers: Sequence[Searcher]) -> Hit | None:
    doc_id, sequence, start, end, score, scores, has_vector = raw
    for searcher in searchers:
        found = version(searcher, doc_id, sequence, (start, end))
        if found is not None and (found[1] is not None or not has_vector):
            document, vector = found
            kept = vector if has_vector else None
            return Hit(doc_id, rank, score, scores, document, start, end, kept)
    return None


def version(
    searcher: Searcher, doc_id: str, sequence: int, span: tuple[int, int]
) -> tuple[Document, NDArray[np.float32] | None] | None:
    """A document at one version, and the vector of one of its passages."""
    for view in searcher.views:
        row = view.find(doc_id)
        if row is None or view.segment.documents[row].sequence != sequence:
            continue
        segment = view.segment
        for passage in range(int(segment.offsets[row]), int(segment.offsets[row + 1])):
            if tuple(segment.spans[passage].tolist()) != span:
                continue
            return segment.documents[row], segment.vector(passage)
    return None


def compared(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """How far two answers of one shape are apart: ``equal``, and the largest ``difference``."""
    difference, same = 0.0, True
    for old, new in zip(before["data"], after["data"], strict=True):
        if "error" in old or "error" in new:
            same = same and ("error" in old) == ("error" in new)
            continue
        mine, theirs = old.get("output", old), new.get("output", new)
        same = same and _answer(mine) == _answer(theirs)
        was, now = _scores(mine), _scores(theirs)
        gaps = [abs(p - now[name]) for name, p in was.items() if name in now]
        sure = [one["confidence"] for one in (old, new) if one["confidence"] is not None]
        apart = abs(sure[0] - sure[1]) if len(sure) == 2 else 0.0
        difference = max([difference, apart, *gaps])
    return {"equal": same and difference <= EQUAL, "difference": difference}


def _answer(output: dict[str, Any]) -> object:
    """What must be the same: a label, the place of an answer, or the places of entities."""
    if "entities" in output:
        return [(e["start"], e["end"], e["type"]) for e in output["entities"]]
    if "sentences" in output:
        return output.get("text", output.get("message"))
    if "answerable" in output:
        return [output[part] for part in ("answer", "doc_id", "start", "end", "reason")]
    return output["label"]


def _scores(output: dict[str, Any]) -> dict[object, float]:
    """The probabilities by what they are of."""
    if "sentences" in output:
        return {}
    if "entities" in output:
        return {(e["start"], e["end"], e["type"]): e["score"] for e in output["entities"]}
    if "answerable" in output:
        own = [output] if output["answer"] is not None else []
        return {one["answer"]: one["score"] for one in [*own, *output["alternatives"]]}
    return {one["label"]: one["score"] for one in output["scores"]}
