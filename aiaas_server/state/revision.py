"""Which schema a database has, and which one this server knows; without Alembic, as it is cheap."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

REVISION: Final = "0003"
"""The newest migration in `migrations/versions`; a test holds the two together."""
VERSION_TABLE: Final = "aiaas_schema"

_VERSION: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


class StateRefused(Exception):
    """The state cannot be used; the message tells the operator why and what to do."""


def found_revision(connection: Connection) -> str | None:
    """The schema that the database has; None where it is empty.

    Raises:
        StateRefused: It is somebody else's.
    """
    names = inspect(connection).get_table_names()
    found = connection.execute(select(_VERSION)).scalars().all() if VERSION_TABLE in names else []
    if len(found) == 1:
        return str(found[0])
    others = [name for name in sorted(names) if name != VERSION_TABLE]
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise StateRefused(
            f"it holds tables that no server of this kind made ({shown}): give it a database of "
            "its own"
        )
    return None
