"""Request bodies from ASGI's `receive`, never larger than allowed and never later than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from starlette.types import Message, Receive, Scope

from aiaas_client.protocol.compression import inflate
from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.buffers import Buffers
from aiaas_server.http.disconnect import ClientGone
from aiaas_server.http.errors import HttpError
from aiaas_server.http.head import Headers, content_length
from aiaas_server.http.intake import READ_INTO
from aiaas_server.http.negotiation import IDENTITY, body_coding

Body = bytes | bytearray | memoryview
_INFLATE_INLINE = 16 << 10  # compressed bytes; a bomb of this size holds at most about 16 MiB
_CLOSE = ((b"connection", b"close"),)
_NONE: Mapping[str, Any] = {}
_buffers = Buffers()


def too_large(limit: int) -> HttpError:
    """A body over the limit: 413, and the connection ends because the rest is not read."""
    return HttpError(
        413,
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"request body: expected at most {limit} bytes",
        headers=_CLOSE,
    )


def check_length(headers: Headers, limit: int) -> int | None:
    """Refuse a body by its `Content-Length` before reading it.

    Raises:
        HttpError: 413 above `limit` bytes, 400 when the header is no number.
    """
    length = content_length(headers)
    if length is not None and length > limit:
        raise too_large(limit)
    return length


async def read_rest(
    scope: Scope, first: Message, receive: Receive, length: int | None, limit: int, deadline: float
) -> Body:
    """Collect a body of which `first` is the first part.

    Args:
        scope: ASGI's scope; it may offer `READ_INTO`.
        first: The `http.request` message already received.
        receive: ASGI's receive.
        length: Bytes announced by `Content-Length`, None when chunked.
        limit: Most bytes accepted.
        deadline: Loop time by which the body must be here.
    Raises:
        HttpError: 413 above the limit, 408 past the deadline, 400 when bytes are missing.
        ClientGone: The client left before the end.
    """
    try:
        async with asyncio.timeout_at(deadline):
            read_into = scope.get("extensions", _NONE).get(READ_INTO)
            if read_into is not None and length is not None:
                return await _fill(first, read_into, length)
            return await _collect(first, receive, length, limit)
    except TimeoutError:
        message = "request body: not received before the request's deadline"
        raise HttpError(408, ErrorCode.REQUEST_TIMEOUT, message, headers=_CLOSE) from None


async def _fill(
    message: Message, read_into: Callable[[memoryview], Awaitable[int]], length: int
) -> Body:
    if message["type"] == "http.disconnect":
        raise ClientGone
    chunk = message.get("body", b"")
    body = _buffers.lend(length)
    filled = len(chunk)
    body[:filled] = chunk
    if message.get("more_body", False):
        filled += await read_into(body[filled:])
    if filled < length:
        raise ClientGone
    return body


async def _collect(message: Message, receive: Receive, length: int | None, limit: int) -> Body:
    # Memory that nobody has written: zeros would cost as much as the body itself.
    body = np.empty(length or 0, np.uint8).data
    filled = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        end = filled + len(chunk)
        if end > limit:
            raise too_large(limit)
        if end > len(body):
            body = _grown(body, end)
        body[filled:end] = chunk
        filled = end
        if not message.get("more_body", False):
            break
        message = await receive()
    if length is not None and filled < length:
        raise HttpError(400, ErrorCode.INVALID_REQUEST, "request body: shorter than Content-Length")
    return body[:filled]


def _grown(body: memoryview, size: int) -> memoryview:
    """Make room for a body whose length nobody told."""
    larger = np.empty(2 * size, np.uint8).data
    larger[: len(body)] = body
    return larger


async def unwrap(body: Body, headers: Headers, limit: int) -> Body:
    """Undo `Content-Encoding`; large bodies off the event loop.

    Raises:
        HttpError: 415 for an unknown coding.
        CodecError: The body is corrupt, or larger than `limit` bytes when inflated.
    """
    coding = headers.get(b"content-encoding")
    if coding is None:
        return body
    name = body_coding(coding)
    if name == IDENTITY:
        return body
    if len(body) <= _INFLATE_INLINE:
        return inflate(body, limit)
    return await asyncio.to_thread(inflate, body, limit)


async def read_plain(receive: Receive, headers: Headers, limit: int, seconds: float) -> Body:
    """Read the body of a control request: uncompressed, at most `limit` bytes, in `seconds`.

    Raises:
        HttpError: 413, 408, or 415 when it is compressed.
        ClientGone: The client left.
    """
    length = check_length(headers, limit)
    coding = headers.get(b"content-encoding", b"")
    if body_coding(coding) != IDENTITY:
        message = "Content-Encoding: only inference requests may be compressed"
        raise HttpError(415, ErrorCode.UNSUPPORTED_ENCODING, message)
    deadline = asyncio.get_running_loop().time() + seconds
    first: Message = {"type": "http.request", "body": b"", "more_body": True}
    return await read_rest({}, first, receive, length, limit, deadline)
