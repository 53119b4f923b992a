"""Server-sent events: bytes in, events out, by the rules of the WHATWG's event streams.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiaas_client._api.call import ServerEvent
from aiaas_client._errors import ProtocolError

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_CR, _LF = 0x0D, 0x0A


class EventDecoder:
    """Decodes one stream, fed in pieces cut anywhere.

    Lines are cut as bytes and decoded whole, so that a character cut in two is never seen.

    Args:
        limit: Bytes that one event may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._first = True  # of the lines: it may begin with a byte order mark
        self._after_cr = False  # a line feed that comes next belongs to the line end before
        self._data: list[str] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self._retry: float | None = None

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Give the events that `piece` completes; to be consumed before the next piece.

        Raises:
            ProtocolError: an event is larger than the limit.
        """
        position = 0
        while position < len(piece):
            if self._after_cr:
                self._after_cr = False
                if piece[position] == _LF:
                    position += 1
                    continue
            found = _LINE_END.search(piece, position)
            end = len(piece) if found is None else found.start()
            self._size += end - position
            if self._size > self._limit:
                raise ProtocolError(f"event stream: an event is larger than {self._limit} bytes")
            self._line += piece[position:end]
            position = end
            if found is not None:
                position += 1
                self._after_cr = piece[end] == _CR
                event = self._take_line()
                if event is not None:
                    yield event

    def _take_line(self) -> ServerEvent | None:
        line, self._line = bytes(self._line), bytearray()
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name:  # a line that begins with a colon is a comment
            self._field(name, value.removeprefix(b" ").decode("utf-8", "replace"))
        else:
            self._size -= len(line)
        return None

    def _field(self, name: bytes, value: str) -> None:
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and "\0" not in value:
            self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit():
            self._retry = int(value[:12]) / 1e3

    def _dispatch(self) -> ServerEvent | None:
        data, event, retry = self._data, self._event or "message", self._retry
        self._data, self._event, self._retry, self._size = [], "", None, 0
        if not data:
            return None
        return ServerEvent("\n".join(data), event, self._id, retry)
