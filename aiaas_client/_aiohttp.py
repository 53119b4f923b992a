"""`AsyncClient(backend="aiohttp")`: the same calls at about half the CPU; the one home of aiohttp.

Time limits, places in the pool and errors are those of the other transports. One thing is coarser:
aiohttp keeps every idle connection, or none (`max_keepalive_connections=0`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.payload import Payload
from yarl import URL

from aiaas_client import _errors as errors
from aiaas_client._calls import Response
from aiaas_client._config import Limits
from aiaas_client._wire import (
    CHUNK_BYTES,
    SMALL_BODY_BYTES,
    AnswerReader,
    Body,
    Progress,
    WireRequest,
    has_body,
    timed_out,
)

MAX_HEADER_BYTES = 1 << 16

_attempt: ContextVar[Progress] = ContextVar("aiaas_aiohttp_attempt")


class _Connector(aiohttp.TCPConnector):
    """Tells an attempt that its connection is a new one, and knows all that are open."""

    def __init__(self, limits: Limits) -> None:
        # Places are counted by the transport, which can tell waiting from connecting.
        if limits.max_keepalive_connections == 0:
            super().__init__(limit=0, force_close=True)
        else:
            super().__init__(limit=0, keepalive_timeout=limits.keepalive_expiry)
        # Not the protocols: they forget a transport that is closed while it has bytes to send,
        # and it would wait for ever for a server that does not take them.
        self._transports: list[asyncio.BaseTransport] = []

    async def _create_connection(self, *args: Any, **options: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*args, **options)
        self._transports = [known for known in self._transports if _is_open(known)]
        if protocol.transport is not None:
            self._transports.append(protocol.transport)
        _attempt.get().connected = True
        return protocol

    def open_transports(self) -> list[asyncio.BaseTransport]:
        """Those whose sockets are still open, among them those about to close."""
        return [known for known in self._transports if _is_open(known)]

    def abort(self) -> None:
        """Close every socket without sending what waits."""
        for transport in self.open_transports():
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()


def _is_open(transport: asyncio.BaseTransport) -> bool:
    socket = transport.get_extra_info("socket")
    return socket is not None and socket.fileno() >= 0


class _LargeBody(Payload):
    """A body of many chunks, each within the write timeout."""

    def __init__(self, request: WireRequest) -> None:
        super().__init__(request.content)
        self._size = request.content_length
        self._write_timeout = request.timeouts.write

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Refuse: tensors are not text."""
        raise TypeError("a body of tensors is not text")

    async def write(self, writer: Any) -> None:
        """Send the chunks, waiting for the other side after each."""
        for piece in Body(self._value):
            async with asyncio.timeout(self._write_timeout):
                await writer.write(piece)


class AiohttpTransport:
    """Keeps an aiohttp session on the event loop that first used it."""

    def __init__(
        self, ssl_context: Callable[[], ssl.SSLContext], limits: Limits, max_answer_bytes: int
    ) -> None:
        self._ssl_context = ssl_context
        self._max_answer_bytes = max_answer_bytes
        self._places = asyncio.Semaphore(limits.max_connections)
        self._connector = _Connector(limits)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Content-Type"),
            auto_decompress=False,
            read_bufsize=CHUNK_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        # What is sent again, and how often, is the retry policy's to say; no public switch exists.
        self._session._retry_connection = False

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = request.progress = Progress(request.deadline)
        token = _attempt.set(progress)
        try:
            await self._take_place(request, progress)
            try:
                return await self._exchange(request, progress)
            finally:
                self._places.release()
        except errors.AiaasError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _translate(error, request, progress) from error
        finally:
            _attempt.reset(token)

    async def _take_place(self, request: WireRequest, progress: Progress) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(progress.clip(request.timeouts.pool)):
                await self._places.acquire()
        except TimeoutError as error:
            raise timed_out("pool", request) from error

    async def _exchange(self, request: WireRequest, progress: Progress) -> Response:
        timeouts = request.timeouts
        answer = await self._session.request(
            request.method,
            _url(request.base_url, request.path),
            headers=_headers(request),
            data=_data(request),
            allow_redirects=False,
            ssl=self._ssl_context() if request.base_url.startswith("https:") else True,
            timeout=aiohttp.ClientTimeout(
                total=progress.clip(None),
                connect=timeouts.connect,  # the name's look-up, the connection and its TLS
                sock_read=timeouts.read,
                ceil_threshold=math.inf,
            ),
        )
        progress.received = True
        try:
            reader = AnswerReader(answer.status, answer.raw_headers, self._max_answer_bytes)
            content = answer.content
            while not content.at_eof():
                reader.feed(await content.readany())
        finally:
            answer.close()  # what was read to its end has given its connection back before
        return reader.finish()

    def abandon(self) -> None:
        """Let go of every connection from outside the loop it belongs to."""
        loop = self._connector._loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._abort)
            return
        for transport in self._connector.open_transports():
            # A transport closes its socket through its loop, and this loop is gone; its last step,
            # which needs no loop, has no public name.
            finish = getattr(transport, "_call_connection_lost", None)
            if finish is not None:
                finish(None)
        with contextlib.suppress(StopIteration):
            self._session.close().send(None)  # on a closed loop it never waits

    def _abort(self) -> None:
        self._connector.abort()
        closing = self._connector._loop.create_task(self._session.close())
        closing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def close(self) -> None:
        """Close every connection."""
        self._connector.abort()
        await self._session.close()
        # A closed transport leaves the loop on its next turn.
        await asyncio.sleep(0)


@lru_cache(maxsize=1024)
def _url(base_url: str, path: str) -> URL:
    return URL(base_url + path, encoded=True)


def _headers(request: WireRequest) -> list[tuple[str, str]]:
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    if has_body(request):
        headers.append(("Content-Length", str(request.content_length)))
    return headers


def _data(request: WireRequest) -> bytes | _LargeBody | None:
    if request.content is None:
        return None
    if request.content_length <= SMALL_BODY_BYTES:
        return b"".join(request.content)
    return _LargeBody(request)


def _translate(error: Exception, request: WireRequest, progress: Progress) -> errors.AiaasError:
    """Give our error for one of aiohttp's."""
    reason = str(error) or type(error).__name__
    where = f"{request.base_url}: {reason}"
    if isinstance(error, TimeoutError):
        return timed_out(_phase(error), request)
    if isinstance(error, aiohttp.ClientConnectorError):
        return errors.APIConnectionError(f"cannot connect to {where}", phase="connect")
    if isinstance(error, aiohttp.ClientResponseError):
        return errors.ProtocolError(f"not an HTTP answer from {where}")
    if isinstance(error, ValueError):  # an invalid URL among them
        return errors.ConfigurationError(f"request cannot be sent to {where}")
    died_idle = not progress.connected and not progress.received
    return errors.APIConnectionError(
        f"connection broke: {where}", phase="idle" if died_idle else "exchange"
    )


def _phase(error: TimeoutError) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "connect"
    return "read" if isinstance(error, aiohttp.SocketTimeoutError) else "write"
