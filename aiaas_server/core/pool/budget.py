"""Which models fit into memory together, and which go when another needs the room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from threading import Lock

from aiaas_server.core.errors import LoadFailed, ModelUnavailable
from aiaas_server.core.names import plain
from aiaas_server.core.pool.states import RETRY_AFTER

_log = logging.getLogger("aiaas_server")

Key = tuple[str, int]
"""A model's name and version."""


class MemoryBudget:
    """Memory that loaded models may take together, by what each is estimated to take.

    Args:
        limit: Bytes; 0 is no limit, and then nothing is counted.
        pinned: Names that are never unloaded to make room.
    """

    def __init__(self, limit: int, pinned: Collection[str]) -> None:
        self.limit = limit
        self.pinned = frozenset(pinned)
        self._known: dict[Key, int] = {}
        self._reserved: dict[Key, int] = {}
        self._uses = count(1)
        self._last_use: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._holding = Lock()

    def hold(self, name: str) -> None:
        """Keep `name` from making room until `release`; from any thread."""
        with self._holding:
            self._held[name] = self._held.get(name, 0) + 1

    def release(self, name: str) -> None:
        """One that held `name` no longer does."""
        with self._holding:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def is_held(self, name: str) -> bool:
        """Whether anybody holds it."""
        return name in self._held

    def used(self, name: str) -> None:
        """A call found `name`: of all loaded models it is the last to go."""
        self._last_use[name] = next(self._uses)

    def took(self, key: Key, size: int) -> None:
        """Remember what a version took when it was loaded."""
        self._known[key] = size

    def last_size(self, key: Key) -> int:
        """Bytes that it took when it was last loaded; 0 when it never was."""
        return self._known.get(key, 0)

    def forget(self, key: Key) -> None:
        """The version is gone from the repository."""
        self._known.pop(key, None)

    @contextmanager
    def reserving(self, key: Key) -> Iterator[None]:
        """While this is open, what `leaving` found room for is kept for `key`."""
        try:
            yield
        finally:
            self._reserved.pop(key, None)

    def leaving(
        self, key: Key, needed: int, sizes: Mapping[Key, int], may_go: Callable[[str], bool]
    ) -> list[str]:
        """The names to unload so that `needed` bytes for `key` fit, least recently used first.

        Args:
            sizes: Of what is loaded and not to be replaced by `key`.
            may_go: Whether a name could be unloaded now.
        Raises:
            LoadFailed: They would not fit if all went that may ever go.
            ModelUnavailable: They do not fit beside what is at work now.
        """
        if not self.limit:
            return []
        by_name: dict[str, int] = {}
        for (name, _), size in sizes.items():
            by_name[name] = by_name.get(name, 0) + size
        reserved = sum(size for other, size in self._reserved.items() if other != key)
        stays = sum(size for name, size in by_name.items() if self._stays(name, key[0]))
        if needed > self.limit - stays:
            raise LoadFailed(self._too_large(key[0], needed, stays))
        idle = [name for name, size in by_name.items() if size and name != key[0] and may_go(name)]
        used = sum(by_name.values()) + reserved
        free = self.limit - used + sum(by_name[name] for name in idle)
        if needed > free:
            raise ModelUnavailable(
                f"model '{plain(key[0])[:64]}' needs about {needed} bytes; of the memory budget of "
                f"{self.limit} bytes {max(free, 0)} can be made free now",
                retry_after=RETRY_AFTER,
            )
        self._reserved[key] = needed
        leaving: list[str] = []
        for name in sorted(idle, key=lambda one: self._last_use.get(one, 0)):
            if used + needed <= self.limit:
                break
            _log.info("model '%s' makes room for '%s'", name, key[0])
            used -= by_name[name]
            leaving.append(name)
        return leaving

    def _stays(self, name: str, other: str) -> bool:
        """Whether `name` never makes room for `other`: it is pinned, or another version of it."""
        return name in self.pinned or name == other

    def _too_large(self, name: str, needed: int, stays: int) -> str:
        taken = f", and what always stays takes {stays} of it" if stays else ""
        return (
            f"model '{plain(name)[:64]}' needs about {needed} bytes and can never fit: "
            f"the memory budget is {self.limit} bytes{taken}"
        )
