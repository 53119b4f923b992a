"""Memory of this process, and what a model takes of it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")
_M_ARENA_MAX = -8  # of glibc's malloc.h


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * _PAGE
    except OSError:
        return 0


def share_one_heap() -> None:
    """Let all threads to come allocate from the one heap that `give_back` can empty to its end.

    glibc gives each thread a heap of its own and never returns the last free stretch of those: a
    model that a thread loaded may stay there after it was unloaded. onnxruntime and numpy allocate
    too seldom for one heap to be a bottleneck.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system, which glibc otherwise keeps for the next to ask.

    Takes milliseconds; for after a model has gone. Elsewhere than on glibc it does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def estimate(files: int, before: int, after: int) -> int:
    """Bytes that a model takes, as far as can be seen from outside the runtime.

    The larger of its files and of what the process grew by while it was opened and first run.
    The growth misses memory that was free and is used again, and counts what other work took
    meanwhile; the files miss what the runtime rearranges.

    Args:
        files: Size of the model's files.
        before: Resident bytes before it was opened.
        after: Resident bytes after its first runs.
    """
    return max(files, after - before)
