"""gzip and deflate for whole bodies, with the limit on what comes out.

On HTTP `deflate` means the zlib container; either container is accepted for either name, as the
reference server does. Output is never allocated beyond the limit, whatever a bomb promises.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from aiaas_client.protocol.codec import Body, CodecError
from aiaas_client.protocol.errors import ErrorCode

ENCODINGS = ("gzip", "deflate")
_EITHER_CONTAINER = 47
_WINDOW = {"gzip": 31, "deflate": 15}
_LEVEL = 1  # tensors barely compress: the fastest level gives nearly all there is


class BodyTooLarge(CodecError):
    """The inflated body passes the limit."""

    def __init__(self, limit: int) -> None:
        text = f"the decompressed body is larger than the limit of {limit} bytes"
        super().__init__(text, ErrorCode.PAYLOAD_TOO_LARGE)


def inflate(body: Body, limit: int) -> bytes:
    """Undo gzip or deflate.

    Args:
        body: The compressed bytes; gzip may have several members.
        limit: Most bytes to come out.
    Raises:
        BodyTooLarge: More than `limit` bytes would come out.
        CodecError: Corrupt or cut off.
    """
    pieces: list[bytes] = []
    room = limit
    data: Body = body
    while True:
        stream = zlib.decompressobj(_EITHER_CONTAINER)
        try:
            piece = stream.decompress(data, room + 1)
        except zlib.error as error:
            raise CodecError(f"the compressed body is corrupt: {error}") from None
        if len(piece) > room:
            raise BodyTooLarge(limit)
        room -= len(piece)
        pieces.append(piece)
        if not stream.eof:
            raise CodecError("the compressed body is cut off")
        data = stream.unused_data
        if not data:
            return b"".join(pieces)


def compress(chunks: Iterable[bytes | memoryview], encoding: str) -> bytes:
    """Apply `gzip` or `deflate` (the zlib container) to the chunks as one body."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    pieces = [stream.compress(chunk) for chunk in chunks]
    pieces.append(stream.flush())
    return b"".join(pieces)
