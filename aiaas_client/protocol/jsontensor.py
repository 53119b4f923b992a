"""Tensors as JSON numbers, strings and booleans.

The types are strict (no text for a number, no 1.5 for an integer, booleans only for BOOL) although
numpy itself is not, so each conversion here picks the C routine that refuses what must be refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite
from typing import Any

import numpy as np

from aiaas_client.protocol.tensors import (
    Array,
    TensorError,
    as_bytes_elements,
    datatype_of,
    dtype_of,
    element_count,
    object_array,
)

MAX_NESTING = 100
_LITERAL_PROBES = 32
STRUCT_CODES: Mapping[str, str] = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}


def count_booleans(text: bytes | bytearray) -> int:
    """Count `true` and `false` in JSON text; never too few, and -1 for "too many to count".

    Numbers hold neither of the letters searched for, so on tensor data this is two runs of
    `memchr`, where looking at the type of each element would cost as much as parsing it.
    """
    positives = _count(text, b"u", b"true", 2)
    negatives = _count(text, b"l", b"false", 2)
    return -1 if positives < 0 or negatives < 0 else positives + negatives


def _count(data: bytes | bytearray, letter: bytes, word: bytes, offset: int) -> int:
    found = 0
    position = data.find(letter)
    for _ in range(_LITERAL_PROBES):
        if position < 0:
            return found
        start = max(position - offset, 0)
        found += data[start : start + len(word)] == word
        position = data.find(letter, position + 1)
    return -1


def tensor_from_json(
    data: Any,
    datatype: str,
    shape: Sequence[int],
    *,
    may_hold_booleans: bool = True,
) -> Array:
    """Make a tensor out of flat or nested JSON data.

    Args:
        data: A list, nested to any depth up to 100, or one scalar for rank 0.
        datatype: Protocol name, such as `FP32`.
        shape: The declared shape; only the number of elements must agree with `data`.
        may_hold_booleans: False when the text is known to hold no boolean, which spares a scan.
    Raises:
        TensorError: Wrong element type, out of range, or another number of elements.
    """
    flat = _flatten(data)
    expected = element_count(shape)
    if len(flat) != expected:
        text = f"expected {expected} elements for shape {list(shape)}, got {len(flat)}"
        raise TensorError(text)
    return _convert(flat, datatype, may_hold_booleans).reshape(shape)


def _flatten(data: Any) -> list[Any]:
    flat: list[Any] = data if isinstance(data, list) else [data]
    for _ in range(MAX_NESTING):
        if not flat or type(flat[0]) is not list:
            return flat
        if not all(type(element) is list for element in flat):
            raise TensorError("'data' mixes arrays and single elements at one level")
        flat = list(chain.from_iterable(flat))
    raise TensorError(f"'data' is nested deeper than {MAX_NESTING} levels")


def _convert(flat: list[Any], datatype: str, may_hold_booleans: bool) -> Array:
    dtype = dtype_of(datatype)
    if datatype == "BYTES":
        return _texts(flat)
    if datatype == "BOOL":
        return _booleans(flat)
    if may_hold_booleans and bool in set(map(type, flat)):
        raise TensorError(f"expected numbers for {datatype}, got a boolean")
    code = STRUCT_CODES.get(datatype)
    if code is None:
        return _rounded(flat, datatype, dtype)
    return _packed(flat, datatype, dtype, code)


def _texts(flat: list[Any]) -> Array:
    kinds = set(map(type, flat))
    if kinds - {str}:
        raise TensorError(f"expected strings for BYTES, got {_names(kinds - {str})}")
    try:
        return object_array([text.encode() for text in flat])
    except UnicodeEncodeError:
        raise TensorError(
            "a string for BYTES holds half of a character, a lone surrogate"
        ) from None


def _booleans(flat: list[Any]) -> Array:
    """Accept `true` and `false`, and 0 and 1."""
    kinds = set(map(type, flat))
    if kinds - {bool, int}:
        raise TensorError(f"expected true or false for BOOL, got {_names(kinds - {bool, int})}")
    if not all(element in (0, 1) for element in flat):
        raise TensorError("expected true, false, 0 or 1 for BOOL, got another integer")
    return np.array(flat, dtype=np.bool_)


def _packed(flat: list[Any], datatype: str, dtype: np.dtype[Any], code: str) -> Array:
    """Convert by `struct`, which is several times faster than numpy on lists.

    It refuses text, null, objects, fractions for integers, and finite numbers out of range.
    """
    buffer = bytearray(len(flat) * dtype.itemsize)
    try:
        struct.pack_into(f"<{len(flat)}{code}", buffer, 0, *flat)
    except (struct.error, OverflowError):
        raise TensorError(_complaint(flat, datatype, dtype)) from None
    return np.frombuffer(buffer, dtype) if flat else np.empty(0, dtype)


def _complaint(flat: list[Any], datatype: str, dtype: np.dtype[Any]) -> str:
    """Say which of the two was wrong, the type of an element or its size."""
    integral = dtype.kind in "iu"
    wrong = set(map(type, flat)) - ({int} if integral else {int, float})
    if wrong:
        wanted = "integers" if integral else "numbers"
        return f"expected {wanted} for {datatype}, got {_names(wrong)}"
    low: float = np.iinfo(dtype).min if integral else float(np.finfo(dtype).min)
    high: float = np.iinfo(dtype).max if integral else float(np.finfo(dtype).max)
    finite = (element for element in flat if not isinstance(element, float) or isfinite(element))
    worst = next((element for element in finite if not low <= element <= high), None)
    shown = "an element" if worst is None else str(worst)[:32]
    return f"{shown} is out of range for {datatype} ({low} to {high})"


def _rounded(flat: list[Any], datatype: str, dtype: np.dtype[Any]) -> Array:
    """Convert by way of float64, for BF16, which `struct` does not know."""
    exact = _packed(flat, datatype, np.dtype(np.float64), "d")
    with np.errstate(over="ignore", invalid="ignore"):
        values = exact.astype(dtype)
    overflowed = np.isfinite(exact) & ~np.isfinite(values.astype(np.float64))
    if overflowed.any():
        worst = exact[int(np.argmax(overflowed))]
        raise TensorError(f"{worst!s} is out of range for {datatype}")
    return values


def _names(kinds: set[type]) -> str:
    spoken = {str: "a string", bool: "a boolean", float: "a fraction", dict: "an object"}
    spoken |= {type(None): "null", list: "an array", int: "an integer"}
    return " and ".join(sorted(spoken.get(kind, kind.__name__) for kind in kinds))


def tensor_to_json(tensor: Array) -> Array | list[Any]:
    """Give the flat form that a `JsonText` writes: an array of numbers or a list of strings.

    BF16 becomes float32, which holds it exactly.

    Raises:
        TensorError: A BYTES element is not UTF-8, so that only the binary form can carry it.
    """
    if tensor.dtype.kind in "OSU":
        try:
            return [element.decode() for element in as_bytes_elements(tensor)]
        except UnicodeDecodeError:
            text = "BYTES element is not valid UTF-8 and cannot be written as JSON"
            raise TensorError(f"{text}; ask for binary data") from None
    flat = np.ascontiguousarray(tensor).reshape(-1)
    return flat.astype(np.float32) if datatype_of(tensor) == "BF16" else flat
