"""``footnote encoder``: what it leaves is an encoder that the server takes like any other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from app.cli.encoder import encoder as command
from app.settings import Settings
from tests.app.conftest import serving, state
from tests.app.manage.test_encoders import reindexed

TOPICS = {"水果": "苹果梨子葡萄西瓜樱桃", "工具": "锤子锯条扳手钳夹凿刀"}
SMALL = ["--vocab", "60", "--dim", "32", "--layers", "1", "--heads", "2", "--max-tokens", "32",
         "--batch-size", "8", "--lr", "0.003"]  # fmt: skip
MANY = "".join(f'{{"text": "{chr(n)}{chr(n + 1)}"}}\n' for n in range(0x4E00, 0x4E64, 2))
"""100 characters."""


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


def test_a_language_of_ones_own_from_files_to_answers(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    rows, out = titles(24, 0), tmp_path / "zh"
    file = written(tmp_path / "titles.jsonl", rows, '{"label": "工具"}')
    done = CliRunner().invoke(command, [str(file), "--out", str(out), "--epochs", "6", *SMALL])
    assert done.exit_code == 0, done.output
    assert "titles.jsonl:49:" in done.output  # the row without a text
    assert f"FOOTNOTE_ENCODER={out}" in done.output
    fresh = titles(4, 5)

    def right(client: TestClient) -> int:
        body = {"input": [row["text"] for row in fresh], "retrieval": {"method": "dense", "k": 5}}
        said = client.post("/classify", json=body).json()["data"]
        return sum(a["label"] == row["label"] for a, row in zip(said, fresh, strict=True))

    with serving(settings_for(tmp_path)) as client:
        client.post("/documents", json={"documents": rows})
        job = reindexed(client, {"encoder": str(out)})
        assert job["state"] == "succeeded", job
        assert state(client).snapshot().model().encoder.dim == 32
        assert right(client) == len(fresh)


def test_without_labels_as_json(tmp_path: Path) -> None:
    file = written(tmp_path / "titles.jsonl", titles(8, 1))
    given = [str(file), "--out", str(tmp_path / "zh"), "--no-labels", "--epochs", "1", *SMALL]
    done = CliRunner().invoke(command, [*given, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["labels"] == 0
    assert report["losses"].keys() == {"masked", "pairs"}
    again = CliRunner().invoke(command, given)
    assert again.exit_code == 1
    assert "there already" in again.output


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ('{"text": "one"}\n', (), "at least two texts"),
        ('{"text": "one"}\n{"text": "two"}\n', ("--dim", "33"), "no multiple"),
        ('{"text": "one"}\n{"text": "two"}\n', ("--dim", "4"), "range"),
        ("nothing\n", (), "at least two texts"),
        (MANY, ("--vocab", "50"), "not large enough"),
    ],
)
def test_what_cannot_be_learned_from_is_told(
    tmp_path: Path, text: str, more: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    done = CliRunner().invoke(command, [str(file), "--out", str(tmp_path / "e"), *SMALL, *more])
    assert done.exit_code != 0
    assert said in done.output
    assert not (tmp_path / "e").exists()
