"""Parquet: columns by their types; a file of ours by what it says of itself."""

from __future__ import annotations

import re
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.source import (
    BadCell,
    Source,
    Wanted,
    check_names,
    check_size,
)
from aiaas_server.job_process.reading.typed import typed
from aiaas_server.job_process.tables import field_of, kind_and_shape

_index = re.compile(r"__index_level_[0-9]+__").fullmatch  # what pandas adds
_LEAST_BYTES: Final = 1  # of a value, however well it was packed


def read(source: Source, wanted: Wanted) -> Any:
    """The table.

    Raises:
        InvalidInput: It cannot be read; names the row and column where it is about one.
        TooLarge: It is larger than a data set may be.
    """
    try:
        with parquet.ParquetFile(source.path, memory_map=True) as file:
            names = [name for name in file.schema_arrow.names if not _index(name)]
            check_names(source.name, names, wanted.kinds)
            _check_unpacked(source, file, len(names), wanted.most)
            found = file.read(columns=names)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else "it is damaged"
        raise InvalidInput(
            f"{source.name}: not a Parquet file that can be read: {reason}"
        ) from None
    if not found.num_rows:
        raise InvalidInput(f"{source.name}: expected rows, got none")
    check_size(source.name, found.nbytes, wanted.most)
    return typed_table(source.name, found, wanted)


def _check_unpacked(source: Source, file: Any, columns: int, most: int) -> None:
    """Before anything is unpacked: what the file says of itself, and the least that it can be."""
    groups = (file.metadata.row_group(at) for at in range(file.metadata.num_row_groups))
    told = sum(group.total_byte_size for group in groups)
    least = file.metadata.num_rows * columns * _LEAST_BYTES
    check_size(source.name, max(told, least), most)


def typed_table(name: str, found: Any, wanted: Wanted) -> Any:
    """An Arrow table of whatever types with our metadata.

    Args:
        name: Of the file, for messages.
    """
    fields, columns = [], []
    schema, left = found.schema, found.columns[::-1]
    del found  # so that a column is free as soon as it is converted
    for field in schema:
        column = left.pop()
        known = kind_and_shape(field)
        asked = wanted.kinds.get(field.name) or (known[0] if known else None)
        try:
            kind, values, shape = typed(column, asked)
        except BadCell as error:
            where = f"{name}, row {error.row + 1}, column '{field.name}'"
            raise InvalidInput(f"{where}: {error}") from None
        except InvalidInput as error:
            raise InvalidInput(f"{name}, column '{field.name}': {error.message}") from None
        if known and kind == known[0] == "array":
            shape = tuple(known[1]) or shape  # the file has them flat
        fields.append(field_of(field.name, values.type, kind, shape))
        columns.append(values)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))
