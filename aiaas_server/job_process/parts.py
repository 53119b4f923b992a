"""A data set's Parquet file, read and written piece by piece, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from aiaas_server.job_process.tables import kind_and_shape, of_arrow
from aiaas_server.jobs.table import Field, Table

Array = np.ndarray[Any, Any]

PART_ROWS: Final = 512
PART_BYTES: Final = 32 << 20  # of a part in memory, as far as the file tells
_BUFFER: Final = 1 << 20  # bytes read of a column at once


class Parts:
    """The rows of a file in order, some at a time.

    Attributes:
        schema: Arrow's.
        fields: Name and kind of the columns.
    """

    def __init__(self, path: Path) -> None:
        self._file = parquet.ParquetFile(path, buffer_size=_BUFFER)
        self.schema = self._file.schema_arrow
        self.fields = tuple(_field(field) for field in self.schema)
        self.rows: int = self._file.metadata.num_rows

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _rows_each(self, most: int) -> int:
        """Rows of a part: fewer where they are large."""
        metadata = self._file.metadata
        size = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
        each = size // max(self.rows, 1)
        return int(min(max(PART_BYTES // max(each, 1), 1), most))

    def column(self, name: str) -> Array:
        """All values of one column."""
        return of_arrow(self.arrow(name))[name]

    def arrow(self, name: str) -> Any:
        """An Arrow table of one column."""
        return self._file.read(columns=[name])

    def table(self, names: Sequence[str]) -> Table:
        """All rows of some columns, in memory."""
        return of_arrow(self._file.read(columns=list(names)))

    def read(
        self, columns: Sequence[str], start: int = 0, most: int = PART_ROWS
    ) -> Iterator[tuple[int, Any]]:
        """First row and Arrow table of each part, of `most` rows, from row `start` on."""
        groups, first = self._from(start)
        batches = self._file.iter_batches(self._rows_each(most), groups, columns=list(columns))
        for batch in batches:
            found, at = pa.Table.from_batches([batch]), first
            first += batch.num_rows
            if first > start:
                skipped = max(start - at, 0)
                yield at + skipped, found.slice(skipped)

    def _from(self, start: int) -> tuple[list[int], int]:
        """The row groups that hold `start` and what follows, and the first row of them."""
        metadata, first = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first + rows > start:
                return list(range(group, metadata.num_row_groups)), first
            first += rows
        return [], first


def _field(field: Any) -> Field:
    known = kind_and_shape(field)
    assert known is not None, f"column {field.name!r} does not say what it is"
    return Field(field.name, known[0])


def chosen_parts(
    parts: Parts, columns: Sequence[str], rows: Array, most: int = PART_ROWS
) -> Iterator[Table]:
    """The rows of those indices (ascending), part by part."""
    for start, found in parts.read(columns, most=most):
        low, high = np.searchsorted(rows, [start, start + found.num_rows])
        if high > low:
            yield of_arrow(found.take(pa.array(rows[low:high] - start)))
