"""`TenantEraser`: takes a tenant away, whole, and certifies it. Ended anywhere, it goes on later.

The keys are revoked first, in the transaction that begins it; every process refuses them within
the time in which it follows the feed. What such a process let in before may still bring something,
so what is found is taken away again until that time is over and nothing is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from aiaas_client.protocol.erasure import Certificate, TenantErasure
from aiaas_server.core.author import Author
from aiaas_server.core.background import stop
from aiaas_server.core.errors import NotFound, ServerError
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.data_keys import cut_log
from aiaas_server.state.artefacts.parts import Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database
from aiaas_server.tenancy import erasures
from aiaas_server.tenancy.certificates import Signer
from aiaas_server.tenancy.erasures import ErasureRow

_log = logging.getLogger("aiaas_server")

SETTLED: Final = 6.0
"""Seconds after which no process lets in a key that was revoked, with some to spare."""
_LOOK: Final = 60.0  # seconds after which those that another process left are looked for
_AGAIN: Final = 0.5
_MANY: Final = 200  # artefacts removed at a time, with others' removals between


class TenantEraser:
    """Erases tenants, for one server.

    Args:
        database: The rows.
        artefacts, parts, remover: The bytes.
        threads: Where disk and store are waited for.
        signer: Signs certificates.
        refresh: Awaited once keys are revoked: this process refuses them from then on.
        forget: Drops what this machine has of a tenant for use; blocks.
        settled: Seconds after which no other process lets them in.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        parts: Parts,
        remover: Remover,
        threads: Threads,
        signer: Signer,
        *,
        refresh: Callable[[], Awaitable[object]],
        forget: Callable[[str], object],
        settled: float = SETTLED,
    ) -> None:
        self._database = database
        self._artefacts = artefacts
        self._parts = parts
        self._remover = remover
        self._threads = threads
        self._signer = signer
        self._refresh = refresh
        self._forget = forget
        self._settled = settled
        self._asked = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Go on with what was begun, here or elsewhere, and with what will be asked for."""
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; whoever starts next goes on."""
        await stop(self._working)

    async def erase(self, author: Author, tenant: str, backups: list[str]) -> TenantErasure:
        """Begin; its keys are refused when this returns. Asked again, it tells how far it is.

        Raises:
            NotFound: There is no such tenant.
            InvalidInput: It is the operator's.
        """
        row = await self._database.write(
            lambda c: erasures.begin(c, author, tenant, backups), spares_room=True
        )
        with suppress(ServerError):  # then the feed tells, as it tells all others
            await self._refresh()
        self._asked.set()
        _log.info("tenant '%s': erased by %s", tenant, author.by)
        return erasures.document(row)

    async def find(self, tenant: str) -> TenantErasure:
        """How far it is.

        Raises:
            NotFound: Nobody has asked for it.
        """
        row = await self._database.read(lambda c: erasures.find_erasure(c, tenant))
        if row is None:
            raise NotFound(f"tenant '{tenant[:64]}': nobody has asked to erase it")
        return erasures.document(row)

    async def _work(self) -> None:
        while True:
            self._asked.clear()
            try:
                for row in await self._database.read(erasures.running):
                    await self._carry_out(row)
            except (ServerError, OSError) as error:
                _log.warning("an erasure goes on later: %s", error)
                await asyncio.sleep(_AGAIN)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._asked.wait()

    async def _carry_out(self, row: ErasureRow) -> None:
        """All of it, from its beginning: what has gone is gone."""
        await self._end_jobs(row.tenant)
        end = row.created + self._settled
        while await self._take(row) or time.time() < end:  # noqa: ASYNC110  # others let things in
            await asyncio.sleep(_AGAIN)
        await self._certify(row)

    async def _end_jobs(self, tenant: str) -> None:
        """Wait until nobody works for it any more, or was last seen to."""
        cancel = partial(erasures.cancel_jobs, tenant=tenant)
        while await self._database.write(cancel, spares_room=True):  # noqa: ASYNC110  # elsewhere
            await asyncio.sleep(_AGAIN)

    async def _take(self, row: ErasureRow) -> bool:
        """Take away what there is; whether there was anything."""
        taken = await self._database.write(lambda c: erasures.take(c, row), spares_room=True)
        for at in range(0, len(taken.digests), _MANY):
            await self._remover.remove(row.tenant, taken.digests[at : at + _MANY])
        for draft in taken.drafts:
            await self._threads.run(self._parts.drop, draft)
        await self._threads.run(self._forget, row.tenant)
        return bool(taken.rows or taken.digests)

    def _strays(self, tenant: str) -> list[str]:
        """Objects of the store that no row knew of."""
        return [digest for owner, digest, _ in self._artefacts.sizes() if owner == tenant]

    async def _certify(self, row: ErasureRow) -> None:
        strays = await self._threads.run(self._strays, row.tenant)
        await self._remover.remove(row.tenant, strays)
        await self._threads.run(cut_log, self._database)
        empty = await self._database.read(lambda c: erasures.is_empty(c, row.tenant))
        left = await self._threads.run(self._strays, row.tenant)
        noted = await self._database.read(lambda c: erasures.find_erasure(c, row.tenant))
        assert noted is not None, "it is never removed"
        if noted.state != "running":  # another process was first
            return
        certificate = self._signer.signed(
            Certificate(
                **noted.certificate,
                id=row.id,
                tenant=row.tenant,
                requested=row.created,
                requested_by=row.created_by,
                finished=time.time(),
                verified=empty and not left,
            )
        )
        written = certificate.model_dump(mode="json")
        write = partial(erasures.finish, id=row.id, certificate=written)
        if await self._database.write(write, spares_room=True):
            _log.info("tenant '%s': nothing is left of it", row.tenant)
