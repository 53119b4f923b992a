"""`Memory`: a directory that lies in memory, for what is encrypted elsewhere, while it is used.

Every process of a server holds a lock on it that ends with the process. Whoever starts and finds
that nobody else holds it removes what is there: it was left by processes that are gone. Whoever
ends last does the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, Final

_SHARED: Final = Path("/dev/shm")  # it is looked at before anything is put there
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mounts")
_LOCK: Final = "lock"
SCRATCH: Final = "tmp"
"""Where below it temporary files lie, see `prepare.scratch_of`."""


class MemoryRefused(Exception):
    """A directory cannot be used for what must not be written to a disk; the message tells why."""


def place_of(data: Path, given: Path | None = None) -> Path:
    """Where it is, for a data directory."""
    if given is not None:
        return given.absolute()
    name = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    return _SHARED / f"aiaas-{os.getuid()}-{name}"


def make_place(path: Path, mounts: Path = _MOUNTS) -> None:
    """Make the directory, for this user alone, or see that the one there is such a one.

    Raises:
        MemoryRefused: It is on a disk, is another's, or others may look into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise MemoryRefused(f"memory_dir {path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise MemoryRefused(f"memory_dir {path}: expected a directory, got a link or a file")
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise MemoryRefused(
            f"memory_dir {path}: expected a directory of this user alone (mode 0700), got mode "
            f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}"
        )
    kind = file_system_of(path, mounts)
    if kind not in _IN_MEMORY:
        raise MemoryRefused(
            f"memory_dir {path}: expected a directory in memory (tmpfs or ramfs), got {kind}: what "
            "is encrypted would be written to a disk in plain"
        )


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """The kind of the file system that a path is on; "unknown" where the system does not tell."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "unknown"
    resolved, best, kind = path.resolve(), -1, "unknown"
    for line in lines:
        words = line.split(" ")
        point = Path(words[1].encode().decode("unicode_escape"))  # a space is \040
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind


class Memory:
    """The directory, held by this process until `close`.

    Args:
        path: Of it, see `place_of`.

    Attributes:
        root: What may be put below.
    Raises:
        MemoryRefused: See `make_place`.
    """

    def __init__(self, path: Path, mounts: Path = _MOUNTS) -> None:
        make_place(path, mounts)
        self._path = path
        self.root = path / "used"
        self._lock: BinaryIO | None = (path / _LOCK).open("ab")
        if self._is_alone():
            self._clear()
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self.root.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Let go of it; the last one leaves nothing."""
        if self._lock is None:
            return
        if self._is_alone():
            self._clear()
        self._lock.close()
        self._lock = None

    def _is_alone(self) -> bool:
        assert self._lock is not None, "it is held"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _clear(self) -> None:
        for left in (self.root, self._path / SCRATCH):
            shutil.rmtree(left, ignore_errors=True)
