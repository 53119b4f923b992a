"""Drafts: versions that are being brought, file by file.

How their bytes come is `state.artefacts.uploads`. A draft ends by its commit, by its refusal, by
hand, or after a day; nothing of it stays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from sqlalchemy import Connection

from aiaas_client.protocol.management import Draft, DraftRequest, bundle_digest
from aiaas_server.core.errors import Conflict
from aiaas_server.core.events import OPERATOR
from aiaas_server.registry.damage import mark_stored
from aiaas_server.registry.draft_rows import (
    DraftRow,
    check_request,
    claim_stored,
    end_draft,
    find_same,
    get_draft,
    insert_draft,
    renew_draft,
)
from aiaas_server.registry.rows import Author
from aiaas_server.state.artefacts.announced import KEPT_SECONDS
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.parts import Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.artefacts.uploads import Uploads
from aiaas_server.state.database import Database

AdmitDraft = Callable[[Connection, Author, str, DraftRequest], None]
"""Is asked in the transaction that makes a draft of a model, by its name; raises where it may not
be made: the quota."""


class DraftLimits(NamedTuple):
    """What a draft may take; bytes."""

    file_bytes: int
    disk_reserve: int


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
        admit: AdmitDraft | None = None,
        expect: Callable[[], object] = lambda: None,
    ) -> None:
        self._expect = expect
        self._database = database
        self._parts = parts
        self._disk = disk
        self._limits = limits
        self._is_taken = is_taken
        self._admit = admit
        self._uploads: Uploads[DraftRow] = Uploads(
            database,
            artefacts,
            parts,
            disk,
            remote,
            remover,
            limits.disk_reserve,
            check_open=lambda c, row: get_draft(c, row.tenant, row.model, row.id),
            stored=mark_stored,
        )

    async def create(self, author: Author, model: str, request: DraftRequest) -> tuple[Draft, bool]:
        """Open a draft, or find the one that is open for the same bundle; whether it is new.

        Raises:
            InvalidInput: The name, or the list of files.
            PayloadTooLarge: A file is larger than the limit.
            Conflict: The name is taken by a model that is not in the registry.
            StorageFull: The disk has no room for what is to be sent.
            QuotaExceeded: The tenant may not have so much.
        """
        check_request(model, request, self._limits.file_bytes)
        if author.tenant == OPERATOR.tenant and await self._disk.run(self._is_taken, model):
            raise Conflict(
                f"model '{model}' is served from the directory of models: deploy under another name"
            )
        await self._uploads.check_announced(author.tenant, request.files)

        def open_draft(connection: Connection) -> tuple[DraftRow, bool]:
            row = find_same(connection, author.tenant, model, bundle_digest(request.files))
            created = row is None
            if self._admit is not None and created:
                self._admit(connection, author, model, request)
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
        await self._uploads.clear(row)

    def has_parts(self, draft: str) -> bool:
        """Whether anything is left of what came for a draft."""
        return (self._parts.root / draft).exists()

    async def close(self) -> None:
        """Let go of what is being received."""
        await self._uploads.close()

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
        """Take bytes of a file, and keep it once all are there; see `Uploads.receive`.

        Raises:
            NotFound: There is no such draft or file.
        """
        row = await self.row(author, model, draft)
        await self._uploads.receive(row, name, body, offset=offset, length=length)
        return await self.get(author, model, draft)

    async def _describe(self, row: DraftRow) -> Draft:
        files = await self._uploads.told(row)
        expires = row.created + KEPT_SECONDS
        return Draft(id=row.id, model=row.model, files=files, created=row.created, expires=expires)
