"""The schema of an empty SQLite database, made by the migrations once and written down again after.

Alembic takes 40 ms of every server that a test starts with `data`. What it made of the first
database of a test process is run as plain statements on those that follow. `tests/server/state` has
the migrations themselves run each time.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from aiaas_server.state.revision import VERSION_TABLE, found_revision

Run = Callable[[Connection], None]


class SchemaMadeOnce:
    """In place of `state.migrate._run_alembic`, which it calls for the first one and for others.

    Args:
        run: Runs the migrations.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._statements: list[str] = []

    def __call__(self, connection: Connection) -> None:
        """Bring a database to the newest schema."""
        is_empty = connection.dialect.name == "sqlite" and found_revision(connection) is None
        if not is_empty:
            self.run(connection)
        elif not self._statements:
            self.run(connection)
            self._statements = _statements_of(connection)
        else:
            for statement in self._statements:
                connection.exec_driver_sql(statement)


def _statements_of(connection: Connection) -> list[str]:
    """What makes the same schema again: its tables, its indexes, and which one it is."""
    asked = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    made = [row[0] for row in connection.execute(text(f"{asked} ORDER BY type DESC, rowid"))]
    revision = found_revision(connection)
    return [*made, f"INSERT INTO {VERSION_TABLE} VALUES ('{revision}')"]
