"""Looks at the repository again and again, and acts on what has changed there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping

from aiaas_server.core.errors import ServerError
from aiaas_server.core.pool.loader import Loader
from aiaas_server.core.pool.loads import Load, settled
from aiaas_server.core.pool.states import Entry, Table

_log = logging.getLogger("aiaas_server")


class Watch:
    """Keeps what serves as the repository has it.

    Args:
        follows: Whether a model of that name, which is not put away, is to be loaded when it is
            new or has changed; the entry says what is known of it.
    """

    def __init__(self, loader: Loader, table: Table, follows: Callable[[str, Entry], bool]) -> None:
        self._loader = loader
        self._table = table
        self._follows = follows
        self._seen: Mapping[str, Hashable] = {}

    async def run(self, interval: float) -> None:
        """Look every `interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.poll()
            except ServerError as error:
                _log.error("the repository cannot be watched: %s", error.message)
            except Exception:
                _log.exception("looking at the repository failed")

    async def poll(self) -> None:
        """Look once; act on what has changed and stood still since last time.

        A file that is being copied changes between two looks and waits for the next.
        """
        snapshot = await self._loader.look(closely=True)
        loads = [
            self._begin(name)
            for name, stamp in snapshot.items()
            if self._seen.get(name) == stamp and self._is_due(name, stamp)
        ]
        self._forget_removed(snapshot)
        self._seen = snapshot
        await settled(loads)

    def _begin(self, name: str) -> Load:
        is_known = bool(self._table.serving_versions(name))
        success = "was loaded anew, as it has changed" if is_known else "was found and loaded"
        return self._loader.begin(name, self._loader.load_stored, "is not updated", success)

    def _is_due(self, name: str, stamp: Hashable) -> bool:
        entry = self._table.entries.get(name) or Entry()
        if entry.tried == stamp or entry.uploaded or entry.put_away or entry.loads:
            return False
        return self._follows(name, entry)

    def _forget_removed(self, snapshot: Mapping[str, Hashable]) -> None:
        for name, entry in list(self._table.entries.items()):
            if name in snapshot or name in self._seen or entry.uploaded or entry.tried is None:
                continue
            _log.info("model '%s' is gone from the repository, and unloaded", name)
            self._loader.forget(name)
