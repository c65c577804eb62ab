"""What is kept of answers to questions and of entities: for feedback, and to give them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from app.history.predictions import Said
from app.history.records import task_record
from app.inference.snapshot import Snapshot
from app.schemas.predict import PredictRequest
from app.state import Footnote
from index_data.search.searcher import Hit

Thresholds = tuple[float | None, float | None]


def remembered(
    footnote: Footnote,
    request: PredictRequest,
    snapshot: Snapshot,
    said: Sequence[Said | None],
    found: Sequence[Sequence[Hit] | None],
    thresholds: Thresholds,
    body: dict[str, Any],
) -> bytes:
    """The answer as it is sent, which is kept with what it takes to give it again.

    ``said``: None where an input was bad; ``found``: what the index gave for each good one.
    """
    raw = orjson.dumps(body)
    record = task_record(request, snapshot, thresholds, found)
    footnote.predictions.keep(body["id"], field=request.task, said=said, body=raw, record=record)
    return raw
