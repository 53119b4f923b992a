"""What a fake server reads of uploaded files: values by column, and what is told of them."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from aiaas_client.protocol.datasets import ClassCount, Column, ColumnKind
from aiaas_client.protocol.texts import decode_text
from aiaas_client.testing.fake_model import FakeError

Columns = dict[str, Any]  # name -> a list, or an array with the rows first
_MOST_CLASSES = 20


def format_of(names: Sequence[str]) -> str:
    """By the endings of the files."""
    endings = {".csv": "csv", ".parquet": "parquet", ".npz": "npz", ".zip": "images"}
    for ending, found in endings.items():
        if len(names) == 1 and names[0].endswith(ending):
            return found
    if any(".idx" in name or "-ubyte" in name for name in names):
        return "idx"
    raise FakeError(400, f"files: expected one CSV, Parquet, NPZ or zip file, got {names}")


def read(format: str, files: Mapping[str, bytes]) -> Columns:
    """The columns of what was uploaded."""
    reader = {"csv": _csv, "npz": _npz, "parquet": _parquet, "images": _images}.get(format)
    if reader is None:
        raise FakeError(501, f"the fake server reads no {format}", code="not_supported")
    (content,) = files.values()
    columns = reader(content)
    rows = {len(values) for values in columns.values()}
    if len(rows) != 1 or not max(rows):
        raise FakeError(400, f"expected as many rows in each column, and some, got {sorted(rows)}")
    return columns


def parquet_of(columns: Columns) -> bytes | None:
    """As one Parquet file; None where pandas is not installed to write it."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return None
    plain = {
        name: list(values.reshape(len(values), -1)) if getattr(values, "ndim", 1) > 1 else values
        for name, values in columns.items()
    }
    target = io.BytesIO()
    pd.DataFrame(plain).to_parquet(target, index=False)
    return target.getvalue()


def described(name: str, values: Any, kind: ColumnKind | None) -> Column:
    """What is told of a column."""
    if getattr(values, "ndim", 1) > 1:
        shape = list(values.shape[1:])
        return Column(name=name, kind="array", dtype=str(values.dtype), shape=shape)
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    present = [one for one in plain if not _is_missing(one)]
    counts = Counter(str(one) if isinstance(one, bytes) else one for one in present)
    found = kind or _kind(present, len(counts))
    told: dict[str, Any] = {"missing": len(plain) - len(present), "distinct": len(counts)}
    if found in ("number", "integer") and present:
        numbers = np.array(present, float)
        told |= {"minimum": float(numbers.min()), "maximum": float(numbers.max())}
        told |= {"mean": float(numbers.mean()), "deviation": float(numbers.std())}
    if found in ("category", "boolean", "integer") and len(counts) <= _MOST_CLASSES:
        told["classes"] = [ClassCount(value=one, rows=n) for one, n in counts.most_common()]
    return Column(name=name, kind=found, **told)


def _kind(values: Sequence[Any], distinct: int) -> ColumnKind:
    kinds: tuple[tuple[type | tuple[type, ...], ColumnKind], ...] = (
        (bytes, "image"),
        (bool, "boolean"),
        (int, "integer"),
        ((int, float), "number"),
    )
    for kind, name in kinds:
        if all(isinstance(one, kind) for one in values):
            return name
    return "category" if distinct <= max(_MOST_CLASSES, len(values) // 2) else "text"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _csv(content: bytes) -> Columns:
    rows = list(filter(None, csv.reader(io.StringIO(decode_text(content), newline=""))))
    if len(rows) < 2:
        raise FakeError(400, "expected a header and rows below it")
    header = rows[0]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            text = f"line {number}: expected {len(header)} cells as in the header, got {len(row)}"
            raise FakeError(400, text)
    return {name: _cells([row[at] for row in rows[1:]]) for at, name in enumerate(header)}


def _cells(texts: list[str]) -> list[Any]:
    """Whole numbers, numbers or texts, whichever all of them are; empty ones are missing."""
    for kind in (int, float):
        try:
            return [kind(text) if text else None for text in texts]
        except ValueError:
            continue
    return [text or None for text in texts]


def _npz(content: bytes) -> Columns:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise FakeError(400, f"no NPZ file: {error}") from None


def _parquet(content: bytes) -> Columns:
    """With the library that wrote it, or whichever is there."""
    try:
        import pandas as pd
    except ModuleNotFoundError:
        text = "the fake server reads Parquet with pandas, which is not installed"
        raise FakeError(501, text, code="not_supported") from None
    frame = pd.read_parquet(io.BytesIO(content))
    found: Columns = {}
    for name in frame.columns:
        values = frame[name].tolist()
        is_array = values and isinstance(values[0], np.ndarray)
        found[name] = np.stack(values) if is_array else values
    return found


def _images(content: bytes) -> Columns:
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        names = [one for one in packed.namelist() if not one.endswith("/")]
        pictures = [packed.read(name) for name in names]
    labels = [PurePosixPath(name).parent.name for name in names]
    return {"image": pictures, "label": labels, "file": names}
