"""IDX, as MNIST and Fashion-MNIST come: one file of images, one of labels, gzipped or not.

What a file is its name says: `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`.
Source: LeCun, Cortes and Burges, *The MNIST database of handwritten digits*.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.npz import as_table
from aiaas_server.job_process.reading.source import Source, Wanted, check_names, check_size

_DTYPES: Final = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP: Final = b"\x1f\x8b"
_MOST_DIMENSIONS: Final = 8
_COLUMNS: Final = {"images": "image", "labels": "label"}


def read(sources: Sequence[Source], wanted: Wanted) -> Any:
    """The table: `image`, an array, and `label` where there is a file of them.

    Raises:
        InvalidInput: They cannot be read, or are other files than one of each; names the file.
        TooLarge: They are larger than a data set may be.
    """
    roles = _roles(sources)
    check_names(roles["images"].name, [_COLUMNS[role] for role in roles], wanted.kinds)
    left, arrays = wanted.most, {}
    for role, source in roles.items():
        array = _array(source, left)
        left -= array.nbytes
        if role == "images" and array.ndim < 2:
            raise InvalidInput(f"{source.name}: expected images, got numbers of one dimension")
        if role == "labels" and array.ndim != 1:
            raise InvalidInput(f"{source.name}: expected one label a row, got {array.shape[1:]}")
        arrays[_COLUMNS[role]] = array
    rows = {role: len(arrays[_COLUMNS[role]]) for role in roles}
    if len(set(rows.values())) > 1:
        raise InvalidInput(
            f"{roles['labels'].name}: expected {rows['images']} labels, one for each image of "
            f"{roles['images'].name}, got {rows['labels']}"
        )
    if not rows["images"]:
        raise InvalidInput(f"{roles['images'].name}: expected images, got none")
    return as_table(roles["images"].name, arrays, wanted)


def _roles(sources: Sequence[Source]) -> dict[str, Source]:
    roles: dict[str, Source] = {}
    for source in sources:
        role = next((role for role in _COLUMNS if role[:-1] in source.name.lower()), None)
        if role is None:
            raise InvalidInput(
                f"{source.name}: expected 'images' or 'labels' in the name of an IDX file"
            )
        if role in roles:
            raise InvalidInput(
                f"{source.name}: there is {roles[role].name} already; what is for training and "
                "what is for testing are two data sets"
            )
        roles[role] = source
    if "images" not in roles:
        raise InvalidInput("files: expected an IDX file with 'images' in its name, got none")
    return {role: roles[role] for role in _COLUMNS if role in roles}


def _array(source: Source, most: int) -> np.ndarray[Any, Any]:
    try:
        with _opened(source.path) as file:
            return _read(source, file, most)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InvalidInput(f"{source.name}: damaged or cut off: {error}") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _read(source: Source, file: BinaryIO, most: int) -> np.ndarray[Any, Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES:
        raise InvalidInput(f"{source.name}: not an IDX file: it begins with {head!r}")
    count = head[3]
    if not 1 <= count <= _MOST_DIMENSIONS:
        raise InvalidInput(f"{source.name}: expected 1 to {_MOST_DIMENSIONS} axes, got {count}")
    sizes = file.read(4 * count)
    if len(sizes) < 4 * count:
        raise InvalidInput(f"{source.name}: cut off in its header")
    shape = [int.from_bytes(sizes[at : at + 4]) for at in range(0, 4 * count, 4)]
    dtype = np.dtype(_DTYPES[head[2]])
    size = dtype.itemsize
    for length in shape:
        size *= length
    check_size(source.name, size, most)
    content = file.read(size + 1)
    if len(content) != size:
        more = "more" if len(content) > size else f"{len(content)}"
        raise InvalidInput(f"{source.name}: expected {size} bytes for shape {shape}, got {more}")
    return np.frombuffer(content, dtype).reshape(shape)
