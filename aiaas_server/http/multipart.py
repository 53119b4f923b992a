"""`multipart/form-data` (RFC 7578), read as it comes: a file of any size passes through.

Strict: what is no form in this form is refused, and nothing is guessed. Of a body no more is held
than a piece as it came and a part's header.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import HttpError, bad_request

MOST_HEADER: Final = 8 << 10  # bytes of a part's header
MOST_PARTS: Final = 32
_media = re.compile(r"multipart/form-data\s*;(.*)", re.IGNORECASE | re.DOTALL).fullmatch
_boundary = re.compile(r'(?:^|;)\s*boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE).search
_allowed = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]").fullmatch
_disposition = re.compile(r"form-data\s*(;.*)?", re.IGNORECASE | re.DOTALL).fullmatch
_parameter = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE).findall


def boundary_of(content_type: str) -> bytes:
    """The boundary that a `Content-Type` tells.

    Raises:
        HttpError: 415 for another type, 400 for no usable boundary.
    """
    found = _media(content_type.strip())
    if found is None:
        message = f"Content-Type: expected multipart/form-data, got {content_type[:64]!r}"
        raise HttpError(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    stated = _boundary(found[1])
    boundary = (stated[1] or stated[2]) if stated else ""
    if not _allowed(boundary):
        raise bad_request("Content-Type: expected a boundary of 1 to 70 characters")
    return boundary.encode("ascii")


class Part(NamedTuple):
    """One field.

    Attributes:
        filename: None where it is no file.
        content: What has not been read when the next part is asked for is skipped.
    """

    name: str
    filename: str | None
    content: AsyncIterator[bytes]


class Multipart:
    """The parts of a body, in order; each is read before the next one.

    Args:
        body: Pieces as they come.
        boundary: Without its dashes.
    """

    def __init__(self, body: AsyncIterator[bytes], boundary: bytes) -> None:
        self._body = body
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter is like all others

    async def parts(self) -> AsyncIterator[Part]:
        """The parts.

        Raises:
            HttpError: 400 for what is no form, or one of too many parts.
        """
        while len(self._buffer) < len(self._delimiter):
            await self._more()
        if not self._buffer.startswith(self._delimiter):
            raise bad_request("multipart: expected the boundary at the beginning of the body")
        del self._buffer[: len(self._delimiter)]
        for _ in range(MOST_PARTS):
            if await self._is_last():
                return
            content = self._content()
            name, filename = _named(await self._until(b"\r\n\r\n", MOST_HEADER))
            yield Part(name, filename, content)
            async for _piece in content:
                pass
        if not await self._is_last():
            raise bad_request(f"multipart: expected at most {MOST_PARTS} parts")

    async def _is_last(self) -> bool:
        """Whether the delimiter that was just read closes the body."""
        while len(self._buffer) < 2:
            await self._more()
        mark = bytes(self._buffer[:2])
        if mark not in (b"--", b"\r\n"):
            raise bad_request("multipart: expected the end of the line behind the boundary")
        return mark == b"--"  # the end of a line is left there: it begins the header

    async def _content(self) -> AsyncIterator[bytes]:
        kept = len(self._delimiter) - 1  # at the end there may be the beginning of a delimiter
        while (at := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > kept:
                piece = bytes(self._buffer[:-kept])
                del self._buffer[:-kept]
                yield piece
            await self._more()
        piece = bytes(self._buffer[:at])
        del self._buffer[: at + len(self._delimiter)]
        if piece:
            yield piece

    async def _until(self, mark: bytes, most: int) -> bytes:
        """What stands before a mark, which is read too."""
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > most:
                raise bad_request(f"multipart: expected a header of at most {most} bytes")
            await self._more()
        if at > most:
            raise bad_request(f"multipart: expected a header of at most {most} bytes")
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _more(self) -> None:
        piece = await anext(self._body, b"")
        if not piece:
            raise bad_request("multipart: the body ends before its last boundary")
        self._buffer += piece


def _named(header: bytes) -> tuple[str, str | None]:
    """The name of a field, and of its file if it is one."""
    try:
        lines = header.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise bad_request("multipart: expected the header of a part in UTF-8") from None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            return _parameters(value.strip())
    raise bad_request("multipart: expected a Content-Disposition in each part")


def _parameters(value: str) -> tuple[str, str | None]:
    if not _disposition(value):
        raise bad_request(f"multipart: expected Content-Disposition form-data, got {value[:64]!r}")
    found = {key.lower(): re.sub(r"\\(.)", r"\1", text) for key, text in _parameter(value)}
    if not found.get("name"):
        raise bad_request("multipart: expected a name in each part")
    return found["name"], found.get("filename")
