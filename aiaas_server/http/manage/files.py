"""Routes that hand out the files of a version, and that erase versions and models."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aiaas_client.protocol.management import BundleFile, Erasure
from aiaas_server.core.errors import Conflict
from aiaas_server.http.errors import bad_request
from aiaas_server.http.manage.models import Changed
from aiaas_server.http.manage.requests import READ, WRITE, Manage, author_of, read_version, told
from aiaas_server.http.openapi import BYTES
from aiaas_server.registry.damage import OnDamage, mark_damaged, nobody
from aiaas_server.registry.erasure import Eraser
from aiaas_server.registry.files import find_file
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database

_number = re.compile(r"[0-9]{1,9}").fullmatch
_VERSION = "/models/{model}/versions/{version}"


class FileRoutes:
    """`GET …/versions/{v}/files/{name}`, `DELETE …/versions/{v}` and `DELETE /models/{m}`."""

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        eraser: Eraser,
        remote: Threads,
        damaged: OnDamage,
    ) -> None:
        self._damaged = damaged
        self._database = database
        self._artefacts = artefacts
        self._eraser = eraser
        self._remote = remote

    async def get_file(self, request: Request) -> Response:
        """The bytes of a file, checked on the way; what turns out to be damaged breaks off."""
        tenant = author_of(request).tenant
        asked = request.path_params
        model, version = asked["model"], read_version(asked["version"])
        file = await self._database.read(
            lambda c: find_file(c, tenant, model, version, asked["name"])
        )
        headers = {"ETag": f'"{file.sha256}"', "Content-Length": str(file.size)}
        pieces = self._pieces(tenant, file)
        first = await anext(pieces, b"")  # a store that is away is told as an error
        kind = "application/octet-stream"
        return StreamingResponse(_with(first, pieces), headers=headers, media_type=kind)

    async def _pieces(self, tenant: str, file: BundleFile) -> AsyncIterator[bytes]:
        pieces = self._artefacts.pieces(tenant, file.sha256)
        try:
            while piece := await self._remote.run(_next, pieces):
                yield piece
        except Corrupt as error:
            reason = error.message
            found = await self._database.write(
                lambda c: mark_damaged(c, tenant, file.sha256, reason), spares_room=True
            )
            self._damaged(found)
            raise Conflict(f"{file.name}: {reason}") from None

    async def erase_version(self, request: Request) -> Response:
        """Erase a version; gives the proof."""
        text = request.path_params["version"]
        if not _number(text):
            raise bad_request(f"version: expected its number, got {text[:64]!r}")
        force, replacement = read_force(request), read_replacement(request)
        work = self._eraser.erase_version(
            author_of(request),
            request.path_params["model"],
            int(text),
            force=force,
            replacement=replacement,
        )
        return told(await work)

    async def erase_model(self, request: Request) -> Response:
        """Erase a model with all its versions; gives the proof."""
        name, force = request.path_params["model"], read_force(request)
        return told(await self._eraser.erase_model(author_of(request), name, force=force))


def routes(
    manage: Manage,
    database: Database,
    artefacts: Artefacts,
    eraser: Eraser,
    remote: Threads,
    changed: Changed,
    damaged: OnDamage = nobody,
) -> list[Route]:
    """The routes of files and of erasure.

    Args:
        changed: Awaited for a model that was changed, before that is answered.
        damaged: Is told of versions that are found corrupt.
    """
    found = FileRoutes(database, artefacts, eraser, remote, damaged)

    async def erase(request: Request, erased: Awaitable[Response]) -> Response:
        answer = await erased
        # Nobody gets it any more.
        await changed(author_of(request).tenant, request.path_params["model"])
        return answer

    async def erase_version(request: Request) -> Response:
        """Erase a version, even where the client leaves."""
        answer: Response = await manage.finish(erase(request, found.erase_version(request)))
        return answer

    async def erase_model(request: Request) -> Response:
        """Erase a model, even where the client leaves."""
        answer: Response = await manage.finish(erase(request, found.erase_model(request)))
        return answer

    return [
        manage.route(_VERSION + "/files/{name}", found.get_file, "GET", READ, tells=BYTES),
        manage.route(_VERSION, erase_version, "DELETE", WRITE, tells=Erasure),
        manage.route("/models/{model}", erase_model, "DELETE", WRITE, tells=Erasure),
    ]


def read_force(request: Request) -> bool:
    """`?force=`.

    Raises:
        HttpError: 400 for anything but `true` and `false`.
    """
    text = request.query_params.get("force", "false")
    if text not in ("true", "false"):
        raise bad_request(f"force: expected true or false, got {text[:64]!r}")
    return text == "true"


def read_replacement(request: Request) -> int | None:
    """`?replacement=`, a version.

    Raises:
        HttpError: 400 for what is no version.
    """
    text = request.query_params.get("replacement")
    if text is None:
        return None
    if not _number(text):
        raise bad_request(f"replacement: expected a version's number, got {text[:64]!r}")
    return int(text)


def _next(pieces: Iterator[bytes]) -> bytes:
    return next(pieces, b"")


async def _with(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
