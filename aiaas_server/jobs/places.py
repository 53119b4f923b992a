"""The directories of jobs, `DATA/jobs/<id>-<attempt>`: one an attempt, gone with it.

What a job made is written down in its directory before it is kept, so that a server that ends
meanwhile does not have it made again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from aiaas_server.jobs.family import end_all
from aiaas_server.jobs.orders import Product
from aiaas_server.jobs.process import MARK, mark_of
from aiaas_server.state.durable import sync_directory, sync_file

_MADE: Final = "product.json"
_named = re.compile(r"([0-9a-f]{32})-[0-9]+").fullmatch


def place(root: Path, job: str, attempt: int) -> Path:
    """Where an attempt has its files."""
    return root / f"{job}-{attempt}"


def make(root: Path, job: str, directory: Path) -> None:
    """An empty directory, in place of all that the job had before; nothing of it runs any more."""
    for older in root.glob(f"{job}-*"):
        remove(older)
    directory.mkdir(mode=0o700)


def remove(directory: Path) -> None:
    """Remove a directory, and end whatever still runs in it."""
    end_all(MARK, mark_of(directory))
    shutil.rmtree(directory, ignore_errors=True)


def remember(directory: Path, product: Product) -> None:
    """Write down what a job made, once the disk has all of it."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            sync_file(path)
    part = directory / f"{_MADE}.part"
    part.write_text(product.model_dump_json(), "utf-8")
    sync_file(part)
    part.rename(directory / _MADE)
    sync_directory(directory)


def made_before(root: Path, job: str) -> Product | None:
    """What an attempt before this one made, that was not kept to the end."""
    found = _directory_of_made(root, job)
    if found is None:
        return None
    with suppress(OSError, ValidationError):
        return Product.model_validate_json((found / _MADE).read_bytes())
    return None


def take_over(root: Path, job: str, directory: Path) -> Path:
    """Where that lies; it is this attempt's now."""
    found = _directory_of_made(root, job)
    assert found is not None, "it was read just now"
    if found != directory:
        remove(directory)
        found.rename(directory)
    return directory


def left(root: Path) -> list[tuple[str, Path]]:
    """The directories that there are, each with the id of its job."""
    found = [(_named(path.name), path) for path in root.iterdir()]
    return [(named[1], path) for named, path in found if named is not None]


def clean(found: Collection[tuple[str, Path]], wanted: Collection[str]) -> None:
    """Remove those of jobs that are not `wanted`."""
    for job, path in found:
        if job not in wanted:
            remove(path)


def _directory_of_made(root: Path, job: str) -> Path | None:
    for path in sorted(root.glob(f"{job}-*")):
        if (path / _MADE).is_file():
            return path
    return None
