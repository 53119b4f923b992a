"""A few of the kills that `make test-crash` does by the hundred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.run import run
from tests.postgres import Postgres, why_not

POINTS = 12


@pytest.fixture(params=["sqlite", "postgresql"])
def environment(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The variables that choose a database."""
    if request.param == "sqlite":
        yield {}
        return
    if reason := why_not():
        pytest.skip(reason)
    server = Postgres()
    yield {"AIAAS_SERVER_DATABASE_URL": server.make_database()}
    server.remove()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_whenever_the_server_is_killed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    result = run(tmp_path, POINTS, seed=POINTS, environment=environment)
    assert result.points == POINTS
    assert result.acknowledged > 0
