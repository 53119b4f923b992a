"""A directory of pictures by class, in one `.zip`: `cats/1.jpg`, `dogs/2.png`, …

The folder that a picture lies in is its class. Pictures are kept as they are, and read once to see
that they can be.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

import pyarrow as pa

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.source import (
    BadCell,
    Source,
    Wanted,
    check_names,
    check_size,
    shown,
)
from aiaas_server.job_process.reading.typed import check_picture
from aiaas_server.job_process.tables import field_of

_CHUNK: Final = 64 << 20  # bytes of pictures in one array
_PASSED_OVER: Final = ("__MACOSX", "Thumbs.db", "desktop.ini")
_ENCRYPTED: Final = 1
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError)


class _Picture(NamedTuple):
    entry: zipfile.ZipInfo
    path: PurePosixPath


def read(source: Source, wanted: Wanted) -> Any:
    """The table: `image`, `label` and `file`, in the order of the files' names.

    Raises:
        InvalidInput: It cannot be read; names the picture.
        TooLarge: It is larger than a data set may be.
    """
    check_names(source.name, ["image", "label", "file"], wanted.kinds)
    if any(kind != {"image": "image"}.get(name, kind) for name, kind in wanted.kinds.items()):
        raise InvalidInput("kinds: column 'image' of a directory of images is of images")
    try:
        with zipfile.ZipFile(source.path) as packed:
            pictures = _pictures(source, packed, wanted.most)
            images = _contents(source, packed, pictures)
    except _BROKEN as error:
        raise InvalidInput(f"{source.name}: not a .zip file that can be read: {error}") from None
    labels = pa.array([picture.path.parent.name for picture in pictures])
    files = pa.array([str(picture.path) for picture in pictures])
    label, file = wanted.kinds.get("label", "category"), wanted.kinds.get("file", "text")
    fields = [
        field_of("image", pa.binary(), "image"),
        field_of("label", pa.string(), label),
        field_of("file", pa.string(), file),
    ]
    return pa.Table.from_arrays([images, labels, files], schema=pa.schema(fields))


def _pictures(source: Source, packed: zipfile.ZipFile, most: int) -> list[_Picture]:
    found = []
    for entry in packed.infolist():
        path = _checked(source, entry)
        hidden = any(part.startswith(".") or part in _PASSED_OVER for part in path.parts)
        if entry.is_dir() or hidden:
            continue
        if len(path.parts) < 2:
            raise InvalidInput(
                f"{source.name}: expected CLASS/PICTURE, got {shown(entry.filename)} outside of "
                "any folder"
            )
        found.append(_Picture(entry, path))
    check_size(source.name, sum(picture.entry.file_size for picture in found), most)
    if not found:
        raise InvalidInput(f"{source.name}: expected pictures in folders by class, got none")
    return sorted(found, key=lambda picture: picture.path)


def _checked(source: Source, entry: zipfile.ZipInfo) -> PurePosixPath:
    """The path of an entry, if it stays inside."""
    where = f"{source.name}: {shown(entry.filename)}"
    path = PurePosixPath(entry.filename)
    drive = entry.filename[1:2] == ":"
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or drive:
        raise InvalidInput(f"{where}: expected a path inside of the directory")
    if not str(path).isprintable():
        raise InvalidInput(f"{where}: expected a name of printable characters")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise InvalidInput(f"{where}: expected a file, got a link")
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidInput(f"{where}: it is encrypted")
    return path


def _contents(source: Source, packed: zipfile.ZipFile, pictures: list[_Picture]) -> Any:
    chunks, held, size = [], list[bytes](), 0
    for picture in pictures:
        try:
            content = packed.read(picture.entry)
            check_picture(0, content)
        except _BROKEN as error:
            raise InvalidInput(f"{source.name}: {picture.path}: {error}") from None
        except BadCell as error:
            raise InvalidInput(f"{source.name}: {picture.path}: {error}") from None
        held.append(content)
        size += len(content)
        if size >= _CHUNK:
            chunks.append(pa.array(held, pa.binary()))
            held, size = [], 0
    chunks.append(pa.array(held, pa.binary()))
    return pa.chunked_array(chunks, pa.binary())
