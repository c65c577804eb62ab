"""The command line: quick to help, the same with a server and without, problems told in words."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from app.cli import COMMANDS, main
from index_data.storage.lock import holder
from tests.app.tiny import documents


class Command:
    """The command on a store of its own."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {
            "FOOTNOTE_STORE_DIR": str(folder / "store"),
            "FOOTNOTE_CHECKPOINT_DIR": str(folder / "checkpoints"),
            "FOOTNOTE_ENCODER": str(encoder),
            "FOOTNOTE_SAMPLE": "0",
            "FOOTNOTE_THREADS": "1",
            "FOOTNOTE_REINDEX_AFTER": "0",
        }
        # No checkpoint of another encoder: the neighbours answer alone.
        (folder / "checkpoints").mkdir()
        pointer = json.dumps({"version": "none", "before": []})
        (folder / "checkpoints" / "active.json").write_text(pointer)

    def __call__(self, *args: str, ok: bool = True, **env: str) -> Result:
        result = CliRunner().invoke(main, list(args), env={**self.env, **env})
        if ok:
            assert result.exit_code == 0, result.output
        return result

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "--json").stdout)


@pytest.fixture
def footnote(tmp_path: Path, encoder_folder: Path) -> Command:
    return Command(tmp_path, encoder_folder)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A CSV with one bad row, in line 4."""
    path = tmp_path / "reviews.csv"
    rows = [(d.text, d.labels["label"]) for d in documents(6)]
    lines = ["review,topic,stars", *(f'"{text}",{label},5' for text, label in rows)]
    lines.insert(3, "only one cell")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_help_is_quick_and_loads_no_network(root: Path) -> None:
    script = (
        "import sys; from app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "names = {'torch', 'transformers', 'fastapi', 'numpy', 'numba', 'httpx'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True)
        seconds.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
        assert all(name in done.stdout.decode() for name in COMMANDS)
        if seconds[-1] <= 0.5:
            break
    assert min(seconds) <= 0.5


def test_the_server_is_made_before_torch_is_imported(root: Path) -> None:
    script = "import sys, app.server; assert not {'torch', 'transformers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_a_dry_run_stores_nothing(footnote: Command, reviews: Path) -> None:
    options = ("--text-column", "review", "--label-column", "topic")
    result = footnote("index", str(reviews), *options, "--dry-run")
    assert "18 documents would be stored, 1 rejected" in result.output
    assert f"{reviews}:4:" in result.output
    assert not (footnote.folder / "store").exists()


def test_a_wrong_column_names_those_there_are(footnote: Command, reviews: Path) -> None:
    result = footnote("index", str(reviews), ok=False)
    assert result.exit_code == 1
    assert "review, topic, stars" in result.output
    assert "Traceback" not in result.output


def test_import_predict_keys_and_doctor_without_a_server(
    footnote: Command, reviews: Path, tmp_path: Path
) -> None:
    summary = footnote.json(
        "index", str(reviews), "--text-column", "review", "--label-column", "topic", "--lang", "en"
    )
    assert summary["accepted"] == summary["created"] == 18
    assert summary["rejected"][0]["line"] == 4
    assert summary["labels"] == {"fruit": 6, "music": 6, "tool": 6}
    answer = footnote.json("predict", "tell apple about pear", "--k", "3")
    assert answer["data"][0]["label"] == "fruit"
    assert len(answer["data"][0]["citations"]) == 3
    assert answer["data"][0]["citations"][0]["metadata"] == {"stars": "5"}

    notes = tmp_path / "notes"
    (notes / "music").mkdir(parents=True)
    (notes / "music" / "one.md").write_text("# Strings\n\nThe violin and the choir.\n")
    summary = footnote.json("index", str(notes), "--label-from-folder")
    assert summary["labels"] == {"music": 1}

    packed = tmp_path / "more.jsonl.gz"
    row = {"id": "m", "body": "a drill", "kind": "tool", "mood": "good"}
    packed.write_bytes(gzip.compress(json.dumps(row).encode()))
    columns = ("--text-column", "body", "--label-column", "kind", "--label-column", "feeling=mood")
    summary = footnote.json("index", str(packed), *columns)
    assert summary["labels"] == {"tool": 1, "feeling=good": 1}

    assert "make it an admin's" in footnote("keys", "add", "predict", ok=False).output
    made = footnote("keys", "add", "admin", "--name", "me").stdout.strip()
    assert made.startswith("fn_")
    listed = footnote("keys").output
    assert "me" in listed
    assert made not in listed

    found = {f["about"]: f for f in json.loads(footnote("doctor", "--json").stdout)}
    assert found["store"]["state"] == "ok"
    assert "20 documents" in found["store"]["detail"]
    assert found["encoder"]["state"] == "ok"
    assert holder(tmp_path / "store") is None


def test_doctor_tells_what_is_damaged(footnote: Command, reviews: Path, tmp_path: Path) -> None:
    footnote("index", str(reviews), "--text-column", "review")
    broken = tmp_path / "checkpoints" / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    result = footnote("doctor", ok=False, FOOTNOTE_SPELT_WRONG="1")
    assert result.exit_code == 1
    assert "PROBLEM  checkpoint broken" in result.output
    assert result.output.count("FOOTNOTE_SPELT_WRONG") == 1


def test_a_wrong_setting_is_named(footnote: Command) -> None:
    result = footnote("doctor", ok=False, FOOTNOTE_PORT="eighty")
    assert result.exit_code == 1
    assert "FOOTNOTE_PORT" in result.output


@pytest.fixture
def running(footnote: Command, root: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **footnote.env, "FOOTNOTE_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", "0"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.terminate()
    process.wait(30)
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
def test_with_a_server_commands_go_through_it(
    footnote: Command, running: subprocess.Popen[str], reviews: Path, tmp_path: Path
) -> None:
    assert running.stdout is not None
    said = []
    for line in running.stdout:
        said.append(line)
        if "curl" in line:
            break
    assert "listens at http://127.0.0.1:" in said[0]
    assert "everybody on this machine" in "".join(said)
    began = time.monotonic()
    second = footnote("serve", "--port", "0", ok=False)
    assert second.exit_code == 1
    assert f"held by process {running.pid}" in second.output
    assert time.monotonic() - began < 2
    footnote("index", str(reviews), "--text-column", "review", "--label-column", "topic")
    assert holder(tmp_path / "store").pid == running.pid  # type: ignore[union-attr]
    answer = footnote.json("predict", "tell violin about choir")
    assert answer["data"][0]["label"] == "music"
    done = footnote.json("reindex")
    assert done["result"]["documents"] == 18
    called = subprocess.run(said[-1].strip(), shell=True, capture_output=True, check=True)
    assert json.loads(called.stdout)["object"] == "list"


def test_a_margin_is_handed_to_the_gate(footnote: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(422, json={"title": "Refused", "status": 422, "detail": "for once"})

    @contextmanager
    def connect() -> Iterator[httpx.Client]:
        transport = httpx.MockTransport(answer)
        with httpx.Client(base_url="http://server", transport=transport) as client:
            yield client

    monkeypatch.setattr("app.cli.client.connect", connect)
    assert footnote("train", "--margin", "0.02", ok=False).exit_code == 1
    assert asked[0]["margin"] == 0.02
    assert "field" not in asked[0]
    assert footnote("train", "--margin", "0.9", ok=False).exit_code == 2
    assert len(asked) == 1
    order = ("train", "--task", "qa", "--dataset", "ds_mine", "--k", "4", "--epochs", "3")
    assert footnote(*order, ok=False).exit_code == 1
    assert asked[1].items() >= {"task": "qa", "dataset": "ds_mine", "epochs": 3}.items()
    assert asked[1]["retrieval"] == {"k": 4}
    assert footnote("train", "--task", "dialogue", ok=False).exit_code == 2
    wish = {"activate": "if_better", "field": "topic", "margin": 0.1, "encoder": "x"}
    wish["analyzer"] = "unstemmed"
    options = [part for name, value in wish.items() for part in (f"--{name}", str(value))]
    assert footnote("reindex", *options, ok=False).exit_code == 1
    assert asked[-1] == {"mode": "full", **wish}
    assert footnote("reindex", "--activate", "perhaps", ok=False).exit_code == 2
