"""A real application on a store of its own, over a real (tiny, random) encoder."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli.local import bind, make_server
from app.server import create_app
from app.settings import Settings
from app.state import Footnote
from index_data.documents import parse_document
from model.encoder.encoder import Encoder
from tests.app.tiny import documents, make_encoder

READY_S = 60.0
Settings.model_config["env_file"] = None  # a developer's own settings do not change what is tested
TICKETS = {
    "billing": ["I was charged twice for one order", "The invoice shows a wrong amount to pay"],
    "delivery": ["Where is my parcel, it is late", "The courier left the package in the rain"],
    "returns": ["I want to send back the headphones", "How do I return a broken kettle"],
    "praise": ["Fast delivery, thank you!", "Wonderful service, friendly staff"],
}


def corpus() -> list[dict[str, Any]]:
    """A small help desk of our own."""
    return [
        {
            "id": f"{label}-{number}",
            "text": text,
            "lang": "en",
            "labels": {
                "label": label,
                "sentiment": "positive" if label == "praise" else "negative",
            },
            "metadata": {"source": "test", "number": number},
        }
        for label, texts in TICKETS.items()
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder, to be loaded as any other."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def settings_for(encoder_folder: Path) -> Callable[..., Settings]:
    """Settings on a folder of one's own; further ones by name."""

    def make(folder: Path, **given: Any) -> Settings:
        base = {
            "store_dir": folder / "store",
            "checkpoint_dir": folder / "checkpoints",
            "encoder": str(encoder_folder),
            "sample": False,
            "device": "cpu",
            "dtype": "fp32",
            "threads": 1,
            "reindex_after": 0,
        }
        return Settings(**{**base, **given})

    return make


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Encoder:
    """The tiny encoder itself."""
    return Encoder.load(str(encoder_folder), device="cpu")


@pytest.fixture(scope="session")
def checkpoint(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny head, trained so briefly that its hits still matter."""
    import numpy as np

    from model.config import TrainConfig
    from model.labels.memory import Retrieved
    from model.training.driver import train_head
    from model.training.labels import LabelTraining
    from model.training.split import Row

    out = tmp_path_factory.mktemp("heads") / "v1"
    found = documents(20)
    vectors = encoder.encode([d.text for d in found])
    near = vectors @ vectors.T
    np.fill_diagonal(near, -1)
    rows = []
    for i, document in enumerate(found):
        best = np.argsort(-near[i], kind="stable")[:8]
        hits = [
            Retrieved(
                None, found[j].text, str(found[j].labels["label"]), float(near[i, j]), vectors[j]
            )
            for j in best
        ]
        rows.append(Row(document.id, document.text, str(document.labels["label"]), hits))
    config = TrainConfig(
        epochs=2, batch_size=16, lr=3e-3, k=8, fusion_k=3, layers=2, rank=4, folds=1, holdout=0.2
    )
    train_head(LabelTraining(rows, config, encoder, baseline=False), out)
    return out


@pytest.fixture(scope="session")
def qa_head(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a head for questions, see `tests.app.tiny_qa`."""
    from tests.app.tiny_qa import train_qa

    return train_qa(encoder, tmp_path_factory.mktemp("qa") / "v1")


@contextmanager
def serving(
    settings: Settings, *, ready: bool = True, checkpoint: Path | None = None
) -> Iterator[TestClient]:
    """The application with its lifespan, and what it answers."""
    if checkpoint is not None:
        shutil.copytree(checkpoint, settings.checkpoint_dir / "v1")
    footnote = Footnote(settings)
    # No checkpoint of another encoder: the neighbours answer alone.
    footnote.registry.set_active("none" if checkpoint is None else "v1")
    with TestClient(create_app(footnote), raise_server_exceptions=False) as client:
        if ready:
            wait_ready(client)
        yield client


def wait_ready(client: TestClient) -> dict[str, Any]:
    """Wait until the server is ready, and what it says then."""
    deadline = time.monotonic() + READY_S
    while (answer := client.get("/health/ready")).status_code != 200:
        body = answer.json()
        assert not body["failed"], body
        assert time.monotonic() < deadline, body
        time.sleep(0.02)
    found: dict[str, Any] = answer.json()
    return found


def state(client: TestClient) -> Footnote:
    """The state behind a client's application."""
    footnote: Footnote = client.app.state.footnote  # type: ignore[attr-defined]
    return footnote


def fill(footnote: Footnote) -> None:
    """Put the corpus into the store; the index follows."""
    footnote.store.upsert([parse_document(d) for d in corpus()]).result()


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, settings_for: Any) -> Iterator[TestClient]:
    """One application for all tests that leave it as they found it."""
    with serving(settings_for(tmp_path_factory.mktemp("filled"))) as client:
        answer = client.post("/documents", json={"documents": corpus()})
        assert answer.status_code == 200, answer.text
        yield client


@pytest.fixture
def client(tmp_path: Path, settings_for: Any) -> Iterator[TestClient]:
    """An application of one's own, with the corpus."""
    with serving(settings_for(tmp_path)) as client:
        answer = client.post("/documents", json={"documents": corpus()})
        assert answer.status_code == 200, answer.text
        yield client


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama with a chat template, to be loaded as any other."""
    from tests.model.tiny_generators import TEMPLATE, make

    return make("llama", tmp_path_factory.mktemp("llama"), template=TEMPLATE, longest=512)


@pytest.fixture(scope="session")
def writing(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Any, generator_folder: Path
) -> Iterator[TestClient]:
    """An application with a generator and the corpus, for tests that leave it as they found it."""
    settings = settings_for(tmp_path_factory.mktemp("writing"), generator=str(generator_folder))
    with serving(settings) as client:
        assert client.post("/documents", json={"documents": corpus()}).status_code == 200
        yield client


@contextmanager
def listening(settings: Settings) -> Iterator[tuple[str, Footnote]]:
    """A server on a port of its own, with the corpus: its address and its state."""
    footnote = Footnote(settings)
    footnote.registry.set_active("none")
    with bind("127.0.0.1", 0) as socket:
        server = make_server(footnote)
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        host, port = socket.getsockname()
        try:
            deadline = time.monotonic() + READY_S
            while not footnote.status.ready:
                assert thread.is_alive()
                assert time.monotonic() < deadline, footnote.status
                time.sleep(0.02)
            fill(footnote)
            footnote.indexer.notify()
            while footnote.indexer.reached < footnote.store.sequence:
                time.sleep(0.02)
            yield f"http://{host}:{port}", footnote
        finally:
            server.should_exit = True
            thread.join()
