"""Real servers on Banking77 for ``benchmarks.learning``, and what is asked of them."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.classification import draw_rows
from benchmarks.data.classification import Example, read
from benchmarks.serving.server import Server
from benchmarks.tools.folders import RUNS

EACH = 10  # labels of each class that are there from the beginning
HELD = 3_000


@contextmanager
def server(
    template: Path | None = None, keep: Path | None = None, dtype: str = "auto"
) -> Iterator[httpx.Client]:
    """A server on a copy of a template (store and checkpoints), or on nothing.

    `keep`: where its store and checkpoints go when it has stopped, to be a template. `dtype`: the
    arithmetic that it answers in.
    """
    with tempfile.TemporaryDirectory(dir=RUNS) as name:
        folder = Path(name)
        empty = folder / "empty"
        empty.mkdir()
        if template is not None:
            shutil.copytree(template / "checkpoints", folder / "checkpoints")
        process = Server(empty if template is None else template / "store", folder, dtype=dtype)
        process.start()
        address = f"http://127.0.0.1:{process.port}"
        try:
            with httpx.Client(base_url=address, timeout=600) as client:
                yield client
        finally:
            process.stop()
        if keep is not None:
            for part in ("store", "checkpoints"):
                shutil.copytree(folder / part, keep / part)


def post(client: httpx.Client, path: str, body: object) -> dict[str, Any]:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def job(client: httpx.Client, path: str, body: object) -> dict[str, Any]:
    """Submit a job and wait for its end: its result, and its id. Raises RuntimeError."""
    started = post(client, path, body)
    while True:
        now: dict[str, Any] = client.get(f"/admin/jobs/{started['id']}").json()
        if now["state"] not in ("queued", "running"):
            break
        time.sleep(0.5)
    if now["state"] != "succeeded":
        raise RuntimeError(now["problem"])
    return {**now["result"], "id": now["id"]}


def store(client: httpx.Client, rows: Sequence[Example]) -> None:
    """Labelled documents; returns when they can be found."""
    labelled = [{"id": row.id, "text": row.text, "label": row.label} for row in rows]
    store_documents(client, labelled)


def store_documents(client: httpx.Client, documents: Sequence[dict[str, Any]]) -> None:
    """Any documents; returns when they can be found."""
    for start in range(0, len(documents), 500):
        post(client, "/documents", {"documents": list(documents[start : start + 500])})


def ask(client: httpx.Client, texts: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Answers to many texts, 32 at a time."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(texts), 32):
        body = {"input": list(texts[start : start + 32]), **more}
        found += post(client, "/classify", body)["data"]
    return found


def right(client: httpx.Client, rows: Sequence[Example]) -> list[bool]:
    said = ask(client, [row.text for row in rows])
    return [s["label"] == row.label for s, row in zip(said, rows, strict=True)]


def parts(seed: int) -> tuple[list[Example], list[Example], list[Example]]:
    """First labels, the stream, and texts to judge on."""
    train = read("banking77", "train")
    order = random.Random(seed).sample(range(len(train)), len(train))
    train = [train[i] for i in order]
    few = set(draw_rows(train, EACH, seed))
    rest = [row for i, row in enumerate(train) if i not in few]
    test = read("banking77", "test")
    return [train[i] for i in sorted(few)], random.Random(seed).sample(test, len(test)), rest[:HELD]


def prepare(folder: Path, first: Sequence[Example]) -> Path:
    """A store with the first labels, a generation, and a head that was trained over HTTP."""
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with server(keep=folder) as client:
            store(client, first)
            job(client, "/admin/reindex", {})
            job(client, "/admin/train", {"field": "label", "activate": "always"})
        (folder / "whole").touch()
    return folder
