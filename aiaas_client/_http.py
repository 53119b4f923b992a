"""The seam under the clients, and the only place that knows the HTTP libraries.

`PooledTransport` and `AsyncPooledTransport` drive the connection pool of httpx2 itself
(`httpcore2`, released and pinned with it) over sockets of our own: these know the deadline of the
attempt they serve, so that not even a server that sends one byte a minute can outlast it, and
they send the head and a small body of a request in one packet. `BorrowedTransport` and its async
twin drive an `httpx2` or legacy `httpx` client that the caller made.

Every foreign exception is translated here.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import httpcore2
import httpx2

from aiaas_client import _errors as errors
from aiaas_client._calls import Call, Chunk, Headers, RawHeaders, Response
from aiaas_client._config import Limits, Timeouts
from aiaas_client.protocol.codec import CodecError
from aiaas_client.protocol.compression import inflate

CHUNK_BYTES = 1 << 20
SMALL_BODY_BYTES = 1 << 16
TIMER_SLACK = 0.005  # seconds by which a socket's timer may end before the clock says so
IDENTITY = frozenset({b"", b"identity"})


@dataclass(slots=True)
class WireRequest:
    """One attempt, ready to be sent; middleware may change `headers`.

    Attributes:
        method: The HTTP method, upper case.
        base_url: The endpoint, without a trailing slash.
        path: The target below it, percent-encoded.
        headers: All headers but Host and Content-Length, as they go on the wire.
        content: Body chunks, or None for no body.
        content_length: Bytes of all chunks.
        timeouts: Each phase, already clipped to what is left of the deadline.
        deadline: `time.monotonic()` at which the attempt must have ended.
        attempt: 1 for the first request of a call.
        request_id: The id this call travels with.
        call: What is being asked, in the API's terms.
        notes: A place for middleware to keep its own things.
    """

    method: str
    base_url: str
    path: str
    headers: RawHeaders
    content: list[Chunk] | None
    content_length: int
    timeouts: Timeouts
    deadline: float
    attempt: int
    request_id: str
    call: Call[Any]
    notes: dict[str, Any] = field(default_factory=dict)
    progress: _Progress | None = field(default=None, repr=False)

    def abort(self) -> None:
        """Cut the attempt short from another thread: its deadline is now."""
        self.deadline = 0.0
        if self.progress is not None:
            self.progress.abort()


class Transport(Protocol):
    """Sends one attempt and gives the whole answer; raises only `AiaasError`."""

    def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class AsyncTransport(Protocol):
    """As `Transport`, for an event loop; cancelling `send` closes its connection."""

    async def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    async def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class _Progress:
    """What the sockets tell about the attempt they serve, and the deadline they obey."""

    __slots__ = ("cancelled", "connected", "deadline", "received", "sending", "socket")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.socket: socket.socket | None = None
        self.sending = False
        self.cancelled = False
        self.connected = False
        self.received = False

    def clip(self, timeout: float | None) -> float:
        left = self.deadline - time.monotonic()
        return left if timeout is None or left < timeout else timeout

    def abort(self) -> None:
        self.deadline = 0.0
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


_progress: ContextVar[_Progress] = ContextVar("aiaas_attempt")


class Body:
    """A request body as views of at most 1 MiB each."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            view = memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
            for start in range(0, len(view), CHUNK_BYTES):
                # A view where the libraries' types say bytes: they only measure and send it.
                yield view[start : start + CHUNK_BYTES]  # type: ignore[misc]


