"""Bytes that changed on the disk: found by checksums, named, and the rest serves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from starlette.testclient import TestClient

from app.cli import main
from app.jobs.inputs import index_folder
from app.server import create_app
from app.settings import Settings
from app.state import Footnote
from index_data.generations.build import build_generation
from index_data.storage.database import FILE_NAME
from model.checkpoint import HeadFiles, save_checkpoint
from model.config import HeadConfig
from model.encoder.encoder import Encoder
from tests.app.conftest import corpus, serving, state, wait_ready

SettingsFor = Callable[..., Settings]


def flip(path: Path, at: int | None = None) -> None:
    """Change one bit in the middle of a file, or at a place."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if at is None else at] ^= 1
    path.write_bytes(bytes(raw))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def publish(footnote: Footnote) -> Path:
    """A generation of all that is stored, put in use as a job would."""
    served = footnote.snapshot().serving
    assert served is not None
    folder = build_generation(
        footnote.settings.store_dir,
        index_folder(footnote.settings),
        encode=lambda texts: served.engine.encode(texts).result(),
        encoder_sha=served.model.encoder_sha256,
        passage_words=200,
    )
    footnote.open_index().publish(folder)
    return folder


def found(client: TestClient) -> list[str]:
    hits = client.post("/search", json={"query": "charged twice"}).json()["hits"]
    return [hit["doc_id"] for hit in hits]


def doctor(settings: Settings) -> tuple[int, dict[str, Any]]:
    """The exit status of `footnote doctor`, and its findings by what they are about."""
    env = {
        "FOOTNOTE_STORE_DIR": str(settings.store_dir),
        "FOOTNOTE_CHECKPOINT_DIR": str(settings.checkpoint_dir),
        "FOOTNOTE_ENCODER": str(settings.encoder),
    }
    result = CliRunner().invoke(main, ["doctor", "--json"], env=env)
    return result.exit_code, {f["about"]: f for f in json.loads(result.stdout)}


def healed(client: TestClient) -> None:
    """Wait until the generation that was queued at the start serves."""
    deadline = time.monotonic() + 120
    while client.get("/health/ready").json()["status"] != "ready":
        assert time.monotonic() < deadline, client.get("/admin/jobs").text
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "both"), [(flip, False), (truncate, True), (Path.unlink, False)]
)
def test_a_damaged_generation(
    tmp_path: Path, settings_for: SettingsFor, damage: Callable[[Path], None], both: bool
) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        client.post("/documents", json={"documents": corpus()[1:]})
        folders = [publish(state(client))]
        client.post("/documents", json=corpus()[0])
        folders.append(publish(state(client)))
        before = found(client)
    for folder in folders if both else folders[1:]:
        damage(folder / "vectors.npy")
    assert doctor(settings)[1]["generation-000002"]["state"] == "problem"
    with serving(settings) as client:
        told = client.get("/health/ready").json()
        assert told["status"] == "degraded"
        assert "generation-000002: vectors.npy" in told["degraded"][0]
        assert ("generation-000001: vectors.npy" in told["degraded"][0]) == both
        assert state(client).open_index().searcher.generation == (0 if both else 1)
        assert found(client) == before
        answer = client.post("/classify", json={"input": "I was charged twice for one order"})
        assert answer.json()["data"][0]["label"] == "billing"
        healed(client)
        assert state(client).open_index().searcher.generation == 3
        assert found(client) == before
    code, findings = doctor(settings)
    assert code == 0, findings
    assert findings["generation-000003"]["state"] == "ok"


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_checkpoint(
    tmp_path: Path, settings_for: SettingsFor, damage: Callable[[Path], None]
) -> None:
    settings = settings_for(tmp_path)
    encoder = Encoder.load(settings.encoder)
    config = HeadConfig(field="label", labels=("a", "b"), encoder_sha256=encoder.sha256)
    files = HeadFiles(config, {"w": torch.zeros(64)}, {})
    folder = settings.checkpoint_dir / "20260101-000000-label"
    save_checkpoint(folder, {"label": files}, encoder)
    damage(next(folder.rglob("*.safetensors")))
    code, findings = doctor(settings)
    assert code == 1
    assert "sha256" in findings["checkpoint 20260101-000000-label"]["detail"]
    with TestClient(create_app(settings)) as client:
        wait_ready(client)
        told = client.get("/health/ready").json()
        assert told["status"] == "degraded"
        assert any("20260101-000000-label" in text for text in told["degraded"])
        assert client.post("/documents", json={"documents": corpus()}).status_code == 200
        answer = client.post("/classify", json={"input": "I was charged twice for one order"})
        assert answer.json()["data"][0]["label"] == "billing"  # the neighbours alone
        assert answer.json()["degraded"]


def test_a_flipped_byte_in_a_row(tmp_path: Path, settings_for: SettingsFor) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        client.post("/documents", json={"documents": corpus()})
        lost = found(client)[0]
        text = client.get(f"/documents/{lost}").json()["text"]
    path = settings.store_dir / FILE_NAME
    at = path.read_bytes().find(text.encode())
    assert at > 0  # the log was taken into the file when the server closed
    flip(path, at)
    code, findings = doctor(settings)
    assert code == 1
    assert lost in findings["store"]["detail"]
    with serving(settings) as client:
        told = client.get("/health/ready").json()
        assert told["status"] == "degraded"
        assert any(text.startswith("store: 1 damaged") for text in told["degraded"])
        answer = client.get(f"/documents/{lost}")
        assert answer.status_code == 404
        assert "damaged" in answer.json()["detail"]
        rest = {document["id"] for document in client.get("/documents").json()["documents"]}
        assert rest == {document["id"] for document in corpus()} - {lost}
        assert lost not in found(client)
        again = next(document for document in corpus() if document["id"] == lost)
        assert client.post("/documents", json=again).status_code == 200
        assert lost in found(client)
        assert client.get("/health/ready").json()["status"] == "ready"
