"""HTTP/1.1 over blocking sockets: the head of a request, and an answer as it comes.

`http.client` takes bodies apart. Heads are read here, as bytes: its own way makes an e-mail message
of each, which takes longer than the rest of a small call together.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from http.client import (
    BadStatusLine,
    HTTPException,
    HTTPResponse,
    IncompleteRead,
    LineTooLong,
    RemoteDisconnected,
)
from typing import TYPE_CHECKING, Any, cast

from aiaas_client._api.call import Headers
from aiaas_client._transport.wire import CHUNK_BYTES, has_body

if TYPE_CHECKING:
    import socket

    from aiaas_client._api.call import RawHeaders
    from aiaas_client._transport.wire import WireExchange, WireRequest

MAX_HEAD_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 14
_MAX_LINE_BYTES = 1 << 12  # of what stands between two chunks
_NO_LINE = (b"\r\n", b"\n")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\nHost: [!-~]+\r\n"
    # Where a request goes and where it ends is not for middleware to say.
    rb"(?:(?!(?i:host|content-length|transfer-encoding):)" + _TOKEN + rb": [^\0\r\n]*\r\n)*"
    rb"(?:Content-Length: [0-9]+\r\n)?\r\n"
)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\r?\n", re.DOTALL)


def head_of(request: WireRequest, prefix: bytes, host: bytes) -> bytes:
    """Write the head of a request.

    Args:
        request: Its method, path and headers.
        prefix: What stands before the path, that of the base URL.
        host: The value of Host.
    Raises:
        ValueError: a header or the path holds what HTTP does not carry.
    """
    method, path = request.method.encode("ascii"), request.path.encode("ascii")
    lines = [b"%b %b%b HTTP/1.1\r\n" % (method, prefix, path), b"Host: %b\r\n" % host]
    lines += [b"%b: %b\r\n" % header for header in request.headers]
    if has_body(request):
        lines.append(b"Content-Length: %d\r\n" % request.content_length)
    lines.append(b"\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or _HEAD.fullmatch(head) is None:
        raise ValueError("its path or one of its headers is not what HTTP can carry")
    return head


class Incoming(io.RawIOBase):
    """What a connection receives, each exchange within its own deadline.

    Attributes:
        connected: Its socket.
        reader: Reads it through a buffer, which is empty between two exchanges.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected
        self._exchange: WireExchange | None = None
        self._timeout: float | None = None
        self.reader = io.BufferedReader(self, _BUFFER_BYTES)

    def serve(self, exchange: WireExchange, timeout: float | None) -> None:
        """Receive for `exchange`, waiting at most `timeout` seconds each time."""
        self._exchange, self._timeout = exchange, timeout

    def rest(self) -> bool:
        """Receive for nobody; tell whether nothing has come that nobody asked for."""
        self._exchange = None
        return not self.reader.peek(1)

    def makefile(self, mode: str) -> Any:
        """Give what `http.client` reads."""
        return self.reader

    def readable(self) -> bool:
        """Whether it can be read, as `io` asks."""
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # as it is called
        """Fill `buffer` with what is there, as `io` asks."""
        exchange = self._exchange
        if exchange is None:
            return None
        wait(self.connected, exchange.clip(self._timeout))
        count = self.connected.recv_into(buffer)
        if count:
            exchange.received = True
        return count


def wait(connected: socket.socket, seconds: float) -> None:
    """Let a socket wait so long.

    Raises:
        TimeoutError: there is no time left.
    """
    if seconds <= 0:
        raise TimeoutError("deadline")
    if connected.gettimeout() != seconds:  # to set it is a call of the system's
        connected.settimeout(seconds)


