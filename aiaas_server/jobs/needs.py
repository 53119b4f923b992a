"""Which data sets jobs need that have not ended, and which files."""

from __future__ import annotations

from sqlalchemy import Connection, select

from aiaas_server.core.errors import NotFound
from aiaas_server.state.tables import FILES, JOBS


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


def file_digest(connection: Connection, tenant: str, file: str) -> str:
    """Of an uploaded file.

    Raises:
        NotFound: There is none of that id.
    """
    asked = select(FILES.c.digest).where(FILES.c.tenant == tenant, FILES.c.id == file[:64])
    digest: str | None = connection.execute(asked).scalar_one_or_none()
    if digest is None:
        raise NotFound(f"there is no file '{file[:64]}'")
    return digest
