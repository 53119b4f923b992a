"""The guard of the disk: what would leave too little free space is not written at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from aiaas_server.core.errors import StateUnavailable, StorageFull

_LEAST_SHARE: Final = 0.05


class Usage(NamedTuple):
    """Of one file system, in bytes; `free` is what this user may still take."""

    total: int
    free: int


def usage_of(path: Path) -> Usage:
    """The file system of `path`."""
    found = os.statvfs(path)
    return Usage(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def check_room(
    path: Path, needed: int = 0, *, reserve: int, usage: Callable[[Path], Usage] = usage_of
) -> None:
    """Check that `needed` bytes more leave the reserve free; asked anew each time.

    Args:
        path: Something that exists on the file system.
        needed: Bytes that will be written.
        reserve: Bytes that stay free, or 5 % of the file system where that is more; 0 keeps none,
            and then only `needed` has to fit.
    Raises:
        StorageFull: They would not.
        StateUnavailable: The file system does not answer.
    """
    try:
        total, free = usage(path)
    except OSError as error:
        raise StateUnavailable(
            f"the disk of the server does not answer: {error.strerror}", retry_after=1.0
        ) from error
    kept = max(reserve, int(total * _LEAST_SHARE)) if reserve else 0
    if free - needed < kept:
        raise StorageFull(
            f"the disk of the server is full: {needed:,} bytes are needed and {kept:,} stay free, "
            f"there are {free:,}; delete versions, or give it more room"
        )
