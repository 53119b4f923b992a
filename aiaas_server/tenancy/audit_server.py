"""What the server did by itself to models: from their history into the audit, each once.

Guards that roll back, retention that erases, versions found corrupt: each leaves an entry in the
history in the server's name. What a job has made is there in the name of who asked for the job.
Which of them the audit has already is read from the audit itself, in the transaction that writes
the next, so that many processes write none twice.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from sqlalchemy import Connection, exists, func, or_, select

from aiaas_server.core.author import SERVER
from aiaas_server.state.tables import HISTORY, JOBS
from aiaas_server.state.tenant_tables import AUDIT
from aiaas_server.tenancy.audit_chain import Draft, Head, append, canonical, end_of

_AT_ONCE: Final = 500
_BY_A_JOB: Final = exists().where(HISTORY.c.request_id == "job-" + JOBS.c.id)
_MARK: Final = '"history":'  # in no other entry: in a text its quotes are escaped


class ServerActs:
    """Remembers how far this process has looked."""

    def __init__(self) -> None:
        self._history = 0  # up to here everything is in the audit
        self._looked = 0  # up to this entry of the audit
        self._newest = -1  # of the history, when it was looked at last

    def has_more(self, connection: Connection) -> bool:
        """Whether the history has anything new; a look at its last number."""
        newest = connection.execute(select(func.max(HISTORY.c.seq))).scalar_one() or 0
        return bool(newest != self._newest)

    def write(self, connection: Connection, key: bytes, now: float) -> tuple[Head | None, int]:
        """Write what the audit does not have yet; part of a transaction of the one writer.

        Returns:
            A head if it was time for one, and what `seen` is to be told once it is committed.
        """
        self._look(connection)
        newest = connection.execute(select(func.max(HISTORY.c.seq))).scalar_one() or 0
        rows = connection.execute(
            select(HISTORY)
            .where(HISTORY.c.seq > self._history, or_(HISTORY.c.by == SERVER.by, _BY_A_JOB))
            .order_by(HISTORY.c.seq)
            .limit(_AT_ONCE)
        ).all()
        drafts: list[Draft] = [_draft(row) for row in rows]
        head = append(connection, key, drafts, now).head if drafts else None
        return head, -1 if len(rows) == _AT_ONCE else newest

    def seen(self, newest: int) -> None:
        """All of the history up to there is in the audit; -1 if there is more."""
        self._newest = newest

    def _look(self, connection: Connection) -> None:
        """Find out how far the audit has come, whichever process has written it."""
        row = connection.execute(
            select(AUDIT.c.seq, AUDIT.c.entry)
            .where(AUDIT.c.seq > self._looked, AUDIT.c.entry.contains(_MARK, autoescape=True))
            .order_by(AUDIT.c.seq.desc())
            .limit(1)
        ).first()
        if row is not None:
            self._history = int(json.loads(row.entry)["history"])
        self._looked = end_of(connection)[0]


def _draft(row: object) -> Draft:
    found = row._mapping  # type: ignore[attr-defined]  # a row of HISTORY
    version = "" if found["version"] is None else f"/{found['version']}"
    return {
        "at": found["at"],
        "tenant": found["tenant"],
        "actor": found["by"],
        "request_id": found["request_id"],
        "act": f"models.{found['kind']}",
        "object": f"{found['model']}{version}",
        "result": "done",
        "history": found["seq"],
        "before": _digest(found["before"]),
        "after": _digest(found["after"]),
    }


def _digest(document: object) -> str:
    if document is None:
        return ""
    return hashlib.sha256(canonical({"document": document}).encode()).hexdigest()
