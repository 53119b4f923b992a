"""`Store`: the versions of data sets, with their rows as artefacts."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aiaas_client.protocol.datasets import Dataset, DatasetErasure
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, NotFound, ServerError
from aiaas_server.datasets.draft_rows import DraftRow, drafts_of, end_draft, get_draft
from aiaas_server.datasets.rows import (
    DatasetRow,
    NewDataset,
    brief,
    document,
    erase_row,
    get_dataset,
    get_ready,
    list_datasets,
    list_versions,
    put_version,
)
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import AdmitFiles
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt, digest_of
from aiaas_server.state.artefacts.parts import Part, Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database

_log = logging.getLogger("aiaas_server")


InUse = Callable[[Connection, str, str], str | None]
"""The id of a job that needs the data set of that tenant and reference; None where none does."""


class Kept(NamedTuple):
    """A version, and whether it is new; the same rows were that version already else."""

    row: DatasetRow
    created: bool


class Store:
    """All data sets.

    Args:
        database: The rows.
        artefacts: Their Parquet files.
        parts: Whose locks tell that bytes are on their way.
        remover: For what nobody uses any more.
        remote: Threads for the store, which may be slow.
        in_use: Which job needs one.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        parts: Parts,
        remover: Remover,
        remote: Threads,
        in_use: InUse,
        admit: AdmitFiles | None = None,
    ) -> None:
        self._admit = admit
        self._database = database
        self._artefacts = artefacts
        self._parts = parts
        self._remover = remover
        self._remote = remote
        self._in_use = in_use

    # What there is

    async def page(self, tenant: str, after: str, limit: int) -> list[Dataset]:
        """The latest version of each, by name, without what takes room."""
        found = await self._database.read(lambda c: list_datasets(c, tenant, after, limit))
        return [brief(row) for row in found]

    async def versions(
        self, tenant: str, name: str, before: int | None, limit: int
    ) -> list[Dataset]:
        """The versions of one, the newest first, erased ones too, without what takes room.

        Raises:
            NotFound: There is none of that name.
        """
        found = await self._database.read(lambda c: list_versions(c, tenant, name, before, limit))
        return [brief(row) for row in found]

    async def get(self, tenant: str, name: str, number: int | None) -> Dataset:
        """A version, erased or not; the latest that is not where `number` is None.

        Raises:
            NotFound: There is none.
        """
        return document(await self._database.read(lambda c: get_dataset(c, tenant, name, number)))

    async def ready(self, tenant: str, ref: str) -> DatasetRow:
        """A version whose rows are there.

        Raises:
            NotFound: There is none, or it was erased.
        """
        return await self._database.read(lambda c: get_ready(c, tenant, ref))

    async def pieces(self, row: DatasetRow) -> AsyncIterator[bytes]:
        """Its Parquet file, checked on the way; what turns out to be damaged breaks off.

        Raises:
            Conflict: The bytes are damaged or gone: the same rows, uploaded again, make it whole.
            StateUnavailable: The store does not answer.
        """
        pieces = self._artefacts.pieces(row.tenant, row.digest)
        try:
            while piece := await self._remote.run(_next, pieces):
                yield piece
        except Corrupt as error:
            await self._database.write(lambda c: _await_again(c, row), spares_room=True)
            _log.error("data set '%s': %s", row.ref, error.message)
            raise Conflict(f"data set '{row.ref}': {error.message}; upload it again") from None

    # Keeping

    async def keep(
        self, author: Author, new: NewDataset, path: Path, draft: DraftRow | None = None
    ) -> Kept:
        """Keep a Parquet file, which is used up, as the next version, or find it known.

        Args:
            draft: Ends with it; what is kept where it has ended already is thrown away.
        Raises:
            NotFound: The draft has ended meanwhile.
            StorageFull: There is no room.
            QuotaExceeded: The tenant may not have so much.
            StateUnavailable: The store or the database does not answer.
        """
        tenant = author.tenant
        digest = await self._remote.run(digest_of, path)
        size = await self._remote.run(lambda: path.stat().st_size)
        place = uuid.uuid4().hex
        user = claims.upload_user(place)

        def conclude(connection: Connection) -> Kept:
            if draft is not None:
                end_draft(connection, get_draft(connection, tenant, draft.name, draft.id))
            if self._admit is not None:
                self._admit(connection, tenant, {digest: size})
            kept = Kept(*put_version(connection, author, new, digest, size))
            claims.set_size(connection, tenant, digest, size)
            claims.release(connection, tenant, user, digest)
            return kept

        part = await self._remote.run(self._hold, place, digest)
        done = False
        try:
            if await self._remover.claim(tenant, digest, user) == "awaited":
                await self._remote.run(self._artefacts.put, tenant, digest, path)
            kept = await self._database.write(conclude)
            done = True
        finally:
            await self._remote.run(self._let_go, part, place)
            if not done:
                await self._undo(tenant, digest, user)
        return kept

    def _hold(self, place: str, digest: str) -> Part:
        """A lock that ends with this process: while it is had, no sweep ends the upload's use."""
        part = self._parts.open(place, digest)
        assert part is not None, "nobody else knows of it"
        return part

    def _let_go(self, part: Part, place: str) -> None:
        part.close()
        self._parts.drop(place)

    async def _undo(self, tenant: str, digest: str, user: str) -> None:
        """What cannot be done now is done by the next sweep."""
        try:
            await self._database.write(
                lambda c: claims.release(c, tenant, user, digest), spares_room=True
            )
            await self._remover.remove(tenant, [digest])
        except ServerError as error:
            _log.warning("rows that were not kept go with the next sweep: %s", error.message)

    # Erasing

    async def erase(self, author: Author, name: str, number: int) -> DatasetErasure:
        """Erase the rows of one version; that it was there is remembered.

        Raises:
            NotFound: There is none, or it has been erased.
            Conflict: A job needs it.
        """
        row = await self._database.write(
            lambda c: take_version(c, author, name, number, self._in_use), spares_room=True
        )
        _log.info("data set '%s': erased by %s", row.ref, author.by)
        return await self._finish(row)

    async def erase_all(
        self, author: Author, name: str
    ) -> tuple[list[DatasetErasure], list[DraftRow]]:
        """Erase all versions of a data set; also gives its drafts, which have ended.

        Raises:
            NotFound: There is none of that name, or all of it has been erased.
            Conflict: A job needs one of them.
        """
        rows, drafts = await self._database.write(
            lambda c: take_all(c, author, name, self._in_use), spares_room=True
        )
        _log.info("data set '%s': erased by %s, %d versions", name, author.by, len(rows))
        return [await self._finish(row) for row in rows], list(drafts)

    async def _finish(self, row: DatasetRow) -> DatasetErasure:
        try:
            gone = await self._remover.remove(row.tenant, [row.digest])
        except ServerError as error:
            _log.warning("erasure of '%s' goes on with the next sweep: %s", row.ref, error.message)
            gone = []
        kept = [digest for digest in [row.digest] if digest not in gone]
        return DatasetErasure(name=row.name, number=row.number, gone=gone, kept=kept)


