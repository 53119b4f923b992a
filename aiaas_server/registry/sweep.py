"""Cleaning: what processes left that ended in the middle of something, and what is damaged.

At the start and every few minutes. Nothing here decides by the age of a file whether somebody still
needs it: rows say what is used (`claims`), locks that end with their process say what is being
written (`parts`, `cache`, `stores`). Objects of the store that no row knows are left alone. A
version whose files are missing becomes `corrupt`; nothing of it is deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, select

from aiaas_server.core.errors import ServerError, StateUnavailable
from aiaas_server.registry.cache import Cache
from aiaas_server.registry.damage import OnDamage, mark_damaged, nobody
from aiaas_server.registry.draft_rows import expired_drafts
from aiaas_server.registry.drafts import Drafts
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import draft_ids
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.parts import Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database
from aiaas_server.state.tables import MODELS, VERSIONS

_log = logging.getLogger("aiaas_server")

INTERVAL: Final = 600.0
"""Seconds from one cleaning to the next."""
_LOST_UPLOAD: Final = 24 * 3600.0  # seconds after which a shared store's upload is over for sure


class Swept(NamedTuple):
    """What a cleaning found."""

    files: int = 0
    drafts: int = 0
    artefacts: int = 0
    caches: int = 0
    corrupt: int = 0


class Sweep:
    """Cleans up, for one server; several may do so at once.

    Args:
        database: The rows.
        artefacts: The bytes.
        parts: The files that are being received.
        drafts: The open drafts.
        cache: The directories of versions.
        remover: Removes artefacts.
        remote: Threads for the store.
        damaged: Is told of what is.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        parts: Parts,
        drafts: Drafts,
        cache: Cache,
        remover: Remover,
        remote: Threads,
        damaged: OnDamage = nobody,
    ) -> None:
        self._damaged = damaged
        self._database = database
        self._artefacts = artefacts
        self._parts = parts
        self._drafts = drafts
        self._cache = cache
        self._remover = remover
        self._remote = remote
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Clean, and go on doing so; a store that is elsewhere keeps nobody waiting for it."""
        if not self._artefacts.shared:
            await self.clean()
        self._running = asyncio.create_task(self._repeat(at_once=self._artefacts.shared))

    async def close(self) -> None:
        """Stop; what is being cleaned is finished by the next one."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _repeat(self, at_once: bool) -> None:
        if at_once:
            await self.clean()
        while True:
            await asyncio.sleep(INTERVAL)
            await self.clean()

    async def clean(self) -> Swept:
        """Clean once. What cannot be done now is said in the log, and done the next time."""
        return Swept(
            files=await self._tried(self._stray_files()),
            drafts=await self._tried(self._old_drafts()),
            artefacts=await self._tried(self._unused_artefacts()),
            caches=await self._tried(self._unneeded_caches()),
            corrupt=await self._tried(self._missing_bytes()),
        )

    async def _tried(self, step: Coroutine[Any, Any, int]) -> int:
        try:
            return await step
        except (ServerError, OSError) as error:
            _log.warning("cleaning goes on later: %s", error)
            return 0

    async def _stray_files(self) -> int:
        """Files that their writers left, and parts of drafts that are no more."""
        held = await self._remote.run(self._parts.drafts)  # before the rows, which come first
        known = await self._database.read(draft_ids)
        strays = [draft for draft in held if draft not in known]
        strays = await self._remote.run(lambda: [d for d in strays if not self._parts.is_held(d)])
        for draft in strays:
            await self._remote.run(self._parts.drop, draft)
        left = await self._remote.run(self._artefacts.clean)
        return len(strays) + left + await self._remote.run(self._cache.clean)

    async def _old_drafts(self) -> int:
        old = await self._database.read(expired_drafts)
        for row in old:
            await self._drafts.remove(row)
        return len(old)

    async def _unused_artefacts(self) -> int:
        """Bytes that nobody uses any more, also those that a remover did not come to."""
        await self._end_lost_uploads()
        removed, seen = 0, set[tuple[str, str]]()
        while True:
            found = await self._database.read(claims.unused)
            by_tenant: dict[str, list[str]] = {}
            for tenant, digest in found:
                if (tenant, digest) not in seen:
                    by_tenant.setdefault(tenant, []).append(digest)
            if not by_tenant:
                return removed
            for tenant, digests in by_tenant.items():
                removed += len(await self._remover.remove(tenant, digests))
            seen |= set(found)

    async def _end_lost_uploads(self) -> None:
        """End the uses of uploads whose process is gone: nobody has the part's lock."""
        for upload in await self._database.read(claims.uploads):
            if await self._remote.run(self._is_lost, upload):
                lost = upload
                await self._database.write(partial(_end_upload, upload=lost), spares_room=True)

    def _is_lost(self, upload: claims.Upload) -> bool:
        if self._artefacts.shared:  # its part may be another machine's
            return upload.created < time.time() - _LOST_UPLOAD
        return not self._parts.is_busy(upload.draft, upload.digest)

    async def _unneeded_caches(self) -> int:
        kept = await self._remote.run(self._cache.kept)  # before the rows, which come first
        known = await self._database.read(_bundles)
        unneeded = [found for found in kept if found not in known]
        for tenant, digest in unneeded:
            await self._remote.run(self._cache.drop, tenant, digest)
        return len(unneeded)

    async def _missing_bytes(self) -> int:
        """Versions of which a file is missing in the store, or has another size."""
        needed = await self._database.read(_verified_files)
        suspects = await self._remote.run(self._wrong, needed)
        for tenant, digest, reason in suspects:
            told = partial(mark_damaged, tenant=tenant, digest=digest, reason=reason)
            self._damaged(await self._database.write(told, spares_room=True))
        return len(suspects)

    def _wrong(self, needed: dict[tuple[str, str], int]) -> list[tuple[str, str, str]]:
        there: dict[tuple[str, str], int] = {}
        if self._artefacts.shared:  # one list is less to ask than each object's head
            there = {(tenant, digest): size for tenant, digest, size in self._artefacts.sizes()}
        wrong = []
        for (tenant, digest), size in needed.items():
            if there.get((tenant, digest)) == size:
                continue
            found = self._artefacts.size(tenant, digest)
            if found != size:
                came = "is missing" if found is None else f"has {found} of {size} bytes"
                try:
                    self._artefacts.check_openable(tenant, digest)
                except StateUnavailable as error:  # whole, for a server that has the key
                    _log.error("%s", error.message)
                    continue
                wrong.append((tenant, digest, f"artefact {digest[:12]} {came} in the store"))
        return wrong


def _end_upload(connection: Connection, upload: claims.Upload) -> None:
    claims.release(connection, upload.tenant, claims.upload_user(upload.draft), upload.digest)


def _bundles(connection: Connection) -> set[tuple[str, str]]:
    """Tenant and digest of all bundles of which a version is left."""
    asked = (
        select(MODELS.c.tenant, VERSIONS.c.digest)
        .join(MODELS, MODELS.c.id == VERSIONS.c.model_id)
        .where(VERSIONS.c.state != "erased")
        .distinct()
    )
    return {(row.tenant, row.digest) for row in connection.execute(asked)}


def _verified_files(connection: Connection) -> dict[tuple[str, str], int]:
    """By tenant and digest, the size of all files of verified versions."""
    asked = (
        select(MODELS.c.tenant, VERSIONS.c.files)
        .join(MODELS, MODELS.c.id == VERSIONS.c.model_id)
        .where(VERSIONS.c.state == "verified")
    )
    return {
        (row.tenant, file["sha256"]): file["size"]
        for row in connection.execute(asked)
        for file in row.files
    }
