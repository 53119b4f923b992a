"""The queue of jobs: who may run which one, until when. Each function is a step of a transaction.

Writers come one after the other, see `state.database`, so that what a step reads is so until it has
written. A job is leased: to a holder, a name that no start of a server has twice, for an attempt,
until a time of the database's own clock, with which alone it is compared; servers whose clocks
differ hence never run one twice. What is written for a job is written by whoever holds it, or not
at all: a holder that was thought dead, and comes late, changes nothing.

    queued → running → succeeded | failed | cancelled
      ↑________| put back, or its lease ran out
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, func, or_, select, update

from aiaas_client.protocol.jobs import JobError, JobResult, JobState, Progress
from aiaas_server.core.errors import Conflict
from aiaas_server.jobs.events import LOG_LINES, NOTHING_NEW, News, add_news, tell_state
from aiaas_server.jobs.rows import KIND, Document, JobRow, find_job, row_of
from aiaas_server.state.artefacts import claims
from aiaas_server.state.changes import tell
from aiaas_server.state.clock import now
from aiaas_server.state.tables import JOBS

LEASE: Final = 30.0
"""Seconds after which a job is another's whose holder no longer renews."""
KEEPING: Final = "keeping"
"""The phase in which a job is done and what it made is being kept: it cannot be cancelled."""


class Hold(NamedTuple):
    """That somebody has a job, for one attempt."""

    job: str
    holder: str
    attempt: int


class Claimed(NamedTuple):
    """A job that was leased just now; `spent` are seconds since its first start."""

    row: JobRow
    spent: float

    @property
    def hold(self) -> Hold:
        """By whom, and for which attempt."""
        return Hold(self.row.id, self.row.holder, self.row.attempt)


class Over(NamedTuple):
    """A job that has ended; `digests` are of artefacts that it no longer uses."""

    tenant: str
    job: str
    digests: list[str]


def enqueue(
    connection: Connection,
    *,
    tenant: str,
    by: str,
    kind: str,
    subject: str,
    spec: Document,
    note: str = "",
    attempts: int = 3,
    wait: float | None = None,
) -> JobRow:
    """Add a job.

    Args:
        wait: Its `timeout`; None is the server's own.
    """
    job = uuid.uuid4().hex
    connection.execute(
        JOBS.insert().values(
            id=job,
            tenant=tenant,
            kind=kind,
            subject=subject,
            spec=spec,
            note=note,
            state="queued",
            attempts=attempts,
            timeout=wait,
            progress=Progress().model_dump(mode="json"),
            log=[],
            created=now(connection),
            created_by=by,
        )
    )
    row = find_job(connection, job)
    assert row is not None, "it was written just now"
    tell_state(connection, row)
    return row


def has_work(connection: Connection) -> bool:
    """Whether there is a job to be claimed, or one whose lease has run out; only reads."""
    asked = select(JOBS.c.id).where(or_(JOBS.c.state == "queued", _expired(now(connection))))
    return connection.execute(asked.limit(1)).first() is not None


def has_expired(connection: Connection) -> bool:
    """Whether there is a job whose lease has run out; only reads."""
    asked = select(JOBS.c.id).where(_expired(now(connection))).limit(1)
    return connection.execute(asked).first() is not None


def claim(connection: Connection, holder: str, lease: float = LEASE) -> Claimed | None:
    """Lease the oldest job that waits, of the tenant of whom none was begun for longest: nobody
    waits for all that another has queued."""
    began = func.coalesce(func.max(JOBS.c.started), 0.0).label("began")
    turns = select(JOBS.c.tenant, began).group_by(JOBS.c.tenant).subquery()
    asked = (
        select(JOBS.c.id)
        .join(turns, turns.c.tenant == JOBS.c.tenant)
        .where(JOBS.c.state == "queued")
        .order_by(turns.c.began, JOBS.c.created, JOBS.c.id)
        .limit(1)
    )
    job: str | None = connection.execute(asked).scalar_one_or_none()
    if job is None:
        return None
    at = now(connection)
    values = {
        "state": "running",
        "holder": holder,
        "lease": at + lease,
        "attempt": JOBS.c.attempt + 1,
        "started": func.coalesce(JOBS.c.started, at),
        "progress": Progress().model_dump(mode="json"),
    }
    connection.execute(update(JOBS).where(JOBS.c.id == job).values(**values))
    row = find_job(connection, job)
    assert row is not None, "it is there"
    assert row.started is not None, "it was set just now"
    tell_state(connection, row)
    return Claimed(row, max(0.0, at - row.started))


def held(connection: Connection, hold: Hold) -> JobRow | None:
    """The job, if it is still held so."""
    row = find_job(connection, hold.job)
    if row is None or row.state != "running":
        return None
    return row if (row.holder, row.attempt) == (hold.holder, hold.attempt) else None


def renew(
    connection: Connection, hold: Hold, news: News = NOTHING_NEW, lease: float = LEASE
) -> JobRow | None:
    """Go on holding a job, and write down what it has told; None where another has it now.

    The row tells whether it is to be cancelled.
    """
    row = held(connection, hold)
    if row is None:
        return None
    values: Document = {"lease": now(connection) + lease}
    if news.progress:
        values["progress"] = news.progress[-1].model_dump(mode="json")
    if news.lines:
        values["log"] = [*row.log, *news.lines][-LOG_LINES:]
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**values))
    add_news(connection, row.id, news)
    return row


