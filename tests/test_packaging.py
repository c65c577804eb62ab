"""The wheel holds what serves, and nothing that a machine made while serving."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = ("app", "index_data", "model")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel from what git has of the tree; return the names in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    for state in ("index_data/store/generations", "model/checkpoints/v1"):
        (source / state).mkdir(parents=True)
        (source / state / "state.json").write_text("{}", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("footnote-*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_wheel_holds_the_three_packages_and_the_command(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert "app/cli/__init__.py" in wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)


def test_wheel_holds_every_module(root: Path, wheel: list[str]) -> None:
    left_out = ("index_data/sample/source/", "index_data/store/", "model/checkpoints/")
    modules = {
        path.relative_to(root).as_posix()
        for name in PACKAGES
        for path in (root / name).rglob("*.py")
    }
    assert {name for name in modules if not name.startswith(left_out)} <= set(wheel)


def test_wheel_says_that_the_packages_are_typed(wheel: list[str]) -> None:
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(wheel)


def test_wheel_holds_the_sample_the_page_and_the_checkpoint(root: Path, wheel: list[str]) -> None:
    assert {"index_data/sample/helpdesk.jsonl", "index_data/sample/chapters.json"} <= set(wheel)
    for folder in ("app/static", "app/templates", "model/shipped", "model/shipped-language"):
        files = [path for path in (root / folder).rglob("*") if path.is_file()]
        assert files, f"{folder} is empty"
        assert {path.relative_to(root).as_posix() for path in files} <= set(wheel)


def test_wheel_holds_no_state_and_no_sources_of_the_sample(wheel: list[str]) -> None:
    state = ("index_data/store/", "index_data/sample/source/", "model/checkpoints/")
    assert [name for name in wheel if name.startswith(state)] == []
    documents = "model/shipped/heads/sentiment/documents.bin"  # digests of ids
    binary = {n for n in wheel if re.search(r"\.(sqlite3?|db|log|pkl|pyc|bin)$", n)}
    assert binary == {documents}


def test_locks_pin_what_the_project_asks_for(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = pins(root / "requirements.txt")
    asked = {"": project["dependencies"], **project["optional-dependencies"]}
    for extra, lines in asked.items():
        lock = root / f"requirements-{extra}.txt"
        locked = {**runtime, **(pins(lock) if lock.exists() else {})}
        if extra == "tensorboard":
            locked |= pins(root / "requirements-dev.txt")
        for requirement in map(Requirement, lines):
            assert str(requirement.specifier) == f"=={locked[canonicalize_name(requirement.name)]}"


def pins(lock: Path) -> dict[str, str]:
    """Return `{name: version}` of a lock file."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    pairs = (
        line.partition("==")[::2] for line in lines if "==" in line and not line.startswith("#")
    )
    return dict(pairs)


def test_run_lock_brings_no_cuda_and_no_unused_library(root: Path) -> None:
    locked = pins(root / "requirements.txt")
    unwanted = {"scipy", "scikit-learn", "sentence-transformers", "triton"}
    assert unwanted.isdisjoint(locked)
    assert [name for name in locked if name.startswith(("nvidia", "cuda"))] == []


def reads_environment(tree: ast.AST) -> bool:
    """Tell whether a module reads a variable: `getenv`, or `os.environ` for anything else than
    setting one (a child's thread count), or a library that reads them.
    """
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            allowed.add(id(node.value))
        if not {"pydantic_settings", "dotenv"}.isdisjoint(imported(node)):
            return True
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "getenv")
        and id(node) not in allowed
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_settings_read_the_environment(root: Path, package: str) -> None:
    found = [
        path.relative_to(root).as_posix()
        for path in sorted((root / package).rglob("*.py"))
        if reads_environment(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert set(found) <= {"app/settings.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_loaded_through_pickle(root: Path, package: str) -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path in sorted((root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert banned.isdisjoint(imported(node)), path


def imported(node: Any) -> set[str]:
    """Return the top-level modules that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.split(".")[0]}
    return set()
