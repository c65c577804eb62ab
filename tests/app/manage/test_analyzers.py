"""Reindexing with another analyzer: gated, told, and kept over a restart."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.app.conftest import corpus, serving
from tests.app.manage.test_encoders import reindexed

EACH = 60


def conflated() -> list[dict[str, Any]]:
    """Texts whose label hangs on a word that stemming takes for another; the rest is noise.

    The word stands at the end, behind what the encoder reads: only BM25 sees it.
    """
    rng = random.Random(3)
    rows = []
    for number in range(EACH):
        for label, word in (("street", "busy"), ("shop", "business")):
            noise = ["".join(rng.choices("abcdefghijkmnop", k=6)) for _ in range(45)]
            rows.append(
                {
                    "id": f"{label}-{number}",
                    "text": " ".join([*noise, word]),
                    "lang": "en",
                    "label": label,
                }
            )
    return rows


def test_a_better_one_goes_live_and_a_worse_one_does_not(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(tmp_path)
    with serving(settings) as client:
        assert client.post("/documents", json={"documents": conflated()}).status_code == 200
        query = {"query": "busy", "k": 100, "method": "bm25", "highlight": True}
        assert len(client.post("/search", json=query).json()["hits"]) == 100

        result = reindexed(client, {"analyzer": "unstemmed", "activate": "if_better"})["result"]
        gate = result["gate"]
        assert (result["analyzer"], result["activated"], gate["activate"]) == (
            "unstemmed",
            True,
            True,
        )
        assert (gate["rows"], gate["wish"], gate["field"]) == (2 * EACH, "if_better", "label")
        assert gate["accuracy"] > gate["rival_accuracy"] + 0.2
        hits = client.post("/search", json=query).json()["hits"]
        assert {hit["labels"]["label"] for hit in hits} == {"street"}
        assert len(hits) == EACH
        assert all(len(hit["highlights"]) == 1 for hit in hits)
        serves = result["generation"]

        back = reindexed(client, {"analyzer": "standard", "activate": "if_better"})["result"]
        assert (back["activated"], back["gate"]["activate"]) == (False, False)
        assert back["gate"]["accuracy"] == pytest.approx(gate["rival_accuracy"], abs=0.02)
        kept = {i["generation"]: i for i in client.get("/admin/indexes").json()["indexes"]}
        assert kept[serves]["active"]
        assert kept[serves]["analyzer"] == "unstemmed"
        assert kept[back["generation"]]["analyzer"] == "standard"
        assert client.get("/version").json()["index"]["analyzer"] == "unstemmed"
        # Whoever does not name one keeps what serves: no candidate, nothing to judge.
        again = reindexed(client, {"activate": "if_better"})["result"]
        assert (again["analyzer"], again["activated"], again["gate"]) == ("unstemmed", True, None)
    with serving(settings) as client:
        assert client.get("/version").json()["index"]["analyzer"] == "unstemmed"
        assert len(client.post("/search", json=query).json()["hits"]) == EACH


def test_it_can_be_kept_without_serving_and_what_serves_is_told(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path)) as client:
        client.post("/documents", json={"documents": corpus()})
        text = {"text": "The businesses"}
        before = client.post("/analyze", json=text).json()
        assert (before["analyzer"], [t["stop"] for t in before["tokens"]]) == (
            "standard",
            [True, False],
        )
        result = reindexed(client, {"analyzer": "all-words", "activate": "never"})["result"]
        assert (result["activated"], result["gate"]) == (False, None)
        assert client.post("/analyze", json=text).json() == before
        path = f"/admin/indexes/{result['generation']}/activate"
        assert client.post(path).status_code == 200
        after = client.post("/analyze", json=text).json()
        assert after["analyzer"] == "all-words"
        assert [(t["stop"], t["stem"]) for t in after["tokens"]] == [
            (False, "the"),
            (False, "businesses"),
        ]
        wrong = client.post("/admin/reindex", json={"analyzer": "other"})
        assert wrong.status_code == 422
        error = wrong.json()["errors"][0]
        assert error["pointer"] == "#/analyzer"
        assert all(name in error["detail"] for name in ("standard", "unstemmed", "all-words"))
        body = {"analyzer": "unstemmed", "activate": "if_better", "field": "nothing"}
        answer = client.post("/admin/reindex", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/field")
