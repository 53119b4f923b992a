"""Large request bodies, read by the kernel straight to where they are needed.

What comes through the HTTP parser is copied three times on its way: out of the event loop's own
buffer, out of that piece, behind the pieces before it. A body whose length is announced needs no
parser: from its second piece on the connection's bytes go into memory the application has made.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

DIRECT_ABOVE = 128 << 10  # bytes of a body that are worth the change of protocol
_SCRATCH_BYTES = 64 << 10


class Source(Protocol):
    """What a receiver needs of the connection whose bytes it takes."""

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


class BodyReceiver(asyncio.BufferedProtocol):
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


class BodyIntake(HttpToolsProtocol):
    """The side of a connection that lends its bytes to a `BodyReceiver`: a `Source`."""

    _discarding = False  # further bytes are read away

    def read_into(self, view: memoryview) -> BodyReceiver:
        """Put the rest of the body into `view`, past the parser."""
        receiver = BodyReceiver(self, view)
        self._change_protocol(receiver)
        self.flow.resume_reading()
        return receiver

    @property
    def wants_body(self) -> bool:
        """False when what comes is only read away."""
        return not self._discarding

    @abstractmethod
    def took(self, count: int) -> None:
        """Take note that so many bytes of the body went into the application's memory."""

    def body_complete(self) -> None:
        """Go on with a new parser: the old one still waits for the body."""
        self._renew_parser()
        self._change_protocol(self)
        if not self._discarding:
            self.on_message_complete()

    def _change_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have what is read next; the loops change over between two reads only."""
        self.transport.pause_reading()
        self.transport.set_protocol(protocol)
        if not self.flow.read_paused:
            self.transport.resume_reading()

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # it is read away
