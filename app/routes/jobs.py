"""``/admin/jobs``: what runs in the background, watched and stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Path, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.jobs.job import FINISHED
from app.records.keys import scope
from app.routes.admin import queued
from app.schemas import admin as bodies
from app.web.http import PING_S, State, refusals

router = APIRouter(prefix="/admin/jobs", tags=["admin"], dependencies=[Depends(scope("admin"))])
JobId = Annotated[str, Path(max_length=64)]


@router.get("", summary="List the jobs", responses=refusals())
async def jobs(footnote: State) -> bodies.JobList:
    """The newest first."""
    return bodies.JobList.model_validate({"jobs": [job.to_json() for job in footnote.jobs.all()]})


@router.get("/{job_id}", summary="Look at a job", responses=refusals("not-found"))
async def job(job_id: JobId, footnote: State) -> bodies.JobBody:
    """As it stands now."""
    return bodies.JobBody.model_validate(footnote.jobs.get(job_id).to_json())


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=refusals("not-found"))
def cancel(job_id: JobId, footnote: State) -> bodies.JobBody:
    """A running one stops within seconds; one that is finished stays what it was."""
    return bodies.JobBody.model_validate(footnote.jobs.cancel(job_id).to_json())


@router.post(
    "/{job_id}/resume",
    status_code=202,
    summary="Resume a job",
    responses=refusals("not-found", "job-conflict"),
)
def resume(job_id: JobId, footnote: State, response: Response) -> bodies.JobBody:
    """Queue a job again that failed, was cancelled or interrupted; training goes on as it was."""
    return queued(response, footnote.jobs.resume(job_id))


@router.get(
    "/{job_id}/events",
    summary="Watch a job",
    response_class=EventSourceResponse,
    responses=refusals("not-found"),
)
async def events(job_id: JobId, footnote: State) -> EventSourceResponse:
    """Server-Sent Events, each with the whole job: `progress` on every change, then `done`."""
    footnote.jobs.get(job_id)  # not-found before the stream begins

    async def stream() -> AsyncIterator[ServerSentEvent]:
        async for job in footnote.jobs.watch(job_id):
            name = "done" if job.state in FINISHED else "progress"
            yield ServerSentEvent(orjson.dumps(job.to_json()).decode(), event=name)

    return EventSourceResponse(stream(), ping=PING_S)
