"""Files of OpenAI's clients as rows: those that were uploaded, and those that batches made.

The latter have no rows of their own: their ids name the job, which has them as its files.
"""

from __future__ import annotations

import re
import uuid
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, or_, select

from aiaas_client.protocol.jobs import JobResult
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.jobs.rows import JobRow, find_job
from aiaas_server.state.artefacts import claims
from aiaas_server.state.tables import FILES, JOBS

BATCH: Final = "batch"
OUTPUT: Final = "batch_output"
MADE: Final = {"output": "output.jsonl", "errors": "errors.jsonl"}
"""By the end of an id, the name of the file among those of a job."""
_made = re.compile(r"file-([0-9a-f]{32})-(output|errors)").fullmatch


class FileRow(NamedTuple):
    """A file.

    Attributes:
        purpose: `batch` of one that was uploaded, `batch_output` of one that was made.
    """

    id: str
    tenant: str
    name: str
    purpose: str
    digest: str
    size: int
    created: float
    created_by: str

    @property
    def user(self) -> str:
        """Under which its bytes are kept, of one that was uploaded."""
        return file_user(self.id)


def new_id() -> str:
    """As OpenAI's clients expect it."""
    return f"file-{uuid.uuid4().hex}"


def file_user(file: str) -> str:
    """Under which the bytes of an uploaded file are kept."""
    return f"file/{file}"


def add_file(connection: Connection, row: FileRow) -> FileRow:
    """Note one whose bytes are kept."""
    connection.execute(FILES.insert().values(**row._asdict()))
    return row


def get_file(connection: Connection, tenant: str, file: str) -> FileRow:
    """A file, uploaded or made.

    Raises:
        NotFound: There is none of that id.
    """
    if made := _made(file):
        job = find_job(connection, made[1])
        found = None if job is None or job.tenant != tenant else made_file(job, made[2])
        if found is not None:
            return found
    asked = select(FILES).where(FILES.c.tenant == tenant, FILES.c.id == file[:64])
    row = connection.execute(asked).one_or_none()
    if row is None:
        raise NotFound(f"there is no file '{file[:64]}'")
    return _row(row)


def list_files(
    connection: Connection, tenant: str, after: str = "", limit: int = 100, *, newest: bool = True
) -> list[FileRow]:
    """Files that were uploaded.

    Args:
        after: The id of the last one of the page before.
    Raises:
        NotFound: There is none of that id any more.
    """
    asked = select(FILES).where(FILES.c.tenant == tenant)
    if after:
        last = get_file(connection, tenant, after)
        at, same = FILES.c.created, FILES.c.created == last.created
        beyond = at < last.created if newest else at > last.created
        next_id = FILES.c.id < last.id if newest else FILES.c.id > last.id
        asked = asked.where(or_(beyond, and_(same, next_id)))
    order = (FILES.c.created, FILES.c.id)
    asked = asked.order_by(*(one.desc() if newest else one for one in order)).limit(limit)
    return [_row(row) for row in connection.execute(asked)]


def delete_file(connection: Connection, tenant: str, file: str) -> list[str]:
    """Forget a file; gives the digests that it no longer uses.

    Raises:
        NotFound: There is none of that id.
        Conflict: A job that has not ended needs it, or it is what a job made.
    """
    row = get_file(connection, tenant, file)
    if row.purpose == OUTPUT:
        job = file.split("-")[1]
        raise Conflict(f"file '{file}' was made by job '{job}', and goes with it: delete the job")
    asked = select(JOBS.c.id, JOBS.c.spec).where(
        JOBS.c.tenant == tenant, JOBS.c.kind == "batch", JOBS.c.state.in_(("queued", "running"))
    )
    for found in connection.execute(asked):
        if found.spec.get("file") == file:
            raise Conflict(f"file '{file}' is needed by batch_{found.id}: cancel that first")
    connection.execute(delete(FILES).where(FILES.c.id == row.id))
    return claims.release(connection, tenant, row.user)


def made_file(job: JobRow, which: str) -> FileRow | None:
    """What a batch made: `output` or `errors`; None where it made none."""
    if job.kind != "batch" or job.result is None:
        return None
    for one in JobResult.model_validate(job.result).files:
        if one.name == MADE[which]:
            name = f"batch_{job.id}_{one.name}"
            at = job.ended or job.created
            ident = f"file-{job.id}-{which}"
            return FileRow(
                ident, job.tenant, name, OUTPUT, one.sha256, one.size, at, job.created_by
            )
    return None


def _row(row: Row[Any]) -> FileRow:
    return FileRow(**row._mapping)
