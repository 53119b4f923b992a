"""`AsyncClient(backend="aiohttp")`: the same calls at about half the CPU; the one home of aiohttp.

Time limits, places in the pool and errors are those of the other transports. One thing is coarser:
aiohttp keeps every idle connection, or none (`max_keepalive_connections=0`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncIterator, Callable
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, ClassVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.payload import Payload
from yarl import URL

from aiaas_client import _errors as errors
from aiaas_client._api.call import Headers, Response
from aiaas_client._config import Limits
from aiaas_client._transport.failures import broken, cannot_connect, not_http, timed_out
from aiaas_client._transport.wire import (
    CHUNK_BYTES,
    SMALL_BODY_BYTES,
    AnswerReader,
    AsyncOpenAnswer,
    Pieces,
    WireExchange,
    WireRequest,
    current,
    has_body,
)

MAX_HEADER_BYTES = 1 << 16
_FOREIGN = (aiohttp.ClientError, OSError, ValueError)


class _Protocol(ResponseHandler):
    """Has one timer for all its reads, where aiohttp makes and cancels two for each answer.

    A timer that goes off too early is set again. Should aiohttp come to call these by other names,
    its own timers are back.
    """

    _due: float | None = None  # the loop's time at which the peer must have spoken
    _alarm: asyncio.TimerHandle | None = None
    _alarm_at = 0.0

    def _reschedule_timeout(self) -> None:
        if not self._read_timeout:
            self._due = None
            return
        self._due = self._loop.time() + self._read_timeout
        if self._alarm is None or self._due < self._alarm_at:
            self._set_alarm(self._due)

    def _drop_timeout(self) -> None:
        self._due = None
        if self.transport is None:
            self._cancel_alarm()

    def _set_alarm(self, when: float) -> None:
        self._cancel_alarm()
        self._alarm_at = when
        self._alarm = self._loop.call_at(when, self._look_at_the_clock)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _look_at_the_clock(self) -> None:
        self._alarm = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._set_alarm(self._due)
        else:
            self._on_read_timeout()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end of the connection, as asyncio calls it."""
        super().connection_lost(exc)
        self._cancel_alarm()


class _Connector(aiohttp.TCPConnector):
    """Tells an attempt that its connection is a new one, and knows all that are open."""

    def __init__(self, limits: Limits) -> None:
        # Places are counted by the transport, which can tell waiting from connecting.
        if limits.max_keepalive_connections == 0:
            super().__init__(limit=0, force_close=True)
        else:
            super().__init__(limit=0, keepalive_timeout=limits.keepalive_expiry)
        self._factory: Any = partial(_Protocol, loop=self._loop)
        # Not the protocols: they forget a transport that is closed while it has bytes to send,
        # and it would wait for ever for a server that does not take them.
        self._transports: list[asyncio.BaseTransport] = []

    async def _create_connection(self, *args: Any, **options: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*args, **options)
        self._transports = [known for known in self._transports if _is_open(known)]
        if protocol.transport is not None:
            self._transports.append(protocol.transport)
        current.get().connected = True
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


class _Request(aiohttp.ClientRequest):
    """A request without headers that nobody asked for."""

    DEFAULT_HEADERS: ClassVar[dict[Any, str]] = {}  # type: ignore[misc]


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
        for piece in Pieces(self._value):
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
            request_class=_Request,
            auto_decompress=False,
            read_bufsize=CHUNK_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        # What is sent again, and how often, is the retry policy's to say; no public switch exists.
        self._session._retry_connection = False

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with _Serving(request, exchange):
            await self._take_place(request, exchange)
            try:
                answer = await self._begin(request, exchange)
                try:
                    reader = AnswerReader(answer.status, answer.raw_headers, self._max_answer_bytes)
                    content = answer.content
                    while not content.at_eof():
                        reader.feed(await content.readany())
                finally:
                    answer.close()  # what was read to its end has given its connection back before
                return reader.finish()
            finally:
                self._places.release()

    async def stream(self, request: WireRequest) -> AsyncOpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with _Serving(request, exchange):
            await self._take_place(request, exchange)
            try:
                answer = await self._begin(request, exchange)
            except BaseException:
                self._places.release()
                raise
        held = contextlib.ExitStack()
        held.callback(self._places.release)
        held.callback(answer.close)

        async def close() -> None:
            held.close()

        pieces = _steps(answer, request, exchange)
        return AsyncOpenAnswer(answer.status, Headers(answer.raw_headers), pieces, close)

    async def _take_place(self, request: WireRequest, exchange: WireExchange) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(exchange.clip(request.timeouts.pool)):
                await self._places.acquire()
        except TimeoutError as error:
            raise timed_out("pool", request) from error

    async def _begin(self, request: WireRequest, exchange: WireExchange) -> aiohttp.ClientResponse:
        timeouts = request.timeouts
        typed = b"Content-Type" in dict(request.headers)
        answer = await self._session.request(
            request.method,
            _url(request.base_url, request.path),
            headers=_headers(request),
            data=_data(request),
            skip_auto_headers=None if typed else ("Content-Type",),
            allow_redirects=False,
            ssl=self._ssl_context() if request.base_url.startswith("https:") else True,
            timeout=aiohttp.ClientTimeout(
                total=exchange.clip(None),
                connect=timeouts.connect,  # the name's look-up, the connection and its TLS
                sock_read=timeouts.read,
                ceil_threshold=math.inf,
            ),
        )
        exchange.received = True
        return answer

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


class _Serving:
    """The connector obeys the exchange, and errors become ours."""

    __slots__ = ("_exchange", "_request", "_token")

    def __init__(self, request: WireRequest, exchange: WireExchange) -> None:
        self._request = request
        self._exchange = exchange

    def __enter__(self) -> None:
        self._token = current.set(self._exchange)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        current.reset(self._token)
        if isinstance(error, _FOREIGN) and not isinstance(error, errors.AiaasError):
            raise _translate(error, self._request, self._exchange) from error


async def _steps(
    answer: aiohttp.ClientResponse, request: WireRequest, exchange: WireExchange
) -> AsyncIterator[bytes]:
    content = answer.content
    while not content.at_eof():
        with _Serving(request, exchange):
            piece = await content.readany()
        yield piece


def _translate(error: Exception, request: WireRequest, exchange: WireExchange) -> errors.AiaasError:
    """Give our error for one of aiohttp's."""
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return timed_out(_phase(error), request)
    if isinstance(error, aiohttp.ClientConnectorError):
        return cannot_connect(f"{reason} {_tls_reason(error)}".rstrip(), request, error.os_error)
    if isinstance(error, aiohttp.ClientResponseError):
        return not_http(reason, request)
    if isinstance(error, ValueError):  # an invalid URL among them
        where = f"{request.base_url}: {reason}"
        return errors.ConfigurationError(f"request cannot be sent to {where}")
    died_idle = not exchange.connected and not exchange.received
    unheard = exchange.connected and not exchange.received
    return broken(reason, request, died_idle=died_idle, unheard=unheard)


def _tls_reason(error: aiohttp.ClientConnectorError) -> str:
    reason = getattr(error.os_error, "reason", None)  # of an `ssl.SSLError`
    return f"[{reason}]" if isinstance(reason, str) and reason not in str(error) else ""


def _phase(error: TimeoutError) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "connect"
    return "read" if isinstance(error, aiohttp.SocketTimeoutError) else "write"
