"""When keys were last used, to the minute, written in one transaction a minute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, bindparam, or_, update

from aiaas_server.core.background import stop
from aiaas_server.core.errors import ServerError
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import KEYS
from aiaas_server.tenancy.identities import Identities

MINUTE: Final = 60.0

_log = logging.getLogger("aiaas_server")


class LastUsed:
    """Writes what `Identities.used` has gathered; what cannot be written waits there."""

    def __init__(self, database: Database, identities: Identities) -> None:
        self._database = database
        self._identities = identities
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write each minute, until `close`."""
        self._writing = asyncio.ensure_future(self._write_on())

    async def close(self) -> None:
        """Write what is left."""
        await stop(self._writing)
        await self.write()

    async def write(self) -> None:
        """Write now; where the database is away it is tried again with the next."""
        taken, self._identities.used = self._identities.used, {}
        if not taken:
            return
        try:
            await self._database.write(lambda c: note(c, taken), spares_room=True)
        except BaseException as error:
            self._identities.used = {**taken, **self._identities.used}
            if not isinstance(error, ServerError):
                raise
            _log.warning("when keys were used cannot be written: %s", error.message)

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(MINUTE)
            await self.write()


def note(connection: Connection, used: Mapping[str, float]) -> None:
    """Write when keys were used, where that is later than what is known."""
    rows = [{"key": key, "at": at // MINUTE * MINUTE} for key, at in used.items()]
    later = or_(KEYS.c.last_used.is_(None), KEYS.c.last_used < bindparam("at"))
    change = update(KEYS).where(KEYS.c.id == bindparam("key"), later)
    connection.execute(change.values(last_used=bindparam("at")), rows)
