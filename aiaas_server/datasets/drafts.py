"""Drafts: data sets that are being brought, file by file.

How their bytes come is `state.artefacts.uploads`. A draft ends by its commit, by hand, or after a
day; nothing of it stays. Files that cannot be read stay until then: asked for again as another
format, or with other kinds, they are not sent again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiaas_client.protocol.datasets import DatasetDraft, DatasetRequest
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict
from aiaas_server.datasets.draft_rows import (
    DraftRow,
    check_request,
    end_draft,
    ensure_draft,
    expired_drafts,
    get_draft,
)
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import KEPT_SECONDS, AdmitFiles
from aiaas_server.state.artefacts.uploads import Uploads
from aiaas_server.state.database import Connection, Database


class Drafts:
    """All open drafts of data sets.

    Args:
        database: The rows.
        uploads: Their files.
        most: Bytes that the files of one may be together.
        admit: Asked for the files of each new draft.
    """

    def __init__(
        self,
        database: Database,
        uploads: Uploads[DraftRow],
        most: int,
        admit: AdmitFiles | None = None,
    ) -> None:
        self._admit = admit
        self._database = database
        self._uploads = uploads
        self._most = most

    async def create(
        self, author: Author, name: str, request: DatasetRequest
    ) -> tuple[DatasetDraft, bool]:
        """Open a draft, or find the one that is open for the same files; whether it is new.

        Raises:
            InvalidInput: The name, or the list of files.
            PayloadTooLarge: The files are larger than a data set may be.
            StorageFull: The disk has no room for what is to be sent.
            QuotaExceeded: The tenant may not have so much.
        """
        check_request(name, request, self._most)
        await self._uploads.check_announced(author.tenant, request.files)
        row, created = await self._database.write(
            lambda c: ensure_draft(c, author, name, request, self._admit)
        )
        return await self._describe(row), created

    async def get(self, author: Author, name: str, draft: str) -> DatasetDraft:
        """What has come of a draft.

        Raises:
            NotFound: There is none.
        """
        return await self._describe(await self.row(author, name, draft))

    async def row(self, author: Author, name: str, draft: str) -> DraftRow:
        """As `get`, the row."""
        return await self._database.read(lambda c: get_draft(c, author.tenant, name, draft))

    async def complete(self, author: Author, name: str, draft: str) -> DraftRow:
        """The row of a draft all of whose files are there, and kept for it.

        Raises:
            NotFound: There is none.
            Conflict: Files are missing.
        """
        return await self._database.write(lambda c: _complete(c, author, name, draft))

    async def receive(
        self,
        author: Author,
        name: str,
        draft: str,
        file: str,
        body: AsyncIterator[bytes],
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> DatasetDraft:
        """Take bytes of a file, and keep it once all are there; see `Uploads.receive`.

        Raises:
            NotFound: There is no such draft or file.
        """
        row = await self.row(author, name, draft)
        await self._uploads.receive(row, file, body, offset=offset, length=length)
        return await self.get(author, name, draft)

    async def remove(self, row: DraftRow) -> None:
        """End a draft; nothing of it stays."""
        await self._database.write(lambda c: end_draft(c, row), spares_room=True)
        await self._uploads.clear(row)

    async def clear(self, row: DraftRow) -> None:
        """Remove what a draft left that has ended."""
        await self._uploads.clear(row)

    async def sweep(self) -> int:
        """End what is older than a day; how many there were."""
        old = await self._database.read(expired_drafts)
        for row in old:
            await self.remove(row)
        return len(old)

    async def close(self) -> None:
        """Let go of what is being received."""
        await self._uploads.close()

    async def _describe(self, row: DraftRow) -> DatasetDraft:
        return DatasetDraft(
            id=row.id,
            name=row.name,
            files=await self._uploads.told(row),
            created=row.created,
            expires=row.created + KEPT_SECONDS,
        )


def _complete(connection: Connection, author: Author, name: str, draft: str) -> DraftRow:
    row = get_draft(connection, author.tenant, name, draft)
    digests = [file.sha256 for file in row.files]
    claims.claim_stored(connection, row.tenant, digests, row.user)
    there = claims.stored_for(connection, row.tenant, row.user)
    missing = [file.name for file in row.files if file.sha256 not in there]
    if missing:
        raise Conflict(
            f"{missing[0]}: not all of it has come; {len(missing)} of {len(row.files)} files are "
            "missing"
        )
    return row
