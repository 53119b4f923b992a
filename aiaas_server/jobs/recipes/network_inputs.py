"""Columns of a table as the one input of a network, and the same words for a card.

What a value becomes (a missing number its column's median, a category a 0/1 for each known value)
stands in the card; centre and scale are part of the graph. So serving does what training did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.recipe import Array
from aiaas_server.jobs.table import Table

MOST_CATEGORIES: Final = 256  # of a column; rarer values count as unknown
_CHUNK: Final = 4096  # rows whose squares are summed at a time


class Encoded(NamedTuple):
    """One column.

    Attributes:
        fill: What a missing value becomes: a number; of categories it is the text of none.
        categories: The known values, the most frequent first.
        shape: Of an array.
    """

    name: str
    kind: str
    fill: float = 0.0
    categories: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that it becomes."""
        if self.kind == "array":
            return math.prod(self.shape)
        return len(self.categories) if self.kind == "category" else 1

    def card(self) -> dict[str, Any]:
        """As `tasks/tabular.py` reads it."""
        if self.kind == "array":
            return {"name": self.name, "kind": "array", "shape": list(self.shape)}
        if self.kind == "category":
            known = {"categories": list(self.categories), "encode": "one-hot", "unseen": "ignore"}
            return {"name": self.name, "kind": "category", **known, "missing": "fill", "fill": ""}
        kind = "boolean" if self.kind == "boolean" else "number"
        return {"name": self.name, "kind": kind, "missing": "fill", "fill": self.fill}

    def values(self, column: Array) -> Array:
        """`(rows, width)` float32.

        Raises:
            InvalidInput: A value is infinite, or one of an array is missing; the row is named.
        """
        if self.kind == "category":
            texts = np.array(["" if value is None else str(value) for value in column], object)
            return np.stack([texts == name for name in self.categories], 1).astype(np.float32)
        found = _numbers(column) if self.kind != "array" else column.reshape(len(column), -1)
        if self.kind != "array":
            found = np.where(np.isnan(found), self.fill, found)[:, None]
        with np.errstate(over="ignore"):
            values: Array = found.astype(np.float32)
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidInput(f"column '{self.name}', row {row}: a value is not a finite number")
        return values


class Inputs(NamedTuple):
    """All columns, side by side, with centre and scale of each number.

    Attributes:
        mean, scale: `(width,)` float32. An array has one of each for all its values: pixels that
            are always dark must not be blown up.
    """

    columns: tuple[Encoded, ...]
    mean: Array
    scale: Array

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return sum(column.width for column in self.columns)

    def raw(self, table: Table) -> Array:
        """`(rows, width)` float32, as a server makes them of records."""
        parts = [column.values(table[column.name]) for column in self.columns]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def scaled(self, table: Table) -> Array:
        """`(rows, width)` float32, centred, about 1 in size."""
        found = np.array(self.raw(table))
        found -= self.mean
        found /= self.scale
        return found

    def card(self) -> dict[str, Any]:
        """The card's `preprocessing`; columns besides are ignored, such as the target."""
        return {"columns": [column.card() for column in self.columns], "extra": "ignore"}


def read_inputs(table: Table) -> Inputs:
    """What the columns of a table become, as its rows suggest.

    Raises:
        InvalidInput: There is no column to learn from, or one without any value; it is named.
    """
    columns = [_encoded(table, name) for name in table.names]
    known = tuple(column for column in columns if column.width)
    if not known or not table.rows:
        raise InvalidInput("there is no column, or no row, to learn from")
    shifts = [_centre(column, table[column.name]) for column in known]
    mean = np.concatenate([centre for centre, _ in shifts])
    scale = np.concatenate([size for _, size in shifts])
    return Inputs(known, mean.astype(np.float32), scale.astype(np.float32))


def _encoded(table: Table, name: str) -> Encoded:
    kind, column = table.kind(name), table[name]
    if kind == "array":
        return Encoded(name, kind, shape=tuple(column.shape[1:]))
    if kind == "category":
        return Encoded(name, kind, categories=_categories(name, column))
    numbers = _numbers(column)
    if np.isnan(numbers).all():
        raise InvalidInput(f"column '{name}': every value is missing")
    fill = float(np.nanmedian(numbers))
    return Encoded(name, kind, round(fill) if kind == "boolean" else fill)


def _categories(name: str, column: Array) -> tuple[str, ...]:
    texts = [str(value) for value in column if value is not None and str(value)]
    if not texts:
        raise InvalidInput(f"column '{name}': every value is missing")
    values, counts = np.unique(np.array(texts, object).astype(str), return_counts=True)
    order = np.lexsort((values, -counts))[:MOST_CATEGORIES]
    return tuple(str(value) for value in values[order])


def _centre(column: Encoded, values: Array) -> tuple[Array, Array]:
    if column.kind == "category":
        return np.zeros(column.width), np.ones(column.width)
    if column.kind == "array":
        mean, size = _moments(values)
    else:
        found = column.values(values).astype(np.float64)
        mean, size = float(found.mean()), float(found.std())
    # A constant column says nothing, and must not divide by nothing.
    size = size if np.float32(size) > 0 else 1.0
    return np.full(column.width, mean), np.full(column.width, size)


def _moments(values: Array) -> tuple[float, float]:
    """Mean and deviation of all numbers, in pieces: an integer array is never held as floats."""
    total = squares = 0.0
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK].astype(np.float64)
        total += float(part.sum())
        squares += float(np.square(part).sum())
    mean = total / values.size
    return mean, math.sqrt(max(squares / values.size - mean * mean, 0.0))


def _numbers(column: Array) -> Array:
    """Float64, NaN for what is missing."""
    if column.dtype == object:
        return np.array([np.nan if value is None else float(value) for value in column])
    return column.astype(np.float64)


def batches(rows: int, size: int) -> Sequence[slice]:
    """Slices of at most `size` rows."""
    return [slice(start, start + size) for start in range(0, rows, size)]
