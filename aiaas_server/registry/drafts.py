"""Drafts: versions that are being brought, file by file.

A file is received into a part, hashed as it comes, and moved to the store once its digest is the
announced one. What a client has sent before it broke off stays, and it goes on from there. What the
tenant has in the store already is not sent again. A draft ends by its commit, by its refusal, by
hand, or after a day; nothing of it stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection

from aiaas_client.protocol.management import (
    BundleFile,
    Draft,
    DraftFile,
    DraftRequest,
    bundle_digest,
)
from aiaas_server.core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    ServerError,
    StateUnavailable,
)
from aiaas_server.registry.damage import mark_stored
from aiaas_server.registry.draft_rows import (
    KEPT_SECONDS,
    DraftRow,
    check_request,
    claim_stored,
    complete_digests,
    end_draft,
    find_same,
    get_draft,
    insert_draft,
    renew_draft,
)
from aiaas_server.registry.rows import Author
from aiaas_server.state.artefacts import claims
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
_CLAIMS: Final = 5

Admit = Callable[[Connection, Author, DraftRequest], None]
"""Is asked in the transaction that makes a draft; raises where it may not be made: the quota."""


class DraftLimits(NamedTuple):
    """What a draft may take; bytes."""

    file_bytes: int
    disk_reserve: int


class _Upload(NamedTuple):
    task: asyncio.Task[None]
    superseded: asyncio.Event


class Drafts:
    """All open drafts.

    Args:
        database: The rows.
        artefacts: Where whole files go.
        parts: Where they grow.
        disk: Threads for parts.
        remote: Threads for the store, which may be slow.
        remover: For what a draft leaves.
        limits: What a draft may take.
        is_taken: Whether a name is that of a model beside the registry; blocks.
        admit: Asked for each new draft.
        expect: Told that bytes are on their way which will be verified.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        parts: Parts,
        disk: Threads,
        remote: Threads,
        remover: Remover,
        limits: DraftLimits,
        *,
        is_taken: Callable[[str], bool],
        admit: Admit | None = None,
        expect: Callable[[], object] = lambda: None,
    ) -> None:
        self._expect = expect
        self._database = database
        self._artefacts = artefacts
        self._parts = parts
        self._disk = disk
        self._remote = remote
        self._remover = remover
        self._limits = limits
        self._is_taken = is_taken
        self._admit = admit
        self._uploads: dict[tuple[str, str], _Upload] = {}
        self._keeping = Joined()

    async def create(self, author: Author, model: str, request: DraftRequest) -> tuple[Draft, bool]:
        """Open a draft, or find the one that is open for the same bundle; whether it is new.

        Raises:
            InvalidInput: The name, or the list of files.
            PayloadTooLarge: A file is larger than the limit.
            Conflict: The name is taken by a model that is not in the registry.
            StorageFull: The disk has no room for what is to be sent.
        """
        check_request(model, request, self._limits.file_bytes)
        if await self._disk.run(self._is_taken, model):
            raise Conflict(
                f"model '{model}' is served from the directory of models: deploy under another name"
            )
        await self._check_room(await self._bytes_missing(author, request))

        def open_draft(connection: Connection) -> tuple[DraftRow, bool]:
            row = find_same(connection, author.tenant, model, bundle_digest(request.files))
            created = row is None
            if self._admit is not None and created:
                self._admit(connection, author, request)
            if row is None:
                row = insert_draft(connection, author, model, request)
            else:
                row = renew_draft(connection, row, request)
            claim_stored(connection, row)
            return row, created

        row, created = await self._database.write(open_draft)
        draft = await self._describe(row)
        if draft.missing:
            self._expect()
        return draft, created

    async def get(self, author: Author, model: str, draft: str) -> Draft:
        """What has come of a draft.

        Raises:
            NotFound: There is none.
        """
        return await self._describe(await self.row(author, model, draft))

    async def row(self, author: Author, model: str, draft: str) -> DraftRow:
        """As `get`, the row."""
        return await self._database.read(lambda c: get_draft(c, author.tenant, model, draft))

    async def remove(self, row: DraftRow) -> None:
        """End a draft; nothing of it stays."""
        await self._database.write(lambda c: end_draft(c, row), spares_room=True)
        await self.clear(row)

    async def clear(self, row: DraftRow) -> None:
        """Remove what a draft left that has ended."""
        for key, upload in list(self._uploads.items()):
            if key[0] == row.id:
                await _supersede(upload)
        await self._disk.run(self._parts.drop, row.id)
        digests = [file.sha256 for file in row.request.files]
        try:
            await self._remover.remove(row.tenant, digests)
        except ServerError as error:
            _log.warning("draft %s: its files go with the next sweep: %s", row.id, error.message)

    def has_parts(self, draft: str) -> bool:
        """Whether anything is left of what came for a draft."""
        return (self._parts.root / draft).exists()

    async def close(self) -> None:
        """Let go of what is being received."""
        for upload in list(self._uploads.values()):
            await _supersede(upload)
        await self._keeping.close()

    # Receiving

    async def receive(
        self,
        author: Author,
        model: str,
        draft: str,
        name: str,
        body: AsyncIterator[bytes],
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> Draft:
        """Take bytes of a file, and keep it once all are there.

        Whoever breaks off is asked to go on where it was. A second request for the same file takes
        the place of the first, whose client may have left unseen.

        Args:
            name: Of the file.
            body: The bytes.
            offset: Where they belong; None begins anew.
            length: How many will come, where that is known.
        Raises:
            NotFound: There is no such draft or file.
            Conflict: `offset` is not what has been received so far, or somebody else sends it.
            InvalidInput: More bytes came than announced, or others; they are dropped.
            StorageFull: The disk has no room.
            StateUnavailable: The store does not answer; what came is kept.
        """
        row = await self.row(author, model, draft)
        file = row.file(name)
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
        return await self.get(author, model, draft)

    async def _receive(
        self,
        row: DraftRow,
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
            if await self._claim(row, file) == "stored":
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

    async def _open(self, row: DraftRow, file: BundleFile) -> Part:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            part = await self._disk.run(self._parts.open, row.id, file.sha256)
            if part is not None:
                return part
            if time.monotonic() > until:
                raise Conflict(f"{file.name}: another request sends it now")
            await asyncio.sleep(_ASK)

    async def _claim(self, row: DraftRow, file: BundleFile) -> claims.Standing:
        """Use the artefact for the draft; one that is being removed is gone first."""

        def claim(connection: Connection) -> claims.Standing:
            get_draft(connection, row.tenant, row.model, row.id)
            return claims.claim(connection, row.tenant, file.sha256, row.user)

        for _ in range(_CLAIMS):
            standing = await self._database.write(claim)
            if standing != "leaving":
                return standing
            await self._remover.remove(row.tenant, [file.sha256])
        raise StateUnavailable(f"{file.name}: the same bytes are being removed; try again")

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

    async def _keep(self, row: DraftRow, file: BundleFile, part: Part) -> None:
        """Move a whole part to the store, by the rules of `claims`."""
        tenant, digest, user = row.tenant, file.sha256, claims.upload_user(row.id)

        def note(connection: Connection) -> bool:
            claims.release(connection, tenant, user, digest)
            if not claims.uses(connection, tenant, digest, row.user):
                return False  # the draft has ended
            mark_stored(connection, tenant, digest, file.size)
            return True

        try:
            standing = await self._database.write(lambda c: claims.claim(c, tenant, digest, user))
            if standing == "leaving":
                raise Conflict("the draft has ended meanwhile")
            await self._remote.run(self._artefacts.put, tenant, digest, part.path)
            if not await self._database.write(note):
                await self._remover.remove(tenant, [digest])
                raise NotFound("the draft has ended meanwhile")
        finally:
            await self._disk.run(part.close)

    # The rest

    async def _describe(self, row: DraftRow) -> Draft:
        complete = await self._database.read(lambda c: complete_digests(c, row))

        def look() -> list[DraftFile]:
            return [
                _told(file, file.sha256 in complete, self._parts.size(row.id, file.sha256))
                for file in row.request.files
            ]

        files = await self._disk.run(look)
        expires = row.created + KEPT_SECONDS
        return Draft(id=row.id, model=row.model, files=files, created=row.created, expires=expires)

    async def _bytes_missing(self, author: Author, request: DraftRequest) -> int:
        sizes = {file.sha256: file.size for file in request.files}
        rows = await self._database.read(lambda c: claims.find(c, author.tenant, sizes))
        return sum(s for d, s in sizes.items() if d not in rows or not rows[d].stored)

    async def _check_room(self, needed: int) -> None:
        root: Path = self._parts.root
        await self._disk.run(check_room, root, needed, reserve=self._limits.disk_reserve)


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
