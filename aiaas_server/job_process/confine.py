"""Limits that the process of a job puts on itself before it reads anything."""

from __future__ import annotations

from aiaas_server.core.confine.limits import end_with
from aiaas_server.core.give_way import give_way


def confine(parent: int) -> None:
    """Give way to what serves, end with the parent, gain nothing.

    Args:
        parent: Who started this process: if that has ended meanwhile, so does this.
    """
    give_way()
    end_with(parent, dumpable=True)
