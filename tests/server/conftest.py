"""A database for tests that want one: a file, and where PostgreSQL is installed one of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgres import Postgres, why_not

if TYPE_CHECKING:
    from aiaas_server.state.database import Database

BOTH = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests; skipped with the reason where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(params=BOTH)
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty database is, as SQLAlchemy writes it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    made = postgres.make_database()
    yield made.replace("postgresql:", "postgresql+psycopg:", 1)
    postgres.drop_database(made)


@pytest.fixture
def database(state_url: str) -> Iterator[Database]:
    """A database with all tables."""
    from aiaas_server.state.database import Database
    from aiaas_server.state.migrate import upgrade

    upgrade(state_url)
    database = Database(state_url)
    yield database
    database.close()
