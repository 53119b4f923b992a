"""Memory for large request bodies, used again: the kernel clears every page it hands out anew.

For a body of some megabytes that costs as much as reading it. What is kept here is bounded in all
and a buffer at a time, so that one large request leaves nothing behind.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

KEPT_BYTES = 16 << 20
LARGEST_KEPT = 4 << 20
_STEP = 64 << 10  # sizes are rounded up to it, so that bodies of nearly one size share buffers

_Memory = np.ndarray[Any, np.dtype[np.uint8]]


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """A view whose end is noticed: numpy's own arrays cannot be referred to weakly and cheaply."""


class Buffers:
    """Lends memory and takes it back when the last view of it is gone, on whatever thread."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, largest: int = LARGEST_KEPT) -> None:
        self._most = kept_bytes
        self._largest = largest
        self._lock = threading.Lock()
        self._returned: deque[_Memory] = deque()  # without the lock: an end comes at any moment
        self._kept: list[_Memory] = []

    def lend(self, size: int) -> memoryview:
        """Memory of `size` bytes with arbitrary content, nobody else's while a view of it lives."""
        if size > self._largest:
            return np.empty(size, np.uint8).data
        with self._lock:
            memory = self._take(size)
        lent = memory[:size].view(_Lent)
        weakref.finalize(lent, self._returned.append, memory).atexit = False
        return lent.data

    @property
    def kept(self) -> int:
        """Bytes that wait to be used again."""
        with self._lock:
            self._collect()
            return sum(memory.nbytes for memory in self._kept)

    def _take(self, size: int) -> _Memory:
        self._collect()
        for at, memory in enumerate(self._kept):
            if size <= memory.nbytes <= 2 * size + _STEP:
                return self._kept.pop(at)
        return np.empty(-(-size // _STEP) * _STEP, np.uint8)

    def _collect(self) -> None:
        while self._returned:
            self._kept.insert(0, self._returned.popleft())  # the warmest first
        room = self._most
        for at, memory in enumerate(self._kept):
            room -= memory.nbytes
            if room < 0:
                del self._kept[at:]
                return
