"""``/documents``: in, out, and gone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import SkipValidation as Sent
from starlette.responses import Response

from app.manage import documents as document_service
from app.manage import erasure
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
from app.state import Footnote
from app.web.body import JsonRoute, Ndjson, chunks, examples, ndjson
from app.web.http import BODY_REFUSALS, State, answers, json_answer, unless_gone

router = APIRouter(tags=["documents"], route_class=JsonRoute)
READ = [Depends(scope("predict"))]
WRITE = [Depends(scope("write"))]
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "not-ready", "insufficient-storage")
TICKET = {
    "id": "example-ticket",
    "text": "I was billed two times for the same headphones",
    "label": "billing",
    "lang": "en",
}
OneOrMore = Annotated[
    Sent[Document | Documents] | Ndjson,
    examples({"one": TICKET, "several": {"documents": [TICKET]}}),
]
Replacement = Annotated[
    Sent[Document], examples({"a ticket": {k: TICKET[k] for k in ("text", "label")}})
]
Deletion = Annotated[
    DeleteRequest, examples({"count only": {"filter": {"label": "billing"}, "dry_run": True}})
]
LINES = '{"text": "The parcel is late", "label": "delivery"}\n{"text": "Thanks", "label": "praise"}'
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


def target_of(footnote: Footnote) -> document_service.Target:
    """Where documents are written to."""
    return document_service.Target(footnote.store, footnote.indexer, footnote.imported)


def holders_of(footnote: Footnote) -> erasure.Holders:
    """Everything that may hold something of a document."""
    return erasure.Holders(
        store=footnote.store,
        feedback=footnote.feedback,
        indexer=footnote.indexer,
        pins=footnote.pins,
        predictions=footnote.predictions,
        jobs=footnote.jobs,
        registry=footnote.registry,
        language_models=footnote.language_models,
    )


@router.post(
    "/documents",
    summary="Add or update documents",
    dependencies=WRITE,
    openapi_extra=ndjson(LINES),
    responses=answers(WriteResponse, *REFUSALS),
)
async def post_documents(
    request: Request, footnote: State, body: OneOrMore = None, wait: Wait = "indexed"
) -> Response:
    """One JSON document, `{"documents": [...]}`, or NDJSON of any length, read as a stream."""
    if body is None:
        arriving = chunks(request, footnote.settings.idle_timeout_s)
        return json_answer(await document_service.import_lines(target_of(footnote), arriving, wait))
    return json_answer(await document_service.import_json(target_of(footnote), body, wait))


@router.get(
    "/documents",
    summary="List documents",
    dependencies=READ,
    responses=answers(DocumentPage, "validation"),
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
    responses=answers(DocumentBody, "not-found"),
)
async def get_document(
    document_id: str, footnote: State, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A document with its ETag."""
    found = await document_service.read_one(footnote.store, document_id)
    headers = {"ETag": found.etag}
    if if_none_match == found.etag:
        return Response(status_code=304, headers=headers)
    return json_answer({**found.to_json(), "sequence": found.sequence}, headers=headers)


@router.put(
    "/documents/{document_id}",
    summary="Replace a document, or make it",
    dependencies=WRITE,
    responses=answers(WriteResponse, *REFUSALS, "precondition-failed")
    | {201: {"model": WriteResponse, "description": "It was made."}},
)
async def put_document(
    document_id: str,
    body: Replacement,
    footnote: State,
    wait: Wait = "indexed",
    if_match: IfMatch = None,
) -> Response:
    """The whole document; with `If-Match` only over the version that it names."""
    report, document = await document_service.replace_one(
        target_of(footnote), document_id, body, if_match=if_match, wait=wait
    )
    return json_answer(report, 201 if report["created"] else 200, {"ETag": document.etag})


@router.delete(
    "/documents/{document_id}",
    summary="Delete a document",
    dependencies=WRITE,
    responses=answers(
        DeleteResponse, "not-found", "precondition-failed", "insufficient-storage", "not-ready"
    ),
)
async def delete_document(
    document_id: str, footnote: State, if_match: IfMatch = None, erase: Erase = False
) -> Response:
    """No search finds it from now on; with `erase` nothing else quotes it either."""
    if erase:
        told = await document_service.erase_one(
            holders_of(footnote), document_id, if_match=if_match
        )
        return json_answer(told)
    return json_answer(
        await document_service.delete_one(target_of(footnote), document_id, if_match=if_match)
    )


@router.post(
    "/documents:delete",
    summary="Delete documents by a filter",
    dependencies=WRITE,
    responses=answers(DeleteResponse, *REFUSALS),
)
async def delete_by_filter(request: Request, body: Deletion, footnote: State) -> Response:
    """Every document that the filter matches; `dry_run` only counts them."""
    work = document_service.delete_where(target_of(footnote), body.filter, body.dry_run)
    return json_answer(await unless_gone(request, work))
