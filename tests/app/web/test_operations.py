from __future__ import annotations

import logging
import time
from pathlib import Path
from textwrap import fill
from typing import Any, get_args

import orjson
import pytest
from starlette.testclient import TestClient

from app.problems import KINDS, MAX_BODY, FieldError, Problem
from app.routes.docs import scopes
from app.settings import (
    InvalidSetting,
    Settings,
    read_settings,
    revealed,
    unknown_variables,
    variable,
)
from app.state import Footnote
from app.web.middleware import REQUEST_ID, JsonFormatter
from index_data.storage.store import StoreLocked
from tests.app.conftest import corpus, serving, wait_ready


def test_health_version_metrics(filled: TestClient) -> None:
    assert filled.get("/health/live").json() == {"status": "live"}
    assert filled.get("/health/ready").json() == {"status": "ready", "degraded": []}
    body = filled.get("/version").json()
    assert body["index"]["sequence"] >= 8
    assert "admin_key" not in body["settings"]
    filled.post("/classify", json={"input": "a parcel"})
    text = filled.get("/metrics").text
    assert 'footnote_requests_total{method="POST",route="/classify",status="200"}' in text
    assert "footnote_batch_size_bucket" in text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_not_ready_says_the_stage(tmp_path: Path, settings_for: Any) -> None:
    with serving(settings_for(tmp_path), ready=False) as client:
        answer = client.get("/health/ready")
        assert client.get("/health/live").status_code == 200
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["stage"]
        wait_ready(client)
        assert client.post("/search", json={"query": "nothing is here"}).json()["hits"] == []


def test_an_encoder_that_does_not_load_leaves_searching(tmp_path: Path, settings_for: Any) -> None:
    settings = settings_for(tmp_path, encoder=str(tmp_path / "nothing"))
    with serving(settings) as client:
        assert client.get("/health/ready").json()["status"] == "degraded"
        assert "encoder" in client.get("/health/ready").json()["degraded"][0]
        assert client.post("/documents", json={"documents": corpus()}).status_code == 200
        assert client.post("/search", json={"query": "charged twice"}).json()["hits"]
        answer = client.post("/classify", json={"input": "charged"})
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/not-ready"


def test_a_checkpoint_that_does_not_load_is_named(tmp_path: Path, settings_for: Any) -> None:
    settings = settings_for(tmp_path)
    broken = settings.checkpoint_dir / "20200101-000000-label"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    footnote = Footnote(settings)
    footnote.start()
    try:
        while not (footnote.status.ready or footnote.status.failed):
            time.sleep(0.02)
        assert footnote.status.ready
        assert "20200101" in footnote.snapshots.faults["checkpoint"]
        assert footnote.snapshot().serving is not None
    finally:
        footnote.close()


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path, settings_for: Any) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        client.post("/documents", json={"documents": corpus()})
        before = client.post("/search", json={"query": "charged twice"}).json()
    with serving(settings) as client:
        after = client.post("/search", json={"query": "charged twice"}).json()
    assert [h["doc_id"] for h in after["hits"]] == [h["doc_id"] for h in before["hits"]]
    assert after["method"] == before["method"] == "hybrid"


def test_a_second_server_is_refused(client: TestClient, settings_for: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreLocked):
        Footnote(settings_for(tmp_path))


def test_a_model_is_swapped_while_it_serves(client: TestClient) -> None:
    footnote = client.app.state.footnote  # type: ignore[attr-defined]
    old = footnote.snapshot().serving
    footnote.activation.activate("none")
    assert footnote.snapshot().serving is not old
    assert old.engine.join(timeout=10)
    answer = client.post("/classify", json={"input": "I was charged twice for one order"})
    assert answer.json()["data"][0]["label"] == "billing"
    assert client.post("/documents", json={"text": "after the swap"}).status_code == 200


def test_keys_close_what_they_should(tmp_path: Path, settings_for: Any) -> None:
    settings = settings_for(tmp_path, predict_key="p" * 20, admin_key="a" * 20)
    with serving(settings) as client:
        for path, method, required in scopes(client.app):  # type: ignore[arg-type]
            answer = client.request(method, path.replace("{", "x").replace("}", ""))
            assert (answer.status_code == 401) == (required.label != "open"), path
        bearer = {"Authorization": "Bearer " + "p" * 20}
        assert client.post("/search", json={"query": "a"}, headers=bearer).status_code == 200
        assert client.post("/documents", json={"text": "a"}, headers=bearer).status_code == 403
        assert client.get("/metrics", headers=bearer).status_code == 403


