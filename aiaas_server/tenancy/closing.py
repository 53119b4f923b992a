"""Months are closed by themselves, by whichever process comes first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Connection, select

from aiaas_server.core.background import stop
from aiaas_server.core.errors import ServerError
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import PRICES, STATEMENTS, TENANTS, USAGE
from aiaas_server.tenancy.months import Month, month_at
from aiaas_server.tenancy.statements import CLOSING_LAG, close

INTERVAL: Final = 600.0
"""Seconds between two looks whether there is a month to be closed."""
_log = logging.getLogger("aiaas_server")


class Closing:
    """Closes months that are over.

    Args:
        clock: Gives seconds since 1970.
        interval: Seconds between two looks.
        lag: Seconds behind a month's end until it is closed.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        interval: float = INTERVAL,
        lag: float = CLOSING_LAG,
    ) -> None:
        self._database = database
        self._clock = clock
        self._interval = interval
        self._lag = lag
        self._done: Month | None = None  # what comes in of it later is closed with the next
        self._following: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Close months, from now on."""
        self._following = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop; a month that is being closed is closed, or is not."""
        await stop(self._following)

    async def look(self) -> int:
        """Close what is to be closed now; gives how many statements that are.

        Raises:
            ServerError: The database does not answer, or is full; the rest is closed later.
        """
        now = self._clock()
        month = month_at(month_at(now - self._lag).begin - 1)  # the last that is over
        if month == self._done:
            return 0
        waiting = await self._database.read(lambda c: open_in(c, month))
        if waiting is None:
            return 0
        for tenant in waiting:
            closing = partial(close, tenant=tenant, month=month, now=now, lag=self._lag)
            await self._database.write(closing)
        self._done = month
        return len(waiting)

    async def _follow(self) -> None:
        while True:
            try:
                if closed := await self.look():
                    _log.info("%d statements are closed", closed)
            except ServerError as error:
                _log.warning("statements cannot be closed now: %s", error.message)
            except Exception:
                _log.exception("statements cannot be closed")
            await asyncio.sleep(self._interval)


def open_in(connection: Connection, month: Month) -> list[str] | None:
    """The tenants whose statement of a month that is over is to be closed.

    None where nothing has a price: a price counts for no month that is over, so nothing can come of
    it later.
    """
    if connection.execute(select(PRICES.c.id).limit(1)).first() is None:
        return None
    there = select(TENANTS.c.name).where(TENANTS.c.created < month.end)
    using = select(USAGE.c.tenant).where(USAGE.c.hour < month.end).distinct()
    closed = select(STATEMENTS.c.tenant).where(STATEMENTS.c.month == str(month))
    names = {row[0] for asked in (there, using) for row in connection.execute(asked)}
    known = {row[0] for row in connection.execute(select(TENANTS.c.name))} | {"default"}
    return sorted((names & known) - {row[0] for row in connection.execute(closed)})
