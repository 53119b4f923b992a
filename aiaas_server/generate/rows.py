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


class Rows:
    """One row a slot, each with room for the whole context, in every layer.

    The system gives memory page by page as a row is written, so that rows grow without being
    copied, and each takes what its own tokens need. What a row no longer needs is given back.

    Attributes:
        arrays: `(rows, heads, capacity, head)`, contiguous, one for each tensor of `caches`.
        row_bytes: Memory of a row by the tokens that it holds, 0 to `context`.

    Raises:
        LoadFailed: There is not so much address space.
    """

    def __init__(self, caches: Sequence[CacheTensor], rows: int, context: int) -> None:
        maps = []
        self.arrays: list[Array] = []
        total = np.zeros(context + 1, np.int64)
        for cache in caches:
            token = cache.head * cache.dtype.itemsize  # bytes of one head
            # Whole pages, so that giving back those of one row spares its neighbours.
            whole = mmap.PAGESIZE // gcd(mmap.PAGESIZE, token)
            capacity = -(-context // whole) * whole
            shape = (rows, cache.heads, capacity, cache.head)
            maps.append(_space(rows * cache.heads * capacity * token))
            self.arrays.append(np.frombuffer(maps[-1], cache.dtype).reshape(shape))
            pages = -(-np.arange(context + 1) * token // mmap.PAGESIZE)
            total += pages * (cache.heads * mmap.PAGESIZE)
        self.row_bytes: list[int] = total.tolist()
        self._maps = maps

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
