"""Sealed bytes that come one after another, of which an end may be missing: parts of uploads.

    header   "AIAP", version, 16 random bytes
    records  length (4 bytes, big endian), 12 random bytes, so many bytes encrypted, with their tag

The key is derived of the artefact's and of the header, so that what never becomes the artefact has
no key in common with it. What a record is behind, in bytes, is associated data: one that was
changed, moved or left out does not open. A last one that was cut has not come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aiaas_server.state.artefacts.sealed import TAG, Tampered

_MAGIC: Final = b"AIAP\x01"
_SALT: Final = 16
_HEADER: Final = len(_MAGIC) + _SALT
_LENGTH: Final = 4
_NONCE: Final = 12
_BEFORE: Final = _LENGTH + _NONCE  # bytes of a record before what is encrypted
_LONGEST: Final = 1 << 30


class Scanned(NamedTuple):
    """What a file has: bytes in whole records, and where the last of these ends."""

    size: int
    end: int


def scan(file: BinaryIO) -> Scanned:
    """Look at the lengths of records, without opening any; a file of another kind has none."""
    file.seek(0, os.SEEK_END)
    whole = file.tell()
    file.seek(0)
    if not file.read(_HEADER).startswith(_MAGIC) or whole < _HEADER:
        return Scanned(0, 0)
    size, at = 0, _HEADER
    while at + _BEFORE <= whole:
        file.seek(at)
        length = int.from_bytes(file.read(_LENGTH), "big")
        if not TAG < length <= _LONGEST or at + _BEFORE + length > whole:
            break
        size, at = size + length - TAG, at + _BEFORE + length
    return Scanned(size, at)


class Records:
    """The records of an open file. All methods block.

    Args:
        key: Of the artefact that they become.
        salt: Of the header.
        scanned: What is there.
    """

    def __init__(self, file: BinaryIO, key: bytes, salt: bytes, scanned: Scanned) -> None:
        self._file = file
        self._size, self._end = scanned
        own = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"aiaas/part").derive(key)
        self._cipher = AESGCM(own)
        self._kept = bytearray()

    @classmethod
    def begin(cls, file: BinaryIO, key: bytes) -> Records:
        """None so far; what the file has is gone."""
        salt = os.urandom(_SALT)
        file.truncate(0)
        file.seek(0)
        file.write(_MAGIC + salt)
        return cls(file, key, salt, Scanned(0, _HEADER))

    @classmethod
    def go_on(cls, file: BinaryIO, key: bytes) -> Records:
        """Those that are there; a cut one at the end is thrown away."""
        scanned = scan(file)
        file.seek(len(_MAGIC))
        salt = file.read(_SALT)
        file.truncate(scanned.end)
        return cls(file, key, salt, scanned)

    def add(self, plain: bytes) -> None:
        """Seal one more; an OSError leaves a cut one."""
        if not plain:
            return
        nonce, length = os.urandom(_NONCE), len(plain) + TAG
        if len(self._kept) < length:
            self._kept = bytearray(length)
        view = memoryview(self._kept)[:length]
        self._cipher.encrypt_into(nonce, plain, self._about(), view)
        self._file.seek(self._end)
        self._file.write(length.to_bytes(_LENGTH, "big") + nonce)
        self._file.write(view)
        self._size, self._end = self._size + len(plain), self._end + _BEFORE + length

    def pieces(self) -> Iterator[bytes]:
        """All of them, opened.

        Raises:
            Tampered: One is not what was sealed.
        """
        size, at = 0, _HEADER
        while at < self._end:
            self._file.seek(at)
            before = self._file.read(_BEFORE)
            length = int.from_bytes(before[:_LENGTH], "big")
            body = self._file.read(length)
            try:
                plain = self._cipher.decrypt(before[_LENGTH:], body, b"%d" % size)
            except InvalidTag:
                raise Tampered(f"what came behind byte {size} does not open") from None
            yield plain
            size, at = size + len(plain), at + _BEFORE + length

    def _about(self) -> bytes:
        return b"%d" % self._size
