"""`Table`: the rows of a data set in memory, column by column, as numpy has them.

`number` and `integer` are arrays of numbers (`number` as float64 with NaN for what is missing; an
`integer` column with gaps is read as `number`), `boolean` of booleans (with gaps: objects), `time`
of `datetime64[ns]`. `category`, `text` and `image` are object arrays of `str`, or `bytes`, or None.
`array` has the rows first and the shape of a row behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aiaas_client.protocol.datasets import ColumnKind


class Field(NamedTuple):
    """Name and kind of a column."""

    name: str
    kind: ColumnKind


class Table:
    """Immutable by agreement; taking rows copies them.

    Args:
        fields: In order.
        values: By name, equally many rows each.
    """

    def __init__(self, fields: Iterable[Field], values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.fields = tuple(fields)
        self._values = {field.name: values[field.name] for field in self.fields}
        rows = {len(array) for array in self._values.values()}
        assert len(rows) <= 1, f"columns of {sorted(rows)} rows"
        self.rows = next(iter(rows), 0)

    @property
    def names(self) -> list[str]:
        """Of the columns, in order."""
        return [field.name for field in self.fields]

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def kind(self, name: str) -> ColumnKind:
        """What a column holds."""
        return next(field.kind for field in self.fields if field.name == name)

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any] | slice) -> Table:
        """The rows of those indices, in that order."""
        return Table(self.fields, {name: array[rows] for name, array in self._values.items()})

    def select(self, names: Iterable[str]) -> Table:
        """Those columns, in that order."""
        by_name = {field.name: field for field in self.fields}
        return Table([by_name[name] for name in names], self._values)

    def with_column(self, field: Field, values: np.ndarray[Any, Any]) -> Table:
        """With one column more, or another in its place."""
        kept = [known for known in self.fields if known.name != field.name]
        return Table([*kept, field], {**self._values, field.name: values})
