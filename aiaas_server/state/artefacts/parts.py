"""Files that are being received: `DIR/drafts/<draft>/<digest>.part`, hashed as they grow.

A part is locked by whoever writes to it, in whichever process; the lock ends with the process. It
leaves by being moved to the store, so an open part is looked at again once the lock is had: it may
have become an artefact, which nobody may write to.

With a master key what comes is sealed as it comes, see `sealed_records`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from aiaas_server.core.errors import Conflict, StateUnavailable, StorageFull
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.data_keys import DataKeys
from aiaas_server.state.artefacts.sealed import Tampered
from aiaas_server.state.artefacts.sealed_records import Records, scan
from aiaas_server.state.artefacts.stores import FULL, PIECE
from aiaas_server.state.durable import make_durable


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
            self._write(pieces)
            self._file.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise StateUnavailable("the upload cannot be written; try again") from error
            self.drop()
            text = "the disk of the server is full: the upload was dropped"
            raise StorageFull(text) from error

    def _write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._hashed.update(piece)
            self.size += len(piece)

    def digest(self) -> str:
        """SHA-256 of all that has come."""
        return self._hashed.hexdigest()

    def bring(self, artefacts: Artefacts, tenant: str, digest: str) -> None:
        """Have the whole of it become an artefact; it is used up.

        Raises:
            StorageFull: There is no room.
            StateUnavailable: The store does not answer.
        """
        artefacts.put(tenant, digest, self.path)

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
        keys: Seal what comes with these.
    """

    def __init__(self, root: Path, keys: DataKeys | None = None) -> None:
        self.root = root
        self._keys = keys
        root.mkdir(parents=True, exist_ok=True)

    def place(self, draft: str, digest: str) -> Path:
        """Where a part lies."""
        return self.root / draft / f"{digest}.part"

    def size(self, draft: str, digest: str) -> int:
        """Bytes that have come of it."""
        try:
            if self._keys is None:
                return self.place(draft, digest).stat().st_size
            with self.place(draft, digest).open("rb") as file:
                return scan(file).size
        except FileNotFoundError:
            return 0

    def open(self, draft: str, digest: str, tenant: str = "") -> Part | None:
        """Open a part, a new one if there is none; None while somebody else writes to it.

        Args:
            tenant: Whose it is; nothing is written to one of nobody.
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
                    return self._part(path, file, tenant, digest)
                file.close()
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull("the disk of the server is full") from error
            raise StateUnavailable("the upload cannot be written; try again") from error

    def _part(self, path: Path, file: BinaryIO, tenant: str, digest: str) -> Part:
        if self._keys is None or not tenant:
            return Part(path, file)
        return SealedPart(path, file, partial(self._keys.obtain, tenant, digest))

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

    def drop_plain(self) -> None:
        """Remove what came before there was a key to seal it with: it is sent anew."""
        for path in self.root.glob("*/*.part"):
            with suppress(OSError), path.open("rb") as file:
                if not scan(file).end and _lock(file):
                    path.unlink()

    def drafts(self) -> list[str]:
        """Drafts of which there are parts."""
        return [path.name for path in self.root.iterdir() if path.is_dir()]


class SealedPart(Part):
    """A part of which the disk sees nothing but sealed bytes.

    Args:
        find_key: Gives the key of the artefact that it becomes; asked once there is a use of it.
    """

    def __init__(self, path: Path, file: BinaryIO, find_key: Callable[[], bytes]) -> None:
        super().__init__(path, file)
        self._find_key = find_key
        self._records: Records | None = None
        self.size = scan(file).size

    def restart(self) -> None:
        """Forget what has come."""
        self._records = Records.begin(self._file, self._find_key())
        self.size, self._hashed = 0, hashlib.sha256()

    def resume(self) -> None:
        """Open and hash what came before, so that the rest can follow.

        Raises:
            Conflict: It is damaged, and was thrown away: it has to be sent from its beginning.
        """
        if self.size == 0:
            self.restart()
            return
        try:
            self._records = Records.go_on(self._file, self._find_key())
            for piece in self._records.pieces():
                self._hashed.update(piece)
        except Tampered as error:
            self.restart()
            text = f"what came before is damaged ({error}): received are 0 bytes, begin anew"
            raise Conflict(text) from None

    def bring(self, artefacts: Artefacts, tenant: str, digest: str) -> None:
        """Open it and have it sealed as an artefact; what is damaged becomes none."""
        assert self._records is not None, "it was filled"
        try:
            artefacts.put_pieces(tenant, digest, self._records.pieces())
        except Tampered as error:
            self.restart()
            raise StateUnavailable(f"the upload is damaged ({error}): send it again") from None
        self.drop()

    def _write(self, pieces: Sequence[bytes]) -> None:
        assert self._records is not None, "it was begun"
        self._records.add(b"".join(pieces))
        for piece in pieces:
            self._hashed.update(piece)
            self.size += len(piece)


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
