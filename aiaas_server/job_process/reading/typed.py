"""Columns that have a type already, as of Parquet and NPZ: of which kind they are, and are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute, types

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.cells import convert, first_failing, kind_of_texts
from aiaas_server.job_process.reading.source import BadCell, shown
from aiaas_server.tasks.images import decode_image

pc: Any = compute  # its functions are made when it is loaded: no type checker sees them

_TAKEN: Final = "numbers, booleans, texts, times, lists of numbers of one shape, or pictures"


class Column(NamedTuple):
    """A column as it is kept; `shape` is of one row of an array."""

    kind: ColumnKind
    values: Any
    shape: tuple[int, ...] = ()


def typed(column: Any, asked: ColumnKind | None = None) -> Column:
    """What a chunked array of Arrow is.

    Args:
        asked: The kind that it is to be; by its type where it is None.
    Raises:
        InvalidInput: It has another type than data sets hold, or cannot be of the kind.
        BadCell: One of its values cannot.
    """
    found = _natural(column)
    if asked is None or asked == found.kind:
        return found
    return _turned(found, asked)


def _natural(column: Any) -> Column:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _natural(_storage(column))
    if types.is_dictionary(kind):
        plain = _natural(column.cast(kind.value_type))
        return plain._replace(kind="category") if plain.kind == "text" else plain
    for fits, make in _NATURAL:
        if fits(kind):
            return make(column)
    raise InvalidInput(f"expected {_TAKEN}, got the type {str(kind)[:64]}")


def _storage(column: Any) -> Any:
    return pa.chunked_array(
        [chunk.storage for chunk in column.chunks], type=column.type.storage_type
    )


def _nothing(column: Any) -> Column:
    return Column("number", column.cast(pa.float64()))


def _integers(column: Any) -> Column:
    if types.is_uint64(column.type):
        try:
            return Column("integer", column.cast(pa.int64()))
        except pa.ArrowInvalid:
            return Column("number", pc.cast(column, pa.float64(), safe=False))
    return Column("integer", column)


def _numbers(column: Any) -> Column:
    """NaN is no value; infinity is refused, since nothing can be learned from it."""
    if types.is_decimal(column.type):
        return Column("number", column.cast(pa.float64()))
    if types.is_float16(column.type):
        column = column.cast(pa.float32())
    plain = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    first = pc.index(pc.is_finite(plain), pa.scalar(False)).as_py()
    if first >= 0:
        raise BadCell(first, "a finite number", str(plain[first].as_py()))
    return Column("number", plain)


def _texts(column: Any) -> Column:
    if not types.is_string(column.type):
        column = column.cast(pa.string())
    return Column(kind_of_texts(column), column)


def _times(column: Any) -> Column:
    """In universal time where they name a zone; of what does not fit, the first is told."""
    zone = getattr(column.type, "tz", None)

    def make(values: Any) -> Any:
        if zone is not None:
            values = values.cast(pa.timestamp("ns", "UTC"))
        return values.cast(pa.timestamp("ns"))

    try:
        return Column("time", make(column))
    except pa.ArrowInvalid:
        row = first_failing(column, make)
        got = str(column[row].cast(pa.string()).as_py())
        raise BadCell(row, "a time from 1677 to 2262", got) from None


def _arrays(column: Any) -> Column:
    """Lists in lists, as long as they are of one shape, as one list a row."""
    shape: list[int] = []
    if not len(column):
        return Column("array", pa.array([], pa.list_(pa.float64(), 0)))
    values = column.combine_chunks()
    while _is_list(values.type):
        values = _level(values, shape)
    if not _is_numeric(values.type):
        raise InvalidInput(f"expected lists of numbers, got lists of {str(values.type)[:64]}")
    if values.null_count:
        row = pc.index(pc.is_null(values), pa.scalar(True)).as_py() // int(np.prod(shape))
        raise BadCell(row, "numbers throughout", "a list with a gap")
    if types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    flat = pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
    return Column("array", pa.chunked_array([flat]), tuple(shape))


def _level(values: Any, shape: list[int]) -> Any:
    """The values of lists that are equally long; their length goes to `shape`."""
    inside = int(np.prod(shape))
    if values.null_count:
        row = pc.index(pc.is_null(values), pa.scalar(True)).as_py() // inside
        raise BadCell(row, "a list of numbers", "nothing")
    lengths = pc.list_value_length(values)
    first = lengths[0].as_py()
    other = pc.index(pc.equal(lengths, first), pa.scalar(False)).as_py()
    if other >= 0:
        expected = f"{first} numbers, as in the first row"
        raise BadCell(other // inside, expected, str(lengths[other].as_py()))
    if not first:
        raise BadCell(0, "at least one number", "an empty list")
    shape.append(first)
    return values.flatten()


def _images(column: Any) -> Column:
    if types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    row = 0
    for chunk in column.chunks:
        for value in chunk:
            check_picture(row, value.as_buffer())
            row += 1
    return Column("image", column.cast(pa.binary()))


def check_picture(row: int, content: Any) -> None:
    """See whether a picture can be read; None is a row without one.

    Raises:
        BadCell: It cannot.
    """
    if content is None:
        return
    try:
        decode_image(memoryview(content))
    except InvalidInput as error:
        raise BadCell(row, "a picture", error.message) from None


def _is_list(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_numeric(kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_picture(kind: Any) -> bool:
    if types.is_struct(kind):  # {"bytes": …, "path": …}, as others write them
        inside = kind.get_field_index("bytes")
        return inside >= 0 and bool(types.is_binary(kind.field(inside).type))
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )


_NATURAL: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], Column]], ...]] = (
    (types.is_null, _nothing),
    (types.is_boolean, lambda column: Column("boolean", column)),
    (types.is_integer, _integers),
    (lambda kind: types.is_floating(kind) or types.is_decimal(kind), _numbers),
    (_is_text, _texts),
    (lambda kind: types.is_timestamp(kind) or types.is_date(kind), _times),
    (_is_list, _arrays),
    (_is_picture, _images),
)


# As another kind than its type says


def _turned(found: Column, asked: ColumnKind) -> Column:
    plain = ("number", "integer", "boolean", "time")
    if found.kind in ("category", "text") and asked in (*plain, "category", "text"):
        return Column(asked, convert(found.values, asked))
    if found.kind in plain and asked in ("category", "text"):
        return Column(asked, found.values.cast(pa.string()))
    if found.kind in ("integer", "boolean") and asked == "number":
        return Column(asked, found.values.cast(pa.float64()))
    if found.kind == "boolean" and asked == "integer":
        return Column(asked, found.values.cast(pa.int64()))
    if found.kind == "number" and asked == "integer":
        return Column(asked, _whole(found.values))
    if found.kind in ("number", "integer") and asked == "boolean":
        return Column(asked, _truths(found.values))
    raise InvalidInput(f"kinds: a column of kind {found.kind} cannot be read as {asked}")


def _whole(values: Any) -> Any:
    def make(some: Any) -> Any:
        return some.cast(pa.int64())

    try:
        return make(values)
    except pa.ArrowInvalid:
        row = first_failing(values, make)
        raise BadCell(row, "a whole number", str(values[row].as_py())) from None


def _truths(values: Any) -> Any:
    fits = pc.or_(pc.equal(values, 0), pc.equal(values, 1))
    row = pc.index(fits, pa.scalar(False)).as_py()
    if row >= 0:
        raise BadCell(row, "0 or 1", shown(values[row].as_py()))
    return pc.equal(values, 1)
