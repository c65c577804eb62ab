"""``/admin/datasets``: training data in, listed, gone."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app.manage import datasets as dataset_service
from app.records.datasets import id_of, line_of
from app.records.keys import scope
from app.routes.documents import REFUSALS
from app.schemas import datasets as bodies
from app.web.body import JsonRoute, Ndjson, chunks, examples, ndjson
from app.web.http import State, answers, json_answer

router = APIRouter(prefix="/admin/datasets", tags=["admin"], route_class=JsonRoute)
ADMIN = [Depends(scope("admin"))]
SPANS: dict[str, Any] = {
    "text": "The Heron 43 came from Leeds",
    "entities": [{"start": 4, "end": 12, "type": "PRODUCT"}],
}
QUESTION = {
    "question": "How long is the warranty?",
    "context": "Every kettle has a warranty of two years.",
    "answers": [{"text": "two years", "start": 31}],
}
LINES = '{"text": "The parcel is late", "label": "delivery"}\n{"text": "Thanks", "label": "praise"}'
EXAMPLES = {
    "entities": {"kind": "spans", "name": "products", "rows": [SPANS]},
    "questions": {"kind": "squad", "rows": [QUESTION]},
    "tokens and tags": {"rows": [{"tokens": ["to", "Leeds"], "tags": ["O", "B-PLACE"]}]},
}
Upload = Annotated[bodies.DatasetRequest | Ndjson, examples(EXAMPLES)]
EXAMPLE = id_of("spans", hashlib.sha256(line_of(SPANS)).hexdigest())
DatasetId = Annotated[str, Path(max_length=64)]


@router.post(
    "",
    summary="Upload training data",
    dependencies=ADMIN,
    openapi_extra=ndjson(LINES),
    responses=answers(
        bodies.DatasetMade, *REFUSALS, status=201, text="It is stored; bad rows are named."
    ),
)
async def upload(
    request: Request,
    footnote: State,
    body: Upload = None,
    kind: Annotated[bodies.Kind | None, Query(description="For NDJSON: the shape.")] = None,
    name: Annotated[str, Query(max_length=256, description="For NDJSON: a name.")] = "",
) -> Response:
    """NDJSON of any length, read as a stream, or `{"rows": [...]}`; every row is checked."""
    if body is None:
        arriving = chunks(request, footnote.settings.idle_timeout_s)
        made = await dataset_service.upload_lines(footnote.datasets, arriving, kind=kind, name=name)
    else:
        made = await asyncio.to_thread(dataset_service.upload_rows, footnote.datasets, body)
    return json_answer(made.model_dump(), 201, {"Location": f"/admin/datasets/{made.id}"})


@router.get(
    "", summary="List the datasets", dependencies=ADMIN, responses=answers(bodies.DatasetList)
)
async def datasets(footnote: State) -> Response:
    """The newest first."""
    return json_answer(
        (await asyncio.to_thread(dataset_service.listed, footnote.datasets)).model_dump()
    )


@router.get(
    "/{dataset_id}",
    summary="Look at a dataset",
    dependencies=ADMIN,
    responses=answers(bodies.DatasetBody, "not-found", "validation"),
)
async def dataset(dataset_id: DatasetId, footnote: State) -> Response:
    """Its shape, size and labels; not its rows."""
    found = await asyncio.to_thread(dataset_service.read, footnote.datasets, dataset_id)
    return json_answer(found.model_dump())


@router.delete(
    "/{dataset_id}",
    summary="Delete a dataset",
    dependencies=ADMIN,
    responses=answers(bodies.DatasetDeleted, "not-found", "validation"),
)
async def delete(dataset_id: DatasetId, footnote: State) -> Response:
    """What was trained on it stays."""
    done = await asyncio.to_thread(dataset_service.delete, footnote.datasets, dataset_id)
    return json_answer(done.model_dump())
