"""The rows of a data set as a frame; the library of it is loaded when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aiaas_client import _errors as errors

if TYPE_CHECKING:
    from aiaas_client.protocol.datasets import Dataset

Backend = Literal["pandas", "polars"]


def check_backend(backend: str) -> None:
    """See that a library is known and there.

    Raises:
        InputError: It is not known.
        ConfigurationError: It is not installed.
    """
    if backend not in ("pandas", "polars"):
        raise errors.InputError(
            f"backend: expected 'pandas' or 'polars', got {str(backend)[:40]!r}"
        )
    try:
        if backend == "polars":
            import polars  # noqa: F401
        else:
            import pandas  # noqa: F401
    except ModuleNotFoundError:
        raise errors.ConfigurationError(
            f"{backend} is not installed: pip install {backend}"
        ) from None


def frame_of(path: Path, dataset: Dataset, backend: Backend, columns: Sequence[str] | None) -> Any:
    """Read a data set's Parquet file.

    Args:
        columns: Only these.
    Raises:
        InputError: There is no such column.
        ConfigurationError: The library, or what it reads Parquet with, is not installed.
    """
    known = [column.name for column in dataset.columns]
    for name in columns or ():
        if name not in known:
            listed = ", ".join(known)
            raise errors.InputError(f"data set '{dataset.ref}' has no column {name!r}: {listed}")
    wanted = None if columns is None else list(columns)
    read = _polars if backend == "polars" else _pandas
    shapes = {one.name: one.shape for one in dataset.columns if one.kind == "array"}
    return read(path, wanted, {name: shape for name, shape in shapes.items() if len(shape) > 1})


def _pandas(path: Path, columns: list[str] | None, shapes: dict[str, list[int]]) -> Any:
    import pandas as pd

    try:
        frame = pd.read_parquet(path, columns=columns)
    except ImportError as error:
        raise errors.ConfigurationError(
            "pandas reads Parquet with pyarrow: pip install pyarrow"
        ) from error
    for name, shape in shapes.items():
        if name in frame:
            frame[name] = [row.reshape(shape) for row in frame[name]]
    return frame


def _polars(path: Path, columns: list[str] | None, shapes: dict[str, list[int]]) -> Any:
    import polars as pl

    frame = pl.read_parquet(path, columns=columns)
    for name, shape in shapes.items():
        if name in frame:
            flat = frame[name].explode()
            count = len(flat) // math.prod(shape)
            frame = frame.with_columns(flat.reshape((count, *shape)).alias(name))
    return frame
