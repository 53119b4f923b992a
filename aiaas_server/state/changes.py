"""The rows of the change feed: what was changed, in the order of commits."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from aiaas_server.state.tables import CHANGES


class ChangeRow(NamedTuple):
    """A row of `changes`.

    Attributes:
        seq: Grows from commit to commit; some numbers are left out.
        at: Seconds since 1970.
    """

    seq: int
    tenant: str
    kind: str
    object: str
    data: dict[str, Any]
    at: float


def tell(connection: Connection, tenant: str, kind: str, name: str, data: dict[str, Any]) -> None:
    """Add to the feed; processes learn of it once the transaction is committed."""
    connection.execute(
        CHANGES.insert().values(tenant=tenant, kind=kind, object=name, data=data, at=time.time())
    )


def changes_after(connection: Connection, seq: int, limit: int = 1000) -> list[ChangeRow]:
    """The feed from behind `seq` on, of all tenants."""
    asked = select(CHANGES).where(CHANGES.c.seq > seq).order_by(CHANGES.c.seq).limit(limit)
    return [ChangeRow(**row._mapping) for row in connection.execute(asked)]


def last_change(connection: Connection) -> int:
    """The number of the newest change; 0 before the first."""
    found: int | None = connection.execute(select(func.max(CHANGES.c.seq))).scalar_one()
    return found or 0
