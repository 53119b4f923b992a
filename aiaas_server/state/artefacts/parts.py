"""Files that are being received: `DIR/drafts/<draft>/<digest>.part`, hashed as they grow.

A part is locked by whoever writes to it, in whichever process; the lock ends with the process. It
leaves by being moved to the store, so an open part is looked at again once the lock is had: it may
have become an artefact, which nobody may write to.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aiaas_server.core.errors import StateUnavailable, StorageFull
from aiaas_server.state.artefacts.stores import FULL, PIECE, make_durable


class Part:
    """An open part, locked. All methods block.

    Attributes:
        path: Where it lies.
        size: Bytes that it has.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self._file = file
        self._hashed = hashlib.sha256()

    def restart(self) -> None:
        """Forget what has come."""
        self._file.truncate(0)
        self._file.seek(0)
        self.size, self._hashed = 0, hashlib.sha256()

    def resume(self) -> None:
        """Hash what came before, so that the rest can follow."""
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            self._hashed.update(piece)

    def append(self, pieces: Sequence[bytes]) -> None:
        """Write and hash what came.

        Raises:
            StorageFull: The disk is full; the part is gone, to make room.
            StateUnavailable: The disk cannot be written.
        """
        try:
            for piece in pieces:
                self._file.write(piece)
                self._hashed.update(piece)
                self.size += len(piece)
            self._file.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise StateUnavailable("the upload cannot be written; try again") from error
            self.drop()
            text = "the disk of the server is full: the upload was dropped"
            raise StorageFull(text) from error

    def digest(self) -> str:
        """SHA-256 of all that has come."""
        return self._hashed.hexdigest()

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; what came stays, unless the disk does not take the last of it."""
        with suppress(OSError):
            self._file.close()


class Parts:
    """All parts of this server.

    Args:
        root: `DIR/drafts`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def place(self, draft: str, digest: str) -> Path:
        """Where a part lies."""
        return self.root / draft / f"{digest}.part"

    def size(self, draft: str, digest: str) -> int:
        """Bytes that have come of it."""
        try:
            return self.place(draft, digest).stat().st_size
        except FileNotFoundError:
            return 0

    def open(self, draft: str, digest: str) -> Part | None:
        """Open a part, a new one if there is none; None while somebody else writes to it.

        Raises:
            StorageFull: The disk is full.
        """
        path = self.place(draft, digest)
        try:
            make_durable(path.parent, self.root)
            while True:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                file = os.fdopen(handle, "r+b")
                if not _lock(file):
                    file.close()
                    return None
                if _is_at(file, path):
                    return Part(path, file)
                file.close()
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull("the disk of the server is full") from error
            raise StateUnavailable("the upload cannot be written; try again") from error

    def is_busy(self, draft: str, digest: str) -> bool:
        """Whether somebody writes to a part, or is bringing it to the store."""
        try:
            with self.place(draft, digest).open("rb") as file:
                return not _lock(file)
        except FileNotFoundError:
            return False

    def is_held(self, draft: str) -> bool:
        """Whether somebody works on any part of a draft."""
        parts = [path.stem for path in (self.root / draft).glob("*.part")]
        return any(self.is_busy(draft, digest) for digest in parts)

    def drop(self, draft: str) -> None:
        """Remove all parts of a draft."""
        shutil.rmtree(self.root / draft, ignore_errors=True)

    def drafts(self) -> list[str]:
        """Drafts of which there are parts."""
        return [path.name for path in self.root.iterdir() if path.is_dir()]


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file.fileno())
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
