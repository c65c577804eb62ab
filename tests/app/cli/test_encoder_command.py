"""``footnote encoder``: what it leaves is an encoder that the server takes like any other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from app.cli.encoder import encoder as command
from app.settings import Settings
from model.scratch.train import ScratchConfig
from tests.app.conftest import serving, state
from tests.app.manage.test_encoders import reindexed

TOPICS = {"水果": "苹果梨子葡萄西瓜樱桃", "工具": "锤子锯条扳手钳夹凿刀"}
SMALL = ScratchConfig(
    vocabulary=60, dim=32, layers=1, heads=2, max_tokens=32, batch_size=8, lr=0.003
)
MANY = "".join(f'{{"text": "{chr(n)}{chr(n + 1)}"}}\n' for n in range(0x4E00, 0x4E64, 2))
"""100 characters."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command trains a small encoder."""
    monkeypatch.setattr("model.scratch.train.ScratchConfig", partial(replace, SMALL))


def titles(each: int, seed: int) -> list[dict[str, str]]:
    chance = random.Random(seed)
    return [
        {"text": "今天买" + "".join(chance.choices(letters, k=5)) + "很好", "label": label}
        for label, letters in TOPICS.items()
        for _ in range(each)
    ]


def written(path: Path, rows: list[dict[str, str]], *more: str) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("small")
def test_a_language_of_ones_own_from_files_to_answers(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    rows, out = titles(24, 0), tmp_path / "zh"
    file = written(tmp_path / "titles.jsonl", rows, '{"label": "工具"}')
    done = CliRunner().invoke(command, [str(file), "--out", str(out), "--epochs", "6"])
    assert done.exit_code == 0, done.output
    assert "titles.jsonl:49:" in done.output  # the row without a text
    assert f"FOOTNOTE_ENCODER={out}" in done.output
    fresh = titles(4, 5)

    def right(client: TestClient) -> int:
        body = {"input": [row["text"] for row in fresh], "retrieval": {"method": "dense", "k": 5}}
        answers = client.post("/classify", json=body).json()["data"]
        return sum(a["label"] == row["label"] for a, row in zip(answers, fresh, strict=True))

    with serving(settings_for(tmp_path)) as client:
        client.post("/documents", json={"documents": rows})
        job = reindexed(client, {"encoder": str(out)})
        assert job["state"] == "succeeded", job
        assert state(client).snapshot().model().encoder.dim == 32
        assert right(client) == len(fresh)


def test_without_labels_as_json(tmp_path: Path) -> None:
    file = written(tmp_path / "titles.jsonl", [{"text": row["text"]} for row in titles(8, 1)])
    given = [str(file), "--out", str(tmp_path / "zh"), "--epochs", "1"]
    done = CliRunner().invoke(command, [*given, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["labels"] == 0
    assert report["losses"].keys() == {"masked", "pairs"}
    again = CliRunner().invoke(command, given)
    assert again.exit_code == 1
    assert "there already" in again.output


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ('{"text": "one"}\n', (), "at least two texts"),
        ('{"text": "one"}\n{"text": "two"}\n', ("--tokenizer", "syllables"), "not one of"),
        ('{"text": "one"}\n{"text": "two"}\n', ("--epochs", "0"), "range"),
        ("nothing\n", (), "at least two texts"),
        (MANY, (), "not large enough"),
    ],
)
def test_what_cannot_be_learned_from_is_told(
    tmp_path: Path, text: str, more: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    done = CliRunner().invoke(command, [str(file), "--out", str(tmp_path / "e"), *more])
    assert done.exit_code != 0
    assert message in done.output
    assert not (tmp_path / "e").exists()
