"""The time that all servers of one database go by, whatever their own clocks say."""

from __future__ import annotations

import time

from sqlalchemy import Connection, text


def now(connection: Connection) -> float:
    """Seconds since 1970, by the clock of the database: of PostgreSQL its machine's."""
    if connection.dialect.name == "postgresql":
        asked = text("SELECT extract(epoch FROM clock_timestamp())")
        return float(connection.execute(asked).scalar_one())
    return time.time()
