"""Limits that a process puts on itself before it looks at anything that somebody brought."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

FILES: Final = 64
"""Descriptors that a process has which opens nothing but a model."""
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38  # of linux/prctl.h
_STATUS: Final = Path("/proc/self/statm")


def end_with(parent: int, *, dumpable: bool = False) -> None:
    """End when the parent does, gain no rights, leave no core, and be the first to go for room.

    Args:
        parent: Who started this process: if that has ended meanwhile, so does this. 0 is anybody.
        dumpable: Others of the same user may look into it.
    """
    with suppress(OSError):  # where there is such a thing
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        # The end of the very thread that started it counts, not only that of its process.
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if not dumpable:
            prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)
    _limit(resource.RLIMIT_CORE, 0)


def write_nothing() -> None:
    """Make no file longer, and open few; what is told goes through a pipe or a socket."""
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, FILES)


def limit_time(seconds: int) -> None:
    """Let this process take that many seconds of a processor, those it has taken included."""
    _limit(resource.RLIMIT_CPU, seconds)


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes of addresses than it has now."""
    try:
        now = int(_STATUS.read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:  # a system that does not tell
        now = 0
    _limit(resource.RLIMIT_AS, now + more)


def limit_data(most: int) -> None:
    """Let this process take so many bytes of memory of its own; 0 is no limit.

    Addresses are not counted: libraries of tensors reserve many and use few.
    """
    if most:
        _limit(resource.RLIMIT_DATA, most)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (value, value))
