"""`/v1/files`, as the official OpenAI client calls it: the files of batches."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aiaas_server.core.errors import NotFound
from aiaas_server.http.errors import bad_request
from aiaas_server.http.incoming import SizeLimit, check_length, context_of, too_large
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.manage.drafts import received
from aiaas_server.http.manage.requests import author_of
from aiaas_server.http.multipart import Multipart, Part, boundary_of
from aiaas_server.jobs.files import (
    BATCH,
    FileRow,
    add_file,
    delete_file,
    file_user,
    get_file,
    list_files,
    new_id,
)
from aiaas_server.jobs.keeping import Keeping, Kept
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt
from aiaas_server.state.artefacts.stores import file_errors
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database

MOST_FILES: Final = 10_000  # of one list, as OpenAI has it
_FIELD: Final = 1 << 10  # bytes of a field that is no file
_NAME: Final = 255

Scratch = Callable[[], AbstractAsyncContextManager[Path]]
"""An empty directory, gone afterwards."""
CheckRoom = Callable[[int], None]


class Came(NamedTuple):
    """What a form held; `name` is None where there was no file."""

    purpose: str
    name: str | None


class FileRoutes:
    """Upload, list, look at, fetch and delete.

    Args:
        keeping: Makes them artefacts.
        artefacts, threads: From where they are fetched.
        scratch: Where they lie while they come.
        check_room: Raises `StorageFull` where so many bytes more leave too little; blocks.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        keeping: Keeping,
        artefacts: Artefacts,
        threads: Threads,
        scratch: Scratch,
        check_room: CheckRoom,
    ) -> None:
        self._database = database
        self._settings = settings
        self._keeping = keeping
        self._artefacts = artefacts
        self._threads = threads
        self._scratch = scratch
        self._check_room = check_room

    async def create(self, request: Request) -> Response:
        """Keep a file that comes in a form."""
        author = author_of(request)
        limit = SizeLimit(self._settings.max_upload_bytes, "max_upload_bytes")
        boundary = boundary_of(request.headers.get("content-type", ""))
        length = check_length(context_of(request).headers, limit)
        await self._threads.run(self._check_room, length or 0)
        async with self._scratch() as directory:
            path = directory / "file"
            async with aclosing(received(request, self._settings.max_upload_timeout)) as body:
                came = await self._receive(Multipart(_bounded(body, limit), boundary), path)
            if came.purpose != BATCH:
                raise bad_request(f"purpose: expected '{BATCH}', got {came.purpose[:64]!r}")
            if came.name is None:
                raise bad_request("file: expected a file in the form")
            ident, name = new_id(), came.name

            def note(connection: Connection, kept: Kept) -> FileRow:
                row = FileRow(
                    ident,
                    author.tenant,
                    name,
                    BATCH,
                    kept.sha256,
                    kept.size,
                    time.time(),
                    author.by,
                )
                return add_file(connection, row)

            row = await self._keeping.keep(author.tenant, file_user(ident), path, note)
        assert row is not None, "nobody else knows of it yet"
        return answered(document(row))

    async def _receive(self, form: Multipart, path: Path) -> Came:
        """Write the file of a form, and read the fields beside it."""
        purpose, name = "", None
        async for part in form.parts():
            if part.name == "file" and part.filename is not None:
                if name is not None:
                    raise bad_request("file: expected one file in the form")
                name = _plain(part.filename)
                await self._write(part, path)
            else:
                text = await _read(part)
                purpose = text if part.name == "purpose" else purpose
        return Came(purpose, name)

    async def _write(self, part: Part, path: Path) -> None:
        with file_errors():
            file = await self._threads.run(path.open, "wb")
            try:
                async for piece in part.content:
                    await self._threads.run(file.write, piece)
            finally:
                await self._threads.run(_close, file)

    async def list(self, request: Request) -> Response:
        """Those that were uploaded, the newest first."""
        asked, tenant = request.query_params, author_of(request).tenant
        limit = read_limit(request, MOST_FILES, MOST_FILES)
        order = asked.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad_request(f"order: expected asc or desc, got {order[:64]!r}")
        if asked.get("purpose", BATCH) != BATCH:
            return answered(page([], more=False))
        found = await self._database.read(
            partial(
                list_files,
                tenant=tenant,
                after=asked.get("after", ""),
                limit=limit + 1,
                newest=order == "desc",
            )
        )
        return answered(page([document(row) for row in found[:limit]], len(found) > limit))

    async def get(self, request: Request) -> Response:
        """What is known of one."""
        return answered(document(await self._row(request)))

    async def content(self, request: Request) -> Response:
        """Its bytes, checked on the way."""
        row = await self._row(request)
        pieces = self._pieces(row)
        first = await anext(pieces, b"")  # a store that is away is told as an error
        headers = {"Content-Length": str(row.size), "ETag": f'"{row.digest}"'}
        kind = "application/octet-stream"
        return StreamingResponse(_with(first, pieces), headers=headers, media_type=kind)

    async def delete(self, request: Request) -> Response:
        """Forget one that was uploaded."""
        tenant, file = author_of(request).tenant, request.path_params["file"]
        digests = await self._database.write(
            partial(delete_file, tenant=tenant, file=file), spares_room=True
        )
        await self._keeping.remove(tenant, digests)
        return answered({"id": file, "object": "file", "deleted": True})

    async def _row(self, request: Request) -> FileRow:
        tenant, file = author_of(request).tenant, request.path_params["file"]
        return await self._database.read(partial(get_file, tenant=tenant, file=file))

    async def _pieces(self, row: FileRow) -> AsyncIterator[bytes]:
        pieces = self._artefacts.pieces(row.tenant, row.digest)
        try:
            while piece := await self._threads.run(_next, pieces):
                yield piece
        except Corrupt as error:
            raise NotFound(f"{row.id}: {error.message}") from None


def document(row: FileRow) -> dict[str, Any]:
    """A file as OpenAI's clients read it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": int(row.created),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
    }


def page(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A part of a list, as OpenAI's clients read it."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": more,
    }


def answered(found: dict[str, Any]) -> Response:
    """An answer of JSON."""
    return Response(FAST_JSON.dumps(found), media_type="application/json")


def read_limit(request: Request, usual: int, most: int) -> int:
    """`?limit=`.

    Raises:
        HttpError: 400 for no number, or one beyond `most`.
    """
    text = request.query_params.get("limit", str(usual))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= most:
        raise bad_request(f"limit: expected 1 to {most}, got {text[:64]!r}")
    return int(text[:9])


async def _bounded(body: AsyncIterator[bytes], limit: SizeLimit) -> AsyncIterator[bytes]:
    """The body, which is refused where it grows too large without having told its length."""
    size = 0
    async for piece in body:
        size += len(piece)
        if size > limit.bytes:
            raise too_large(limit)
        yield piece


async def _read(part: Part) -> str:
    found = b""
    async for piece in part.content:
        found += piece
        if len(found) > _FIELD:
            raise bad_request(f"{part.name[:64]}: expected at most {_FIELD} bytes")
    return found.decode("utf-8", "replace")


def _plain(filename: str) -> str:
    """A name without folders and control characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(sign for sign in name if sign.isprintable())[:_NAME] or "file"


def _close(file: BinaryIO) -> None:
    file.close()


def _next(pieces: Iterator[bytes]) -> bytes:
    return next(pieces, b"")


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
