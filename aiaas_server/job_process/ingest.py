"""Reads the files of an uploaded data set, and writes them as one Parquet file with its profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, JsonValue

from aiaas_client.protocol.datasets import ColumnKind, Format
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.profile import made_dataset
from aiaas_server.job_process.reading import csv, idx, images, npz, parquet
from aiaas_server.job_process.reading.source import Source, Wanted
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import OUT, Order, Product

_ENDINGS: Final[Mapping[str, Format]] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".npz": "npz", ".zip": "images", ".gz": "idx",
}  # fmt: skip
_ONE_FILE: Final[Mapping[Format, Callable[[Source, Wanted], Any]]] = {
    "csv": csv.read,
    "parquet": parquet.read,
    "npz": npz.read,
    "images": images.read,
}


class IngestSpec(BaseModel):
    """What is uploaded.

    Attributes:
        files: Their names; the order says where each lies.
        max_bytes: What they may be, packed and unpacked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: JsonValue = "ingest"
    name: str
    files: list[str]
    format: Format | None = None
    kinds: dict[str, ColumnKind] = {}
    max_bytes: int = 2**40


def run(order: Order, watch: PipeWatch) -> Product:
    """Carry out an order to read files.

    Raises:
        InvalidInput: They cannot be read; names what, where, what was expected and what came.
        TooLarge: They are larger than a data set may be.
    """
    spec = IngestSpec.model_validate(order.spec)
    pa.set_cpu_count(max(1, order.threads))
    sources = [Source(name, Path(order.files[name])) for name in spec.files]
    read_as = spec.format or format_of(spec.files)
    watch.phase("read")
    table = table_of(sources, read_as, Wanted(spec.kinds, spec.max_bytes))
    watch.phase("write")
    path = Path(OUT) / "data.parquet"
    return Product(datasets=[made_dataset(spec.name, table, path, format=read_as)])


def table_of(sources: Sequence[Source], read_as: Format | None, wanted: Wanted) -> Any:
    """The Arrow table that files hold, with our metadata.

    Args:
        read_as: Their format; by their names where it is None.
    Raises:
        InvalidInput, TooLarge: See `run`.
    """
    read_as = read_as or format_of([source.name for source in sources])
    if read_as == "idx":
        return idx.read(sources, wanted)
    if len(sources) != 1:
        names = ", ".join(source.name for source in sources)
        raise InvalidInput(f"files: expected one file of format {read_as}, got {names[:200]}")
    return _ONE_FILE[read_as](sources[0], wanted)


def format_of(names: Sequence[str]) -> Format:
    """By the endings of files' names.

    Raises:
        InvalidInput: They do not say.
    """
    first = names[0].lower()
    if "-ubyte" in first or ".idx" in first:
        return "idx"
    for ending, found in _ENDINGS.items():
        if first.endswith(ending):
            return found
    known = ", ".join(get_args(Format))
    raise InvalidInput(f"{names[0]}: its name does not tell its format: name one of {known}")
