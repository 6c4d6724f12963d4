from __future__ import annotations

from pathlib import Path

import pytest

from core.vision.engine import Engine

from ..vision.conftest import two_class_weights


@pytest.fixture(scope="package")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_class_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def engine(manifest: Path) -> Engine:
    return Engine(manifest, device="cpu", precision="fp32")
