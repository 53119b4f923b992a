"""Large request bodies, read by the kernel straight to where they are needed.

What comes through the HTTP parser is copied three times on its way: out of the event loop's own
buffer, out of that piece, behind the pieces before it. A body whose length is announced needs no
parser: from its second piece on the connection's bytes go into memory the application has made.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

READ_INTO = "aiaas.read_into"
"""The ASGI extension: `await scope["extensions"][READ_INTO](view)` fills `view` with the rest of
the body after the first message of `receive`; gives the bytes that came, fewer than there is room
for when the client has left."""

DIRECT_ABOVE = 128 << 10  # bytes of a body that are worth the change of protocol
_SCRATCH_BYTES = 64 << 10


class Source(Protocol):
    """What an intake needs of the connection whose bytes it takes."""

    @property
    def wants_body(self) -> bool:
        """False when what comes is only read away."""
        ...

    def took(self, count: int) -> None:
        """Take note that so many bytes of the body have come."""
        ...

    def body_complete(self) -> None:
        """Take the connection back: the next byte is not the body's."""
        ...

    def eof_received(self) -> bool | None:
        """The client stopped sending."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        ...

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        ...

    def resume_writing(self) -> None:
        """The client keeps up again."""
        ...


class Intake(asyncio.BufferedProtocol):
    """Stands in for a connection's protocol until the body is complete.

    Never reads beyond the body, so that a request right behind it is the parser's.

    Args:
        source: The connection.
        view: Where the rest of the body belongs; as long as what is missing.
    """

    def __init__(self, source: Source, view: memoryview) -> None:
        self._source = source
        self._view: memoryview | None = view
        self._missing = len(view)
        self._size = len(view)

    @property
    def taken(self) -> int:
        """Bytes that have come."""
        return self._size - self._missing

    def let_go(self) -> None:
        """Nobody wants the body any more: read it away."""
        self._view = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes belong."""
        if self._view is None or not self._source.wants_body:
            return memoryview(bytearray(min(self._missing, _SCRATCH_BYTES)))
        return self._view[self._size - self._missing :]

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came."""
        self._missing -= nbytes
        self._source.took(nbytes)
        if not self._missing:
            self._view = None
            self._source.body_complete()

    def eof_received(self) -> bool | None:
        """Tell the connection."""
        return self._source.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._view = None
        self._source.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._source.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._source.resume_writing()