class AsyncBody:
    """As `Body`, for the libraries' async side, which takes nothing that is both."""

    __slots__ = ("_pieces",)

    def __init__(self, chunks: list[Chunk]) -> None:
        self._pieces = Body(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


BodyKind = type[Body] | type[AsyncBody]


def _content(request: WireRequest, kind: BodyKind) -> bytes | Body | AsyncBody | None:
    if request.content is None:
        return None
    if request.content_length <= SMALL_BODY_BYTES:
        return b"".join(request.content)
    return kind(request.content)


def _has_body(request: WireRequest) -> bool:
    return request.content is not None or request.method == "POST"


class _AnswerReader:
    """Collects one body into one buffer, never beyond what was announced or allowed."""

    __slots__ = ("_announced", "_body", "_filled", "_limit", "headers", "status")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
        self.status = status
        self.headers = Headers(headers)
        self._limit = limit
        self._filled = 0
        self._announced = self._read_length()
        if self._announced > limit:
            raise errors.ProtocolError(
                f"answer of {self._announced} bytes: at most {limit} are accepted"
            )
        self._body = bytearray(max(self._announced, 0))

    def _read_length(self) -> int:
        told = self.headers.find(b"content-length")
        if told is None or self.status == 304:
            return -1
        if not told.isdigit() or len(told) > 18:
            raise errors.ProtocolError(f"Content-Length: expected a number, got {told[:40]!r}")
        return int(told)

    def feed(self, chunk: bytes) -> None:
        end = self._filled + len(chunk)
        if self._announced < 0:
            if end > self._limit:
                raise errors.ProtocolError(f"answer without end: over {self._limit} bytes")
            self._body += chunk
        else:
            self._body[self._filled : end] = chunk
        self._filled = end

    def finish(self) -> Response:
        if 0 <= self._announced != self._filled:
            raise errors.APIConnectionError(
                f"answer broke off: expected {self._announced} bytes, got {self._filled}"
            )
        encoding = self.headers.find(b"content-encoding") or b""
        if encoding.lower() not in IDENTITY:
            self._body = self._inflated(encoding.lower())
        return Response(self.status, self.headers, self._body)

    def _inflated(self, encoding: bytes) -> bytearray:
        if encoding not in (b"gzip", b"deflate"):
            raise errors.ProtocolError(f"Content-Encoding: cannot read {encoding[:40]!r}")
        try:
            return bytearray(inflate(self._body, self._limit))
        except CodecError as error:
            raise errors.ProtocolError(f"compressed answer: {error}") from error


_TIMEOUT_PHASES = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "read",
    "WriteTimeout": "write",
    "PoolTimeout": "pool",
}
_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "aiaas_client")
_NO_ANSWER = "Server disconnected without sending a response"
_BROKE_OFF = "peer closed connection without sending complete message body"


def translate(error: Exception, request: WireRequest, progress: _Progress) -> errors.AiaasError:
    """Give our error for one of an HTTP library's, by the name it has in all four of them."""
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__ != "builtins"}
    for name, phase in _TIMEOUT_PHASES.items():
        if name in names:
            return _timed_out(phase, request)
    reason = str(error) or type(error).__name__
    where = f"{request.base_url}: {reason}"
    if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return errors.APIConnectionError(f"cannot connect to {where}", phase="connect")
    if "LocalProtocolError" in names:
        return errors.ConfigurationError(f"request cannot be sent to {where}")
    broke = _NO_ANSWER in reason or _BROKE_OFF in reason
    if "ProtocolError" in names and not broke:
        return errors.ProtocolError(f"not an HTTP answer from {where}")
    died_idle = not progress.connected and not progress.received
    return errors.APIConnectionError(
        f"connection broke: {where}", phase="idle" if died_idle else "exchange"
    )


def _timed_out(phase: str, request: WireRequest) -> errors.AiaasError:
    if time.monotonic() >= request.deadline - TIMER_SLACK:
        return errors.DeadlineExceededError(
            f"{request.base_url}: no answer within the deadline", phase=phase
        )
    seconds = getattr(request.timeouts, phase)
    if phase == "pool":
        return errors.PoolTimeoutError(
            f"{request.base_url}: no free connection within {seconds:g} s", phase=phase
        )
    return errors.APITimeoutError(
        f"{request.base_url}: {phase} took longer than {seconds:g} s", phase=phase
    )


def _is_foreign(error: Exception) -> bool:
    if isinstance(error, errors.AiaasError):
        return False
    module = type(error).__module__.partition(".")[0]
    return module in _LIBRARIES or isinstance(error, OSError)


