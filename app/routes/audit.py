"""``/admin/audit-labels``: labels that are probably wrong, to be corrected or dismissed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from app.jobs import audit as audit_job
from app.manage import audits as audit_service
from app.manage.admin import check_labels
from app.records.keys import scope
from app.routes.admin import QUEUED, REFUSALS, submit
from app.schemas import admin as bodies
from app.web.body import JsonRoute
from app.web.http import State, refusals

router = APIRouter(
    prefix="/admin/audit-labels",
    tags=["admin"],
    dependencies=[Depends(scope("admin"))],
    route_class=JsonRoute,
)
AuditId = Annotated[str, Path(max_length=64)]


@router.post("", summary="Look for wrong labels", **QUEUED, responses=refusals(*REFUSALS))
def audit(body: bodies.AuditRequest, footnote: State, response: Response) -> bodies.JobBody:
    """Documents whose neighbours and a head that has not seen them contradict their label."""
    check_labels(footnote.indexer, body.field)
    return submit(footnote.jobs, response, audit_job.TYPE, body.model_dump())


@router.get(
    "/{audit_id}",
    summary="Read what an audit found",
    responses=refusals("not-found", "job-conflict", "validation"),
)
def findings(
    audit_id: AuditId,
    footnote: State,
    offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> bodies.AuditPage:
    """Worst first, with the texts and labels as they stand now. The id is that of the job."""
    job = audit_service.audit_of(footnote.jobs, audit_id)
    return audit_service.page(job, footnote.audits, footnote.store, offset=offset, limit=limit)


@router.post(
    "/{audit_id}",
    summary="Correct or dismiss findings",
    responses=refusals(*REFUSALS, "not-found", "job-conflict"),
)
async def decide(
    audit_id: AuditId, body: bodies.AuditDecision, footnote: State
) -> bodies.AuditDecided:
    """A correction counts from the next request on; what is dismissed is not shown again."""
    job = audit_service.audit_of(footnote.jobs, audit_id)
    return await audit_service.decide(job, body, footnote.audits, footnote.store, footnote.indexer)
