"""``/admin``: training, reindexing, measuring; checkpoints, generations, keys, the sample."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.responses import HTMLResponse

from app.jobs import evaluate as evaluation_job
from app.jobs import pretrain as pretrain_job
from app.jobs import reindex as indexing_job
from app.jobs import train as training_job
from app.jobs.job import Job
from app.jobs.queue import Jobs
from app.manage import admin as admin_service
from app.manage import report_page
from app.problems import Slug
from app.records.keys import scope
from app.schemas import admin as bodies
from app.schemas.pretrain import PretrainRequest
from app.web.body import JsonRoute
from app.web.http import BODY_REFUSALS, State, json_answer, refusals

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(scope("admin"))],
    route_class=JsonRoute,
)
REFUSALS: tuple[Slug, ...] = (*BODY_REFUSALS, "queue-full", "not-ready", "insufficient-storage")
QUEUED: dict[str, Any] = {"status_code": 202, "response_description": "It is queued."}
Version = Annotated[str, Path(max_length=128)]
KeyId = Annotated[str, Path(max_length=64)]
Generation = Annotated[int, Path(ge=1, le=10**9)]
REPORT_FORMAT = "A page, or JSON. Left out, a browser gets the page."
HTML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}}}
}
PAGE_HEADERS = {
    "Content-Security-Policy": report_page.POLICY,
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def submit(jobs: Jobs, response: Response, kind: str, params: dict[str, Any]) -> bodies.JobBody:
    """Queue a job; the answer tells where to watch it."""
    return queued(response, jobs.submit(kind, params))


def queued(response: Response, job: Job) -> bodies.JobBody:
    """A job that was queued, with the address to watch it at."""
    response.headers["Location"] = f"/admin/jobs/{job.id}"
    return bodies.JobBody.model_validate(job.to_json())


@router.post("/train", summary="Train a head", **QUEUED, responses=refusals(*REFUSALS, "not-found"))
def train(body: bodies.TrainRequest, footnote: State, response: Response) -> bodies.JobBody:
    """Learn from labelled documents or an uploaded set; the server goes on serving meanwhile.

    `classification` and `sentiment` learn a label field, `ner` named entities, `qa` to answer
    questions (from a dataset only). With `if_better` the new head is put in use when it beats, on
    held-out rows, the head that serves, or where there is none the neighbours alone (for `qa` the
    closed book), by the task's own figure: accuracy, F1 of whole entities, F1 of answers.
    """
    params = admin_service.train_params(
        footnote.indexer, footnote.datasets, footnote.registry, body
    )
    return submit(footnote.jobs, response, training_job.TYPE, params)


@router.post(
    "/pretrain",
    summary="Pre-train a language model",
    **QUEUED,
    responses=refusals(*REFUSALS, "not-found"),
)
def pretrain(body: PretrainRequest, footnote: State, response: Response) -> bodies.JobBody:
    """From nothing, on an uploaded set of texts or the index's documents, retrieval in the loop.

    What `footnote pretrain` does, with its names and defaults; a job that was cancelled or
    interrupted goes on where it stopped. The model is kept beside the checkpoints and listed with
    them; it serves nothing by itself.
    """
    params = admin_service.pretrain_params(
        footnote.store, footnote.datasets, footnote.registry, footnote.language_models, body
    )
    return submit(footnote.jobs, response, pretrain_job.TYPE, params)


@router.post(
    "/reindex", summary="Build a new index generation", **QUEUED, responses=refusals(*REFUSALS)
)
def reindex(body: bodies.ReindexRequest, footnote: State, response: Response) -> bodies.JobBody:
    """The old generation serves until the new one is whole. Unchanged vectors are taken over."""
    params = admin_service.reindex_params(footnote.indexer, body)
    return submit(footnote.jobs, response, indexing_job.TYPE, params)


@router.post("/evaluate", summary="Measure what serves", **QUEUED, responses=refusals(*REFUSALS))
def evaluate(body: bodies.EvaluateRequest, footnote: State, response: Response) -> bodies.JobBody:
    """With retrieval, without, and the neighbours alone, on rows that the head did not see."""
    admin_service.check_labels(footnote.indexer, body.field)
    return submit(footnote.jobs, response, evaluation_job.TYPE, body.model_dump())


@router.get("/models", summary="List the checkpoints", responses=refusals())
def models(footnote: State) -> bodies.ModelList:
    """Each with the reports of its heads: data, metrics with and without retrieval, curve."""
    return admin_service.list_models(footnote.registry, footnote.language_models)


@router.post(
    "/models/rollback",
    summary="Serve the checkpoint that served before",
    responses=refusals("job-conflict", "validation"),
)
def rollback(footnote: State) -> bodies.Activated:
    """As it was before the last activation."""
    return bodies.Activated.model_validate(footnote.activation.rollback())


@router.post(
    "/models/{version}/activate",
    summary="Serve a checkpoint",
    responses=refusals("not-found", "validation"),
)
def activate_model(version: Version, footnote: State) -> bodies.Activated:
    """Loaded and warmed up beside the one that serves, then swapped in whole."""
    return bodies.Activated.model_validate(footnote.activation.activate(version))


@router.get(
    "/models/{version}/report",
    summary="Read the report of a checkpoint",
    response_model=bodies.ModelReport,
    responses=refusals("not-found", "validation") | HTML,
)
def model_report(
    request: Request,
    version: Version,
    footnote: State,
    format: Annotated[Literal["json", "html"] | None, Query(description=REPORT_FORMAT)] = None,
) -> Response:
    """Metrics by condition and label, confusion, calibration, curve, worst mistakes, promotion."""
    report = admin_service.model_report(footnote.registry, footnote.language_models, version)
    if format == "html" or (format is None and "text/html" in request.headers.get("accept", "")):
        page = admin_service.report_page(footnote.store, report)
        return HTMLResponse(page, headers=PAGE_HEADERS)
    return json_answer(report.model_dump())


@router.delete(
    "/models/{version}",
    summary="Delete a checkpoint",
    responses=refusals("not-found", "job-conflict"),
)
def delete_model(version: Version, footnote: State) -> bodies.ModelDeleted:
    """For good; never the one that serves."""
    admin_service.remove_model(
        footnote.registry, footnote.language_models, version, footnote.settings.generator
    )
    return bodies.ModelDeleted(version=version)


@router.get("/indexes", summary="List the index generations", responses=refusals("not-ready"))
def indexes(footnote: State) -> bodies.IndexList:
    """Those that are kept, the newest first."""
    return admin_service.list_indexes(footnote.open_index())


@router.post(
    "/indexes/{generation}/activate",
    summary="Serve another generation",
    responses=refusals("not-found", "not-ready", "validation"),
)
def activate_index(generation: Generation, footnote: State) -> bodies.IndexActivated:
    """It is brought up to the last write before it serves."""
    return admin_service.activate_index(footnote.open_index(), generation)


@router.delete(
    "/sample",
    summary="Take the sample out",
    responses=refusals("not-ready", "insufficient-storage"),
)
def delete_sample(footnote: State) -> bodies.SampleDeleted:
    """Every document with `metadata.source` = `sample`."""
    return admin_service.delete_sample(footnote.store, footnote.indexer)


@router.get("/keys", summary="List the keys", responses=refusals())
async def keys(footnote: State) -> bodies.KeyList:
    """Each by the digest of it; never the key."""
    stored = [bodies.KeyBody.model_validate(info) for info in footnote.keys.list()]
    return bodies.KeyList(keys=stored, open=footnote.keys.open)


@router.post(
    "/keys",
    status_code=201,
    summary="Make a key",
    response_description="The key; it is not shown again.",
    responses=refusals(*REFUSALS),
)
def add_key(body: bodies.KeyRequest, footnote: State) -> bodies.KeyMade:
    """Only its digest is kept. On a server without keys the first one closes it to all others."""
    return admin_service.add_key(footnote.keys, body)


@router.delete("/keys/{key_id}", summary="Take a key away", responses=refusals("not-found"))
def revoke_key(key_id: KeyId, footnote: State) -> bodies.KeyBody:
    """By its id, or the first 8 or more characters of it. Keys of the environment stay."""
    return admin_service.revoke_key(footnote.keys, key_id)
