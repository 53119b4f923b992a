"""`Keeping`: files of a job as artefacts, by the rules of `state.artefacts.claims`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from aiaas_server.core.errors import ServerError
from aiaas_server.state.artefacts import claims
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
    """

    def __init__(
        self, database: Database, artefacts: Artefacts, remover: Remover, threads: Threads
    ) -> None:
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
            StateUnavailable: The store or the database does not answer.
        """
        kept = await self._threads.run(_measured, path)
        if await self._remover.claim(tenant, kept.sha256, user) == "awaited":
            await self._threads.run(self._artefacts.put, tenant, kept.sha256, path)

        def conclude(connection: Connection) -> T | None:
            told = note(connection, kept)
            if told is None or not claims.uses(connection, tenant, kept.sha256, user):
                claims.release(connection, tenant, user, kept.sha256)
                return None
            claims.set_size(connection, tenant, kept.sha256, kept.size)
            return told

        told = await self._database.write(conclude)
        if told is None:
            await self.remove(tenant, [kept.sha256])
        return told

    async def remove(self, tenant: str, digests: Collection[str]) -> None:
        """Remove what nobody uses of these; what cannot be removed now goes with a sweep."""
        try:
            await self._remover.remove(tenant, digests)
        except ServerError:
            return


def _measured(path: Path) -> Kept:
    return Kept(digest_of(path), path.stat().st_size)
