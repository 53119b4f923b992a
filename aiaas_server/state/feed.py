"""`Feed`: every process learns what was committed, whoever did it.

Level-triggered: a waiter holds the number of the last change that it knows and asks for what comes
behind it, so that a wake-up that was missed costs a delay and never a change. Commits of this
process wake it at once; those of others through `state.watch`. While the database is away nothing
comes; when it is back, everything that was committed does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from aiaas_server.core.background import stop
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.state.changes import ChangeRow, changes_after, last_change
from aiaas_server.state.database import Database
from aiaas_server.state.watch import Watch

_PAUSE: Final = 0.5  # before a database that is away is read again
_MOST_ROWS: Final = 1000

_log = logging.getLogger("aiaas_server")


class Feed:
    """The change feed of one database, for one event loop.

    It costs nothing until somebody waits for the first time; from then on it follows the database
    until it is closed, which is to be before the database is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last = 0  # the newest change that is known of
        self._waiting: set[asyncio.Event] = set()
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    async def last(self) -> int:
        """The number of the newest change, from where `beyond` then goes on.

        Raises:
            StateUnavailable: The database does not answer.
        """
        return await self._database.read(last_change)

    async def wait_beyond(self, seq: int) -> list[ChangeRow]:
        """Wait for changes behind `seq`; the first of them, at most 1,000, in order.

        Returns:
            Never empty, but when the feed is closed.
        """
        if self._following is None and not self._closed:
            self._following = asyncio.create_task(self._follow(), name="aiaas change feed")
        woken = asyncio.Event()
        self._waiting.add(woken)
        try:
            while not self._closed:
                woken.clear()
                if self._last > seq and (rows := await self._rows(seq)):
                    return rows
                await woken.wait()
        finally:
            self._waiting.discard(woken)
        return []

    async def beyond(self, seq: int) -> AsyncIterator[list[ChangeRow]]:
        """All changes behind `seq`, as they come, in batches; ends when the feed is closed."""
        while rows := await self.wait_beyond(seq):
            seq = rows[-1].seq
            yield rows

    async def close(self) -> None:
        """End all waiting."""
        self._closed = True
        self._wake()
        await stop(self._following)

    async def _rows(self, seq: int) -> list[ChangeRow]:
        """The next rows; none where the database has gone away since they were heard of."""
        try:
            return await self._database.read(lambda c: changes_after(c, seq, _MOST_ROWS))
        except StateUnavailable:
            asyncio.get_running_loop().call_later(_PAUSE, self._wake)
            return []

    def _wake(self) -> None:
        for woken in self._waiting:
            woken.set()

    async def _follow(self) -> None:
        """Keep `_last` true, and wake whoever waits when it has grown."""
        loop = asyncio.get_running_loop()
        poked = asyncio.Event()

        def poke() -> None:  # from other threads
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(poked.set)

        unlisten = self._database.listen(poke)
        watch = Watch(self._database.engine, poke)
        try:
            while True:
                poked.clear()
                if await self._look():
                    await poked.wait()
                else:
                    await asyncio.sleep(_PAUSE)
        finally:
            unlisten()
            await asyncio.to_thread(watch.stop)

    async def _look(self) -> bool:
        """See how far the feed is; False where the database does not tell."""
        try:
            last = await self.last()
        except StateUnavailable:
            return False
        except Exception:
            _log.exception("the change feed cannot be read")
            return False
        if last > self._last:
            self._last = last
            self._wake()
        return True
