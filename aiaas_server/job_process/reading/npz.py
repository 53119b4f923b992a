"""NPZ: arrays by name with the rows first, as `numpy.savez` writes them. Nothing is unpickled."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np
import pyarrow as pa

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.parquet import typed_table
from aiaas_server.job_process.reading.source import Source, Wanted, check_names, check_size
from aiaas_server.job_process.tables import arrays_to_arrow, field_of

Array = np.ndarray[Any, Any]


def read(source: Source, wanted: Wanted) -> Any:
    """The table.

    Raises:
        InvalidInput: It cannot be read; names the array.
        TooLarge: It is larger than a data set may be.
    """
    arrays = _arrays(source, wanted)
    check_names(source.name, list(arrays), wanted.kinds)
    rows = {name: len(array) for name, array in arrays.items()}
    first, count = next(iter(rows.items()))
    for name, found in rows.items():
        if found != count:
            raise InvalidInput(
                f"{source.name}: expected as many rows in '{name}' as in '{first}', "
                f"{count}, got {found}"
            )
    if not count:
        raise InvalidInput(f"{source.name}: expected rows, got none")
    return as_table(source.name, arrays, wanted)


def as_table(file: str, arrays: dict[str, Array], wanted: Wanted) -> Any:
    """A table of arrays by name, rows first; each is let go of once it is converted."""
    fields, columns = [], []
    for name in list(arrays):
        array = arrays.pop(name)
        shape = array.shape[1:]
        kind = wanted.kinds.get(name)
        if shape:
            if kind not in (None, "array"):
                raise InvalidInput(
                    f"kinds: '{name}' of {file} has rows of shape {list(shape)}, "
                    f"which cannot be read as {kind}"
                )
            made = arrays_to_arrow(
                _native(array.astype(np.uint8) if array.dtype == bool else array)
            )
            fields.append(field_of(name, made.type, "array", shape))
            columns.append(made)
        else:
            column = pa.table({name: _column(file, name, array)})
            own = Wanted({} if kind is None else {name: kind}, wanted.most)
            typed = typed_table(file, column, own)
            fields.append(typed.schema.field(0))
            columns.append(typed.column(0))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _arrays(source: Source, wanted: Wanted) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(source.path) as packed:
            check_size(source.name, sum(i.file_size for i in packed.infolist()), wanted.most)
        with np.load(source.path, allow_pickle=False) as file:
            return {name: _array(source, file, name) for name in file.files}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidInput(f"{source.name}: not an NPZ file that can be read: {error}") from None


def _array(source: Source, file: Any, name: str) -> Array:
    where = f"{source.name}, array '{name[:64]}'"
    try:
        array = file[name]
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        if "allow_pickle" in str(error):
            raise InvalidInput(
                f"{where}: expected numbers, texts or times, got Python objects, which are not "
                "read since they could run code; convert it, as by array.astype(str)"
            ) from None
        raise InvalidInput(f"{where}: {str(error)[:200]}") from None
    if not isinstance(array, np.ndarray) or not array.shape:
        raise InvalidInput(f"{where}: expected rows, got a single value")
    if array.dtype.kind not in "biufUSM" or (len(array.shape) > 1 and array.dtype.kind in "USM"):
        raise InvalidInput(
            f"{where}: expected numbers, booleans, texts or times, "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    if 0 in array.shape[1:]:
        raise InvalidInput(f"{where}: rows of shape {list(array.shape[1:])} hold nothing")
    return array


def _column(file: str, name: str, array: Array) -> Any:
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(f"{file}, array '{name}': expected UTF-8") from None
    if array.dtype.kind == "U":
        return pa.array(array.tolist(), pa.string())
    if array.dtype.kind == "M":
        return pa.array(array.astype("datetime64[us]"))
    return pa.array(_native(array))


def _native(array: Array) -> Array:
    """In this machine's order of bytes."""
    if np.dtype(array.dtype).itemsize > 8:  # long double
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
