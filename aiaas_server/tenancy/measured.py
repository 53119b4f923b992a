"""What is used without a request: bytes that are stored, and jobs that run; out of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Connection, or_, select

from aiaas_server.state.tables import ARTEFACTS, JOB_EVENTS, JOBS
from aiaas_server.tenancy import usage_rows
from aiaas_server.tenancy.meter import HOUR, Used

STORED: Final = "stored"
RAN: Final = "jobs"
"""Names of the two in the table of what was added."""
DARK: Final = 30
"""Seconds without anybody who measures, after which no server can have been there to run jobs, nor
to hold them: their lease is no longer."""
_is_key = re.compile(r"[a-z0-9]{12}").fullmatch


def stored(connection: Connection, since: int, now: int) -> Iterator[tuple[Used, int]]:
    """Byte seconds of what is stored now, by tenant and hour.

    What was removed since it was last measured is not counted any more.
    """
    asked = select(ARTEFACTS.c.tenant, ARTEFACTS.c.size, ARTEFACTS.c.created).where(
        ARTEFACTS.c.leaving.is_(False), ARTEFACTS.c.created < now
    )
    found: dict[Used, float] = {}
    for tenant, size, created in connection.execute(asked):
        for hour, seconds in hours(max(float(since), created), now):
            used = Used(tenant, hour, "", "", 0, "stored_byte_seconds")
            found[used] = found.get(used, 0) + size * seconds
    return ((used, round(amount)) for used, amount in found.items())


def has_run(connection: Connection) -> bool:
    """Whether a job runs, or ran since it was measured last; True at the first time."""
    since = usage_rows.until(connection, RAN)
    if since is None:
        return True
    running = select(JOBS.c.id).where(JOBS.c.state == "running")
    lately = select(JOB_EVENTS.c.job_id).where(
        JOB_EVENTS.c.kind == "state", JOB_EVENTS.c.at > since
    )
    return any(connection.execute(asked.limit(1)).first() for asked in (running, lately))


def ran(connection: Connection, since: int, now: int) -> Iterator[tuple[Used, int]]:
    """Microseconds that jobs ran, by tenant, key, subject and hour."""
    lately = select(JOB_EVENTS.c.job_id).where(
        JOB_EVENTS.c.kind == "state", JOB_EVENTS.c.at > since, JOB_EVENTS.c.at <= now
    )
    asked = select(JOBS.c.id, JOBS.c.tenant, JOBS.c.created_by, JOBS.c.subject).where(
        or_(JOBS.c.state == "running", JOBS.c.id.in_(lately))
    )
    found: dict[Used, float] = {}
    for job, tenant, by, subject in connection.execute(asked).all():
        key = by if _is_key(by) else ""
        for begin, end in _runs(connection, job, now):
            if begin < since:
                end = min(end, since + DARK)
            for hour, seconds in hours(max(begin, float(since)), end):
                used = Used(tenant, hour, key, subject, 0, "job_us")
                found[used] = found.get(used, 0) + 1e6 * seconds
    return ((used, round(amount)) for used, amount in found.items())


def _runs(connection: Connection, job: str, now: float) -> list[tuple[float, float]]:
    """When a job ran, until `now`: from each time that it began to when it ended or waited."""
    asked = (
        select(JOB_EVENTS.c.at, JOB_EVENTS.c.data)
        .where(JOB_EVENTS.c.job_id == job, JOB_EVENTS.c.kind == "state")
        .order_by(JOB_EVENTS.c.seq)
    )
    found: list[tuple[float, float]] = []
    began: float | None = None
    for at, data in connection.execute(asked):
        if began is not None:
            found.append((began, min(at, now)))
        began = at if data["state"] == "running" else None
    if began is not None:
        found.append((began, now))
    return [(begin, end) for begin, end in found if begin < end]


def hours(begin: float, end: float) -> Iterable[tuple[int, float]]:
    """The hours between two times, and how many seconds of each."""
    while begin < end:
        hour = int(begin) // HOUR * HOUR
        until = min(end, hour + HOUR)
        yield hour, until - begin
        begin = until