class Answer(HTTPResponse):
    """An answer whose head has been read.

    Attributes:
        status: The HTTP status.
        fields: Its headers.

    Raises:
        HTTPException: this is not HTTP, or broke off.
        OSError: the connection ended, or took too long (`TimeoutError`).
    """

    def __init__(self, incoming: Incoming, method: str) -> None:
        super().__init__(cast("socket.socket", incoming), method=method)
        self._incoming = incoming
        self._is_to_head = method == "HEAD"
        self._is_whole = False
        self.begin()

    def begin(self) -> None:
        """Read the head, and how the body will come."""
        minor, self.status = False, 0
        while self.status < 200 and self.status != 101:  # interim ones say nothing
            minor, self.status = self._read_status_line()
            self.fields = Headers(self._read_fields())
        find = self.fields.find
        coding = find(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise HTTPException(f"Transfer-Encoding: cannot read {coding[:40]!r}")
        has_no_body = self.status in (101, 204, 304) or self._is_to_head
        self.chunked = coding is not None and not has_no_body
        self.chunk_left: int | None = None
        self.length = 0 if has_no_body else None if self.chunked else self._announced()
        kept = (find(b"connection") or b"").lower()
        self.will_close = b"close" in kept if minor else b"keep-alive" not in kept
        if self.length is None and not self.chunked:
            self.will_close = True

    def _announced(self) -> int | None:
        told = self.fields.find(b"content-length")
        if told is None:
            return None
        if not told.isdigit() or len(told) > 18:
            raise HTTPException(f"Content-Length: expected a number, got {told[:40]!r}")
        return int(told)

    def _read_status_line(self) -> tuple[bool, int]:
        """Give whether the minor version is 1, and the status."""
        line = self._incoming.reader.readline(MAX_HEAD_BYTES)
        if not line:
            raise RemoteDisconnected("Server disconnected without sending a response")
        found = _STATUS_LINE.fullmatch(line)
        if found is not None:
            return found[1] == b"1", int(found[2])
        if b"HTTP/1.".startswith(line[:7]) and not line.endswith(b"\n"):
            raise IncompleteRead(line)
        raise BadStatusLine(repr(line[:80]))

    def _read_fields(self) -> RawHeaders:
        fields: RawHeaders = []
        readline, left = self._incoming.reader.readline, MAX_HEAD_BYTES
        while (line := readline(left)) not in _NO_LINE:
            left -= len(line)
            name, colon, value = line.partition(b":")
            if line[-1:] != b"\n":
                raise LineTooLong("head of an answer") if left <= 0 else IncompleteRead(line)
            if colon and name.split() == [name]:
                fields.append((name, value.strip()))
            elif fields and line[:1] in b" \t":  # a line that goes on, of old
                fields[-1] = fields[-1][0], fields[-1][1] + b" " + line.strip()
            else:
                raise HTTPException(f"expected a header, got {line[:80]!r}")
        return fields

    def pieces(self) -> Iterator[bytes]:
        """Give the body as it comes.

        Raises:
            HTTPException: it is not well formed, or broke off.
            OSError: the connection ended, or took too long (`TimeoutError`).
        """
        while piece := self.read1(CHUNK_BYTES):
            yield piece
        if self.length:
            raise IncompleteRead(b"", self.length)
        self._is_whole = True

    def _get_chunk_left(self) -> int | None:
        """Give what is left of a chunk, or the size of the next; None after the last.

        In place of that of `http.client`, which takes anything for the end of a chunk, and for its
        size whatever Python takes for a number.
        """
        if self.chunk_left:
            return self.chunk_left
        if self.chunk_left is not None and self._chunk_line():
            raise HTTPException("a chunk is longer than it said")
        size = self._chunk_line().partition(b";")[0].strip()
        if _CHUNK_SIZE.fullmatch(size) is None:
            raise HTTPException(f"expected the size of a chunk, got {size[:40]!r}")
        self.chunk_left = int(size, 16)
        if self.chunk_left:
            return self.chunk_left
        self._read_fields()  # trailers, which say nothing
        self._close_conn()
        return None

    def _chunk_line(self) -> bytes:
        line = self._incoming.reader.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            if len(line) < _MAX_LINE_BYTES:
                raise IncompleteRead(line)
            raise LineTooLong("chunk of an answer")
        return line.rstrip(b"\r\n")

    def leaves_connection(self) -> bool:
        """Whether its connection can be used again: all was read, and nothing stands behind it."""
        return self._is_whole and not self.will_close and self._incoming.rest()

    def _close_conn(self) -> None:
        """Let go of the reader, which is the connection's."""
        self.fp = None  # type: ignore[assignment]  # as `http.client` itself does