def test_problems_are_explained(filled: TestClient) -> None:
    assert len(filled.get("/problems").json()["problems"]) == len(KINDS)
    for slug, kind in KINDS.items():
        assert filled.get(f"/problems/{slug}").json()["status"] == kind.status


def test_a_problem_never_outgrows_its_limit() -> None:
    errors = [FieldError("#/" + "é" * 300, "\u0000" * 300) for _ in range(100)]
    problem = Problem("validation", "é" * 5000, errors=errors)
    assert len(orjson.dumps(problem.to_json("r" * 64))) <= MAX_BODY
    assert len(orjson.dumps(problem.to_openai("r" * 64))) <= MAX_BODY


def test_log_lines_are_json_with_the_request() -> None:
    token = REQUEST_ID.set("req_1")
    record = logging.LogRecord("a", logging.INFO, "", 0, "x %s", ('"y"',), None)
    line = orjson.loads(JsonFormatter().format(record))
    REQUEST_ID.reset(token)
    assert (line["message"], line["request_id"], line["level"]) == ('x "y"', "req_1", "info")


def documentation() -> str:
    """The list of ``docs/settings.md``: each setting with its default and its help text."""
    entries = []
    for name, field in Settings.model_fields.items():
        default = int(field.default) if isinstance(field.default, bool) else field.default
        shown = "none" if default is None else f"`{default}`"
        choices = get_args(field.annotation) if isinstance(default, str) else ()
        values = f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else ""
        text = f"- `{variable(name)}`, default {shown}. {field.description or ''}{values}"
        entries.append(
            fill(" ".join(text.split()), 100, initial_indent="- ", subsequent_indent="  ")
        )
    return "\n".join(entries) + "\n"


def test_settings_are_documented(root: Path) -> None:
    assert documentation() in (root / "docs" / "settings.md").read_text()


def test_settings_are_read_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for name, value in {"PORT": "0", "SAMPLE": "0", "STORE_DIR": "/x"}.items():
            patch.setenv(f"FOOTNOTE_{name}", value)
        settings = read_settings()
        assert (settings.port, settings.sample, settings.store_dir) == (0, False, Path("/x"))
        patch.setenv("FOOTNOTE_PROT", "1")
        patch.setenv("FOOTNOTE_DATA", "/where/the/evaluation/data/lies")
        assert unknown_variables() == ["FOOTNOTE_PROT (did you mean FOOTNOTE_PORT?)"]
    for name, value in {
        "PORT": "70000",
        "SAMPLE": "maybe",
        "QUEUE_SIZE": "0",
        "SCORER": "magic",
        "IDLE_TIMEOUT_S": "nan",
        "THREADS": "two",
        "GENERATOR": "Shiped",
        "HOST": "",
        "STORE_DIR": "",
        "ADMIN_KEY": "",
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(f"FOOTNOTE_{name}", value)
            with pytest.raises(InvalidSetting, match=f"FOOTNOTE_{name} cannot be"):
                read_settings()


def test_a_file_of_settings_is_read_after_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["FOOTNOTE_PORT=81", "FOOTNOTE_THREADS=3", "FOOTNOTE_PROT=1", "OTHER=x", "FOOTNOTE_"]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.setenv("FOOTNOTE_PORT", "82")
    settings = read_settings()
    assert (settings.port, settings.threads) == (82, 3)
    assert unknown_variables()[-1] == "FOOTNOTE_PROT (did you mean FOOTNOTE_PORT?)"
    (tmp_path / ".env").write_text("FOOTNOTE_THREADS=\n")
    with pytest.raises(InvalidSetting, match="FOOTNOTE_THREADS cannot be used: it is empty"):
        read_settings()
    (tmp_path / ".env").write_bytes(b"FOOTNOTE_HOST=\xff\n")
    with pytest.raises(InvalidSetting, match="\\.env cannot be read"):
        read_settings()


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOOTNOTE_ADMIN_KEY", "a-secret")
    settings = read_settings()
    assert revealed(settings.admin_key) == "a-secret"
    assert not {"admin_key", "write_key", "predict_key"} & settings.public().keys()
    monkeypatch.setenv("FOOTNOTE_PORT", "eighty")
    with pytest.raises(InvalidSetting) as refused:
        read_settings()
    assert "a-secret" not in f"{settings!r} {settings} {settings.model_dump()} {refused.value}"
