"""What is on the disk and not only in memory: files, and the names that directories have."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until the disk has the bytes of a file."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names of a directory."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def make_durable(directory: Path, root: Path) -> None:
    """Make a directory below `root`, each step of it on the disk."""
    missing = []
    step = directory
    while step != root and not step.is_dir():
        missing.append(step)
        step = step.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
