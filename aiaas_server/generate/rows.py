"""Keys and values of all slots: rows of address space, of which what is written takes memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from math import gcd
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import LoadFailed
from aiaas_server.generate.tensor_names import CacheTensor

# Address space is not memory: none is set aside for what is never written.
_NO_RESERVE: Final = 0x4000 if hasattr(mmap, "MADV_NOHUGEPAGE") else 0  # Linux has both


_FIRST: Final = 512
"""Tokens of the first rows: processes that only try a model have little address space."""


class Rows:
    """One row a slot, with equal room for tokens, in every layer.

    The system gives memory page by page as a row is written, so that each takes what its own
    tokens need. What a row no longer needs is given back. Rows that all become too short are
    copied to longer ones, which happens a few times in the life of a process.

    Attributes:
        arrays: `(rows, heads, at least capacity, head)`, contiguous, one for each of `caches`.
        capacity: Tokens that a row has room for.
        row_bytes: Memory of a row by the tokens that it holds, 0 to `context`.

    Raises:
        LoadFailed: There is not so much address space.
    """

    def __init__(self, caches: Sequence[CacheTensor], rows: int, context: int) -> None:
        self._caches = tuple(caches)
        self._count = rows
        self._context = context
        self.capacity = min(context, _FIRST)
        self._maps, self.arrays = self._made(self.capacity)
        lengths = np.arange(context + 1)
        total = np.zeros(context + 1, np.int64)
        for cache in caches:
            pages = -(-lengths * _token(cache) // mmap.PAGESIZE)
            total += pages * (cache.heads * mmap.PAGESIZE)
        self.row_bytes: list[int] = total.tolist()

    def grow(self, length: int, used: Sequence[int]) -> None:
        """Make room for rows of `length`, up to the context; arrays of before are the caller's.

        Args:
            used: Tokens that count, by row.
        Raises:
            LoadFailed: There is not so much address space; nothing has changed.
        """
        capacity = min(self._context, max(2 * self.capacity, length))
        maps, arrays = self._made(capacity)
        for old, new in zip(self.arrays, arrays, strict=True):
            for row, count in enumerate(used):
                new[row, :, :count] = old[row, :, :count]
        self.capacity, self._maps, self.arrays = capacity, maps, arrays

    def view(self, low: int, high: int) -> list[Array]:
        """Rows `low` up to `high`, as contiguous arrays."""
        return [array[low:high] for array in self.arrays]

    def read(self, row: int, begin: int, end: int) -> list[Array]:
        """A copy of some tokens: `(heads, end - begin, head)` for each tensor."""
        return [array[row, :, begin:end].copy() for array in self.arrays]

    def write(self, row: int, begin: int, tensors: Sequence[Array]) -> None:
        """Write tokens, in the form in which `read` gives them."""
        for array, tensor in zip(self.arrays, tensors, strict=True):
            array[row, :, begin : begin + tensor.shape[1]] = tensor

    def swap(self, one: int, other: int, length_of_one: int, length_of_other: int) -> None:
        """Exchange two rows, of which the first tokens count."""
        for array in self.arrays:
            kept = array[one, :, :length_of_one].copy()
            array[one, :, :length_of_other] = array[other, :, :length_of_other]
            array[other, :, :length_of_one] = kept

    def forget(self, row: int, length: int = 0) -> None:
        """Give back the memory of a row, but for its first tokens."""
        for array, space in zip(self.arrays, self._maps, strict=True):
            _, heads, capacity, head = array.shape
            token = head * array.itemsize
            begin = -(-length * token // mmap.PAGESIZE) * mmap.PAGESIZE
            size = capacity * token
            for number in range(row * heads, (row + 1) * heads):
                if begin < size:
                    _give_back(space, number * size + begin, size - begin)

    def release(self) -> None:
        """Let go of the arrays; their memory is free with the last view of them."""
        self.arrays, self._maps = [], []

    def _made(self, capacity: int) -> tuple[list[mmap.mmap], list[Array]]:
        maps, arrays = [], []
        for cache in self._caches:
            token = _token(cache)
            # Whole pages, so that giving back those of one row spares its neighbours.
            whole = mmap.PAGESIZE // gcd(mmap.PAGESIZE, token)
            tokens = -(-capacity // whole) * whole
            maps.append(_space(self._count * cache.heads * tokens * token))
            shape = (self._count, cache.heads, tokens, cache.head)
            arrays.append(np.frombuffer(maps[-1], cache.dtype).reshape(shape))
        return maps, arrays


def _token(cache: CacheTensor) -> int:
    """Bytes of a token in one head."""
    return cache.head * cache.dtype.itemsize


def _space(size: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    try:
        space = mmap.mmap(-1, size, flags=flags)
    except (OSError, OverflowError) as error:
        raise LoadFailed(f"keys and values: no address space of {size} bytes") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            space.madvise(mmap.MADV_NOHUGEPAGE)  # one would take 2 MiB for a row's first token
    return space


def _give_back(space: mmap.mmap, begin: int, size: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        space.madvise(mmap.MADV_DONTNEED, begin, size)
