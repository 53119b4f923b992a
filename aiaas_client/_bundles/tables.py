"""The files that make a data set: found, or written from frames, arrays and directories."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from aiaas_client._bundles.bundle import AnyPath, Part
from aiaas_client._errors import ConfigurationError, InputError, MissingFileError
from aiaas_client._payloads import is_frame

Source = AnyPath | list[AnyPath] | tuple[AnyPath, ...] | Mapping[str, Any] | Any
"""A frame, arrays by name, a path, several of them, or paths by role."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
ROLES = ("images", "labels")
MOST_FILES = 8
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell: equal pictures, equal bytes
_PIECE = 1 << 20  # bytes


def gathered(source: Source, scratch: Path) -> dict[str, Part]:
    """The files of a data set by name; nothing is hashed yet.

    Args:
        source: What `client.datasets.upload` takes.
        scratch: A directory for what has to be written first.
    Raises:
        InputError: It is no table, or a file is missing (`MissingFileError`).
        ConfigurationError: A library that it takes is not installed.
    """
    if is_frame(source):
        return _one(_of_frame(source, scratch))
    if isinstance(source, str | PathLike):
        return _of_path(Path(fspath(source)), scratch)
    if isinstance(source, Mapping) and source:
        if all(isinstance(value, str | PathLike) for value in source.values()):
            return _by_role(source)
        return _one(_of_arrays(source, scratch))
    if isinstance(source, list | tuple) and source:
        return _of_paths([_file(one) for one in source])
    raise InputError(
        f"data: expected a pandas or polars frame, the path of a CSV, Parquet, NPZ or IDX file or "
        f"of a directory of images, a list of such files, or arrays by name, got "
        f"{'nothing in it' if source in ({}, [], ()) else type(source).__name__}"
    )


def _one(path: Path) -> dict[str, Part]:
    return {path.name: Part(path.name, path)}


def _of_frame(frame: Any, scratch: Path) -> Path:
    """A frame as Parquet: of polars by itself, of pandas by pyarrow, which must be there."""
    target = scratch / "data.parquet"
    names = [str(name) for name in frame.columns]
    if not names:
        raise InputError("data: the frame has no column")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"data: the frame has two columns {twice!r}")
    try:
        if hasattr(frame, "write_parquet"):
            frame.write_parquet(target)
        else:
            frame.set_axis(names, axis="columns").to_parquet(target, index=False)
    except ImportError as error:
        raise ConfigurationError(
            "a pandas frame is sent as Parquet, which needs pyarrow: pip install pyarrow"
        ) from error
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise InputError(_unwritten(error)) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("polars", "pyarrow"):
            raise
        raise InputError(_unwritten(error)) from None
    return target


def _unwritten(error: Exception) -> str:
    """pyarrow tells in several parts, the column last."""
    told = ": ".join(str(part) for part in reversed(error.args)) or str(error)
    return (
        f"data: the frame cannot be written as Parquet: {told}; a column holds values of one type"
    )


def _of_arrays(arrays: Mapping[str, Any], scratch: Path) -> Path:
    """Arrays by name, a row of each for a row of the data set."""
    import numpy as np

    found: dict[str, Any] = {}
    name: Any
    for name, value in arrays.items():
        if not isinstance(name, str) or not name or "/" in name or "\x00" in name:
            raise InputError(f"data: expected names of columns, got {name!r:.80}")
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise InputError(f"data: column {name!r}: {error}") from None
        if array.ndim and array.dtype.kind == "O" and all(isinstance(one, str) for one in array):
            array = array.astype(str)
        if array.dtype.kind not in "biufUM" or not array.ndim:
            raise InputError(
                f"data: column {name!r}: expected an array of numbers, truth values, texts or "
                f"times, rows first, got {array.dtype} of shape {array.shape}"
            )
        found[name] = array
    rows = {name: len(array) for name, array in found.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name!r} has {count}" for name, count in rows.items())
        raise InputError(f"data: expected as many rows in each column: {told}")
    target = scratch / "data.npz"
    np.savez(target, **found)
    return target


def _of_path(path: Path, scratch: Path) -> dict[str, Part]:
    if path.is_dir():
        return _one(_zipped(path, scratch))
    file = _file(path)
    name = _plain(file.name)
    return {name: Part(name, file)}


def _of_paths(paths: list[Path]) -> dict[str, Part]:
    if len(paths) > MOST_FILES:
        raise InputError(f"data: expected at most {MOST_FILES} files, got {len(paths)}")
    found: dict[str, Part] = {}
    for path in paths:
        name = _plain(path.name)
        if name in found:
            raise InputError(f"data: two files are called {name!r}")
        found[name] = Part(name, path)
    return found


def _by_role(paths: Mapping[str, AnyPath]) -> dict[str, Part]:
    """IDX files, called by what they hold."""
    found: dict[str, Part] = {}
    for role, one in paths.items():
        if role not in ROLES:
            raise InputError(f"data: expected paths of {' and '.join(ROLES)}, got {role!r:.80}")
        path = _file(one)
        name = f"{role}.idx.gz" if path.suffix == ".gz" else f"{role}.idx"
        found[name] = Part(name, path)
    return found


def _file(given: Any) -> Path:
    if not isinstance(given, str | PathLike):
        raise InputError(f"data: expected the path of a file, got {type(given).__name__}")
    path = Path(fspath(given))
    if path.is_dir():
        raise InputError(f"data: expected a file, got the directory '{path}'")
    if not path.is_file():
        raise MissingFileError(f"data: no file or directory '{path}'")
    if path.stat().st_size == 0:
        raise InputError(f"data: '{path}' is empty")
    return path


def _plain(name: str) -> str:
    """A name that a draft takes: the ending stays, what is not plain becomes a dash."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")
    return plain[-128:].lstrip("._-") or "data"


def _zipped(directory: Path, scratch: Path) -> Path:
    """A directory of images by class as one zip, the same bytes each time.

    Raises:
        InputError: There is no picture in it, one without a class, or a link that leads out.
    """
    target = scratch / "images.zip"
    pictures = sorted(_pictures(directory))
    if not pictures:
        raise InputError(
            f"'{directory}': a directory is read as images: expected a folder of them for each "
            "class, called as it; tables and IDX files are named themselves"
        )
    # Pictures are packed already: stored, they are read and compared faster.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, path in pictures:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as file, archive.open(entry, "w") as into:
                while piece := file.read(_PIECE):
                    into.write(piece)
    return target


def _pictures(directory: Path) -> Iterator[tuple[str, Path]]:
    """Names in the zip, and files; hidden ones and what is no picture are left out."""
    root = directory.resolve()
    for path in _below(directory, root):
        if path.suffix.lower() not in PICTURES:
            continue
        name = path.relative_to(directory).as_posix()
        if "/" not in name:
            raise InputError(
                f"'{path}': expected it in a folder that is called as its class, such as "
                f"'{directory / 'cat' / path.name}'"
            )
        yield name, path


def _below(directory: Path, root: Path) -> Iterator[Path]:
    children: Iterable[Path] = sorted(directory.iterdir())
    for path in children:
        if path.name.startswith("."):
            continue
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root)):
            raise InputError(f"'{path}': links to directories, or out of it, are not followed")
        if path.is_dir():
            yield from _below(path, root)
        elif path.is_file():
            yield path
