"""Which files beside an ONNX model hold its weights, read from the model without a library.

Only the way down to the tensors is walked, and their bytes are passed over; what cannot be
understood names no files, since the server says what is wrong with a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64
_LONGEST_NAME = 4096  # bytes

# Message -> field number -> message inside; onnx.proto3.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}  # fmt: skip


def external_files(path: Path) -> list[str]:
    """The locations that the tensors of a model name, in order and each once."""
    with path.open("rb") as file:
        size = path.stat().st_size
        try:
            return list(dict.fromkeys(_locations(file, "model", size, _DEEPEST)))
        except (ValueError, OSError):
            return []


def _locations(file: BinaryIO, message: str, end: int, depth: int) -> Iterator[str]:
    inside = _INSIDE[message]
    while file.tell() < end:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _varint(file)
        elif kind in (_FIXED64, _FIXED32):
            file.seek(8 if kind == _FIXED64 else 4, 1)
        elif kind == _BYTES:
            stop = _varint(file) + file.tell()
            if stop > end or depth == 0:
                raise ValueError("not a model")
            child = inside.get(number)
            if child == "entry":
                yield from _location(file, stop)
            elif child is not None:
                yield from _locations(file, child, stop, depth - 1)
            file.seek(stop)
        else:
            raise ValueError("not a model")


def _location(file: BinaryIO, end: int) -> Iterator[str]:
    """The value of an entry of `external_data` whose key is `location`."""
    told = {}
    while file.tell() < end:
        key = _varint(file)
        length = _varint(file)
        if key & 7 != _BYTES or length > min(_LONGEST_NAME, end - file.tell()):
            raise ValueError("not a model")
        told[key >> 3] = file.read(length).decode("utf-8")
    if told.get(1) == "location":
        yield told.get(2, "")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 70:
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("not a model")
