"""Here the migrations themselves are run, for each database anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiaas_server.state import migrate


@pytest.fixture(autouse=True)
def _migrated(migrations: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_run_alembic", migrations)
