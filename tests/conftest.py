"""What every test runs under: one thread, no hub, no variables of the person who runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before anything imports torch, numpy or tokenizers: they read these once.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# A developer's own settings must not change what is tested; where the data lies is no setting.
for name in [name for name in os.environ if name.startswith("FOOTNOTE_")]:
    if name != "FOOTNOTE_DATA":
        del os.environ[name]

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# A shared machine pauses at odd moments: laws are tested here, not times. `derandomize` makes a
# failure in CI the same failure at the desk.
settings.register_profile(
    "footnote", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("footnote")


@pytest.fixture(autouse=True, scope="session")
def single_precision() -> Iterator[None]:
    """The same arithmetic on every processor: what a tiny network learns hangs on the last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.config._cpu_has_bf16", lambda cpuinfo: False)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the evaluation data; the test is skipped where there is none."""
    folder = Path(os.environ.get("FOOTNOTE_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no evaluation data in {folder}: set FOOTNOTE_DATA")
    return folder
