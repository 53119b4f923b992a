"""Memory that the server and the process of a model both see: an anonymous file, sealed in size."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array, TensorError, pack_bytes, unpack_bytes
from aiaas_server.runtimes.isolated.frames import (
    DTYPES,
    TEXT,
    Broken,
    Place,
    aligned,
)

LEAST: Final = 64 * 1024  # bytes of an area
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_BOOL: Final = np.dtype(bool)


class Area:
    """A stretch of memory that holds the tensors of one run at a time.

    Attributes:
        size: In bytes; neither side can change it.
        file: The descriptor to be handed on, until `handed`; -1 afterwards.
    """

    def __init__(self, file: int, size: int, memory: memoryview) -> None:
        """Take over a file of that size, and its memory as bytes."""
        self.file = file
        self.size = size
        self._memory = memory

    @classmethod
    def made(cls, size: int) -> Area:
        """A new one for at least `size` bytes; the next power of two.

        Raises:
            OSError: There is no room.
        """
        size = max(LEAST, 1 << (size - 1).bit_length()) if size else LEAST
        file = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(file, size)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            return cls(file, size, memoryview(mmap.mmap(file, size)))
        except BaseException:
            os.close(file)
            raise

    def handed(self) -> None:
        """Close the descriptor: the other side has it, or has it no more; the memory stays."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def write(self, content: bytes | Array, offset: int) -> None:
        """Put packed text, or the elements of an array in order, at `offset`."""
        if isinstance(content, bytes):
            self._memory[offset : offset + len(content)] = content
        elif content.size:
            np.ndarray(content.shape, content.dtype, self._memory, offset)[...] = content

    def view(self, place: Place) -> Array:
        """The tensor at a place that was checked: of text a copy, of numbers the memory itself."""
        if place.datatype == TEXT:
            return self._text(place)
        if not place.size:
            return np.empty(place.shape, DTYPES[place.datatype])
        return np.ndarray(place.shape, DTYPES[place.datatype], self._memory, place.offset)

    def copy(self, place: Place) -> Array:
        """The tensor at a place that was checked, out of reach of whoever writes here meanwhile.

        Raises:
            Broken: It says to be text and is none, or has a shape that no array can have.
        """
        if place.datatype == TEXT:
            return self._text(place)
        dtype = DTYPES[place.datatype]
        if not place.size:
            try:
                return np.empty(place.shape, dtype)
            except ValueError as error:  # 0 elements, and yet larger than memory
                raise Broken(str(error)) from error
        if dtype == _BOOL:  # a byte of anything but 0 and 1 would be neither
            found: Array = np.ndarray(place.shape, np.uint8, self._memory, place.offset) != 0
            return found
        return np.ndarray(place.shape, dtype, self._memory, place.offset).copy()

    def _text(self, place: Place) -> Array:
        content = bytes(self._memory[place.offset : place.offset + place.size])
        count = 1
        for dim in place.shape:
            count *= dim
        try:
            return unpack_bytes(content, count).reshape(place.shape)
        except (TensorError, ValueError) as error:
            raise Broken(str(error)) from error


def laid_out(
    arrays: Sequence[tuple[int, int, Array]],
) -> tuple[list[Place], list[bytes | Array], int]:
    """Where tensors, each `(position, datatype, array)`, are to lie one behind the other.

    Returns:
        Their places from offset 0 on, what is to be written there, and the end.
    """
    places: list[Place] = []
    contents: list[bytes | Array] = []
    at = 0
    for position, datatype, array in arrays:
        content = pack_bytes(array) if datatype == TEXT else array
        size = len(content) if isinstance(content, bytes) else content.nbytes
        places.append(Place(position, datatype, array.shape, at, size))
        contents.append(content)
        at = aligned(at + size)
    return places, contents, at
