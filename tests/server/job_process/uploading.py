"""Files of data sets, read in this process."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from aiaas_client.protocol.datasets import Column, ColumnKind
from aiaas_server.job_process import ingest
from aiaas_server.job_process.profile import columns_of
from aiaas_server.job_process.reading.source import Source, Wanted
from aiaas_server.job_process.tables import of_arrow
from aiaas_server.jobs.table import Table


class Read:
    """A table that was read, with its profile."""

    def __init__(self, found: Any) -> None:
        self.arrow = found
        self.columns: dict[str, Column] = {c.name: c for c in columns_of(found)}
        self.table: Table = of_arrow(found)

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        return {name: column.kind for name, column in self.columns.items()}


def read(
    directory: Path,
    files: Mapping[str, bytes | str],
    kinds: Mapping[str, ColumnKind] | None = None,
    most: int = 2**40,
) -> Read:
    """What an upload of these files becomes."""
    sources = []
    for name, content in files.items():
        path = directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        sources.append(Source(name, path))
    return Read(ingest.table_of(sources, None, Wanted(kinds or {}, most)))


def parquet_of(columns: Mapping[str, Any]) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), held)
    return held.getvalue()


def npz_of(**arrays: Any) -> bytes:
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)
    return held.getvalue()


def idx_of(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    head = struct.pack(">BBBB", 0, 0, code, array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return held.getvalue()


def picture(shade: int = 0, size: tuple[int, int] = (4, 3)) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(held, "PNG")
    return held.getvalue()
