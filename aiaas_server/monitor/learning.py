"""References that are made of the first traffic of versions which came without one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from aiaas_server.monitor.features import Block
from aiaas_server.monitor.profile import Profile, make_profile

_log = logging.getLogger("aiaas_server")

_MOST_BYTES: Final = 64 * 1024 * 1024  # of one version; a reference of fewer rows will do then

Key = tuple[str, int]  # model id, version


class Learning:
    """Keeps the first items of versions in memory, until they are enough; then counts remain.

    Args:
        rows: How many are enough.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._blocks: dict[Key, list[Block]] = {}
        self._seen: dict[Key, int] = {}
        self._bytes: dict[Key, int] = {}

    def add(self, model_id: str, version: int, blocks: Sequence[Block]) -> None:
        """Learn from some items."""
        key = (model_id, version)
        if self._enough(key):
            return  # until it is written, or another process has done so
        self._blocks.setdefault(key, []).extend(blocks)
        self._seen[key] = self._seen.get(key, 0) + max((len(b.values) for b in blocks), default=0)
        size = sum(block.values.nbytes for block in blocks)
        self._bytes[key] = self._bytes.get(key, 0) + size

    def finished(self) -> dict[Key, Profile]:
        """The references that are ready."""
        found: dict[Key, Profile] = {}
        for key, blocks in self._blocks.items():
            if self._enough(key):
                try:
                    found[key] = make_profile(joined(blocks), "traffic")
                except ValueError as error:
                    _log.warning("no reference could be made of traffic: %s", error)
        return found

    def forget(self, keys: Collection[Key]) -> None:
        """These have a reference now."""
        for key in [key for key in self._seen if key in keys]:
            for kept in (self._blocks, self._seen, self._bytes):
                kept.pop(key, None)

    def _enough(self, key: Key) -> bool:
        return self._seen.get(key, 0) >= self._rows or self._bytes.get(key, 0) >= _MOST_BYTES


def joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of the same columns as one."""
    alike: dict[tuple[object, ...], list[Block]] = {}
    for block in blocks:
        key = (block.names, block.role, block.kind, block.values.shape[1:])
        alike.setdefault(key, []).append(block)
    return [
        same[0]._replace(values=np.concatenate([block.values for block in same]))
        for same in alike.values()
    ]
