"""Parquet files to `Table`s and back; what a column is stands in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.jobs.table import Field, Table

KIND: Final = b"aiaas.kind"
SHAPE: Final = b"aiaas.shape"


def read_table(path: Path, columns: list[str] | None = None) -> Table:
    """Read the rows of a data set, or some of its columns."""
    return of_arrow(parquet.read_table(path, columns=columns))


def write_table(table: Table, path: Path) -> None:
    """Write a table as a data set is kept."""
    write_arrow(to_arrow(table), path)


def write_arrow(table: Any, path: Path) -> None:
    """Write an Arrow table with our metadata as a data set is kept: equal rows, equal bytes."""
    parquet.write_table(table, path, compression="zstd")


def field_of(name: str, kind_of_arrow: Any, kind: ColumnKind, shape: Sequence[int] = ()) -> Any:
    """A field with our metadata.

    Args:
        shape: Of one row of an array.
    """
    metadata = {KIND: kind.encode(), **({SHAPE: json.dumps(list(shape)).encode()} if shape else {})}
    return pa.field(name, kind_of_arrow, metadata=metadata)


def kind_and_shape(field: Any) -> tuple[ColumnKind, list[int]] | None:
    """What the metadata of a field says; None where it is not ours."""
    metadata = field.metadata or {}
    kind = metadata.get(KIND, b"").decode("utf-8", "replace")
    if kind not in get_args(ColumnKind):
        return None
    return kind, json.loads(metadata.get(SHAPE, b"[]"))


def of_arrow(found: Any) -> Table:
    """An Arrow table with our metadata."""
    fields, values = [], {}
    for field in found.schema:
        known = kind_and_shape(field)
        assert known is not None, f"column {field.name!r} does not say what it is"
        kind, shape = known
        fields.append(Field(field.name, kind))
        values[field.name] = _numpy(found.column(field.name), kind, shape)
    return Table(fields, values)


def _numpy(column: Any, kind: ColumnKind, shape: list[int]) -> Any:
    if kind == "array":
        whole = column.combine_chunks()
        return np.asarray(whole.flatten()).reshape(len(whole), *shape)
    if kind == "number":
        return column.to_numpy().astype(np.float64)
    if kind == "integer" and column.null_count:
        return column.cast(pa.float64()).to_numpy()
    if kind == "time":
        return column.cast(pa.timestamp("ns")).to_numpy()
    if kind in ("category", "text", "image") or column.null_count:
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy()


def to_arrow(table: Table) -> Any:
    """An Arrow table with our metadata."""
    fields, arrays = [], []
    for name, kind in table.fields:
        array, shape = _arrow(table[name], kind)
        fields.append(field_of(name, array.type, kind, shape))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _arrow(values: np.ndarray[Any, Any], kind: ColumnKind) -> tuple[Any, list[int]]:
    if kind == "array":
        return arrays_to_arrow(values), list(values.shape[1:])
    if kind == "number":
        return pa.array(values, mask=np.isnan(values)), []
    if kind == "integer" and values.dtype.kind == "f":  # with gaps
        return pa.array(values, mask=np.isnan(values)).cast(pa.int64()), []
    made = {"category": pa.string(), "text": pa.string(), "image": pa.binary()}
    made |= {"boolean": pa.bool_(), "time": pa.timestamp("ns")}
    return pa.array(values, made.get(kind), from_pandas=values.dtype == object), []


def arrays_to_arrow(values: np.ndarray[Any, Any]) -> Any:
    """Arrays of one shape, rows first; copied only where they do not lie in a row."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
