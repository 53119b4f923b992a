"""Sealed bytes: AES-256-GCM in frames, by the STREAM construction of Hoang, Reyhanitabar, Rogaway
and Vizár (CRYPTO 2015, *Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*).

    header   "AIAS", version, 7 random bytes, size of a frame (4 bytes, big endian)
    frames   so many bytes each, but the last, encrypted, and 16 bytes of tag

The nonce of a frame is those 7 bytes, its number in 4 bytes, and 1 for the last one, else 0; what
the bytes are of, and the header, are associated data. So a frame that was changed, moved, left out,
added, cut, or taken from another artefact does not open. A frame that opened is right; whether the
last one was there is known with the end, so nobody may use what came before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"AIAS\x01"
FRAME: Final = 1 << 20
HEADER: Final = len(MAGIC) + 7 + 4
TAG: Final = 16
_MOST_FRAME: Final = 16 << 20

Piece = bytes | bytearray | memoryview


class Tampered(Exception):
    """Sealed bytes are not what was sealed; the message tells how."""


def seal(pieces: Iterable[bytes], key: bytes, about: bytes, frame: int = FRAME) -> Iterator[bytes]:
    """Seal bytes, for one reader after another: a header, then frames.

    Args:
        key: 32 bytes.
        about: What the bytes are of; whoever opens them has to say the same.
    """
    cipher, prefix = AESGCM(key), os.urandom(7)
    header = MAGIC + prefix + frame.to_bytes(4, "big")
    kept = bytearray(frame + TAG)
    yield header
    number = 0
    held: Piece = b""
    for plain in _regular(pieces, frame):
        if number:  # the one before was not the last
            yield _sealed(cipher, prefix, number - 1, held, header + about, kept, last=False)
        number, held = number + 1, plain
    at = max(number - 1, 0)
    yield _sealed(cipher, prefix, at, held, header + about, kept, last=True)


def unseal(pieces: Iterable[bytes], key: bytes, about: bytes) -> Iterator[bytes]:
    """Open what `seal` made; the last piece only once the end is known to be right.

    Raises:
        Tampered: It is not what was sealed.
    """
    source = _Source(pieces)
    header = bytes(source.take(HEADER))
    frame = frame_of(header)
    cipher, prefix = AESGCM(key), header[len(MAGIC) : len(MAGIC) + 7]
    kept = bytearray(frame)
    number, held = 0, source.take(frame + TAG)
    while True:
        following = source.take(frame + TAG)
        nonce = _nonce(prefix, number, last=not following)
        if len(held) < TAG:
            raise Tampered(f"frame {number} is cut: {len(held)} bytes")
        view = memoryview(kept)[: len(held) - TAG]
        try:
            cipher.decrypt_into(nonce, held, header + about, view)
        except InvalidTag:
            text = f"frame {number} does not open: it was changed, moved or cut"
            raise Tampered(text) from None
        if plain := bytes(view):
            yield plain
        if not following:
            return
        number, held = number + 1, following


def is_sealed(beginning: bytes) -> bool:
    """Whether bytes begin as sealed ones do."""
    return beginning.startswith(MAGIC)


def frame_of(header: bytes) -> int:
    """The size of a frame, as the header tells it.

    Raises:
        Tampered: That is no header.
    """
    if len(header) < HEADER or not is_sealed(header):
        raise Tampered("the header is not that of sealed bytes")
    frame = int.from_bytes(header[-4:], "big")
    if not 0 < frame <= _MOST_FRAME:
        raise Tampered(f"the header tells frames of {frame} bytes")
    return frame


def plain_size(sealed: int, frame: int = FRAME) -> int:
    """How many bytes are in so many sealed ones; below 0 where that many cannot be."""
    body = sealed - HEADER
    frames = max(1, -(-body // (frame + TAG)))
    return body - frames * TAG


def _sealed(
    cipher: AESGCM,
    prefix: bytes,
    number: int,
    plain: Piece,
    about: bytes,
    kept: bytearray,
    *,
    last: bool,
) -> bytes:
    view = memoryview(kept)[: len(plain) + TAG]
    cipher.encrypt_into(_nonce(prefix, number, last=last), plain, about, view)
    return bytes(view)


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")


def _regular(pieces: Iterable[bytes], size: int) -> Iterator[Piece]:
    """The same bytes in pieces of one size, but the last; none where there are no bytes."""
    source = _Source(pieces)
    while piece := source.take(size):
        yield piece


class _Source:
    """Pieces of any size, taken in others."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def take(self, size: int) -> Piece:
        """So many bytes, or what is left."""
        if len(self._rest) >= size:
            found, self._rest = self._rest[:size], self._rest[size:]
            return found
        taken = bytearray(self._rest)
        self._rest = memoryview(b"")
        while len(taken) < size and (piece := next(self._pieces, b"")):
            wanted = size - len(taken)
            view = memoryview(piece)
            taken += view[:wanted]
            self._rest = view[wanted:]
        return taken
