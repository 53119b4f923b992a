"""Jobs and their events as rows: what is read of them. Each function takes a connection."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, or_, select

from aiaas_client.protocol.jobs import Job, JobEvent, JobState
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.state.artefacts import claims
from aiaas_server.state.changes import tell
from aiaas_server.state.tables import JOB_EVENTS, JOBS

KIND: Final = "job"
"""Of changes of the feed: `object` is the id, `data` has the state."""
Document = dict[str, Any]


class JobRow(NamedTuple):
    """A row of `jobs`.

    Attributes:
        spec: A `protocol.jobs.JobSpec` as a document, references resolved.
        lease: Until when `holder` has it, by the database's clock.
        checkpoint: `{"sha256", "size", "step"}` of the newest one.
    """

    id: str
    tenant: str
    kind: str
    subject: str
    spec: Document
    note: str
    state: JobState
    attempt: int
    attempts: int
    timeout: float | None
    cancelling: bool
    holder: str
    lease: float
    checkpoint: Document | None
    progress: Document
    result: Document | None
    error: Document | None
    log: list[str]
    created: float
    created_by: str
    started: float | None
    ended: float | None

    @property
    def user(self) -> str:
        """Under which its artefacts are kept: checkpoints, and files."""
        return job_user(self.id)


def job_user(job: str) -> str:
    """Under which the artefacts of a job are kept."""
    return f"job/{job}"


def find_job(connection: Connection, job: str) -> JobRow | None:
    """A job of whichever tenant."""
    row = connection.execute(select(JOBS).where(JOBS.c.id == job)).one_or_none()
    return None if row is None else row_of(row)


def get_job(connection: Connection, tenant: str, job: str) -> JobRow:
    """A job.

    Raises:
        NotFound: There is none of that id.
    """
    found = find_job(connection, job[:32]) if len(job) <= 32 else None
    if found is None or found.tenant != tenant:
        raise NotFound(f"there is no job '{job[:64]}'")
    return found


def list_jobs(
    connection: Connection,
    tenant: str,
    *,
    state: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    after: str = "",
    limit: int = 100,
) -> list[JobRow]:
    """Jobs, the newest first.

    Args:
        after: The id of the last one of the page before; "" at the beginning.
    Raises:
        NotFound: There is no job of that id any more.
    """
    asked = select(JOBS).where(JOBS.c.tenant == tenant)
    for column, value in ((JOBS.c.state, state), (JOBS.c.kind, kind), (JOBS.c.subject, subject)):
        if value is not None:
            asked = asked.where(column == value)
    if after:
        last = get_job(connection, tenant, after)
        older = and_(JOBS.c.created == last.created, JOBS.c.id < last.id)
        asked = asked.where(or_(JOBS.c.created < last.created, older))
    asked = asked.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(limit)
    return [row_of(row) for row in connection.execute(asked)]


def unended_jobs(connection: Connection) -> set[str]:
    """The ids of all jobs that have not ended."""
    asked = select(JOBS.c.id).where(JOBS.c.state.in_(("queued", "running")))
    return set(connection.execute(asked).scalars())


def delete_job(connection: Connection, row: JobRow) -> list[str]:
    """Forget a job that has ended, with its events; gives the digests of its files.

    Raises:
        Conflict: It has not ended.
    """
    if row.state in ("queued", "running"):
        raise Conflict(f"job '{row.id}' is {row.state}: cancel it first")
    digests = claims.release(connection, row.tenant, row.user)
    connection.execute(delete(JOB_EVENTS).where(JOB_EVENTS.c.job_id == row.id))
    connection.execute(delete(JOBS).where(JOBS.c.id == row.id))
    tell(connection, row.tenant, KIND, row.id, {"state": "deleted"})
    return digests


def events_after(
    connection: Connection, job: str, seq: int = 0, limit: int = 1000
) -> list[JobEvent]:
    """Events of a job behind `seq`, in order."""
    asked = (
        select(JOB_EVENTS.c.seq, JOB_EVENTS.c.at, JOB_EVENTS.c.kind, JOB_EVENTS.c.data)
        .where(JOB_EVENTS.c.job_id == job, JOB_EVENTS.c.seq > seq)
        .order_by(JOB_EVENTS.c.seq)
        .limit(limit)
    )
    return [JobEvent.model_validate(dict(row._mapping)) for row in connection.execute(asked)]


def document(row: JobRow) -> Job:
    """A job as the wire has it."""
    shown = row._asdict()
    for inner in ("tenant", "subject", "timeout", "holder", "lease", "checkpoint"):
        del shown[inner]
    return Job.model_validate(shown)


def row_of(row: Row[Any]) -> JobRow:
    """A row of `jobs` as it was selected."""
    return JobRow(**row._mapping)
