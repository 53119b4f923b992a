"""Directories in which something is done once: each is gone with its end, or with its process."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from aiaas_server.state.artefacts.stores import file_errors
from aiaas_server.state.artefacts.threads import Threads

_LOCK: Final = ".lock"


class Scratch:
    """Directories below `root`, each locked as long as it is used.

    Args:
        threads: Where the disk is waited for.
    """

    def __init__(self, root: Path, threads: Threads) -> None:
        self._root = root
        self._threads = threads
        root.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def directory(self) -> AsyncIterator[Path]:
        """A new and empty one.

        Raises:
            StorageFull: There is no room.
        """
        place, lock = await self._threads.run(self._make)
        try:
            yield place
        finally:
            await self._threads.run(self._remove, place, lock)

    async def clean(self) -> int:
        """Remove those of processes that are gone; how many there were."""
        return await self._threads.run(self._clean)

    def _make(self) -> tuple[Path, BinaryIO]:
        """The lock is there, and had, before the directory is."""
        with file_errors():
            name = uuid.uuid4().hex
            lock = (self._root / f"{name}{_LOCK}").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            place = self._root / name
            place.mkdir(mode=0o700)
            return place, lock

    def _remove(self, place: Path, lock: BinaryIO) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.with_name(place.name + _LOCK).unlink(missing_ok=True)
        lock.close()

    def _clean(self) -> int:
        removed = 0
        for path in list(self._root.glob(f"*{_LOCK}")):
            try:
                lock = path.open("rb")
            except FileNotFoundError:
                continue
            with lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(self._root / path.stem, ignore_errors=True)
                path.unlink(missing_ok=True)
                removed += 1
        return removed
