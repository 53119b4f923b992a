"""gzip and deflate for whole bodies, with the limit on what comes out.

On HTTP `deflate` means the zlib container; either container is accepted for either name, as the
reference server does. Output is never allocated beyond the limit, whatever a bomb promises.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError
from aiaas_client.protocol.tensors import Body

_EITHER_CONTAINER = 47
_WINDOW = {"gzip": 31, "deflate": 15}
_MEMBERS = (
    1000  # of a gzip body; thousands hold next to nothing each, and cost as much as large ones
)
_PART = 1 << 18  # bytes inflated at a time: what comes after a member is copied once a member
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
        CodecError: Corrupt, cut off, or in too many members.
    """
    view = memoryview(body)
    pieces: list[bytes] = []
    room, at = limit, 0
    for _ in range(_MEMBERS):
        stream = zlib.decompressobj(_EITHER_CONTAINER)
        while not stream.eof:
            if at == len(view):
                raise CodecError("the compressed body is cut off")
            try:
                piece = stream.decompress(view[at : at + _PART], room + 1)
            except zlib.error as error:
                raise CodecError(f"the compressed body is corrupt: {error}") from None
            if len(piece) > room:
                raise BodyTooLarge(limit)
            room -= len(piece)
            pieces.append(piece)
            at = min(at + _PART, len(view))
        at -= len(stream.unused_data)
        if at == len(view):
            return b"".join(pieces)
    raise CodecError(f"the compressed body has more than {_MEMBERS} members")


def compress(chunks: Iterable[bytes | memoryview], encoding: str) -> bytes:
    """Apply `gzip` or `deflate` (the zlib container) to the chunks as one body."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    pieces = [stream.compress(chunk) for chunk in chunks]
    pieces.append(stream.flush())
    return b"".join(pieces)
