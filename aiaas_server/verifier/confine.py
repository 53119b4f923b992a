"""Limits that a process puts on itself before it looks at anything that somebody brought."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38  # of linux/prctl.h
_NICENESS: Final = 10
_FILES: Final = 64
_STATUS: Final = Path("/proc/self/statm")


def confine(parent: int) -> None:
    """Give way to others, end with the parent, write nothing, gain nothing.

    To be called first; memory and time are limited once everything is imported, by `limit_memory`
    and `limit_time`.

    Args:
        parent: Who started this process: if that has ended meanwhile, so does this.
    """
    os.nice(_NICENESS)
    with suppress(OSError):  # where there is such a thing, it is the first to go
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # what is told goes through a pipe
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        _limit(kind, most)


def limit_time(seconds: int) -> None:
    """Let this process take that many seconds of a processor, those it has taken included."""
    _limit(resource.RLIMIT_CPU, seconds)


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes of addresses than it has now."""
    with suppress(OSError):
        now = int(_STATUS.read_text("ascii").split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, now + more)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (value, value))
