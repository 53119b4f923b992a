"""Versions as directories: `DIR/cache/<tenant>/<bundle digest>/` with the files by their names.

What a runtime opens are these files: hard links to the artefacts where those lie on this machine,
else copies. A directory appears whole or not at all. Each process hashes what it finds there before
it hands it out for the first time, and again when a file is no longer the one it hashed. What is
damaged is made anew from the store; what is damaged there too is `Corrupt`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from aiaas_client.protocol.management import BundleFile
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.registry.rows import VersionRow
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt, digest_of
from aiaas_server.state.artefacts.stores import file_errors

Damaged = Callable[[str, str, str], None]
"""Is told tenant, digest and reason of an artefact whose bytes are damaged in the store."""

_TRIES: Final = 4  # other processes of this machine may make the same directory
_Stamps = tuple[tuple[str, int, int, int], ...]


class Cache:
    """The directories of this machine. Every call blocks: for threads.

    Args:
        root: `DIR/cache`.
        artefacts: Where the bytes are.
        on_damage: Told of what is damaged.
    """

    def __init__(
        self, root: Path, artefacts: Artefacts, on_damage: Damaged = lambda t, d, r: None
    ) -> None:
        self._root = root
        self._artefacts = artefacts
        self._on_damage = on_damage
        self._verified: dict[tuple[str, str], _Stamps] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)

    def place(self, tenant: str, digest: str) -> Path:
        """Where the directory of a bundle is, or would be."""
        return self._root / tenant / digest

    def materialise(self, version: VersionRow, tenant: str) -> Path:
        """The directory of a version, whole and verified.

        Raises:
            Corrupt: Bytes are damaged or gone; whoever has to know has been told.
            StateUnavailable: The store does not answer.
            StorageFull: The disk has no room for a copy.
        """
        key, place = (tenant, version.digest), self.place(tenant, version.digest)
        with self._lock(key):
            for _ in range(_TRIES):
                if self._is_right(key, place, version.files):
                    return place
                self._discard(place)
                with self.assembled(tenant, version.files) as made:
                    self.adopt(made, tenant, version.digest, version.files)
        raise StateUnavailable("the cache of models is being changed by others; try again")

    @contextmanager
    def assembled(self, tenant: str, files: Sequence[BundleFile]) -> Iterator[Path]:
        """A private directory of some files, verified; it is gone afterwards unless adopted.

        Raises:
            Corrupt, StateUnavailable, StorageFull: As `materialise`.
        """
        made = self._root / tenant / f".{secrets.token_hex(16)}"
        with file_errors():
            made.mkdir(parents=True)
            handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # whoever finds it unlocked may remove it
            for file in files:
                self._bring(tenant, file, made / file.name)
            yield made
        finally:
            os.close(handle)
            shutil.rmtree(made, ignore_errors=True)

    def adopt(self, made: Path, tenant: str, digest: str, files: Sequence[BundleFile]) -> None:
        """Make an assembled directory that of a bundle; one that is there already stays."""
        place = self.place(tenant, digest)
        stamps = _stamps(made, files)
        with suppress(OSError):  # not empty: somebody else was first
            made.rename(place)
            self._verified[tenant, digest] = stamps

    def drop(self, tenant: str, digest: str) -> None:
        """Remove the directory of a bundle; whoever has a file open keeps that."""
        with self._lock((tenant, digest)):
            self._verified.pop((tenant, digest), None)
            self._discard(self.place(tenant, digest))

    def drop_all(self, tenant: str) -> None:
        """Remove all directories of a tenant."""
        for owner, digest in self.kept():
            if owner == tenant:
                self.drop(tenant, digest)

    def has(self, tenant: str, digest: str) -> bool:
        """Whether there is a directory of a bundle."""
        return self.place(tenant, digest).exists()

    def kept(self) -> list[tuple[str, str]]:
        """Tenant and digest of all directories."""
        return [
            (path.parent.name, path.name)
            for path in self._root.glob("*/*")
            if not path.name.startswith(".")
        ]

    def clean(self) -> int:
        """Remove what was never finished by processes that are gone; how many there were."""
        removed = 0
        for path in self._root.glob("*/.*"):
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                    removed += 1
                finally:
                    os.close(handle)
        return removed

    # One file

    def _bring(self, tenant: str, file: BundleFile, target: Path) -> None:
        try:
            if not self._link(tenant, file, target):
                self._artefacts.get(tenant, file.sha256, target)
        except Corrupt as error:
            self._on_damage(tenant, file.sha256, error.message)
            raise Corrupt(f"{file.name}: {error.message}", tenant, file.sha256) from None

    def _link(self, tenant: str, file: BundleFile, target: Path) -> bool:
        """Link an artefact of this machine and hash it; False where that is not possible."""
        source = self._artefacts.local(tenant, file.sha256)
        if source is None:
            return False
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            text = f"artefact {file.sha256[:12]} is missing in the store"
            raise Corrupt(text, tenant, file.sha256) from None
        except OSError:
            return False  # another file system, or one without links
        found = digest_of(target)
        if found != file.sha256:
            target.unlink()
            text = f"artefact {file.sha256[:12]} is damaged: its bytes have digest {found}"
            raise Corrupt(text, tenant, file.sha256)
        return True

    def _is_right(self, key: tuple[str, str], place: Path, files: Sequence[BundleFile]) -> bool:
        try:
            stamps = _stamps(place, files)
            if self._verified.get(key) == stamps:
                return True
            right = all(
                (place / file.name).stat().st_size == file.size
                and digest_of(place / file.name) == file.sha256
                for file in files
            )
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateUnavailable(f"the cache of models cannot be read: {error}") from error
        if right:
            self._verified[key] = stamps
        return right

    def _discard(self, place: Path) -> None:
        """Remove a directory so that nobody sees a half of it."""
        going = place.with_name(f".{secrets.token_hex(16)}")
        with suppress(FileNotFoundError):
            place.rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def _lock(self, key: tuple[str, str]) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())


def _stamps(place: Path, files: Sequence[BundleFile]) -> _Stamps:
    """What tells whether files are still those that were hashed."""
    found = []
    for file in files:
        status = (place / file.name).stat()
        found.append((file.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
