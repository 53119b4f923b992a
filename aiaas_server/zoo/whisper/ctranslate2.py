"""The file that CTranslate2 keeps a model in, read without that library.

Little endian: u32 version, text specification, u32 revision, u32 count; then for each tensor its
name, u8 rank, u32 dimensions, u8 type, u32 bytes, data; then u32 count of (alias, name). A text is
its length as u16, the closing zero counted, and its bytes.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.tensors import Array

VERSION: Final = 6
TYPES: Final = ("<f4", "i1", "<i2", "<i4", "<f2")
MOST_DIMENSIONS: Final = 8


class BadWeights(ValueError):
    """The file is not what it should be; the message says where."""


class Weights(dict[str, Array]):
    """Tensors by name, aliases too, as views on the file's bytes.

    Attributes:
        specification: What kind of network it is, such as `WhisperSpec`.
    """

    specification: str = ""


def read_weights(content: bytes) -> Weights:
    """All tensors of a model file.

    Raises:
        BadWeights: Another version or type, or the file is cut off or has bytes too many.
    """
    reader = _Reader(content)
    version = reader.number("<I")
    if version != VERSION:
        raise BadWeights(f"expected version {VERSION} of CTranslate2's file, got {version}")
    found = Weights()
    found.specification = reader.text()
    reader.number("<I")  # the specification's revision
    for _ in range(reader.number("<I")):
        name = reader.text()
        found[name] = reader.tensor(name)
    for _ in range(reader.number("<I")):
        alias, name = reader.text(), reader.text()
        if name not in found:
            raise BadWeights(f"'{alias}' stands for '{name}', which the file has not")
        found[alias] = found[name]
    if reader.place != len(content):
        raise BadWeights(f"{len(content) - reader.place} bytes too many")
    return found


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.place = 0

    def bytes(self, count: int) -> memoryview:
        end = self.place + count
        if end > len(self.content):
            raise BadWeights(f"cut off: {count} bytes expected at {self.place}")
        found = self.content[self.place : end]
        self.place = end
        return found

    def number(self, form: str) -> int:
        (found,) = struct.unpack(form, self.bytes(struct.calcsize(form)))
        return int(found)

    def text(self) -> str:
        raw = bytes(self.bytes(self.number("<H")))
        return raw.rstrip(b"\0").decode("utf-8", "replace")

    def tensor(self, name: str) -> Any:
        rank = self.number("<B")
        if rank > MOST_DIMENSIONS:
            raise BadWeights(f"'{name}': expected at most {MOST_DIMENSIONS} dimensions, got {rank}")
        shape = tuple(self.number("<I") for _ in range(rank))
        kind = self.number("<B")
        if kind >= len(TYPES):
            raise BadWeights(f"'{name}': expected a type below {len(TYPES)}, got {kind}")
        size = self.number("<I")
        if size != math.prod(shape) * np.dtype(TYPES[kind]).itemsize:
            raise BadWeights(f"'{name}': expected {shape} of type {kind}, got {size} bytes")
        return np.frombuffer(self.bytes(size), TYPES[kind]).reshape(shape)
