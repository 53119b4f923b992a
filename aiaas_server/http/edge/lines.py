"""Lines of an answer, as they are sent."""

from __future__ import annotations

import http
from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

JOIN_BELOW = 64 << 10  # answers up to this size are copied behind their head
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_MOST_NAMES = 256


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode())


STATUS_LINES = {status: _status_line(status) for status in range(200, 600)}
NAMES: dict[bytes, bytes] = {}
"""Header names as the application writes them -> checked, in lower case."""


def checked_name(name: bytes) -> bytes:
    """A header name in lower case, remembered in `NAMES`.

    Raises:
        ValueError: It is not one.
    """
    lowered = name.lower()
    if not lowered or not _TOKEN.issuperset(lowered):
        raise ValueError(f"response header name {name[:64]!r}: not a token")
    if len(NAMES) < _MOST_NAMES:
        NAMES[bytes(name)] = lowered
    return lowered


def header_lines(lines: Headers) -> bytes:
    """Header lines as they are sent."""
    return b"".join([b"%b: %b\r\n" % line for line in lines])


def as_chunk(body: bytes, more: bool) -> bytes:
    """Frame a piece of a chunked body; the last one carries the end."""
    framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return framed if more else framed + b"0\r\n\r\n"
