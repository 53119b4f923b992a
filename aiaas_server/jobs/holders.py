"""`Holders`: which servers of this machine live, told by locks that end with their processes.

A lease tells of any server, after a while; of one that was killed on this machine its lock tells at
once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PLACE = ".holders"


class Holders:
    """Locks below `DATA/jobs`. Every call blocks, shortly."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._own: dict[Path, int] = {}

    def begin(self, holder: str) -> None:
        """Tell that a holder lives, until `end`, or the end of this process."""
        place = self._root / _PLACE
        place.mkdir(parents=True, exist_ok=True)
        self._lock(place / holder)

    def take_turn(self, name: str) -> bool:
        """Be the one of several processes that runs; True where there is no other, too."""
        return not name or self._lock(self._root / f".turn-{name}")

    def gone(self, known: Collection[str]) -> set[str]:
        """Those of `known` that were of this machine, and whose process has ended."""
        found = set()
        for holder in known:
            path = self._root / _PLACE / holder
            if path.exists() and self._is_free(path):
                found.add(holder)
                path.unlink(missing_ok=True)
        return found

    def end(self) -> None:
        """Tell that they live no more."""
        for path, handle in self._own.items():
            path.unlink(missing_ok=True)
            os.close(handle)
        self._own.clear()

    def _lock(self, path: Path) -> bool:
        if path in self._own:
            return True
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._own[path] = handle
        return True

    @staticmethod
    def _is_free(path: Path) -> bool:
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
