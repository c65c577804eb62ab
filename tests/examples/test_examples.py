"""The scripts in `examples/` run as a reader runs them, on a server with the model that ships."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.process import ServerProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with an empty store."""
    folder = tmp_path_factory.mktemp("server")
    server = ServerProcess(folder, folder)
    del server.environment["FOOTNOTE_ENCODER"]  # the one that is installed with Footnote
    server.start(wait_s=120)
    yield server.url
    server.stop()


def run(root: Path, name: str, *arguments: str) -> str:
    """Run an example; return what it printed."""
    command = [sys.executable, str(root / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def total(url: str) -> int:
    return int(httpx.get(f"{url}/documents").json()["total"])


def test_classify_is_corrected_and_removes_its_documents(root: Path, url: str) -> None:
    before = total(url)
    printed = run(root, "classify.py", "--url", url)
    answers = re.findall(r"^'.*': (\w+), confidence", printed, re.MULTILINE)
    assert answers == ["order", "complaint"]
    assert "12 documents removed" in printed
    assert total(url) == before


def test_question_is_answered_with_its_place(root: Path, url: str) -> None:
    before = total(url)
    printed = run(root, "question.py", "--url", url)
    assert "example-repairs, characters 15 to 33:" in printed
    assert "A repair takes [three working days]." in printed
    assert "no answer" in run(root, "question.py", "--url", url, "Who wrote Hamlet?")
    assert total(url) == before


def test_train_watches_the_job_until_its_checkpoint_serves(root: Path, url: str) -> None:
    printed = run(root, "train.py", "--url", url)
    assert "running: train" in printed
    assert "in use: True" in printed
    assert ": laptop, confidence" in printed


def test_each_example_has_its_line_and_is_short(root: Path) -> None:
    readme = (root / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (root / "examples").glob("*.py"):
        assert f"[{path.name}]({path.name})" in readme
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
