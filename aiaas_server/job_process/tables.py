"""Parquet files to `Table`s and back; what a column is stands in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from aiaas_client.protocol.datasets import Column, ColumnKind
from aiaas_server.jobs.table import Field, Table

KIND: Final = b"aiaas.kind"
SHAPE: Final = b"aiaas.shape"


def read_table(path: Path, columns: list[str] | None = None) -> Table:
    """Read the rows of a data set, or some of its columns."""
    return of_arrow(parquet.read_table(path, columns=columns))


def write_table(table: Table, path: Path) -> None:
    """Write a table as a data set is kept."""
    parquet.write_table(to_arrow(table), path, compression="zstd")


def of_arrow(found: Any) -> Table:
    """An Arrow table with our metadata."""
    fields, values = [], {}
    for field in found.schema:
        metadata = field.metadata or {}
        kind: ColumnKind = metadata[KIND].decode()
        shape = json.loads(metadata.get(SHAPE, b"[]"))
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
        metadata = {KIND: kind.encode(), **({SHAPE: json.dumps(shape).encode()} if shape else {})}
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _arrow(values: np.ndarray[Any, Any], kind: ColumnKind) -> tuple[Any, list[int]]:
    if kind == "array":
        shape = list(values.shape[1:])
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))), shape
    if kind == "number":
        return pa.array(values, mask=np.isnan(values)), []
    if kind in ("category", "text"):
        return pa.array(values, pa.string()), []
    if kind == "image":
        return pa.array(values, pa.binary()), []
    return pa.array(values), []


def fields_of(columns: list[Column]) -> list[Field]:
    """Name and kind of columns as a data set tells them."""
    return [Field(column.name, column.kind) for column in columns]
