"""The profile of a data set: what stands in each column, in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from aiaas_client.protocol.datasets import MOST_CLASSES, ClassCount, Column, ColumnKind
from aiaas_server.job_process.tables import kind_and_shape, to_arrow, write_arrow
from aiaas_server.jobs.orders import MadeDataset
from aiaas_server.jobs.table import Table

pc: Any = compute  # its functions are made when it is loaded: no type checker sees them

_BINS: Final = 20
_MOST_TOLD: Final = 50  # classes
_FARTHEST: Final = float(np.finfo(np.float64).max) / 4  # within which differences are finite
_DIGITS: Final = 9  # of a number that is told
_PIECE: Final = 1 << 20  # values of an array at a time


def made_dataset(name: str, table: Table | Any, path: Path, **more: Any) -> MadeDataset:
    """Write a table, ours or Arrow's with our metadata, as a data set with its profile.

    Args:
        path: Of the new Parquet file, relative to the directory of the order.
        more: Of `MadeDataset`: `note`, `lineage`, `format`.
    """
    found = to_arrow(table) if isinstance(table, Table) else table
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrow(found, path)
    columns = columns_of(found)
    return MadeDataset(name=name, path=str(path), rows=found.num_rows, columns=columns, **more)


def columns_of(table: Any) -> list[Column]:
    """The profile of an Arrow table with our metadata."""
    return [_column(field, table.column(field.name)) for field in table.schema]


def _column(field: Any, values: Any) -> Column:
    known = kind_and_shape(field)
    assert known is not None, f"column {field.name!r} does not say what it is"
    kind, shape = known
    told: dict[str, Any] = {"missing": values.null_count}
    if kind in ("number", "integer"):
        told |= _of_numbers(values, kind)
    elif kind == "array":
        told |= _of_arrays(values) | {"shape": shape}
    elif kind == "time":
        told |= _ranges(_seconds(values)) | _distinct(values)
    elif kind in ("category", "text"):
        lengths = pc.utf8_length(values)
        told |= _ranges(_present(lengths)) | _distinct(values)
    if kind in ("category", "boolean"):
        told |= _distinct(values) | {"classes": _classes(values)}
    return Column(name=field.name, kind=kind, **told)


def _of_numbers(values: Any, kind: ColumnKind) -> dict[str, Any]:
    numbers = _present(values)
    told: dict[str, Any] = {"dtype": _dtype(values.type)} | _ranges(numbers) | _distinct(values)
    if len(numbers):
        inside = np.clip(numbers, -_FARTHEST, _FARTHEST)
        counts, edges = np.histogram(inside, _BINS, _span(inside))
        told |= {"histogram": counts.tolist(), "edges": [_short(edge) for edge in edges]}
    distinct = told["distinct"]
    if kind == "integer" and distinct is not None and distinct <= _MOST_TOLD:
        told["classes"] = _classes(values)
    return told


def _span(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """From the least to the greatest; around the only one, wide enough to be told apart."""
    low, high = float(numbers.min()), float(numbers.max())
    least = max(0.5, abs(low) * 1e-6)
    return (low, high) if high - low >= least * 1e-6 else (low - least, high + least)


def _of_arrays(values: Any) -> dict[str, Any]:
    """Of all numbers together, those that are none left out; a piece at a time."""
    count, low, high, total = 0, math.inf, -math.inf, 0.0
    for piece in _pieces(values):
        count += len(piece)
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        total += float(piece.sum())
    told: dict[str, Any] = {"dtype": _dtype(values.type.value_type)}
    if not count:
        return told
    mean = total / count
    squares = sum(float(np.square(piece - mean).sum()) for piece in _pieces(values))
    spread = math.sqrt(squares / count) if math.isfinite(squares) else math.nan
    told |= {"minimum": _short(low), "maximum": _short(high)}
    return told | {"mean": _short(mean), "deviation": _short(spread)}


def _pieces(values: Any) -> Iterator[NDArray[np.float64]]:
    for chunk in values.chunks:
        flat = chunk.flatten()
        for at in range(0, len(flat), _PIECE):
            piece = flat.slice(at, _PIECE).to_numpy(zero_copy_only=False).astype(np.float64)
            piece = piece[np.isfinite(piece)]
            if len(piece):
                yield piece


def _ranges(numbers: NDArray[np.float64]) -> dict[str, Any]:
    if not len(numbers):
        return {}
    with np.errstate(over="ignore", invalid="ignore"):
        found = {
            "minimum": numbers.min(),
            "maximum": numbers.max(),
            "mean": numbers.mean(),
            "deviation": numbers.std(),
        }
    return {name: _short(value) for name, value in found.items()}


def _present(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.drop_null().to_numpy(), np.float64)


def _seconds(values: Any) -> NDArray[np.float64]:
    nanoseconds = values.drop_null().cast(pa.int64()).to_numpy()
    return np.asarray(nanoseconds, np.float64) / 1e9


def _distinct(values: Any) -> dict[str, Any]:
    count = pc.count_distinct(values, mode="only_valid").as_py()
    return {"distinct": count if count <= MOST_CLASSES else None}


def _classes(values: Any) -> list[ClassCount]:
    """The most frequent first, equally frequent ones in their own order."""
    counted = ((c["values"], c["counts"]) for c in values.drop_null().value_counts().to_pylist())
    ordered = sorted(counted, key=lambda pair: (-pair[1], pair[0]))
    return [ClassCount(value=value, rows=rows) for value, rows in ordered[:_MOST_TOLD]]


def _dtype(kind: Any) -> str:
    return str(np.dtype(kind.to_pandas_dtype()))


def _short(value: Any) -> float | None:
    """As many digits as anybody reads; None for what JSON cannot tell."""
    number = float(value)
    if not math.isfinite(number):
        return None
    return number if number.is_integer() else float(f"{number:.{_DIGITS}g}")
