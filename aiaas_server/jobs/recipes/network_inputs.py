"""Columns of a table as the one input of a network.

What a value becomes (a missing number its column's median, a category a 0/1 for each known value)
stands in the card; centre and scale are part of the graph. So serving does what training did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.columns import Feature, card_of, encoded, most_frequent, numbers
from aiaas_server.jobs.recipes.recipe import Array
from aiaas_server.jobs.splits import texts_of
from aiaas_server.jobs.table import Table

MOST_CATEGORIES: Final = 256  # of a column; rarer values count as unknown
_CHUNK: Final = 4096  # rows whose squares are summed at a time


class Inputs(NamedTuple):
    """All columns, side by side, with centre and scale of each number.

    Attributes:
        mean, scale: `(width,)` float32. An array has one of each for all its values: pixels that
            are always dark must not be blown up.
    """

    columns: tuple[Feature, ...]
    mean: Array
    scale: Array

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return sum(column.width for column in self.columns)

    def raw(self, table: Table) -> Array:
        """`(rows, width)` float32, as a server makes them of records."""
        return encoded(self.columns, table)

    def scaled(self, table: Table) -> Array:
        """`(rows, width)` float32, centred, about 1 in size."""
        found = self.raw(table)
        found -= self.mean
        found /= self.scale
        return found

    def card(self) -> dict[str, Any]:
        """The card's `preprocessing`."""
        return card_of(self.columns)


def read_inputs(table: Table) -> Inputs:
    """What the columns of a table become, as its rows suggest.

    Raises:
        InvalidInput: There is no column to learn from, or one without any value; it is named.
    """
    columns = [_feature(table, name) for name in table.names]
    known = tuple(column for column in columns if column.width)
    if not known or not table.rows:
        raise InvalidInput("there is no column, or no row, to learn from")
    shifts = [_centre(column, table) for column in known]
    mean = np.concatenate([centre for centre, _ in shifts])
    scale = np.concatenate([size for _, size in shifts])
    return Inputs(known, mean.astype(np.float32), scale.astype(np.float32))


def _feature(table: Table, name: str) -> Feature:
    kind, column = table.kind(name), table[name]
    if kind == "array":
        return Feature(name, "array", shape=tuple(column.shape[1:]))
    if kind == "category":
        # An empty text is a gap, and a gap none of the known values.
        known = most_frequent((text or None for text in texts_of(table, name)), MOST_CATEGORIES)
        if not known:
            raise InvalidInput(f"column '{name}': every value is missing")
        return Feature(name, "category", tuple(known), fill="")
    found = numbers(column)
    if np.isnan(found).all():
        raise InvalidInput(f"column '{name}': every value is missing")
    fill = float(np.nanmedian(found))
    if kind == "boolean":
        return Feature(name, "boolean", fill=round(fill))
    return Feature(name, "number", fill=fill)


def _centre(column: Feature, table: Table) -> tuple[Array, Array]:
    if column.kind == "category":
        return np.zeros(column.width), np.ones(column.width)
    if column.kind == "array":
        mean, size = _moments(table[column.name])
    else:
        found = column.encoded(table).astype(np.float64)
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


def batches(rows: int, size: int) -> Sequence[slice]:
    """Slices of at most `size` rows."""
    return [slice(start, start + size) for start in range(0, rows, size)]
