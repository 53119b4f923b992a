"""`Journal`: a file of amounts that are not in the database yet; what is in it survives a crash.

A line is a checksum, and JSON behind it: `{"seq", "amounts", "left"}`. Lines are written one after
the other, each to the disk before it counts. A process that dies leaves one line that is torn at
most: it is no line, and what stands before it is whole. The file is locked for as long as its
process lives, so that whoever gets the lock knows that nobody writes it any more.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

from aiaas_server.state.durable import sync_directory
from aiaas_server.tenancy.meter import Left, Taken, Used

SUFFIX: Final = ".journal"
MOST_BYTES: Final = 16 << 20
"""Beyond it, what waits for the database is added up to one line."""

_log = logging.getLogger("aiaas_server")


class Line(NamedTuple):
    """What one line holds.

    Attributes:
        seq: Its number, in an order that has no number twice.
    """

    seq: int
    taken: Taken


class Journal:
    """The journal of one process, open and locked.

    Args:
        descriptor: Of the file, which is locked.

    Attributes:
        node: Names the journal in the database.
        waiting: The lines that have not been cut, in order.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.node = path.name.removesuffix(SUFFIX)
        self._file = descriptor
        self.waiting, self._size = _read(descriptor, path)
        self._seq = self.waiting[-1].seq if self.waiting else 0
        self._bound = MOST_BYTES

    @classmethod
    def make(cls, path: Path) -> Self:
        """A new one.

        Raises:
            OSError: It cannot be made, or somebody took it for one of a process that is gone.
        """
        found = cls._locked(path, os.O_CREAT)
        sync_directory(path.parent)
        return found

    @classmethod
    def take_over(cls, path: Path) -> Self | None:
        """The journal of a process that is gone; None where it lives, or another was first.

        Raises:
            OSError: It cannot be read.
        """
        try:
            return cls._locked(path)
        except (BlockingIOError, FileNotFoundError):
            return None

    @classmethod
    def _locked(cls, path: Path, flags: int = 0) -> Self:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino != path.stat().st_ino:  # replaced or removed meanwhile
                raise FileNotFoundError(str(path))
            return cls(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def size(self) -> int:
        """Bytes of whole lines."""
        return self._size

    def append(self, taken: Taken) -> None:
        """Write a line; returns when the disk has it.

        Raises:
            OSError: It is not written, and may be tried again.
        """
        line = Line(self._seq + 1, taken)
        data = _written(line)
        os.ftruncate(self._file, self._size)  # what a write that failed has left
        _write_all(self._file, data, self._size)
        os.fsync(self._file)
        self._size += len(data)
        self._seq = line.seq
        self.waiting.append(line)

    def cut(self, seq: int) -> None:
        """Forget the lines up to `seq`; the file shrinks once none is left.

        It is not synced: lines that come back by a crash are known to the database.
        """
        self.waiting = [line for line in self.waiting if line.seq > seq]
        if not self.waiting and self._size:
            os.ftruncate(self._file, 0)
            self._size = 0

    def compact(self, behind: int) -> bool:
        """Where the file is too large, add the lines behind `behind` up to one.

        Args:
            behind: The last line that was handed to the database, whatever came of it.
        Returns:
            Whether it was.
        Raises:
            OSError: It stays as it is.
        """
        if self._size <= self._bound:
            return False
        kept = [line for line in self.waiting if line.seq <= behind]
        loose = [line for line in self.waiting if line.seq > behind]
        if len(loose) > 1:
            kept.append(Line(loose[-1].seq, added_up([line.taken for line in loose])))
        else:
            kept += loose
        data = b"".join(_written(line) for line in kept)
        self._replace(data)
        self.waiting, self._size = kept, len(data)
        self._bound = max(MOST_BYTES, 2 * len(data))
        return True

    def _replace(self, data: bytes) -> None:
        beside = self.path.with_suffix(".new")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(descriptor, data, 0)
            os.fsync(descriptor)
            beside.replace(self.path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                beside.unlink()
            raise
        sync_directory(self.path.parent)
        os.close(self._file)
        self._file = descriptor

    def remove(self) -> None:
        """Delete the file, whose lines have all been cut, for good."""
        for path in (self.path, self.path.with_suffix(".new")):
            path.unlink(missing_ok=True)
        sync_directory(self.path.parent)
        self.close()

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def added_up(parts: Iterable[Taken]) -> Taken:
    """The sums of several."""
    amounts: dict[Used, int] = {}
    left: list[Left] = []
    for part in parts:
        for used, amount in part.amounts.items():
            amounts[used] = amounts.get(used, 0) + amount
        left += part.left
    return Taken(amounts, left)


def _written(line: Line) -> bytes:
    document = {
        "seq": line.seq,
        "amounts": [[*used, amount] for used, amount in line.taken.amounts.items()],
        "left": [list(one) for one in line.taken.left],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    return b"%08x %b\n" % (crc32(text), text)


def _read(descriptor: int, path: Path) -> tuple[list[Line], int]:
    """The whole lines of a file, and the bytes up to the end of the last one."""
    data = _read_all(descriptor)
    found: list[Line] = []
    end = at = damaged = 0
    for text in data.splitlines(keepends=True):
        at += len(text)
        line = _line(text)
        if line is None or (found and line.seq <= found[-1].seq):
            damaged += 1
            continue
        found.append(line)
        end = at
    if damaged:
        _log.warning(
            "the journal of usage %s: %d bytes at its end, and %d lines in all, are not whole; "
            "what was counted in them is lost, %d lines are counted",
            path.name,
            len(data) - end,
            damaged,
            len(found),
        )
    return found, end


def _line(text: bytes) -> Line | None:
    """One line; None where it is not as it was written."""
    check, _, document = text.rstrip(b"\n").partition(b" ")
    if not text.endswith(b"\n") or check != b"%08x" % crc32(document):
        return None
    try:
        return _line_of(json.loads(document))
    except (ValueError, TypeError, KeyError):  # of another release
        return None


def _line_of(document: dict[str, Any]) -> Line:
    amounts = {Used(*row[:-1]): int(row[-1]) for row in document["amounts"]}
    left = [Left(*row) for row in document["left"]]
    return Line(int(document["seq"]), Taken(amounts, left))


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while part := os.pread(descriptor, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


def journals(directory: Path) -> Sequence[Path]:
    """The journals in a directory."""
    return sorted(directory.glob("*" + SUFFIX))