# Inside a transaction


def take_version(
    connection: Connection, author: Author, name: str, number: int, in_use: InUse
) -> DatasetRow:
    """Take a version away; see `Store.erase`."""
    row = get_dataset(connection, author.tenant, name, number)
    if row.state == "erased":
        raise NotFound(f"data set '{row.ref}' was erased")
    _take(connection, author, row, in_use)
    return row


def take_all(
    connection: Connection, author: Author, name: str, in_use: InUse
) -> tuple[Sequence[DatasetRow], Sequence[DraftRow]]:
    """Take all versions and drafts away; see `Store.erase_all`."""
    get_dataset(connection, author.tenant, name)
    found = list_versions(connection, author.tenant, name, limit=2**31 - 1)
    rows = [row for row in found if row.state == "ready"]
    for row in rows:
        _take(connection, author, row, in_use)
    drafts = drafts_of(connection, author.tenant, name)
    for draft in drafts:
        end_draft(connection, draft)
    return rows, drafts


def _take(connection: Connection, author: Author, row: DatasetRow, in_use: InUse) -> None:
    job = in_use(connection, row.tenant, row.ref)
    if job is not None:
        raise Conflict(
            f"data set '{row.ref}' is needed by job '{job}': wait for its end, or cancel it"
        )
    erase_row(connection, author, row)


def _await_again(connection: Connection, row: DatasetRow) -> None:
    """Whoever brings these bytes again makes the data set whole."""
    found = claims.find(connection, row.tenant, [row.digest]).get(row.digest)
    if found is not None and not found.leaving:
        claims.set_size(connection, row.tenant, row.digest, claims.AWAITED)


def _next(pieces: Iterator[bytes]) -> bytes:
    return next(pieces, b"")
