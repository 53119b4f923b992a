"""The tests of this folder reach the application both ways: from any ASGI server, and past ASGI."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.task_bundles import write_repository


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> str:
    """How requests come in."""
    return str(request.param)


@pytest.fixture
def repository(tmp_path: Path, onnx_models: SimpleNamespace) -> Path:
    """Models with cards; see `write_repository`."""
    return write_repository(tmp_path / "models", onnx_models)
