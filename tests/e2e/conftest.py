"""The small encoder that the servers of these tests run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.tiny import make_encoder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder, to be loaded as any other."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))
