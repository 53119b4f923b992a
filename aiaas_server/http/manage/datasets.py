"""Routes of data sets: bring one, look at it, get its rows, erase it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from aiaas_client.protocol.datasets import Dataset, DatasetDraft, DatasetErasure, DatasetRequest
from aiaas_client.protocol.management import Page
from aiaas_client.protocol.names import LATEST
from aiaas_server.core.author import Author
from aiaas_server.core.errors import NotFound
from aiaas_server.datasets.drafts import Drafts
from aiaas_server.datasets.rows import document
from aiaas_server.datasets.store import Kept, Store
from aiaas_server.http.incoming import SizeLimit
from aiaas_server.http.manage.drafts import check_upload, read_offset, received
from aiaas_server.http.manage.requests import (
    READ,
    WRITE,
    Manage,
    author_of,
    number_after,
    page_of,
    read_asked,
    told,
    told_page,
)
from aiaas_server.http.openapi import BYTES, NOTHING
from aiaas_server.settings import Settings

_ONE = "/datasets/{dataset}"
_DRAFTS = _ONE + "/drafts"
_VERSIONS = _ONE + "/versions"
_number = re.compile(r"[1-9][0-9]{0,9}").fullmatch


class Datasets(Protocol):
    """What is behind the routes."""

    @property
    def drafts(self) -> Drafts:
        """What is being brought."""
        ...

    @property
    def store(self) -> Store:
        """What there is."""
        ...

    def commit(self, author: Author, name: str, draft: str) -> Awaitable[Kept]:
        """Make a draft a version."""
        ...

    def erase(self, author: Author, name: str, number: int) -> Awaitable[DatasetErasure]:
        """Erase a version."""
        ...

    def erase_all(self, author: Author, name: str) -> Awaitable[list[DatasetErasure]]:
        """Erase all versions of a data set."""
        ...


class DatasetRoutes:
    """`/api/v1/datasets` and what is below it."""

    def __init__(self, manage: Manage, datasets: Datasets, settings: Settings) -> None:
        self._manage = manage
        self._datasets = datasets
        self._settings = settings

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        route, draft, version = self._manage.route, _DRAFTS + "/{draft}", _VERSIONS + "/{version}"
        return [
            route("/datasets", self.page, "GET", READ, tells=Page),
            route(_DRAFTS, self.create, "POST", WRITE, asks=DatasetRequest, tells=DatasetDraft),
            route(draft, self.draft, "GET", READ, tells=DatasetDraft),
            route(draft, self.remove, "DELETE", WRITE, tells=NOTHING),
            route(draft + "/files/{name}", self.put_file, "PUT", WRITE, tells=DatasetDraft),
            route(draft + "/commit", self.commit, "POST", WRITE, tells=Dataset),
            route(_VERSIONS, self.versions, "GET", READ, tells=Page),
            route(version, self.version, "GET", READ, tells=Dataset),
            route(version + "/data", self.data, "GET", READ, tells=BYTES),
            route(version, self.erase, "DELETE", WRITE, tells=DatasetErasure),
            route(_ONE, self.erase_all, "DELETE", WRITE, tells=Page),
        ]

    async def page(self, request: Request) -> Response:
        """The latest version of each data set, by name, without histograms and classes."""
        after, limit = page_of(request)
        found = await self._datasets.store.page(author_of(request).tenant, after, limit)
        return told_page(found, found[-1].name if len(found) == limit else None)

    async def create(self, request: Request) -> Response:
        """Open a draft: 201, or 200 where one of the same files is open."""
        asked = await read_asked(request, DatasetRequest, self._settings)
        draft, created = await self._datasets.drafts.create(
            author_of(request), _name(request), asked
        )
        return told(draft, 201 if created else 200)

    async def draft(self, request: Request) -> Response:
        """What has come of a draft."""
        return told(await self._datasets.drafts.get(author_of(request), *_draft(request)))

    async def remove(self, request: Request) -> Response:
        """Throw a draft away."""
        row = await self._datasets.drafts.row(author_of(request), *_draft(request))
        await self._datasets.drafts.remove(row)
        return Response(status_code=204)

    async def put_file(self, request: Request) -> Response:
        """Send a file, or the rest of one from `?offset=` on."""
        limit = SizeLimit(self._settings.max_dataset_bytes, "max_dataset_bytes")
        length = check_upload(request, limit)
        offset = read_offset(request)
        async with aclosing(received(request, self._settings.max_upload_timeout)) as body:
            draft = await self._datasets.drafts.receive(
                author_of(request),
                *_draft(request),
                request.path_params["name"],
                body,
                offset=offset,
                length=length,
            )
        return told(draft)

    async def commit(self, request: Request) -> Response:
        """Have the files read and kept: 201, or 200 where the latest version has these rows."""
        kept = await self._datasets.commit(author_of(request), *_draft(request))
        return told(document(kept.row), 201 if kept.created else 200)

    async def versions(self, request: Request) -> Response:
        """The versions of a data set, the newest first, erased ones too."""
        after, limit = page_of(request)
        before = number_after(after)
        tenant = author_of(request).tenant
        found = await self._datasets.store.versions(tenant, _name(request), before, limit)
        return told_page(found, found[-1].number if len(found) == limit else None)

    async def version(self, request: Request) -> Response:
        """One version with its profile, by its number or `latest`."""
        tenant = author_of(request).tenant
        found = await self._datasets.store.get(tenant, _name(request), _version(request))
        return told(found, etag=found.digest)

    async def data(self, request: Request) -> Response:
        """The rows as one Parquet file, checked on the way; what is damaged breaks off."""
        name, number = _name(request), _version(request)
        ref = name if number is None else f"{name}@{number}"
        row = await self._datasets.store.ready(author_of(request).tenant, ref)
        headers = {"ETag": f'"{row.digest}"', "Content-Length": str(row.size)}
        pieces = self._datasets.store.pieces(row)
        first = await anext(pieces, b"")  # a store that is away is told as an error
        kind = "application/vnd.apache.parquet"
        return StreamingResponse(_with(first, pieces), headers=headers, media_type=kind)

    async def erase(self, request: Request) -> Response:
        """Erase a version; that it was there is remembered."""
        number = _version(request)
        if number is None:
            raise NotFound("version: expected its number, since what is latest may change")
        work = self._datasets.erase(author_of(request), _name(request), number)
        erased: DatasetErasure = await self._manage.finish(_awaited(work))
        return told(erased)

    async def erase_all(self, request: Request) -> Response:
        """Erase all versions of a data set, and throw away its drafts."""
        work = self._datasets.erase_all(author_of(request), _name(request))
        erased: list[DatasetErasure] = await self._manage.finish(_awaited(work))
        return told_page(erased, None)


def _name(request: Request) -> str:
    name: str = request.path_params["dataset"]
    return name


def _draft(request: Request) -> tuple[str, str]:
    return request.path_params["dataset"], request.path_params["draft"]


def _version(request: Request) -> int | None:
    """The version that the path names; None is the latest.

    Raises:
        NotFound: No version can be called that.
    """
    text: str = request.path_params["version"]
    if text == LATEST:
        return None
    if not _number(text):
        raise NotFound(f"there is no version '{text[:64]}': expected a number or 'latest'")
    return int(text)


async def _awaited(work: Awaitable[object]) -> object:
    return await work


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
