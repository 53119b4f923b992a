"""The datatypes of the Open Inference Protocol and what they are in numpy.

A tensor is an ordinary numpy array everywhere in this project. BYTES tensors are object arrays
whose elements are `bytes`. On the wire all numbers are little-endian and row-major.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Body = bytes | bytearray | memoryview

MAX_RANK = 16
MAX_DIMENSION = 2**31 - 1
_LENGTH = struct.Struct("<I")
_SMALL_BYTES = 4096  # below this a copy costs less than a view


class TensorError(ValueError):
    """A datatype, dtype or tensor body that the protocol cannot carry."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One row of the datatype table.

    Attributes:
        name: The protocol's name, such as `FP32`.
        dtype: The little-endian numpy dtype; `object` for BYTES.
        itemsize: Bytes an element; 0 for BYTES, whose elements vary.
        config_name: The name in model configurations, such as `TYPE_FP32`.
    """

    name: str
    dtype: np.dtype[Any]
    itemsize: int
    config_name: str


def _numeric(name: str, dtype: Any) -> Datatype:
    resolved = np.dtype(dtype)
    return Datatype(name, resolved, resolved.itemsize, f"TYPE_{name}")


def _table() -> dict[str, Datatype]:
    rows = [
        _numeric("BOOL", np.bool_),
        *(_numeric(f"UINT{8 * n}", f"<u{n}") for n in (1, 2, 4, 8)),
        *(_numeric(f"INT{8 * n}", f"<i{n}") for n in (1, 2, 4, 8)),
        _numeric("FP16", "<f2"),
        _numeric("FP32", "<f4"),
        _numeric("FP64", "<f8"),
        Datatype("BYTES", np.dtype(object), 0, "TYPE_STRING"),
    ]
    try:
        from ml_dtypes import bfloat16
    except ImportError:  # BF16 is the one datatype numpy does not know by itself
        pass
    else:
        rows.append(_numeric("BF16", bfloat16))
    return {row.name: row for row in rows}


DATATYPES: Mapping[str, Datatype] = _table()
DATATYPE_NAMES = frozenset(DATATYPES) | {"BF16"}
_BY_DTYPE: Mapping[np.dtype[Any], str] = {
    row.dtype: name for name, row in DATATYPES.items() if name != "BYTES"
}
_BY_CONFIG_NAME: Mapping[str, str] = {row.config_name: row.name for row in DATATYPES.values()}


def datatype_of(array: Array) -> str:
    """Name the protocol datatype that carries `array`.

    Raises:
        TensorError: The dtype has no place in the protocol (complex, dates, structures).
    """
    found = _BY_DTYPE.get(array.dtype)
    if found is not None:
        return found
    if array.dtype.kind in "OSUT":
        return "BYTES"
    native = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if native is None:
        known = ", ".join(sorted(DATATYPES))
        raise TensorError(f"dtype {array.dtype} has no protocol datatype; expected one of {known}")
    return native


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Give the numpy dtype of a protocol datatype.

    Raises:
        TensorError: The name is unknown, or it is BF16 and `ml_dtypes` is not installed.
    """
    row = DATATYPES.get(datatype)
    if row is not None:
        return row.dtype
    if datatype == "BF16":
        raise TensorError("datatype BF16 needs the package 'ml_dtypes', which is not installed")
    known = ", ".join(sorted(DATATYPE_NAMES))
    raise TensorError(f"unknown datatype {datatype[:64]!r}; expected one of {known}")


def datatype_from_config(name: str) -> str:
    """Translate a configuration's `TYPE_FP32` or `TYPE_STRING` into `FP32` or `BYTES`.

    Raises:
        TensorError: The name is unknown.
    """
    found = _BY_CONFIG_NAME.get(name) or ("BF16" if name == "TYPE_BF16" else None)
    if found is None:
        known = ", ".join(sorted(_BY_CONFIG_NAME))
        raise TensorError(f"unknown data_type {name[:64]!r}; expected one of {known}")
    return found


