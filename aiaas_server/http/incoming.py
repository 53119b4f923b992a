"""What comes in behind the front door: bodies within their limits, and clients that leave.

A body is never larger than allowed and never later than allowed. Clients that leave have their
work abandoned: the server's own edge cancels the request's task when the connection is lost, and
says so in the scope's extensions; under any other ASGI server the request watches `receive` while
it waits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from aiaas_client.protocol.compression import BodyTooLarge, inflate
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.tensors import Body
from aiaas_server.core.events import Caller
from aiaas_server.http.buffers import Buffers
from aiaas_server.http.errors import HttpError, Problem
from aiaas_server.http.negotiation import IDENTITY, body_coding

Headers = dict[bytes, bytes]
T = TypeVar("T")

CONTEXT = "aiaas.context"
"""Where a scope keeps its `RequestContext` for the routes behind the router."""
CANCELS_ON_DISCONNECT = "aiaas.cancel_on_disconnect"
"""The ASGI extension: the request's task is cancelled when the client leaves."""
READ_INTO = "aiaas.read_into"
"""The ASGI extension: `await scope["extensions"][READ_INTO](view)` fills `view` with the rest of
the body after the first message of `receive`; gives the bytes that came, fewer than there is room
for when the client has left."""

_INFLATE_INLINE = 16 << 10  # compressed bytes; a bomb of this size holds at most about 16 MiB
_CLOSE = ((b"connection", b"close"),)
_NONE: Mapping[str, Any] = {}
_buffers = Buffers()
_digits = re.compile(rb"[0-9]{1,18}").fullmatch
_visible = re.compile(rb"[!-~]{1,128}").fullmatch


@dataclass(slots=True)
class RequestContext:
    """What the front door found out of one request; handed to the route that answers it.

    Attributes:
        headers: The header list as a dictionary.
        request_id: The caller's own id where it is plain, else ours.
        caller: Who asks.
        deadline: On the loop's clock: when the caller stops waiting.
        answering: An answer has begun; an error can no longer become one.
        broken: The error that an answer, once begun, broke off with.
        address: The client's, without a port; "" where it has none.
        act: What it is about to do, as the record of acts calls it; "" of what is on none.
    """

    headers: Headers
    request_id: bytes
    caller: Caller
    deadline: float
    answering: bool = False
    broken: Problem | None = None
    address: str = ""
    act: str = ""

    @property
    def more_headers(self) -> bytes:
        """Lines that the answer carries besides, each with its end."""
        visit = self.caller.visit
        return b"" if visit is None else visit.headers


class SizeLimit(NamedTuple):
    """Most bytes of a body, and the setting that says so."""

    bytes: int
    setting: str


class ClientGone(Exception):
    """The client left; there is nobody to answer."""


def context_of(request: Request) -> RequestContext:
    """What the front door found out of a request behind the router."""
    found: RequestContext = request.scope[CONTEXT]
    return found


def route_path(scope: Scope) -> str:
    """The path below the prefix that the application is mounted under, if it is."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def read_headers(scope: Scope) -> Headers:
    """Collect the header list in a dictionary; repeated names are joined with a comma."""
    pairs = scope["headers"]
    headers: Headers = dict(pairs)
    if len(headers) != len(pairs):
        headers = {}
        for name, value in pairs:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def sticky_key(headers: Headers) -> str:
    """Read `X-Sticky-Key`: requests that carry the same one get the same version of a model.

    Raises:
        HttpError: 400 unless it is 1 to 128 visible ASCII characters.
    """
    return _sticky_text(headers[b"x-sticky-key"])


@lru_cache(1024)
def _sticky_text(text: bytes) -> str:
    if not _visible(text):
        raise HttpError(
            400,
            ErrorCode.INVALID_REQUEST,
            "X-Sticky-Key: expected 1 to 128 visible ASCII characters, "
            f"got {text[:64].decode('latin-1')!r}",
        )
    return text.decode("ascii")


def content_length(headers: Headers) -> int | None:
    """Read `Content-Length`; None when the body is chunked or absent.

    Raises:
        HttpError: 400 when it is not a number.
    """
    text = headers.get(b"content-length")
    if text is None:
        return None
    if not _digits(text):
        raise HttpError(400, ErrorCode.INVALID_REQUEST, "Content-Length: expected a number")
    return int(text)


def too_large(limit: SizeLimit, got: str = "") -> HttpError:
    """A body over the limit: 413, and the connection ends because the rest is not read."""
    came = f", got {got}" if got else ""
    return HttpError(
        413,
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"request body: expected at most {limit.bytes} bytes ({limit.setting}){came}",
        headers=_CLOSE,
    )


def check_length(headers: Headers, limit: SizeLimit) -> int | None:
    """Refuse a body by its `Content-Length` before reading it.

    Raises:
        HttpError: 413 above the limit, 400 when the header is no number.
    """
    length = content_length(headers)
    if length is not None and length > limit.bytes:
        raise too_large(limit, str(length))
    return length


async def read_rest(
    scope: Scope,
    first: Message,
    receive: Receive,
    length: int | None,
    limit: SizeLimit,
    deadline: float,
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


async def _collect(
    message: Message, receive: Receive, length: int | None, limit: SizeLimit
) -> Body:
    # Memory that nobody has written: zeros would cost as much as the body itself.
    body = np.empty(length or 0, np.uint8).data
    filled = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        end = filled + len(chunk)
        if end > limit.bytes:
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


async def unwrap(body: Body, headers: Headers, limit: SizeLimit) -> Body:
    """Undo `Content-Encoding`; large bodies off the event loop.

    Raises:
        HttpError: 415 for an unknown coding, 413 when it is larger than `limit` inflated.
        CodecError: The body is corrupt.
    """
    coding = headers.get(b"content-encoding")
    if coding is None:
        return body
    name = body_coding(coding)
    if name == IDENTITY:
        return body
    try:
        if len(body) <= _INFLATE_INLINE:
            return inflate(body, limit.bytes)
        return await asyncio.to_thread(inflate, body, limit.bytes)
    except BodyTooLarge:
        raise too_large(limit, "more when decompressed") from None


async def read_body(request: Request, limit: SizeLimit, deadline: float) -> Body:
    """The whole body of a prediction, inflated.

    Raises:
        HttpError: 413, 408, 400 or 415, as the infer route.
        ClientGone: The client left.
    """
    headers = context_of(request).headers
    length = check_length(headers, limit)
    body = await read_rest(request.scope, _nothing_yet(), request.receive, length, limit, deadline)
    return await unwrap(body, headers, limit)


async def read_plain_body(request: Request, limit: SizeLimit, deadline: float) -> Body:
    """A body that may not be compressed.

    Raises:
        HttpError: 413, 408, or 415 when it is compressed.
        ClientGone: The client left.
    """
    headers = context_of(request).headers
    length = check_length(headers, limit)
    if body_coding(headers.get(b"content-encoding", b"")) != IDENTITY:
        message = "Content-Encoding: only inference requests may be compressed"
        raise HttpError(415, ErrorCode.UNSUPPORTED_ENCODING, message)
    return await read_rest({}, _nothing_yet(), request.receive, length, limit, deadline)


def _nothing_yet() -> Message:
    return {"type": "http.request", "body": b"", "more_body": True}


# Clients that leave


async def while_connected(work: Coroutine[Any, Any, T], scope: Scope, receive: Receive) -> T:
    """Wait for `work`, and abandon it when the client leaves.

    Raises:
        ClientGone: The client left first.
    """
    if CANCELS_ON_DISCONNECT in scope.get("extensions", ()):
        return await work
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
