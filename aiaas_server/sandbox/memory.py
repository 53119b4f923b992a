"""Maps an area with nothing but the call that maps: all else has been taken away by then."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED: Final = ctypes.c_void_p(-1).value


def mapped(file: int, size: int) -> memoryview:
    """The memory of a file of `size` bytes; it is given back with the last that looks at it.

    Python's own mapping asks the system for the file's kind, and for a second descriptor.

    Raises:
        OSError: It cannot be mapped.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0)
    if address is None or address == _FAILED:
        raise OSError(ctypes.get_errno(), "an area cannot be mapped")
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size)
    return memoryview(memory).cast("B")
