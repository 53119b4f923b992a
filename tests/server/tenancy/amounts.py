"""What the database says was used, for tests that compare it with what they did."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, select

from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import USAGE


def amounts_of(url: str, *names: str) -> dict[tuple[str, ...], int]:
    """Sums by the columns named, and the unit as the last one; time in µs is left out."""
    database = Database(url)
    try:
        return database.read_now(lambda connection: read_amounts(connection, *names))
    finally:
        database.close()


def read_amounts(connection: Connection, *names: str) -> dict[tuple[str, ...], int]:
    """As `amounts_of`."""
    found: Counter[tuple[str, ...]] = Counter()
    for row in connection.execute(select(USAGE)).mappings():
        if row["unit"] != "compute_us":
            found[(*(str(row[name]) for name in names), row["unit"])] += row["amount"]
    return dict(found)
