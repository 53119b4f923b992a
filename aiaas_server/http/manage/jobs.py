"""Routes of jobs and recipes: ask for one, follow it, end it, fetch what it made."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from aiaas_client.protocol.jobs import (
    ENDED,
    Job,
    JobEvent,
    JobFile,
    JobRequest,
    JobResult,
    JobState,
    RecipeInfo,
)
from aiaas_server.core.author import Author
from aiaas_server.core.errors import InvalidInput, NotFound
from aiaas_server.http.errors import bad_request
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.manage.changes import HEARTBEAT, Streams
from aiaas_server.http.manage.requests import (
    READ,
    WRITE,
    Manage,
    author_of,
    page_of,
    read_asked,
    told,
    told_page,
)
from aiaas_server.http.openapi import BYTES, NOTHING
from aiaas_server.jobs import queue, recipes
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.rows import JobRow, delete_job, document, events_after, get_job, list_jobs
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database

_LOOK: Final = 0.5  # seconds between two looks for events of a job
_PART: Final = 500  # events that are read at a time

Submit = Callable[[Author, JobRequest], Awaitable[JobRow]]
"""Looks at a job that is asked for, and queues it."""


class JobRoutes:
    """`/api/v1/jobs` and `/api/v1/recipes`.

    Args:
        keeping: For what ended jobs leave.
        artefacts, threads: For the files that they made.
        stopping: Whether the server takes no more work; streams end then.
        heartbeat: Seconds of silence after which a comment is sent.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        submit: Submit,
        keeping: Keeping,
        artefacts: Artefacts,
        threads: Threads,
        stopping: Callable[[], bool],
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._database = database
        self._settings = settings
        self._submit = submit
        self._keeping = keeping
        self._artefacts = artefacts
        self._threads = threads
        self._stopping = stopping
        self._heartbeat = heartbeat
        self._streams = Streams()

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        route, one = manage.route, "/jobs/{job}"
        return [
            route("/jobs", self.create, "POST", WRITE, asks=JobRequest, tells=Job),
            route("/jobs", self.list, "GET", READ, tells=Job),
            route(one, self.get, "GET", READ, tells=Job),
            route(one, self.delete, "DELETE", WRITE, tells=NOTHING),
            route(f"{one}/cancel", self.cancel, "POST", WRITE, tells=Job),
            route(f"{one}/events", self.events, "GET", READ, tells=JobEvent),
            route(f"{one}/log", self.log, "GET", READ),
            route(f"{one}/files/{{name}}", self.file, "GET", READ, tells=BYTES),
            route("/recipes", self.recipes, "GET", READ, tells=RecipeInfo),
            route("/recipes/{recipe}", self.recipe, "GET", READ, tells=RecipeInfo),
        ]

    async def create(self, request: Request) -> Response:
        """Ask for a job: 202; it waits until a server has room for it."""
        asked = await read_asked(request, JobRequest, self._settings)
        row = await self._submit(author_of(request), asked)
        return told(document(row), 202)

    async def list(self, request: Request) -> Response:
        """Jobs, the newest first; `?state=`, `?kind=` and `?model=` choose some."""
        asked = request.query_params
        state = asked.get("state")
        if state is not None and state not in get_args(JobState):
            raise bad_request(
                f"state: expected one of {', '.join(get_args(JobState))}, got {state[:64]!r}"
            )
        after, limit = page_of(request)
        tenant, kind, model = author_of(request).tenant, asked.get("kind"), asked.get("model")
        found = await self._database.read(
            lambda c: list_jobs(
                c, tenant, state=state, kind=kind, subject=model, after=after, limit=limit
            )
        )
        following = found[-1].id if len(found) == limit else None
        return told_page([document(row) for row in found], following)

    async def get(self, request: Request) -> Response:
        """One job: its state, progress, log and result."""
        return told(document(await self._row(request)))

    async def cancel(self, request: Request) -> Response:
        """End a job for good: at once where it waits, else within two seconds."""
        tenant, job = author_of(request).tenant, request.path_params["job"]

        def work(connection: Connection) -> queue.Over | None:
            return queue.cancel(connection, get_job(connection, tenant, job))

        over = await self._database.write(work, spares_room=True)
        if over is not None:
            await self._keeping.remove(over.tenant, over.digests)
        return told(document(await self._row(request)))

    async def delete(self, request: Request) -> Response:
        """Forget a job that has ended, with its files; versions and data sets stay."""
        tenant, job = author_of(request).tenant, request.path_params["job"]

        def work(connection: Connection) -> list[str]:
            return delete_job(connection, get_job(connection, tenant, job))

        digests = await self._database.write(work, spares_room=True)
        await self._keeping.remove(tenant, digests)
        return Response(status_code=204)

    async def log(self, request: Request) -> Response:
        """The last lines that it printed, as text; secrets are left out."""
        row = await self._row(request)
        return PlainTextResponse("".join(f"{line}\n" for line in row.log))

    # Files

    async def file(self, request: Request) -> Response:
        """A file that it made, checked on the way."""
        row, name = await self._row(request), request.path_params["name"]
        files = JobResult.model_validate(row.result).files if row.result is not None else []
        file = next((one for one in files if one.name == name), None)
        if file is None:
            names = ", ".join(one.name for one in files) or "none"
            raise NotFound(f"job '{row.id}' has no file '{name[:64]}': there are {names[:256]}")
        pieces = self._pieces(row.tenant, file)
        first = await anext(pieces, b"")  # a store that is away is told as an error
        headers = {
            "ETag": f'"{file.sha256}"',
            "Content-Length": str(file.size),
            # A report is shown as a page, and is none of ours: it runs nothing, and asks nobody.
            "Content-Security-Policy": "sandbox; default-src 'none'; img-src data:; "
            "style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
        }
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return StreamingResponse(_with(first, pieces), headers=headers, media_type=kind)

    async def _pieces(self, tenant: str, file: JobFile) -> AsyncIterator[bytes]:
        pieces = self._artefacts.pieces(tenant, file.sha256)
        try:
            while piece := await self._threads.run(_next, pieces):
                yield piece
        except Corrupt as error:
            raise NotFound(f"{file.name}: {error.message}") from None

    # Events

    async def events(self, request: Request) -> Response:
        """What happens to it, from the beginning or from behind `Last-Event-ID`, as Server-Sent
        Events; the stream ends with the job.
        """
        seq = self._streams.begin_behind(request.headers.get("last-event-id", "0"))
        row = await self._row(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(row, seq), 200, headers, "text/event-stream")

    async def _events(self, row: JobRow, seq: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with self._streams.one():
            yield b": events\n\n"
            silent_since = loop.time()
            while not self._stopping():
                # The state first: what has ended tells nothing more.
                found = await self._database.read(lambda c: _state_of(c, row))
                behind = partial(events_after, job=row.id, seq=seq, limit=_PART)
                events = await self._database.read(behind)
                if events:
                    seq = events[-1].seq
                    yield b"".join(map(_event, events))
                    silent_since = loop.time()
                if len(events) == _PART:
                    continue
                if found is None or found in ENDED:
                    return
                if loop.time() - silent_since >= self._heartbeat:
                    yield b": still here\n\n"
                    silent_since = loop.time()
                await asyncio.sleep(_LOOK)

    # Recipes

    async def recipes(self, request: Request) -> Response:
        """All recipes, with the schemas of their parameters."""
        found = await asyncio.to_thread(_all_recipes)
        after, limit = page_of(request)
        wanted = [one for one in found if one.name > after]
        following = wanted[limit - 1].name if len(wanted) > limit else None
        return told_page(wanted[:limit], following)

    async def recipe(self, request: Request) -> Response:
        """One recipe."""
        try:
            found = await asyncio.to_thread(recipes.recipe, request.path_params["recipe"])
        except InvalidInput as error:
            raise NotFound(error.message) from None
        return told(recipes.describe(found))

    async def _row(self, request: Request) -> JobRow:
        tenant, job = author_of(request).tenant, request.path_params["job"]
        return await self._database.read(lambda c: get_job(c, tenant, job))


def _all_recipes() -> list[RecipeInfo]:
    return [recipes.describe(found) for found in recipes.recipes()]


def _state_of(connection: Connection, row: JobRow) -> str | None:
    """None where the job is forgotten."""
    try:
        return get_job(connection, row.tenant, row.id).state
    except NotFound:
        return None


def _event(event: JobEvent) -> bytes:
    data = FAST_JSON.dumps(event.model_dump(mode="json"))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), data)


async def _with(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in pieces:
        yield piece


def _next(pieces: Iterator[bytes]) -> bytes:
    return next(pieces, b"")
