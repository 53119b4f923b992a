"""Limits that the throw-away process puts on itself before it looks at anything."""

from __future__ import annotations

import os
from typing import Final

from aiaas_server.core.confine.limits import end_with, write_nothing

_NICENESS: Final = 10


def confine(parent: int) -> None:
    """Give way to others, end with the parent, write nothing, gain nothing.

    To be called first; memory and time are limited once everything is imported, by `limit_memory`
    and `limit_time` of `core.confine`.

    Args:
        parent: Who started this process: if that has ended meanwhile, so does this.
    """
    os.nice(_NICENESS)
    end_with(parent)
    write_nothing()
