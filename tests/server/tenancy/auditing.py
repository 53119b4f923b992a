"""An audit for tests, and ways to tamper with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from aiaas_client.protocol.audit import AuditEntry, Verification
from aiaas_server.core.acts import Act, Outcome
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import AUDIT, AUDIT_HEADS
from aiaas_server.tenancy.audit import Audit
from aiaas_server.tenancy.audit_head_file import HEAD_FILE, read_head
from aiaas_server.tenancy.audit_read import Wanted, entries
from aiaas_server.tenancy.audit_verify import verify

KEY = b"k" * 32


async def written(database: Database, folder: Path, acts: int = 5) -> Audit:
    """An audit of so many acts of two entries each, closed: its end is signed."""
    audit = Audit(database, KEY, folder / HEAD_FILE)
    for number in range(acts):
        begun = await audit.begin(Act("models.deploy", "models:write", f"m/{number}"))
        await audit.end(begun, Outcome("done", 201))
    await audit.close()
    return audit


def checked(database: Database, folder: Path, key: bytes = KEY) -> Verification:
    """What walking over it finds."""
    kept = read_head(folder / HEAD_FILE)
    return database.read_now(lambda c: verify(c, key, kept))


def told(database: Database, **wanted: Any) -> list[AuditEntry]:
    """Its entries, the first first."""
    return database.read_now(lambda c: entries(c, Wanted(**wanted), 100_000))[::-1]


def change(database: Database, work: Callable[[Connection], Any]) -> Any:
    """Change the tables as nobody may."""
    return database.submit(work).result()


def rows(connection: Connection) -> list[dict[str, Any]]:
    """All rows of entries, in order."""
    return [dict(row._mapping) for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq))]


def put(connection: Connection, found: list[dict[str, Any]]) -> None:
    """Have these rows and no others."""
    connection.execute(delete(AUDIT))
    connection.execute(insert(AUDIT), found)


def edit(place: int, **values: Any) -> Callable[[Connection], Any]:
    """Change columns of one entry."""
    return lambda c: c.execute(update(AUDIT).where(AUDIT.c.seq == place).values(values))


def remove(*seqs: int) -> Callable[[Connection], Any]:
    """Take entries out."""
    return lambda c: c.execute(delete(AUDIT).where(AUDIT.c.seq.in_(seqs)))


def edit_head(seq: int, **values: Any) -> Callable[[Connection], Any]:
    """Change columns of one head."""
    return lambda c: c.execute(update(AUDIT_HEADS).where(AUDIT_HEADS.c.seq == seq).values(values))
