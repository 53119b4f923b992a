"""`Keeping`: files of a job as artefacts, by the rules of `state.artefacts.claims`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from aiaas_server.core.errors import QuotaExceeded, ServerError
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import AdmitFiles
from aiaas_server.state.artefacts.artefacts import Artefacts, digest_of
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database

T = TypeVar("T")


class Kept(NamedTuple):
    """A file that is an artefact now."""

    sha256: str
    size: int


class Keeping:
    """Keeps files, and lets go of them.

    Args:
        database: The rows.
        artefacts: The bytes.
        remover: For what nobody uses any more.
        threads: Where disk and store are waited for.
        admit: Asked for each file: the quota.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        remover: Remover,
        threads: Threads,
        admit: AdmitFiles | None = None,
    ) -> None:
        self._admit = admit
        self._database = database
        self._artefacts = artefacts
        self._remover = remover
        self._threads = threads

    async def keep(
        self, tenant: str, user: str, path: Path, note: Callable[[Connection, Kept], T | None]
    ) -> T | None:
        """Keep a file, which is used up, for `user`.

        Args:
            note: Called in the transaction in which the bytes are there; None where nobody wants
                them any more, who had the use: then they go.
        Raises:
            StorageFull: There is no room.
            QuotaExceeded: The tenant may not have so much; nothing of it is kept.
            StateUnavailable: The store or the database does not answer.
        """
        kept = await self._threads.run(_measured, path)
        if await self._remover.claim(tenant, kept.sha256, user) == "awaited":
            await self._threads.run(self._artefacts.put, tenant, kept.sha256, path)

        def conclude(connection: Connection) -> T | QuotaExceeded | None:
            if refused := self._refusal(connection, tenant, kept):
                claims.release(connection, tenant, user, kept.sha256)
                return refused
            told = note(connection, kept)
            if told is None or not claims.uses(connection, tenant, kept.sha256, user):
                claims.release(connection, tenant, user, kept.sha256)
                return None
            claims.set_size(connection, tenant, kept.sha256, kept.size)
            return told

        told = await self._database.write(conclude)
        if told is None or isinstance(told, QuotaExceeded):
            await self.remove(tenant, [kept.sha256])
        if isinstance(told, QuotaExceeded):
            raise told
        return told

    def _refusal(self, connection: Connection, tenant: str, kept: Kept) -> QuotaExceeded | None:
        try:
            if self._admit is not None:
                self._admit(connection, tenant, {kept.sha256: kept.size})
        except QuotaExceeded as error:
            return error
        return None

    async def remove(self, tenant: str, digests: Collection[str]) -> None:
        """Remove what nobody uses of these; what cannot be removed now goes with a sweep."""
        try:
            await self._remover.remove(tenant, digests)
        except ServerError:
            return


def _measured(path: Path) -> Kept:
    return Kept(digest_of(path), path.stat().st_size)
