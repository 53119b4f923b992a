"""What jobs tell, as rows: states, progress and lines of their logs, each a bounded number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, select

from aiaas_client.protocol.jobs import Progress
from aiaas_server.jobs.rows import KIND, Document, JobRow
from aiaas_server.state.changes import tell
from aiaas_server.state.clock import now
from aiaas_server.state.tables import JOB_EVENTS

LOG_LINES: Final = 200
"""The last ones, which are kept with a job."""
MOST_EVENTS: Final = 1000
"""Of progress, for a job: beyond that every second one goes."""


class News(NamedTuple):
    """What a job has told since it was last written down.

    Attributes:
        progress: In order, those that are to be remembered; the last one is where it is.
        lines: Of its log.
    """

    progress: Sequence[Progress] = ()
    lines: Sequence[str] = ()


NOTHING_NEW: Final = News()


def tell_state(connection: Connection, row: JobRow) -> None:
    data: Document = {"state": row.state, "attempt": row.attempt}
    if row.error is not None:
        data["error"] = row.error
    _add_event(connection, row.id, "state", data)
    tell(connection, row.tenant, KIND, row.id, {"state": row.state})


def add_news(connection: Connection, job: str, news: News) -> None:
    for line in news.lines[-LOG_LINES:]:
        _add_event(connection, job, "log", {"line": line})
    for progress in news.progress:
        _add_event(connection, job, "progress", progress.model_dump(mode="json"))
    if news.lines:
        _drop_events(connection, _seqs(connection, job, "log")[:-LOG_LINES])
    if news.progress:
        seqs = _seqs(connection, job, "progress")
        if len(seqs) > MOST_EVENTS:
            _drop_events(connection, seqs[1:-1:2])  # the first and the last one stay


def _add_event(connection: Connection, job: str, kind: str, data: Document) -> None:
    values = {"job_id": job, "at": now(connection), "kind": kind, "data": data}
    connection.execute(JOB_EVENTS.insert().values(**values))


def _seqs(connection: Connection, job: str, kind: str) -> list[int]:
    asked = (
        select(JOB_EVENTS.c.seq)
        .where(JOB_EVENTS.c.job_id == job, JOB_EVENTS.c.kind == kind)
        .order_by(JOB_EVENTS.c.seq)
    )
    return list(connection.execute(asked).scalars())


def _drop_events(connection: Connection, seqs: Sequence[int]) -> None:
    for at in range(0, len(seqs), 500):
        part = seqs[at : at + 500]
        connection.execute(delete(JOB_EVENTS).where(JOB_EVENTS.c.seq.in_(part)))
