"""Make `.venv` and put the pinned packages into it; a second run does nothing and takes no time.

    python3 scripts/install.py [--for run|dev|bench] [--torch auto|cpu|cuda]
    python3 scripts/install.py --into FOLDER --packages-only    # the container image

Needs Python 3.11 to 3.13 with `venv` and nothing else. It runs before anything is installed, so it
imports the standard library only. `make run` and `make test` call it.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHOSEN = "footnote-torch"
OLDEST, NEWEST = (3, 11), (3, 13)
LOCKS = {
    "run": "requirements.txt",
    "dev": "requirements-dev.txt",
    "bench": "requirements-bench.txt",
}

# The package index's own Linux build of PyTorch brings several GB of CUDA libraries with it. The
# build for the CPU has the version's "+cpu" form and lies on PyTorch's own index.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def python_name(version: tuple[int, int]) -> str:
    """Return the name of the command for a version: `python3.12`."""
    return f"python{version[0]}.{version[1]}"


def interpreter() -> str:
    """Return a Python that the locks are for: the one running, else a newer or older one on PATH.

    Raises:
        SystemExit: There is none.
    """
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(python_name((3, minor)))
        if found:
            return found
    raise SystemExit(
        f"Footnote needs Python 3.11, 3.12 or 3.13; this is {platform.python_version()} "
        f"({sys.executable}) and no other is on PATH."
    )


def locked_torch() -> str:
    """Return the pinned version of PyTorch, `2.13.0`."""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            return line.removeprefix("torch==")
    raise SystemExit("requirements.txt pins no torch")


def choose_torch(choice: str, venv: Path) -> str:
    """Turn `auto` into what was chosen last, else `cuda` beside an NVIDIA driver, else `cpu`.

    On other systems than Linux there is one build: `plain`.
    """
    if platform.system() != "Linux":
        return "plain"
    if choice != "auto":
        return choice
    chosen = venv / CHOSEN
    if chosen.exists():
        return chosen.read_text(encoding="utf-8")
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


def stamp_name(goal: str) -> str:
    """Return the name of the file that holds the digest of what `goal` was installed from."""
    return f"footnote-{goal}.stamp"


def fingerprint(goal: str, torch: str) -> str:
    """Return what the environment was made from, as one digest."""
    digest = hashlib.sha256(f"{goal} {torch}".encode())
    for name in ("requirements.txt", LOCKS[goal], "pyproject.toml", "scripts/install.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


class Installer:
    """Runs the stages on one virtual environment, with a line for each."""

    def __init__(self, venv: Path, *, stages: int) -> None:
        self.venv = venv
        self.stages = stages
        self.stage = 0
        self.started = time.perf_counter()

    def say(self, text: str) -> None:
        """Print the next stage's line."""
        self.stage += 1
        elapsed = time.perf_counter() - self.started
        print(f"[{self.stage}/{self.stages}] {text} ({elapsed:.0f} s so far)", flush=True)

    def pip(self, *arguments: str, quiet_errors: bool = False) -> bool:
        """Run pip inside the environment; return whether it succeeded."""
        command = [str(self.venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "install", "--quiet", *arguments],
            cwd=ROOT,
            check=False,
            stderr=subprocess.DEVNULL if quiet_errors else None,
        )
        return done.returncode == 0

    def environment(self, python: str) -> None:
        """Create the virtual environment if it is not there.

        Raises:
            SystemExit: The Python has no `venv` (Debian and Ubuntu package it apart).
        """
        if (self.venv / "bin" / "python").exists():
            return
        done = subprocess.run([python, "-m", "venv", str(self.venv)], check=False)
        if done.returncode:
            raise SystemExit(
                f"{python} cannot make virtual environments. On Debian and Ubuntu: "
                f"apt install {python_name(sys.version_info[:2])}-venv; then run this again."
            )

    def must(self, *arguments: str) -> None:
        """Run pip and stop with a plain sentence if it fails."""
        if not self.pip(*arguments):
            raise SystemExit(
                "The installation stopped: see pip's message above. Run the same command again "
                "to go on from here."
            )

    def torch(self, choice: str) -> None:
        """Install PyTorch's build for `choice` unless the pinned version is there already."""
        version = locked_torch()
        if choice != "cpu":
            # "===": not the "+cpu" form, also where that is installed or would be preferred. With
            # its dependencies: they are the CUDA libraries, pinned by it.
            self.must(f"torch==={version}")
            return
        pinned = f"torch=={version}+cpu"
        # First where pip is set up to look (a mirror, a wheel house): one question, answered at
        # once. Only then PyTorch's own index, which a closed network would make pip wait for.
        if self.pip("--no-deps", pinned, quiet_errors=True):
            return
        if not self.pip("--no-deps", "--extra-index-url", TORCH_CPU_INDEX, pinned):
            raise SystemExit(
                f"The CPU build of PyTorch could not be had from {TORCH_CPU_INDEX}. Where that "
                "index is out of reach, `make setup TORCH=cuda` takes the package index's own "
                "build (several GB); it also runs without a GPU."
            )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--for", dest="goal", choices=sorted(LOCKS), default="run")
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--into", type=Path, default=ROOT / ".venv", metavar="FOLDER")
    parser.add_argument("--packages-only", action="store_true", help="leave Footnote itself out")
    return parser.parse_args()


def main() -> None:
    """Bring the environment to what the locks say."""
    options = arguments()
    venv: Path = options.into
    torch = choose_torch(options.torch, venv)
    made_from = fingerprint(options.goal, torch)
    stamp = venv / stamp_name(options.goal)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_from:
        return

    python = interpreter()
    installer = Installer(venv, stages=3 if options.packages_only else 4)
    installer.say(f"Environment in {os.path.relpath(venv)}, from {python}")
    installer.environment(python)
    sizes = {"cpu": "about 190 MB", "cuda": "several GB", "plain": "about 80 MB"}
    installer.say(f"PyTorch {locked_torch()}, {torch} build ({sizes[torch]})")
    installer.torch(torch)
    lock = LOCKS[options.goal]
    installer.say(f"The pinned packages of {lock} (about 250 MB)")
    installer.must("--no-deps", "--requirement", lock)
    if not options.packages_only:
        installer.say("Footnote itself and the command .venv/bin/footnote")
        compat = ("--config-settings", "editable_mode=compat")  # the folder on the path, no hook
        installer.must("--no-deps", "--no-build-isolation", *compat, "--editable", ".")
    (venv / CHOSEN).write_text(torch, encoding="utf-8")
    for goal in {"run", options.goal}:  # each lock holds the run's
        (venv / stamp_name(goal)).write_text(fingerprint(goal, torch), encoding="utf-8")
    print(f"Installed in {time.perf_counter() - installer.started:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
