"""What was changed, by whom, and the feed that tells every process of it."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, select, update

from aiaas_client.protocol.management import HistoryKind
from aiaas_server.registry.rows import Author, Document, HistoryRow, ModelRow
from aiaas_server.state.changes import tell
from aiaas_server.state.tables import HISTORY

_HISTORY = (
    HISTORY.c.seq,
    HISTORY.c.model,
    HISTORY.c.kind,
    HISTORY.c.version,
    HISTORY.c.before,
    HISTORY.c.after,
    HISTORY.c.position,
    HISTORY.c.reason,
    HISTORY.c.at,
    HISTORY.c.by,
    HISTORY.c.request_id,
)


def record(
    connection: Connection,
    author: Author,
    model: ModelRow,
    kind: HistoryKind,
    *,
    version: int | None = None,
    before: Document | None = None,
    after: Document | None = None,
    position: int | None = None,
    reason: str = "",
    serves: bool = True,
) -> int:
    """Write one entry of the history and tell the feed; gives the entry's number.

    Args:
        position: Of a change of who serves, the entry whose `after` is in force now; its own
            number where None is given and `after` is, see `registry.rollback`.
        serves: Whether `before` and `after` are documents of who serves.
    """
    now = time.time()
    written = connection.execute(
        HISTORY.insert().values(
            tenant=author.tenant,
            model_id=model.id,
            model=model.name,
            kind=kind,
            version=version,
            before=before,
            after=after,
            position=position,
            reason=reason,
            at=now,
            by=author.by,
            request_id=author.request_id,
        )
    )
    assert written.inserted_primary_key is not None
    seq: int = written.inserted_primary_key[0]
    if after is not None and position is None and serves:
        connection.execute(update(HISTORY).where(HISTORY.c.seq == seq).values(position=seq))
    data: Document = {"change": kind, "by": author.by}
    if version is not None:
        data["version"] = version
    if reason:
        data["reason"] = reason
    tell(connection, author.tenant, "model", model.name, data)
    return seq


def list_history(
    connection: Connection, model_id: str, before: int | None = None, limit: int = 100
) -> list[HistoryRow]:
    """Entries of one model, the newest first."""
    asked = select(*_HISTORY).where(HISTORY.c.model_id == model_id)
    if before is not None:
        asked = asked.where(HISTORY.c.seq < before)
    asked = asked.order_by(HISTORY.c.seq.desc()).limit(limit)
    return [_entry(row._mapping) for row in connection.execute(asked)]


def _entry(values: Any) -> HistoryRow:
    return HistoryRow(**values)
