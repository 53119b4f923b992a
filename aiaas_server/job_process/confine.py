"""Limits that the process of a job puts on itself before it reads anything."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from aiaas_server.core.give_way import give_way

_SET_PDEATHSIG, _SET_NO_NEW_PRIVS = 1, 38  # of linux/prctl.h


def confine(parent: int) -> None:
    """Give way to what serves, end with the parent, gain nothing.

    Args:
        parent: Who started this process: if that has ended meanwhile, so does this.
    """
    give_way()
    with suppress(OSError):  # where memory is short, it is the first to go
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(most: int) -> None:
    """Let this process take so many bytes of memory of its own; 0 is no limit.

    Addresses are not counted: libraries of tensors reserve many and use few.
    """
    if most:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (value, value))
