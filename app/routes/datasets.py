"""``/admin/datasets``: training data in, listed, gone."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.manage import datasets as dataset_service
from app.records.keys import scope
from app.routes.documents import REFUSALS
from app.schemas import datasets as bodies
from app.web.body import JsonRoute, Ndjson, chunks
from app.web.http import State, refusals

router = APIRouter(
    prefix="/admin/datasets",
    tags=["admin"],
    dependencies=[Depends(scope("admin"))],
    route_class=JsonRoute,
)
DatasetId = Annotated[str, Path(max_length=64)]


@router.post(
    "",
    status_code=201,
    summary="Upload training data",
    response_description="It is stored; bad rows are named.",
    responses=refusals(*REFUSALS),
)
async def upload(
    request: Request,
    footnote: State,
    response: Response,
    body: bodies.DatasetRequest | Ndjson = None,
    kind: Annotated[bodies.Kind | None, Query(description="For NDJSON: the shape.")] = None,
    name: Annotated[str, Query(max_length=256, description="For NDJSON: a name.")] = "",
) -> bodies.DatasetMade:
    """NDJSON of any length, read as a stream, or `{"rows": [...]}`; every row is checked."""
    if body is None:
        arriving = chunks(request, footnote.settings.idle_timeout_s)
        made = await dataset_service.upload_lines(footnote.datasets, arriving, kind=kind, name=name)
    else:
        made = await asyncio.to_thread(dataset_service.upload_rows, footnote.datasets, body)
    response.headers["Location"] = f"/admin/datasets/{made.id}"
    return made


@router.get("", summary="List the datasets", responses=refusals())
def datasets(footnote: State) -> bodies.DatasetList:
    """The newest first."""
    stored = [bodies.DatasetBody.model_validate(d) for d in footnote.datasets.all()]
    return bodies.DatasetList(datasets=stored)


@router.get(
    "/{dataset_id}", summary="Look at a dataset", responses=refusals("not-found", "validation")
)
def dataset(dataset_id: DatasetId, footnote: State) -> bodies.DatasetBody:
    """Its shape, size and labels; not its rows."""
    return dataset_service.read(footnote.datasets, dataset_id)


@router.delete(
    "/{dataset_id}", summary="Delete a dataset", responses=refusals("not-found", "validation")
)
def delete(dataset_id: DatasetId, footnote: State) -> bodies.DatasetDeleted:
    """What was trained on it stays."""
    footnote.datasets.delete(dataset_id)
    return bodies.DatasetDeleted(id=dataset_id, deleted=True)
