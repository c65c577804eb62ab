"""``/documents``: in, out, and gone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from pydantic import SkipValidation as Sent
from starlette.responses import Response

from app.manage import documents as document_service
from app.manage.documents import Target
from app.manage.erasure import Holders
from app.problems import Slug
from app.records.keys import scope
from app.schemas.documents import (
    DeleteRequest,
    DeleteResponse,
    Document,
    DocumentBody,
    DocumentPage,
    Documents,
    WriteResponse,
)
from app.web.body import JsonRoute, Ndjson, chunks
from app.web.http import BODY_REFUSALS, State, json_answer, refusals, unless_gone

router = APIRouter(tags=["documents"], route_class=JsonRoute)
READ = [Depends(scope("predict"))]
WRITE = [Depends(scope("write"))]
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "not-ready", "insufficient-storage")
Sendable = Annotated[Sent[Document | Documents] | Ndjson, Body()]
Wait = Annotated[
    Literal["indexed", "durable"],
    Query(description="Answer once it is found by searches, or as soon as it is durable."),
]
Erase = Annotated[
    bool,
    Query(
        description="Also take it out of feedback, stored predictions, kept states and generations;"
        " `receipt` names what derived from it. An id that was deleted before can be erased too."
    ),
]
IfMatch = Annotated[str | None, Header(description="Only if this is still the ETag.")]


async def target_of(footnote: State) -> Target:
    """Where documents are written to."""
    return Target(footnote.store, footnote.indexer, footnote.imported)


async def holders_of(footnote: State) -> Holders:
    """Everything that may hold something of a document."""
    return Holders(
        store=footnote.store,
        indexer=footnote.indexer,
        feedback=footnote.feedback,
        predictions=footnote.predictions,
        pins=footnote.pins,
        jobs=footnote.jobs,
        registry=footnote.registry,
        language_models=footnote.language_models,
    )


Writing = Annotated[Target, Depends(target_of)]
Holding = Annotated[Holders, Depends(holders_of)]


@router.post(
    "/documents",
    summary="Add or update documents",
    dependencies=WRITE,
    responses=refusals(*REFUSALS),
)
async def post_documents(
    request: Request,
    footnote: State,
    target: Writing,
    body: Sendable = None,
    wait: Wait = "indexed",
) -> WriteResponse:
    """One JSON document, `{"documents": [...]}`, or NDJSON of any length, read as a stream."""
    if body is None:
        arriving = chunks(request, footnote.settings.idle_timeout_s)
        return await document_service.import_lines(target, arriving, wait)
    return await document_service.import_json(target, body, wait)


@router.get(
    "/documents",
    summary="List documents",
    dependencies=READ,
    response_model=DocumentPage,
    responses=refusals("validation"),
)
async def list_documents(
    footnote: State,
    cursor: Annotated[str | None, Query(max_length=2_000)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    filter: Annotated[
        str | None,
        Query(max_length=10_000, description="A filter as JSON.", examples=['{"lang": "en"}']),
    ] = None,
) -> Response:
    """A page of documents; `next_cursor` asks for the next one."""
    return json_answer(
        await document_service.page(footnote.store, cursor=cursor, limit=limit, raw_filter=filter)
    )


@router.get(
    "/documents/{document_id}",
    summary="Read a document",
    dependencies=READ,
    response_model=DocumentBody,
    responses=refusals("not-found"),
)
async def get_document(
    document_id: str, footnote: State, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A document with its ETag."""
    document = await document_service.read_one(footnote.store, document_id)
    headers = {"ETag": document.etag}
    if if_none_match == document.etag:
        return Response(status_code=304, headers=headers)
    return json_answer({**document.to_json(), "sequence": document.sequence}, headers=headers)


@router.put(
    "/documents/{document_id}",
    summary="Replace a document, or make it",
    dependencies=WRITE,
    responses=refusals(*REFUSALS, "precondition-failed")
    | {201: {"model": WriteResponse, "description": "It was made."}},
)
async def put_document(
    document_id: str,
    body: Annotated[Sent[Document], Body()],
    target: Writing,
    response: Response,
    wait: Wait = "indexed",
    if_match: IfMatch = None,
) -> WriteResponse:
    """The whole document; with `If-Match` only over the version that it names."""
    report, document = await document_service.replace_one(
        target, document_id, body, if_match=if_match, wait=wait
    )
    response.headers["ETag"] = document.etag
    response.status_code = 201 if report.created else 200
    return report


@router.delete(
    "/documents/{document_id}",
    summary="Delete a document",
    dependencies=WRITE,
    response_model=DeleteResponse,
    responses=refusals("not-found", "precondition-failed", "insufficient-storage", "not-ready"),
)
async def delete_document(
    document_id: str,
    footnote: State,
    holders: Holding,
    if_match: IfMatch = None,
    erase: Erase = False,
) -> Response:
    """No search finds it from now on; with `erase` nothing else quotes it either."""
    if erase:
        return json_answer(
            await document_service.erase_one(holders, document_id, if_match=if_match)
        )
    return json_answer(
        await document_service.delete_one(
            footnote.store, footnote.indexer, document_id, if_match=if_match
        )
    )


@router.post(
    "/documents:delete",
    summary="Delete documents by a filter",
    dependencies=WRITE,
    response_model=DeleteResponse,
    responses=refusals(*REFUSALS),
)
async def delete_by_filter(request: Request, body: DeleteRequest, footnote: State) -> Response:
    """Every document that the filter matches; `dry_run` only counts them."""
    work = document_service.delete_where(
        footnote.store, footnote.indexer, body.filter, body.dry_run
    )
    return json_answer(await unless_gone(request, work))
