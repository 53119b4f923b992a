"""Uploads: the files of a draft, received piece by piece, whatever they are going to be.

A file is received into a part, hashed as it comes, and moved to the store once its digest is the
announced one. What a client has sent before it broke off stays, and it goes on from there. What the
tenant has in the store already is not sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection

from aiaas_client.protocol.management import BundleFile, DraftFile
from aiaas_server.core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    ServerError,
)
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import Brought
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.parts import Part, Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Joined, Threads, settled
from aiaas_server.state.database import Database
from aiaas_server.state.space import check_room

_log = logging.getLogger("aiaas_server")

_BATCH: Final = 1 << 20  # bytes that go to a thread at a time
_LOCK_SECONDS: Final = 10.0
_ASK: Final = 0.02
_CHECK_EVERY: Final = 64 << 20  # bytes after which the room on the disk is looked at again


D = TypeVar("D", bound=Brought)


class _Upload(NamedTuple):
    task: asyncio.Task[None]
    superseded: asyncio.Event


class Uploads(Generic[D]):
    """The files of all open drafts of one kind.

    Args:
        database: The rows.
        artefacts: Where whole files go.
        parts: Where they grow.
        disk: Threads for parts.
        remote: Threads for the store, which may be slow.
        remover: For what a draft leaves.
        disk_reserve: Bytes of the disk that stay free.
        check_open: Raises `NotFound` where a draft has ended.
        stored: Notes that the bytes of an artefact are there.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        parts: Parts,
        disk: Threads,
        remote: Threads,
        remover: Remover,
        disk_reserve: int,
        *,
        check_open: Callable[[Connection, D], object],
        stored: Callable[[Connection, str, str, int], object] = claims.set_size,
    ) -> None:
        self._database = database
        self._artefacts = artefacts
        self._parts = parts
        self._disk = disk
        self._remote = remote
        self._remover = remover
        self._disk_reserve = disk_reserve
        self._check_open = check_open
        self._stored = stored
        self._uploads: dict[tuple[str, str], _Upload] = {}
        self._keeping = Joined()

    async def told(self, row: D) -> list[DraftFile]:
        """What has come of each file of a draft."""
        complete = await self._database.read(lambda c: claims.stored_for(c, row.tenant, row.user))

        def look() -> list[DraftFile]:
            return [
                _told(file, file.sha256 in complete, self._parts.size(row.id, file.sha256))
                for file in row.files
            ]

        return await self._disk.run(look)

    async def check_announced(self, tenant: str, files: Sequence[BundleFile]) -> None:
        """Check that the disk has room for what of these files the store has not.

        Raises:
            StorageFull: It has not.
        """
        sizes = {file.sha256: file.size for file in files}
        rows = await self._database.read(lambda c: claims.find(c, tenant, sizes))
        await self._check_room(
            sum(s for d, s in sizes.items() if d not in rows or not rows[d].stored)
        )

    async def clear(self, row: D) -> None:
        """Remove what a draft left that has ended."""
        for key, upload in list(self._uploads.items()):
            if key[0] == row.id:
                await _supersede(upload)
        await self._disk.run(self._parts.drop, row.id)
        digests = [file.sha256 for file in row.files]
        try:
            await self._remover.remove(row.tenant, digests)
        except ServerError as error:
            _log.warning("draft %s: its files go with the next sweep: %s", row.id, error.message)

    async def close(self) -> None:
        """Let go of what is being received."""
        for upload in list(self._uploads.values()):
            await _supersede(upload)
        await self._keeping.close()

    async def receive(
        self,
        row: D,
        name: str,
        body: AsyncIterator[bytes],
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> None:
        """Take bytes of a file, and keep it once all are there.

        Whoever breaks off is asked to go on where it was. A second request for the same file takes
        the place of the first, whose client may have left unseen.

        Args:
            name: Of the file.
            body: The bytes.
            offset: Where they belong; None begins anew.
            length: How many will come, where that is known.
        Raises:
            NotFound: The draft has no such file, or has ended.
            Conflict: `offset` is not what has been received so far, or somebody else sends it.
            InvalidInput: More bytes came than announced, or others; they are dropped.
            StorageFull: The disk has no room.
            StateUnavailable: The store does not answer; what came is kept.
        """
        file = _named(row, name)
        key = (row.id, file.sha256)
        while (older := self._uploads.get(key)) is not None:
            await _supersede(older)
        superseded = asyncio.Event()
        task = asyncio.create_task(self._receive(row, file, body, offset, length))
        self._uploads[key] = _Upload(task, superseded)
        try:
            await task
        except asyncio.CancelledError:
            if superseded.is_set():
                raise Conflict(f"{name}: another request sends it now") from None
            raise
        finally:
            del self._uploads[key]

    async def _receive(
        self,
        row: D,
        file: BundleFile,
        body: AsyncIterator[bytes],
        offset: int | None,
        length: int | None,
    ) -> None:
        key = (row.id, file.sha256)
        await self._keeping.ended(key)  # else a fresh part were begun beside the one being kept
        part = await self._open(row, file)
        keeping = False
        try:
            standing = await self._remover.claim(
                row.tenant, file.sha256, row.user, lambda c: self._check_open(c, row)
            )
            if standing == "stored":
                await self._disk.run(part.drop)
                return
            await self._begin(part, file, offset, length)
            await self._check_room(file.size - part.size)
            await self._fill(part, file, body)
            if part.size == file.size:
                await self._check_digest(part, file)
                keeping = True
        finally:
            if not keeping:
                await self._disk.run(part.close)
        if keeping:  # from here on it is finished, whether the client waits or not
            await self._keeping.run(key, partial(self._keep, row, file, part))

    async def _open(self, row: D, file: BundleFile) -> Part:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            part = await self._disk.run(self._parts.open, row.id, file.sha256, row.tenant)
            if part is not None:
                return part
            if time.monotonic() > until:
                raise Conflict(f"{file.name}: another request sends it now")
            await asyncio.sleep(_ASK)

    async def _begin(
        self, part: Part, file: BundleFile, offset: int | None, length: int | None
    ) -> None:
        if offset is None:
            await self._disk.run(part.restart)
        elif offset != part.size:
            raise Conflict(
                f"{file.name}: offset {offset} was asked for, and received are {part.size} "
                f"of {file.size} bytes: go on from there"
            )
        else:
            await self._disk.run(part.resume)
        if length is not None and part.size + length > file.size:
            raise _too_many(file, part.size + length)

    async def _fill(self, part: Part, file: BundleFile, body: AsyncIterator[bytes]) -> None:
        """Write what comes; while a thread writes one batch the next one is received."""
        writing: asyncio.Future[None] | None = None
        batch: list[bytes] = []
        held, coming, checked = 0, part.size, part.size
        try:
            async for piece in body:
                batch.append(piece)
                held, coming = held + len(piece), coming + len(piece)
                if coming > file.size:
                    break
                if held < _BATCH:
                    continue
                if writing is not None:
                    await settled(writing)
                writing, batch, held = self._disk.begin(part.append, batch), [], 0
                if coming - checked > _CHECK_EVERY:
                    await self._check_room(0)
                    checked = coming
        finally:
            if writing is not None:
                await settled(writing)
            if batch and coming <= file.size:
                await self._disk.run(part.append, batch)  # of a client that left, too
        if coming > file.size:
            await self._disk.run(part.drop)
            raise _too_many(file, coming)

    async def _check_digest(self, part: Part, file: BundleFile) -> None:
        found = part.digest()
        if found != file.sha256:
            await self._disk.run(part.drop)
            raise InvalidInput(
                f"{file.name}: expected bytes of SHA-256 {file.sha256}, got {found}; "
                "they were dropped"
            )

    async def _keep(self, row: D, file: BundleFile, part: Part) -> None:
        """Move a whole part to the store, by the rules of `claims`."""
        tenant, digest, user = row.tenant, file.sha256, claims.upload_user(row.id)

        def note(connection: Connection) -> bool:
            claims.release(connection, tenant, user, digest)
            if not claims.uses(connection, tenant, digest, row.user):
                return False  # the draft has ended
            self._stored(connection, tenant, digest, file.size)
            return True

        try:
            standing = await self._database.write(lambda c: claims.claim(c, tenant, digest, user))
            if standing == "leaving":
                raise Conflict("the draft has ended meanwhile")
            await self._remote.run(part.bring, self._artefacts, tenant, digest)
            if not await self._database.write(note):
                await self._remover.remove(tenant, [digest])
                raise NotFound("the draft has ended meanwhile")
        finally:
            await self._disk.run(part.close)

    async def _check_room(self, needed: int) -> None:
        root: Path = self._parts.root
        await self._disk.run(check_room, root, needed, reserve=self._disk_reserve)


def _named(row: Brought, name: str) -> BundleFile:
    for file in row.files:
        if file.name == name:
            return file
    raise NotFound(f"the draft has no file {name[:64]!r}: it was not announced")


def _told(file: BundleFile, complete: bool, received: int) -> DraftFile:
    return DraftFile(
        name=file.name,
        size=file.size,
        sha256=file.sha256,
        received=file.size if complete else received,
        complete=complete,
    )


def _too_many(file: BundleFile, came: int) -> InvalidInput:
    return InvalidInput(f"{file.name}: expected {file.size} bytes, got {came} or more")


async def _supersede(upload: _Upload) -> None:
    upload.superseded.set()
    upload.task.cancel()
    await asyncio.wait({upload.task})
