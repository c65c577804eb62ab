"""Where the set-up takes PyTorch from: real pip, real environments, indexes that are folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from scripts.install import ASK_S, Installer, locked_torch

CPU = f"{locked_torch()}+cpu"
OWN = locked_torch()

pytestmark = pytest.mark.slow


def index(folder: Path, *versions: str) -> str:
    """Make a package index of empty torch wheels; return its address."""
    pages = folder / "torch"
    pages.mkdir(parents=True)
    for version in versions:
        info = f"torch-{version}.dist-info"
        with zipfile.ZipFile(pages / f"torch-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(
                f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
            )
    links = (f'<a href="{path.name}">{path.name}</a>' for path in sorted(pages.iterdir()))
    (pages / "index.html").write_text("\n".join(links), encoding="utf-8")
    return folder.as_uri()


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One environment for all: making one takes five seconds."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    Installer(folder, stages=1).environment(sys.executable)
    return folder


@pytest.fixture
def installer(venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """An installer on an environment without torch; pip looks into a mirror with the own build."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "mirror", OWN))
    made = Installer(venv, stages=1)
    subprocess.run(made.command("uninstall", "--yes", "torch"), check=True, capture_output=True)
    return made


def installed(installer: Installer) -> str:
    """Return the version of torch in the environment."""
    show = "from importlib.metadata import version; print(version('torch'))"
    command = [str(installer.venv / "bin" / "python"), "-c", show]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def closed_port() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_cpu_build_of_a_mirror_needs_no_other_index(
    installer: Installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "full", OWN, CPU))
    installer.cpu_index = closed_port()
    assert installer.torch("cpu", may_change=False) == "cpu"
    assert installed(installer) == CPU


def test_cpu_build_comes_from_its_own_index(installer: Installer, tmp_path: Path) -> None:
    installer.cpu_index = index(tmp_path / "cpu", "2.0.0+cpu", CPU)
    assert installer.torch("cpu", may_change=True) == "cpu"
    assert installed(installer) == CPU
    assert installer.torch("cuda", may_change=False) == "cuda"  # asked for by name: replaced
    assert installed(installer) == OWN


def test_own_build_is_taken_where_the_cpu_index_is_out_of_reach(
    installer: Installer, capfd: pytest.CaptureFixture[str]
) -> None:
    installer.cpu_index = closed_port()
    assert installer.torch("cpu", may_change=True) == "cuda"
    assert installed(installer) == OWN
    printed = capfd.readouterr().out
    assert "cannot be reached" in printed
    assert "GB" in printed


def test_own_build_is_taken_where_the_cpu_index_lacks_the_version(
    installer: Installer, tmp_path: Path
) -> None:
    installer.cpu_index = index(tmp_path / "cpu", "2.0.0+cpu")
    assert installer.torch("cpu", may_change=True) == "cuda"


def test_cpu_build_asked_for_by_name_is_not_replaced(installer: Installer) -> None:
    installer.cpu_index = closed_port()
    with pytest.raises(SystemExit, match="TORCH=cuda"):
        installer.torch("cpu", may_change=False)


def test_index_that_never_answers_is_given_up(installer: Installer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        installer.cpu_index = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        assert not installer.offers(CPU)
        assert time.monotonic() - began < ASK_S
