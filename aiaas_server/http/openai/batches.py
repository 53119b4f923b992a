"""`/v1/batches`, as the official OpenAI client calls it: jobs of kind `batch`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.documents import Asked
from aiaas_server.core.author import Author
from aiaas_server.core.errors import NotFound
from aiaas_server.http.manage.requests import author_of, read_asked
from aiaas_server.http.openai.files import answered, page, read_limit
from aiaas_server.jobs import queue
from aiaas_server.jobs.files import made_file
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.rows import JobRow, find_job, list_jobs
from aiaas_server.settings import Settings
from aiaas_server.state.database import Connection, Database

WINDOW: Final = 24 * 3600.0
"""Seconds: `24h` is the only window there is."""
_id = re.compile(r"batch_([0-9a-f]{32})").fullmatch
_STATES: Final = {"queued": "validating", "running": "in_progress", "succeeded": "completed"}
MetaKey = Annotated[str, Field(max_length=64)]
MetaValue = Annotated[str, Field(max_length=512)]


class BatchRequest(Asked):
    """`POST /v1/batches`."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=64)]
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetaKey, MetaValue], Field(max_length=16)] | None = None


Create = Callable[[Author, BatchRequest], Awaitable[JobRow]]
"""Looks at the file of a batch, and queues its job."""


class BatchRoutes:
    """Create, list, look at and cancel."""

    def __init__(
        self, database: Database, settings: Settings, keeping: Keeping, create: Create
    ) -> None:
        self._database = database
        self._settings = settings
        self._keeping = keeping
        self._create = create

    async def create(self, request: Request) -> Response:
        """Queue one."""
        asked = await read_asked(request, BatchRequest, self._settings)
        return answered(document(await self._create(author_of(request), asked)))

    async def list(self, request: Request) -> Response:
        """The newest first."""
        limit = read_limit(request, 20, 100)
        after = request.query_params.get("after", "")
        found = await self._database.read(
            partial(
                list_jobs,
                tenant=author_of(request).tenant,
                kind="batch",
                after=job_of(after) if after else "",
                limit=limit + 1,
            )
        )
        return answered(page([document(row) for row in found[:limit]], len(found) > limit))

    async def get(self, request: Request) -> Response:
        """One batch."""
        return answered(document(await self._database.read(partial(_find, request=request))))

    async def cancel(self, request: Request) -> Response:
        """End one for good; what it had answered is gone."""

        def work(connection: Connection) -> queue.Over | None:
            return queue.cancel(connection, _find(connection, request))

        over = await self._database.write(work, spares_room=True)
        if over is not None:
            await self._keeping.remove(over.tenant, over.digests)
        return await self.get(request)


def _find(connection: Connection, request: Request) -> JobRow:
    batch = request.path_params["batch"]
    row = find_job(connection, job_of(batch))
    if row is None or row.kind != "batch" or row.tenant != author_of(request).tenant:
        raise NotFound(f"there is no batch '{batch[:64]}'")
    return row


def job_of(batch: str) -> str:
    """The id of the job that a batch is.

    Raises:
        NotFound: No batch can be called that.
    """
    found = _id(batch)
    if found is None:
        raise NotFound(f"there is no batch '{batch[:64]}'")
    return found[1]


def document(row: JobRow) -> dict[str, Any]:
    """A batch as OpenAI's clients read it."""
    status = _status(row)
    ended = None if row.ended is None else int(row.ended)
    files = {which: made_file(row, which) for which in ("output", "errors")}
    times = {
        f"{name}_at": ended if status == name else None
        for name in ("completed", "failed", "expired", "cancelled")
    }
    return {
        "id": f"batch_{row.id}",
        "object": "batch",
        "endpoint": row.spec["endpoint"],
        "errors": _errors(row),
        "input_file_id": row.spec["file"],
        "completion_window": "24h",
        "status": status,
        "output_file_id": None if files["output"] is None else files["output"].id,
        "error_file_id": None if files["errors"] is None else files["errors"].id,
        "created_at": int(row.created),
        "in_progress_at": None if row.started is None else int(row.started),
        "expires_at": int(row.created + WINDOW),
        "finalizing_at": None,
        "cancelling_at": None,
        **times,
        "request_counts": _counts(row),
        "metadata": row.spec.get("metadata") or None,
    }


def _status(row: JobRow) -> str:
    if row.state == "failed":
        return "expired" if (row.error or {}).get("code") == "timeout" else "failed"
    if row.state == "running" and row.cancelling:
        return "cancelling"
    if row.state == "running" and row.progress.get("phase") == queue.KEEPING:
        return "finalizing"
    return _STATES.get(row.state, row.state)


def _counts(row: JobRow) -> dict[str, int]:
    """Of lines; while it runs as of its last progress."""
    if row.result is not None:
        told = row.result["metrics"]
        return {name: int(told.get(name, 0)) for name in ("total", "completed", "failed")}
    metrics = row.progress.get("metrics") or {}
    counts = {name: int(metrics.get(name, 0)) for name in ("completed", "failed")}
    return {"total": int(row.progress.get("total") or 0), **counts}


def _errors(row: JobRow) -> dict[str, Any] | None:
    if row.error is None:
        return None
    told = {"code": row.error["code"], "message": row.error["message"], "line": None, "param": None}
    return {"object": "list", "data": [told]}