def config_name_of(datatype: str) -> str:
    """Translate `FP32` into the configuration's `TYPE_FP32`, and `BYTES` into `TYPE_STRING`."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def element_count(shape: Sequence[int]) -> int:
    """Multiply the dimensions in Python integers, which cannot overflow; rank 0 has one element."""
    count = 1
    for dimension in shape:
        count *= dimension
    return count


def check_shape(shape: object) -> tuple[int, ...]:
    """Accept a list of at most 16 integers in 0..2^31-1 and return it as a tuple.

    Raises:
        TensorError: Anything else; booleans are not integers here.
    """
    if not isinstance(shape, list | tuple):
        raise TensorError(f"expected shape as an array of integers, got {type(shape).__name__}")
    if len(shape) > MAX_RANK:
        raise TensorError(f"expected at most {MAX_RANK} dimensions, got {len(shape)}")
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= MAX_DIMENSION:
            shown = repr(dimension)[:64]
            raise TensorError(f"expected dimensions of 0 to {MAX_DIMENSION}, got {shown}")
    return tuple(shape)


def tensor_from_bytes(
    body: Body, start: int, size: int, datatype: str, shape: tuple[int, ...]
) -> Array:
    """View `size` bytes of `body` as a tensor (a copy if they lie unaligned).

    Raises:
        TensorError: The size differs from what the shape takes, or the elements are malformed.
    """
    dtype = dtype_of(datatype)
    count = element_count(shape)
    if datatype == "BYTES":
        piece = memoryview(body)[start : start + size]
        return unpack_bytes(piece, count).reshape(shape)
    if size != count * dtype.itemsize:
        expected = count * dtype.itemsize
        text = f"shape {list(shape)} of {datatype} takes {expected} bytes, got {size}"
        raise TensorError(text)
    if not count:
        return np.empty(shape, dtype)
    tensor = np.frombuffer(body, dtype, count, start).reshape(shape)
    if datatype == "BOOL" and tensor.view(np.uint8).max() > 1:
        raise TensorError("BOOL bytes must be 0 or 1")
    return tensor if tensor.flags.aligned else tensor.copy()


def tensor_bytes(tensor: Array) -> bytes | memoryview:
    """Give a tensor's wire bytes: a view for numbers, packed elements for BYTES.

    Raises:
        TensorError: A BYTES element is neither bytes nor text.
    """
    if tensor.dtype.kind in "OSU":
        return pack_bytes(tensor)
    if tensor.dtype.byteorder == ">":
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
    if tensor.nbytes <= _SMALL_BYTES:
        return tensor.tobytes()
    # viewed as bytes first, because the buffer protocol does not know bfloat16
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def as_bytes_elements(array: Array) -> list[bytes]:
    """Flatten a BYTES tensor into `bytes` elements; text is encoded as UTF-8.

    Raises:
        TensorError: An element is neither bytes nor text.
    """
    return [_as_bytes(element) for element in array.reshape(-1).tolist()]


def _as_bytes(element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        try:
            return element.encode()
        except UnicodeEncodeError as error:
            raise TensorError(f"BYTES element is not valid text: {error.reason}") from None
    if isinstance(element, bytearray | memoryview):
        return bytes(element)
    got = type(element).__name__
    raise TensorError(f"BYTES elements must be bytes or text, got {got}")


def pack_bytes(array: Array) -> bytes:
    """Serialise a BYTES tensor: each element as a 4-byte little-endian length and its bytes.

    Raises:
        TensorError: An element is neither bytes nor text.
    """
    pack = _LENGTH.pack
    pieces: list[bytes] = []
    for element in as_bytes_elements(array):
        pieces.append(pack(len(element)))
        pieces.append(element)
    return b"".join(pieces)


def unpack_bytes(buffer: bytes | bytearray | memoryview, count: int) -> Array:
    """Read exactly `count` length-prefixed elements that fill `buffer` exactly.

    Every length is checked before its element is copied.

    Returns:
        `(count,)` object array of `bytes`.
    Raises:
        TensorError: Elements are missing, left over, or longer than the buffer.
    """
    size = len(buffer)
    if count * _LENGTH.size > size:
        raise TensorError(f"expected {count} BYTES elements, got only {size} bytes")
    elements: list[bytes] = []
    offset = 0
    view = memoryview(buffer)
    for index in range(count):
        start = offset + _LENGTH.size
        if start > size:
            raise TensorError(f"expected {count} BYTES elements, got {index}")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset = start + length
        if offset > size:
            left = size - start
            raise TensorError(f"BYTES element {index} claims {length} bytes, {left} are left")
        elements.append(bytes(view[start:offset]))
    if offset != size:
        raise TensorError(f"{size - offset} bytes left over after {count} BYTES elements")
    return object_array(elements)


def object_array(elements: Sequence[object]) -> Array:
    """Make a one-dimensional object array without numpy looking inside the elements."""
    array: Array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def masked_values(array: Array) -> int:
    """How many values of an array are hidden under its mask; 0 of an array that has none."""
    mask: Any = array.mask if isinstance(array, np.ma.MaskedArray) else False
    return int(np.count_nonzero(mask))
