"""``/problems/<slug>``: what an error means, explained by the server that gave it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.problems import KINDS, Problem
from app.records.keys import scope
from app.web.http import json_answer

router = APIRouter(prefix="/problems", tags=["problems"], dependencies=[Depends(scope("open"))])


@router.get("", summary="Every kind of problem")
async def list_problems() -> Response:
    """Every kind of problem with its status."""
    return json_answer({"problems": [shown(slug) for slug in KINDS]})


@router.get("/{slug}", summary="What a problem means")
async def explain_problem(slug: str) -> Response:
    """What a problem's `type` points to."""
    if slug not in KINDS:
        raise Problem("not-found", "There is no problem with this name.")
    return json_answer(shown(slug))


def shown(slug: str) -> dict[str, Any]:
    """One kind of problem."""
    return {"type": f"/problems/{slug}", **asdict(KINDS[slug])}