def begin_keeping(connection: Connection, hold: Hold) -> JobRow | None:
    """Note that a job is done, and can no longer be cancelled; None where it is to be, or where
    another has it now."""
    row = held(connection, hold)
    if row is None or row.cancelling:
        return None
    renew(connection, hold, News([Progress(phase=KEEPING)]))
    return row


def set_checkpoint(
    connection: Connection, hold: Hold, sha256: str, size: int, step: int
) -> list[str] | None:
    """Have the next attempt go on from here; the artefact is used by the job already.

    Returns:
        The digests that it no longer uses; None where another has the job now.
    """
    row = held(connection, hold)
    if row is None:
        return None
    found = {"sha256": sha256, "size": size, "step": step}
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(checkpoint=found))
    older = None if row.checkpoint is None else row.checkpoint["sha256"]
    if older is None or older == sha256:
        return []
    return claims.release(connection, row.tenant, row.user, older)


def drop_checkpoint(connection: Connection, hold: Hold) -> list[str]:
    """Have the next attempt begin anew: what was kept of this one cannot be read."""
    row = held(connection, hold)
    if row is None or row.checkpoint is None:
        return []
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(checkpoint=None))
    return claims.release(connection, row.tenant, row.user, row.checkpoint["sha256"])


def put_back(connection: Connection, hold: Hold, *, spent: bool) -> Over | None:
    """Let go of a job.

    Args:
        spent: The attempt has failed; else it counts as not made, as where a server is stopped.
    Returns:
        What is over, if that was its last attempt or it is to be cancelled.
    """
    row = held(connection, hold)
    if row is None:
        return None
    if not spent:
        row = row._replace(attempt=row.attempt - 1)
    return _again(connection, row, "its process ended")


def succeed(connection: Connection, hold: Hold, result: JobResult) -> Over | None:
    """A job is done; what it made is kept. None where another has it now."""
    row = held(connection, hold)
    if row is None:
        return None
    kept = {file.sha256 for file in result.files}
    return _end(connection, row, "succeeded", kept=kept, result=result.model_dump(mode="json"))


def fail(connection: Connection, hold: Hold, error: JobError) -> Over | None:
    """A job has failed for good. None where another has it now."""
    row = held(connection, hold)
    if row is None:
        return None
    return _end(connection, row, "failed", error=error.model_dump(mode="json"))


def cancelled(connection: Connection, hold: Hold) -> Over | None:
    """A job that was to be cancelled runs no more. None where another has it now."""
    row = held(connection, hold)
    return None if row is None else _end(connection, row, "cancelled")


def cancel(connection: Connection, row: JobRow) -> Over | None:
    """Have a job end: one that waits does now, one that runs as soon as its holder hears of it.

    One that has ended stays as it is, unless it was cancelled already.

    Raises:
        Conflict: It has succeeded or failed, or is done but for keeping what it made.
    """
    if row.state == "cancelled":
        return None
    if row.state == "queued":
        return _end(connection, row, "cancelled")
    if row.state != "running":
        raise Conflict(f"job '{row.id}' has {row.state} already: there is nothing to cancel")
    if row.progress.get("phase") == KEEPING:
        raise Conflict(f"job '{row.id}' is done: what it made is being kept")
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(cancelling=True))
    tell(connection, row.tenant, KIND, row.id, {"state": "running", "cancelling": True})
    return None


def expire(connection: Connection, gone: Sequence[str] = ()) -> list[Over]:
    """Have jobs wait again whose holder is no more; what is over of them.

    Args:
        gone: Holders that are known to have ended, whatever their lease.
    """
    ended = or_(_expired(now(connection)), (JOBS.c.state == "running") & JOBS.c.holder.in_(gone))
    rows = [row_of(row) for row in connection.execute(select(JOBS).where(ended))]
    over = [_again(connection, row, "the server that ran it is gone") for row in rows]
    return [found for found in over if found is not None]


def holders(connection: Connection) -> set[str]:
    """Who has jobs."""
    asked = select(JOBS.c.holder).where(JOBS.c.state == "running")
    return set(connection.execute(asked).scalars())


def _expired(at: float) -> Any:
    """Of a running job: its lease has run out, or lies where no clock that goes on puts one."""
    out = or_(JOBS.c.lease < at, JOBS.c.lease > at + 10 * LEASE)
    return (JOBS.c.state == "running") & out


def _again(connection: Connection, row: JobRow, why: str) -> Over | None:
    """The next attempt, if there is one."""
    if row.cancelling:
        return _end(connection, row, "cancelled")
    if row.attempt >= row.attempts:
        told = f"{why}, and so it went {row.attempt} times of {row.attempts} at most"
        error = JobError(code="lost", message=told)
        return _end(connection, row, "failed", error=error.model_dump(mode="json"))
    values = {"state": "queued", "holder": "", "lease": 0.0, "attempt": row.attempt}
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**values))
    tell_state(connection, row._replace(state="queued"))
    return None


def _end(
    connection: Connection,
    row: JobRow,
    state: JobState,
    *,
    kept: frozenset[str] | set[str] = frozenset(),
    **values: Any,
) -> Over:
    unused = claims.used_by(connection, row.tenant, row.user) - kept
    digests = [
        digest
        for unwanted in sorted(unused)
        for digest in claims.release(connection, row.tenant, row.user, unwanted)
    ]
    ended = {
        "state": state,
        "holder": "",
        "lease": 0.0,
        "cancelling": False,
        "checkpoint": None,
        "ended": now(connection),
    }
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**ended | values))
    tell_state(connection, row._replace(state=state, error=values.get("error")))
    return Over(row.tenant, row.id, digests)
