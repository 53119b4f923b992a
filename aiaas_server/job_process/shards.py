"""`Shards`: rows written piece by piece, with checkpoints from which another attempt goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from aiaas_server.job_process.pace import Pace
from aiaas_server.jobs.recipes.recipe import Watch

GROUP_ROWS: Final = 1 << 15  # of a row group; fewer where they are large
GROUP_BYTES: Final = 32 << 20


class Shards:
    """Rows that are done, in order, in `watch.scratch`.

    Args:
        schema: Arrow's; a checkpoint of another one is not gone on from.

    Attributes:
        schema: Of the rows.
        rows: So many are done, those of the checkpoint included.
    """

    def __init__(self, schema: Any, watch: Watch, pace: Pace | None = None) -> None:
        self.schema, self._watch, self._pace = schema, watch, pace or Pace()
        self._waiting: list[Any] = []
        self._files: list[Path] = []
        self.rows = 0
        self._restore()

    def _restore(self) -> None:
        """Begin with what an attempt before this one had done."""
        found = self._watch.restored
        if found is None:
            return
        with parquet.ParquetFile(found) as file:
            if not file.schema_arrow.equals(self.schema, check_metadata=True):
                self._watch.log("the checkpoint has other columns: beginning anew")
                return
            self.rows = file.metadata.num_rows
        self._files.append(found)
        self._watch.log(f"going on after {self.rows} rows")

    def add(self, table: Any) -> None:
        """The next rows, an Arrow table; now and then they are kept as a checkpoint."""
        self._waiting.append(table)
        self.rows += table.num_rows
        if self._waiting_rows() >= GROUP_ROWS or self._waiting_bytes() >= GROUP_BYTES:
            self._settle()
        if self._pace.is_due:
            self._pace.write(self._keep)

    def finish(self, path: Path) -> None:
        """Write all rows into one file."""
        self._settle()
        self._join(path)

    def _waiting_rows(self) -> int:
        return sum(table.num_rows for table in self._waiting)

    def _waiting_bytes(self) -> int:
        return sum(table.nbytes for table in self._waiting)

    def _settle(self) -> None:
        """Write what waits into a file of its own."""
        if not self._waiting:
            return
        path = self._watch.scratch / f"{self.rows}-{len(self._files)}.parquet"
        with parquet.ParquetWriter(path, self.schema, compression="zstd") as writer:
            writer.write_table(pa.concat_tables(self._waiting))
        self._files.append(path)
        self._waiting = []

    def _keep(self) -> None:
        """A checkpoint: one file of all rows so far, of which what comes next is the second."""
        self._settle()
        whole = self._watch.scratch / f"{self.rows}.parquet"
        self._join(whole)
        self._watch.checkpoint(self.rows, lambda path: shutil.copyfile(whole, path))
        for path in self._files:
            if path.parent == self._watch.scratch:  # a checkpoint is not ours to remove
                path.unlink()
        self._files = [whole]

    def _join(self, path: Path) -> None:
        with parquet.ParquetWriter(path, self.schema, compression="zstd") as writer:
            for group in self._groups():
                writer.write_table(group)

    def _groups(self) -> Iterator[Any]:
        """All rows in pieces fit for a row group."""
        waiting: list[Any] = []
        for path in self._files:
            with parquet.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    waiting.append(file.read_row_group(group))
                    rows = sum(one.num_rows for one in waiting)
                    if rows >= GROUP_ROWS or sum(one.nbytes for one in waiting) >= GROUP_BYTES:
                        yield pa.concat_tables(waiting)
                        waiting = []
        if waiting or not self._files:
            yield pa.concat_tables(waiting) if waiting else self.schema.empty_table()