class _Socket(httpcore2.NetworkStream):
    """A blocking socket; holds back the head of a request until its small body is there too."""

    __slots__ = ("_held", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._held = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        progress = _progress.get()
        progress.socket = self._socket
        if self._held:
            # A peer that stopped reading may still have answered: what it said comes first.
            with contextlib.suppress(httpcore2.WriteError):
                self._flush(progress.clip(timeout))
        left = progress.clip(timeout)
        if left <= 0:
            raise httpcore2.ReadTimeout("deadline")
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error
        if data:
            progress.received = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if len(self._held) + len(buffer) <= SMALL_BODY_BYTES:
            self._held += buffer
            return
        left = _progress.get().clip(timeout)
        self._flush(left)
        self._send(buffer, left)

    def _flush(self, timeout: float) -> None:
        held, self._held = self._held, b""
        if held:
            self._send(held, timeout)

    def _send(self, data: bytes, timeout: float) -> None:
        if timeout <= 0:
            raise httpcore2.WriteTimeout("deadline")
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            self._socket.settimeout(max(_progress.get().clip(timeout), 1e-3))
            return _Socket(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except TimeoutError as error:
            self._socket.close()
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            self._socket.close()
            raise httpcore2.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return _is_readable(self._socket)
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None


def _is_readable(connected: socket.socket) -> bool:
    """Whether an idle socket has something to say: it can only be its end."""
    descriptor = connected.fileno()
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class _Sockets(httpcore2.NetworkBackend):
    """Opens blocking sockets within the deadline of the attempt at hand."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        progress = _progress.get()
        try:
            connected = socket.create_connection((host, port), max(progress.clip(timeout), 1e-3))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        progress.connected = True
        return _Socket(connected)


class _AsyncSocket(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """A socket of the event loop, with one reader and one writer at a time."""

    PAUSE_BYTES = 1 << 20

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._plain: asyncio.Transport | None = None  # the one below TLS
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._paused = False
        self._full = False
        self._ended = False
        self._error: Exception | None = None
        self._held = b""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # always a two-way one here

    def data_received(self, data: bytes) -> None:
        self._received += data
        _wake(self._reader)
        if not self._paused and len(self._received) > self.PAUSE_BYTES:
            self._paused = True
            self._open_transport().pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    # httpcore2's side

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        progress = _progress.get()
        if self._held:
            held, self._held = self._held, b""
            self._open_transport().write(held)
        if not self._received and not self._ended:
            await self._wait_readable(progress.clip(timeout))
        if self._received:
            progress.received = True
            return self._take(max_bytes)
        if self._error is not None:
            raise httpcore2.ReadError(str(self._error)) from self._error
        return b""

    async def _wait_readable(self, timeout: float) -> None:
        self._reader = self._loop.create_future()
        try:
            await _within(self._loop, self._reader, timeout, httpcore2.ReadTimeout)
        finally:
            self._reader = None

    def _take(self, max_bytes: int) -> bytes:
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if self._paused and len(self._received) <= self.PAUSE_BYTES // 2 and not self._ended:
            self._paused = False
            self._open_transport().resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._ended:
            raise httpcore2.WriteError("connection closed by the other side")
        if len(self._held) + len(buffer) <= SMALL_BODY_BYTES:
            self._held += buffer
            return
        transport = self._open_transport()
        if self._held:
            held, self._held = self._held, b""
            transport.write(held)
        transport.write(buffer)
        if self._full:
            await self._wait_writable(_progress.get().clip(timeout))

    async def _wait_writable(self, timeout: float) -> None:
        self._writer = self._loop.create_future()
        try:
            await _within(self._loop, self._writer, timeout, httpcore2.WriteTimeout)
        finally:
            self._writer = None
        if self._ended:
            raise httpcore2.WriteError("connection closed by the other side")

    async def aclose(self) -> None:
        if self._transport is not None and not self._loop.is_closed():
            self._transport.abort()

    def abandon(self) -> None:
        """Close from outside the loop, which may be running elsewhere or be closed."""
        if self._transport is None:
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._transport.abort)
            return
        # A transport closes its socket through its loop, and this loop is gone; its last step,
        # which needs no loop, has no public name.
        plain = self._plain or self._transport
        finish = getattr(plain, "_call_connection_lost", None)
        if finish is not None:
            finish(None)
        self._transport = self._plain = None

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        left = max(_progress.get().clip(timeout), 1e-3)
        plain = self._plain = self._open_transport()
        try:
            async with asyncio.timeout(left):
                self._transport = await self._loop.start_tls(
                    plain, self, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            plain.abort()
            raise httpcore2.ConnectTimeout("TLS handshake") from error
        except OSError as error:
            plain.abort()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:
            plain.abort()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._ended or bool(self._received)
        if info == "ssl_object" and self._transport is not None:
            return self._transport.get_extra_info("ssl_object")
        return None

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise httpcore2.ReadError("not connected")
        return self._transport


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _within(
    loop: asyncio.AbstractEventLoop,
    waiter: asyncio.Future[None],
    timeout: float,
    error: type[Exception],
) -> None:
    """Wait for `waiter`, raising `error` after `timeout` seconds."""
    timer = loop.call_later(max(timeout, 0.0), _expire, waiter, error)
    try:
        await waiter
    finally:
        timer.cancel()


def _expire(waiter: asyncio.Future[None], error: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(error("timed out"))


class _AsyncSockets(httpcore2.AsyncNetworkBackend):
    """Opens sockets of the running loop within the deadline of the attempt at hand."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[_AsyncSocket] = weakref.WeakSet()

    def abandon(self) -> None:
        for stream in list(self._open):
            stream.abandon()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        progress = _progress.get()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(progress.clip(timeout), 1e-3)):
                _, stream = await loop.create_connection(_AsyncSocket, host, port)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        progress.connected = True
        self._open.add(stream)
        return stream


@lru_cache(maxsize=16)
def ssl_context(verify: bool | str, trust_env: bool) -> ssl.SSLContext:
    """Load a trust store, once for all clients: the system's takes some 17 ms."""
    if isinstance(verify, str):
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    return httpx2.create_ssl_context(verify=verify, trust_env=trust_env)


@lru_cache(maxsize=1024)
def _target(base_url: str, path: str) -> httpcore2.URL:
    """Parse an endpoint and a path once, not once a request."""
    url = httpx2.URL(base_url)
    prefix = url.raw_path.rstrip(b"/")
    return httpcore2.URL(
        scheme=url.raw_scheme,
        host=url.raw_host,
        port=url.port,
        target=prefix + path.encode("ascii"),
    )


@lru_cache(maxsize=1024)
def _host(base_url: str) -> tuple[bytes, bytes]:
    return b"Host", httpx2.URL(base_url).netloc


def _wire(request: WireRequest, body: BodyKind) -> httpcore2.Request:
    headers = [_host(request.base_url), *request.headers]
    if _has_body(request):
        headers.append((b"Content-Length", b"%d" % request.content_length))
    timeouts = request.timeouts
    return httpcore2.Request(
        request.method,
        _target(request.base_url, request.path),
        headers=headers,
        content=_content(request, body),
        extensions={
            "timeout": {
                "connect": timeouts.connect,
                "read": timeouts.read,
                "write": timeouts.write,
                "pool": timeouts.pool,
            }
        },
    )


def _is_tls(base_url: str) -> bool:
    return base_url.startswith("https:")


class PooledTransport:
    """Keeps connections of its own, one pool for plain and one for TLS endpoints."""

    def __init__(
        self, ssl_context: Callable[[], ssl.SSLContext], limits: Limits, max_answer_bytes: int
    ) -> None:
        self._ssl_context = ssl_context
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes
        self._pools: dict[bool, httpcore2.ConnectionPool] = {}

    def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = request.progress = _Progress(request.deadline)
        token = _progress.set(progress)
        try:
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = pool.handle_request(_wire(request, Body))
            try:
                reader = _AnswerReader(answer.status, answer.headers, self._max_answer_bytes)
                for chunk in answer.iter_stream():
                    reader.feed(chunk)
            finally:
                answer.close()
            return reader.finish()
        except Exception as error:
            if _is_foreign(error):
                raise translate(error, request, progress) from error
            raise
        finally:
            _progress.reset(token)

    def _open(self, request: WireRequest) -> httpcore2.ConnectionPool:
        tls = _is_tls(request.base_url)
        pool = httpcore2.ConnectionPool(
            ssl_context=self._ssl_context() if tls else None,
            max_connections=self._limits.max_connections,
            max_keepalive_connections=self._limits.max_keepalive_connections,
            keepalive_expiry=self._limits.keepalive_expiry,
            network_backend=_Sockets(),
        )
        return self._pools.setdefault(tls, pool)

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


class AsyncPooledTransport:
    """As `PooledTransport`, on the event loop that first used it."""

    def __init__(
        self, ssl_context: Callable[[], ssl.SSLContext], limits: Limits, max_answer_bytes: int
    ) -> None:
        self._ssl_context = ssl_context
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes
        self._pools: dict[bool, httpcore2.AsyncConnectionPool] = {}
        self._sockets = _AsyncSockets()

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = request.progress = _Progress(request.deadline)
        token = _progress.set(progress)
        try:
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = await pool.handle_async_request(_wire(request, AsyncBody))
            try:
                reader = _AnswerReader(answer.status, answer.headers, self._max_answer_bytes)
                async for chunk in answer.aiter_stream():
                    reader.feed(chunk)
            finally:
                await answer.aclose()
            return reader.finish()
        except Exception as error:
            if _is_foreign(error):
                raise translate(error, request, progress) from error
            raise
        finally:
            _progress.reset(token)

    def _open(self, request: WireRequest) -> httpcore2.AsyncConnectionPool:
        tls = _is_tls(request.base_url)
        self._pools[tls] = httpcore2.AsyncConnectionPool(
            ssl_context=self._ssl_context() if tls else None,
            max_connections=self._limits.max_connections,
            max_keepalive_connections=self._limits.max_keepalive_connections,
            keepalive_expiry=self._limits.keepalive_expiry,
            network_backend=self._sockets,
        )
        return self._pools[tls]

    def abandon(self) -> None:
        """Let go of every connection from outside the loop it belongs to."""
        self._sockets.abandon()

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()
        # A closed transport leaves the loop on its next turn.
        await asyncio.sleep(0)


class BorrowedTransport:
    """Sends through the caller's `httpx2.Client` or `httpx.Client`, and never closes it."""

    def __init__(self, client: Any, max_answer_bytes: int) -> None:
        self._client = client
        self._max_answer_bytes = max_answer_bytes

    def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = _Progress(request.deadline)

        def trace(event: str, info: object) -> None:
            _note(progress, event)

        try:
            answer = self._client.send(
                _borrowed_request(self._client, request, Body, trace),
                stream=True,
                follow_redirects=False,
            )
            try:
                reader = _AnswerReader(
                    answer.status_code, answer.headers.raw, self._max_answer_bytes
                )
                for chunk in answer.iter_raw():
                    reader.feed(chunk)
                    _check_deadline(request)
            finally:
                answer.close()
            return reader.finish()
        except Exception as error:
            if _is_foreign(error):
                raise translate(error, request, progress) from error
            raise

    def close(self) -> None:
        """Leave the client open: it is the caller's."""


class AsyncBorrowedTransport:
    """Sends through the caller's `httpx2.AsyncClient` or `httpx.AsyncClient`.

    Legacy httpx loses a place in its pool for every request that is cancelled before its
    connection is open. There, a call cancelled so early is left to reach that point on its own
    (the connect and pool timeouts bound it) and is ended then, before it sends anything.
    """

    def __init__(self, client: Any, max_answer_bytes: int) -> None:
        self._client = client
        self._max_answer_bytes = max_answer_bytes
        self._loses_places = _is_of(client, "AsyncClient", ("httpx",))
        self._leaving: set[asyncio.Task[Response]] = set()

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = _Progress(request.deadline)

        async def trace(event: str, info: object) -> None:
            _note(progress, event)

        try:
            async with asyncio.timeout(request.deadline - time.monotonic()):
                if self._loses_places:
                    return await self._guarded(request, trace, progress)
                return await self._exchange(request, trace)
        except TimeoutError as error:
            if isinstance(error, errors.AiaasError):
                raise
            raise _timed_out("read", request) from error
        except Exception as error:
            if _is_foreign(error):
                raise translate(error, request, progress) from error
            raise

    async def _guarded(self, request: WireRequest, trace: Any, progress: _Progress) -> Response:
        task = asyncio.create_task(self._exchange(request, trace))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if progress.sending:
                task.cancel()
            progress.cancelled = True
            self._leaving.add(task)
            task.add_done_callback(self._left)
            raise

    def _left(self, task: asyncio.Task[Response]) -> None:
        self._leaving.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it

    async def _exchange(self, request: WireRequest, trace: Any) -> Response:
        answer = await self._client.send(
            _borrowed_request(self._client, request, AsyncBody, trace),
            stream=True,
            follow_redirects=False,
        )
        try:
            reader = _AnswerReader(answer.status_code, answer.headers.raw, self._max_answer_bytes)
            async for chunk in answer.aiter_raw():
                reader.feed(chunk)
        finally:
            await answer.aclose()
        return reader.finish()

    async def close(self) -> None:
        """Leave the client open, it is the caller's; only calls on their way out are awaited."""
        if self._leaving:
            await asyncio.wait(self._leaving)


def _borrowed_request(client: Any, request: WireRequest, body: BodyKind, trace: Any) -> Any:
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    if _has_body(request):
        headers.append(("Content-Length", str(request.content_length)))
    timeouts = request.timeouts
    return client.build_request(
        request.method,
        request.base_url + request.path,
        headers=headers,
        content=_content(request, body),
        timeout=(timeouts.connect, timeouts.read, timeouts.write, timeouts.pool),
        extensions={"trace": trace},
    )


def _note(progress: _Progress, event: str) -> None:
    if event == "connection.connect_tcp.complete":
        progress.connected = True
    elif event == "http11.send_request_headers.started":
        progress.sending = True
        if progress.cancelled:
            raise asyncio.CancelledError
    elif event.endswith("receive_response_headers.complete"):
        progress.received = True


def _check_deadline(request: WireRequest) -> None:
    if time.monotonic() >= request.deadline:
        raise _timed_out("read", request)


def is_http_client(client: object, *, asynchronous: bool) -> bool:
    """Tell whether `client` is an httpx2 or httpx client of the wanted kind, or a subclass."""
    return _is_of(client, "AsyncClient" if asynchronous else "Client", ("httpx", "httpx2"))


def _is_of(client: object, name: str, packages: tuple[str, ...]) -> bool:
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] in packages
        for cls in type(client).__mro__
    )
