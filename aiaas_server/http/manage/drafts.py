"""Routes of drafts: open one, send its files, commit it.

A file's body goes to the disk as it comes; no more than a few hundred KiB of it are held.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.management import Draft, DraftRequest, Version
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import ClientGone, SizeLimit, check_length, context_of
from aiaas_server.http.manage.requests import READ, WRITE, Manage, author_of, read_asked, told
from aiaas_server.http.negotiation import IDENTITY, body_coding
from aiaas_server.http.openapi import NOTHING
from aiaas_server.registry.commit import Commits
from aiaas_server.registry.drafts import Drafts
from aiaas_server.settings import Settings

_offset = re.compile(r"[0-9]{1,12}").fullmatch
_DRAFTS = "/models/{model}/drafts"
_CLOSE = ((b"connection", b"close"),)


Committed = Callable[[str, str, int], Awaitable[Version]]
"""Is told tenant, model and number of a version that was committed; gives what is told of it."""


class DraftRoutes:
    """`/models/{m}/drafts` and what is below it."""

    def __init__(
        self, drafts: Drafts, commits: Commits, settings: Settings, committed: Committed
    ) -> None:
        self._committed = committed
        self._drafts = drafts
        self._commits = commits
        self._settings = settings

    async def create(self, request: Request) -> Response:
        """Open a draft: 201, or 200 where one of the same bundle is open."""
        asked = await read_asked(request, DraftRequest, self._settings)
        name = request.path_params["model"]
        draft, created = await self._drafts.create(author_of(request), name, asked)
        return told(draft, 201 if created else 200)

    async def get(self, request: Request) -> Response:
        """What has come of it."""
        return told(await self._drafts.get(author_of(request), *_named(request)))

    async def remove(self, request: Request) -> Response:
        """Throw it away."""
        row = await self._drafts.row(author_of(request), *_named(request))
        await self._drafts.remove(row)
        return Response(status_code=204)

    async def put_file(self, request: Request) -> Response:
        """Send a file, or the rest of one from `?offset=` on."""
        limit = SizeLimit(self._settings.max_model_file_bytes, "max_model_file_bytes")
        length = check_upload(request, limit)
        offset = read_offset(request)
        async with aclosing(received(request, self._settings.max_upload_timeout)) as body:
            draft = await self._drafts.receive(
                author_of(request),
                *_named(request),
                request.path_params["name"],
                body,
                offset=offset,
                length=length,
            )
        return told(draft)

    async def commit(self, request: Request) -> Response:
        """Make it a version: 201, or 200 where these bytes are one already."""
        name, draft = _named(request)
        author = author_of(request)
        done = await self._commits.commit(author, name, draft)
        version = await self._committed(author.tenant, name, done.version.number)
        return told(version, 201 if done.created else 200)


def routes(
    manage: Manage, drafts: Drafts, commits: Commits, settings: Settings, committed: Committed
) -> list[Route]:
    """The routes of drafts."""
    found = DraftRoutes(drafts, commits, settings, committed)
    one = _DRAFTS + "/{draft}"
    return [
        manage.route(_DRAFTS, found.create, "POST", WRITE, asks=DraftRequest, tells=Draft),
        manage.route(one, found.get, "GET", READ, tells=Draft),
        manage.route(one, found.remove, "DELETE", WRITE, tells=NOTHING),
        manage.route(one + "/files/{name}", found.put_file, "PUT", WRITE, tells=Draft),
        manage.route(one + "/commit", found.commit, "POST", WRITE, tells=Version),
    ]


def check_upload(request: Request, limit: SizeLimit) -> int | None:
    """Look at the headers of an upload; gives its length, None where it is not told.

    Raises:
        HttpError: 413 or 400 by its length, 415 where it is compressed or of another type.
    """
    headers = context_of(request).headers
    length = check_length(headers, limit)
    if body_coding(headers.get(b"content-encoding", b"")) != IDENTITY:
        message = "Content-Encoding: only inference requests may be compressed"
        raise HttpError(415, ErrorCode.UNSUPPORTED_ENCODING, message)
    stated = headers.get(b"content-type", b"application/octet-stream").decode("latin-1")
    if stated.partition(";")[0].strip().lower() != "application/octet-stream":
        message = f"Content-Type: expected application/octet-stream, got {stated[:64]!r}"
        raise HttpError(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    return length


def read_offset(request: Request) -> int | None:
    """`?offset=N`; None where it is not given.

    Raises:
        HttpError: 400 for what is no number.
    """
    text = request.query_params.get("offset")
    if text is None:
        return None
    if not _offset(text):
        raise bad_request(f"offset: expected a number of bytes, got {text[:64]!r}")
    return int(text)


async def received(request: Request, seconds: float) -> AsyncGenerator[bytes, None]:
    """The pieces of a body as they come, all within `seconds`.

    Raises:
        HttpError: 408 where they do not.
        ClientGone: The client left before the end.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    more = True
    while more:
        try:
            async with asyncio.timeout_at(deadline):
                message = await request.receive()
        except TimeoutError:
            text = f"request body: not received within {seconds:g} seconds (max_upload_timeout)"
            raise HttpError(408, ErrorCode.REQUEST_TIMEOUT, text, headers=_CLOSE) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        if piece := message.get("body", b""):
            yield piece
        more = message.get("more_body", False)


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params["draft"]
