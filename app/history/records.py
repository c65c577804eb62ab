"""The record of a prediction, from which the same answer can be given again.

A record holds the request, the model's digest, the index state, and which passage of which version
of which document was found with which score. A replay reads these very passages again, so it
depends neither on how the index is cut into segments now nor on what was written since; it needs
the model and each of the versions, in a retained state of the index or in the present one. What is
gone is named, and never replaced by something similar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from app.history.pins import unavailable
from app.inference.answer import Evidence
from app.inference.calibration import Calibration
from app.inference.snapshot import Snapshot
from app.schemas.predict import Abstain
from index_data.documents import Document
from index_data.search.searcher import Hit, Searcher

EQUAL = 1e-5  # probabilities in fp32; those of another batch in bf16 differ by more
PREDICT, CLASSIFY = "predict", "classify"  # routes of records of labels; others: the task's name


def record_of(
    route: str,
    request: BaseModel,
    abstain: Abstain,
    snapshot: Snapshot,
    evidence: Sequence[Evidence | None],
    *,
    from_index: bool,
    vectors: bool,
) -> dict[str, Any]:
    """What it takes to answer a request again, as plain data.

    ``abstain``: the thresholds that applied; ``evidence``: None for a bad input; ``from_index``:
    otherwise the hits come with the request again; ``vectors``: the answer was made from the hits'
    vectors, not from their texts alone.
    """
    labels = next((one.labels for one in evidence if one is not None), ())
    return {
        "route": route,
        "request": request.model_dump(mode="json", exclude_unset=True),
        "thresholds": [abstain.min_confidence, abstain.min_support],
        "model": snapshot.model_json(),
        "index": snapshot.index_json(),
        "labels": labels,
        "inputs": [
            None
            if one is None
            else {
                "calibration": one.calibration and astuple(one.calibration),
                "hits": _hits_json(one.hits, vectors=vectors) if from_index else [],
            }
            for one in evidence
        ],
    }


def is_of_labels(record: dict[str, Any]) -> bool:
    """Whether a prediction's answers are labels of a field."""
    return record.get("route", PREDICT) in (PREDICT, CLASSIFY)


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
    evidence: list[Evidence | None] = []
    for given in record["inputs"]:
        if given is None:
            evidence.append(None)
            continue
        if given.get("erased"):
            raise unavailable("documents", "A document of this answer was erased.")
        calibration = given["calibration"] and Calibration(*given["calibration"])
        hits = [_hit(rank, raw, fitting) for rank, raw in enumerate(given["hits"], 1)]
        missing = sum(hit is None for hit in hits)
        if missing:
            raise unavailable(
                "index",
                f"{missing} of {len(hits)} documents of this answer have changed or gone, and no "
                "state of the index that has them is retained.",
            )
        evidence.append(Evidence([hit for hit in hits if hit is not None], labels, calibration))
    return evidence


def _hit(rank: int, raw: Sequence[Any], searchers: Sequence[Searcher]) -> Hit | None:
    doc_id, sequence, start, end, score, scores, has_vector = raw
    for searcher in searchers:
        passage = version(searcher, doc_id, sequence, (start, end))
        if passage is None:
            continue
        document, vector = passage
        if vector is not None or not has_vector:
            own = vector if has_vector else None
            return Hit(doc_id, rank, score, scores, document, start, end, own)
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
        outputs = old.get("output", old), new.get("output", new)
        same = same and _answer(outputs[0]) == _answer(outputs[1])
        was, now = _scores(outputs[0]), _scores(outputs[1])
        gaps = [abs(p - now[name]) for name, p in was.items() if name in now]
        confidences = old.get("confidence"), new.get("confidence")
        if confidences[0] is not None and confidences[1] is not None:
            gaps.append(abs(confidences[0] - confidences[1]))
        difference = max([difference, *gaps])
    return {"equal": same and difference <= EQUAL, "difference": difference}


def _answer(output: dict[str, Any]) -> object:
    """What must be equal: a label, the place of an answer, the places of entities, or all."""
    if "entities" in output:
        return [(e["start"], e["end"], e["type"]) for e in output["entities"]]
    if "sentences" in output:
        return output.get("text", output.get("message"))
    if "answerable" in output:
        return [output[part] for part in ("answer", "doc_id", "start", "end", "reason")]
    return output.get("label", output)


def _scores(output: dict[str, Any]) -> dict[object, float]:
    """The probabilities by what they are of."""
    if "entities" in output:
        return {(e["start"], e["end"], e["type"]): e["score"] for e in output["entities"]}
    if "answerable" in output:
        own = [output] if output["answer"] is not None else []
        return {one["answer"]: one["score"] for one in [*own, *output["alternatives"]]}
    return {one["label"]: one["score"] for one in output.get("scores", ())}
