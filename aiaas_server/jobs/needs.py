"""Which data sets jobs need that have not ended."""

from __future__ import annotations

from sqlalchemy import Connection, select

from aiaas_server.state.tables import JOBS


def job_that_needs(connection: Connection, tenant: str, dataset: str) -> str | None:
    """The id of a queued or running job that needs a data set; None where there is none.

    Args:
        dataset: `name@number`, as specs of jobs have it.
    """
    asked = select(JOBS.c.id, JOBS.c.spec).where(
        JOBS.c.tenant == tenant, JOBS.c.state.in_(("queued", "running"))
    )
    for row in connection.execute(asked):
        if row.spec.get("dataset") == dataset:
            found: str = row.id
            return found
    return None
