"""What is asked of the audit: its entries, by who, what and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, select

from aiaas_client.protocol.audit import AuditEntry
from aiaas_server.state.tenant_tables import AUDIT


class Wanted(NamedTuple):
    """Which entries.

    Attributes:
        tenant: Of one tenant; None of all.
        since, until: Seconds since 1970, the second not included.
        act: An operation; with `*` at its end all that begin so.
        before: Only those before this number.
    """

    tenant: str | None = None
    since: float | None = None
    until: float | None = None
    actor: str = ""
    act: str = ""
    object: str = ""
    result: str = ""
    before: int | None = None


def entries(connection: Connection, wanted: Wanted, limit: int) -> list[AuditEntry]:
    """Those that are wanted, the newest first."""
    asked = select(AUDIT).where(*_conditions(wanted)).order_by(AUDIT.c.seq.desc()).limit(limit)
    return [entry_of(row) for row in connection.execute(asked)]


def documents(connection: Connection, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The texts of those that are wanted as documents, in order, read a part at a time."""
    after = 0
    while True:
        asked = select(AUDIT.c.seq, AUDIT.c.entry).where(*_conditions(wanted), AUDIT.c.seq > after)
        rows = connection.execute(asked.order_by(AUDIT.c.seq).limit(1000)).all()
        if not rows:
            return
        after = rows[-1].seq
        yield from (json.loads(row.entry) for row in rows)


def entry_of(row: Row[Any]) -> AuditEntry:
    """A row as what is told."""
    return AuditEntry(**{**json.loads(row.entry), "hash": row.hash})


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.tenant is not None:
        found.append(AUDIT.c.tenant == wanted.tenant)
    if wanted.since is not None:
        found.append(AUDIT.c.at >= wanted.since)
    if wanted.until is not None:
        found.append(AUDIT.c.at < wanted.until)
    if wanted.before is not None:
        found.append(AUDIT.c.seq < wanted.before)
    if wanted.actor:
        found.append(AUDIT.c.actor == wanted.actor)
    if wanted.act.endswith("*"):
        found.append(AUDIT.c.act.startswith(wanted.act[:-1], autoescape=True))
    elif wanted.act:
        found.append(AUDIT.c.act == wanted.act)
    # Canonical JSON has a member in one way only, and quotes inside of texts are escaped.
    for name, value in (("object", wanted.object), ("result", wanted.result)):
        if value:
            member = f'"{name}":{json.dumps(value)}'
            found.append(AUDIT.c.entry.contains(member, autoescape=True))
    return found
