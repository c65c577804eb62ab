"""``/docs`` and ``/openapi.json``: complete, with examples that work, and with no network."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, Response

from app.inference.snapshot import MODEL_NAME
from app.jobs import audit as audit_job
from app.problems import Problem
from app.records.datasets import id_of, line_of
from app.records.feedback import FeedbackItem
from app.records.keys import RequireScope, Scope, scope
from app.schemas.base import ProblemBody
from app.web.html import render
from app.web.http import State, json_answer

STATIC = Path(__file__).parents[1] / "static"
ASSETS = STATIC / "docs"
# Bodies by the path of their route (without `/v1`) and the name of the example.
EXAMPLES: dict[str, dict[str, Any]] = orjson.loads((STATIC / "examples.json").read_bytes())
SERVED = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "LICENSE": "text/plain",
}
SAMPLE_DOCUMENT = "ticket-en-0001"
NDJSON = (
    '{"text": "The parcel is late", "label": "delivery"}\n{"text": "Thanks", "label": "praise"}'
)
FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
# Nothing from elsewhere is loaded, and nothing that was typed is sent elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False, dependencies=[Depends(scope("open"))])


@router.get("/docs")
async def page() -> Response:
    """Swagger UI from the files that come with Footnote."""
    return HTMLResponse(render("docs.html"), headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """A file of the page."""
    if name not in SERVED:
        raise Problem("not-found", "There is no such file.")
    body = (ASSETS / name).read_bytes()
    return Response(body, media_type=SERVED[name], headers={"Cache-Control": "max-age=86400"})


@router.get("/openapi.json")
async def openapi(request: Request, footnote: State) -> Response:
    """The description, with examples that fit what this server holds now."""
    return json_answer(with_examples(describe(request.app), footnote))


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application: FastAPI's own, with problems, key and scopes."""
    if (document := app.openapi_schema) is None:
        document = app.openapi()  # which keeps it
        complete(document, app)
    return document


def complete(document: dict[str, Any], app: FastAPI) -> None:
    """Add the shape of problems, examples and scopes; take out FastAPI's own error."""
    _, made = models_json_schema(
        [(ProblemBody, "validation")], ref_template="#/components/schemas/{model}"
    )
    components = document["components"]
    components["schemas"] |= made["$defs"]
    for name in FASTAPIS_OWN:
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key of this server."}
    }
    for path, method, required in scopes(app):
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            continue
        if FASTAPIS_OWN[0] in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
        if "requestBody" in operation:
            bodies = EXAMPLES[path.removeprefix("/v1")].items()
            content = operation["requestBody"]["content"]
            content["application/json"]["examples"] = {n: {"value": body} for n, body in bodies}
            if not operation["requestBody"].get("required"):  # a JsonRoute that takes NDJSON too
                content["application/x-ndjson"] = {"schema": {"type": "string"}, "example": NDJSON}
                operation["requestBody"]["required"] = True
        if required is not Scope.OPEN:
            operation["security"] = [{"key": []}]
            operation["x-scope"] = required.label


def scopes(app: FastAPI) -> list[tuple[str, str, Scope]]:
    """Every route's path and method with the scope that its dependencies require.

    Raises ``LookupError`` for a route that requires none: such a route must not be served.
    """
    listed = []
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        depends = dependant.dependencies if dependant else []
        required = [d.call.required for d in depends if isinstance(d.call, RequireScope)]
        if not required:
            raise LookupError(f"the route {route.path} has no scope")
        listed += [(str(route.path), m, max(required)) for m in sorted(route.methods or ())]
    return listed


def with_examples(document: dict[str, Any], footnote: State) -> dict[str, Any]:
    """The description with ids in it that exist on this server."""
    known = known_ids(footnote)
    paths = {
        path: {
            method: {**operation, "parameters": filled(operation.get("parameters", []), known)}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    return {**document, "paths": paths}


def known_ids(footnote: State) -> dict[str, str | int]:
    """A value for each parameter of a path.

    The description is read without a key, so where one is needed it names nothing of one's own.
    """
    example = EXAMPLES["/feedback"]["a correction"]
    correction = FeedbackItem(
        text=example["input"],
        field="label",
        label=example["label"],
        correct=False,
        apply="index",
        predicted=None,
        prediction_id=None,
        index=0,
    )
    (spans,) = EXAMPLES["/admin/datasets"]["entities"]["rows"]
    known: dict[str, str | int] = {
        "document_id": SAMPLE_DOCUMENT,
        "prediction_id": "pred_none_yet",
        "feedback_id": correction.id,
        "audit_id": "job_none_yet",
        "version": "shipped",
        "generation": 1,
        "job_id": "job_none_yet",
        "key_id": "none_yet",
        "dataset_id": id_of("spans", sha256(line_of(spans)).hexdigest()),
        "model_id": MODEL_NAME,
        "slug": "validation",
    }
    if not footnote.keys.open:
        return known
    documents, _ = footnote.store.list(limit=1)
    searcher = footnote.snapshot().searcher
    here: dict[str, str | int | None] = {
        "document_id": documents[0].id if documents else None,
        "prediction_id": footnote.predictions.last(),
        "version": footnote.registry.active,
        "generation": searcher.generation if searcher else None,
        "job_id": next((job.id for job in footnote.jobs.all()), None),
        "audit_id": next((j.id for j in footnote.jobs.all() if j.type == audit_job.TYPE), None),
    }
    return known | {name: value for name, value in here.items() if value}


def filled(
    parameters: list[dict[str, Any]], known: Mapping[str, str | int]
) -> list[dict[str, Any]]:
    """Parameters with examples for the ids that are known."""
    return [{**p, "example": known[p["name"]]} if p["name"] in known else p for p in parameters]
