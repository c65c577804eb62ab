"""How a body is read: strictly, and only once the scope and the permit allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from app.problems import Problem
from app.web.body import JsonRoute
from tests.app.conftest import serving, state


def test_every_body_is_read_strictly(filled: TestClient) -> None:
    routes = [
        route
        for route in iter_route_contexts(filled.app.routes)  # type: ignore[attr-defined]
        if getattr(route, "body_field", None) is not None
    ]
    assert len(routes) >= 18
    assert all(isinstance(route.original_route, JsonRoute) for route in routes)


def test_a_key_is_asked_for_before_the_body_is_read(tmp_path: Path, settings_for: Any) -> None:
    with serving(settings_for(tmp_path, admin_key="a" * 20)) as client:
        assert client.post("/analyze", content=b"{").status_code == 401
        assert client.post("/documents", content=b"{").status_code == 401


def test_a_permit_is_asked_for_before_the_body_is_read(
    filled: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise Problem("queue-full", "no")

    monkeypatch.setattr(state(filled).permits, "check", refuse)
    assert filled.post("/analyze", content=b"{").status_code == 429


def test_every_wrong_place_of_bodies_and_parameters_is_named(filled: TestClient) -> None:
    answer = filled.post("/admin/datasets?kind=x", json={"rows": [], "more": 1})
    assert answer.status_code == 422
    found = {e["pointer"]: e["detail"] for e in answer.json()["errors"]}
    assert sorted(found) == ["#/kind", "#/more", "#/rows"]
    assert found["#/more"] == "unknown field"
