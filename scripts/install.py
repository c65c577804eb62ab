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

# The package index's own Linux build of PyTorch brings the CUDA libraries with it. The build for
# the CPU has the version's "+cpu" form and lies on PyTorch's own index.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIZES = {
    "cpu": "about 190 MB to download",
    "cuda": "with the CUDA libraries, 4.6 GB on the disk",
    "plain": "about 80 MB to download",
}
# A closed network may swallow a connection: so long for one connection, and for the whole question.
CONNECT_S, ASK_S = 5, 30


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

    def __init__(self, venv: Path, *, stages: int, cpu_index: str = TORCH_CPU_INDEX) -> None:
        self.venv = venv
        self.stages = stages
        self.cpu_index = cpu_index
        self.stage = 0
        self.started = time.perf_counter()

    def say(self, text: str) -> None:
        """Print the next stage's line."""
        self.stage += 1
        elapsed = time.perf_counter() - self.started
        print(f"[{self.stage}/{self.stages}] {text} ({elapsed:.0f} s so far)", flush=True)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of the environment's pip."""
        python = str(self.venv / "bin" / "python")
        return [python, "-m", "pip", "--disable-pip-version-check", *arguments]

    def pip(self, *arguments: str, quiet_errors: bool = False) -> bool:
        """Install with the environment's pip; return whether it succeeded."""
        done = subprocess.run(
            self.command("install", "--quiet", *arguments),
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

    def offers(self, version: str) -> bool:
        """Tell whether the CPU build's index answers, and has this version for this Python."""
        limits = ("--timeout", str(CONNECT_S), "--retries", "0")
        command = self.command("index", "versions", "torch", "--index-url", self.cpu_index, *limits)
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=ASK_S
            )
        except subprocess.TimeoutExpired:
            return False
        return version in done.stdout.replace(",", " ").split()

    def torch(self, choice: str, *, may_change: bool) -> str:
        """Install PyTorch's build for `choice` unless the pinned version is there already.

        Returns the build that was taken: with `may_change`, the package index's own (`cuda`) where
        the CPU build cannot be had.

        Raises:
            SystemExit: pip failed, or the CPU build cannot be had and nothing else may be taken.
        """
        version = locked_torch()
        if choice == "cpu":
            cpu = f"{version}+cpu"
            # First where pip is set up to look (a mirror, a wheel house), then PyTorch's own index.
            if self.pip("--no-deps", f"torch=={cpu}", quiet_errors=True):
                return choice
            if self.offers(cpu):
                self.must("--no-deps", "--extra-index-url", self.cpu_index, f"torch=={cpu}")
                return choice
            missing = f"{self.cpu_index} cannot be reached or has no torch {cpu} for this Python."
            if not may_change:
                raise SystemExit(f"{missing} TORCH=cuda takes the package index's own build.")
            choice = "cuda"
            print(
                f"{missing} Taking the package index's own build, {SIZES[choice]}; it also runs "
                "without a GPU.",
                flush=True,
            )
        # "===": not the "+cpu" form, also where that is installed or would be preferred. With its
        # dependencies: they are the CUDA libraries, pinned by it.
        self.must(f"torch==={version}")
        return choice


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
    installer.say(f"PyTorch {locked_torch()}, {torch} build ({SIZES[torch]})")
    torch = installer.torch(torch, may_change=options.torch == "auto")
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
