"""As `threads`, on an event loop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import httpcore2

from aiaas_client._transport.wire import HEAD_START, SMALL_BODY_BYTES, current


class LoopSocket(asyncio.Protocol, httpcore2.AsyncNetworkStream):
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
        exchange = current.get()
        if self._held:
            held, self._held = self._held, b""
            self._open_transport().write(held)
        left = exchange.clip(timeout)
        if left <= 0:  # also where there is always more to read
            raise httpcore2.ReadTimeout("deadline")
        if not self._received and not self._ended:
            await self._wait_readable(left)
        if self._received:
            exchange.received = True
            return self._take()
        if self._error is not None:
            raise httpcore2.ReadError(str(self._error)) from self._error
        return b""

    async def _wait_readable(self, timeout: float) -> None:
        self._reader = self._loop.create_future()
        try:
            await _within(self._loop, self._reader, timeout, httpcore2.ReadTimeout)
        finally:
            self._reader = None

    def _take(self) -> bytes:
        """Give all there is: `PAUSE_BYTES` bounds it, and large answers need few steps."""
        data, self._received = self._received, bytearray()
        if self._paused and not self._ended:
            self._paused = False
            self._open_transport().resume_reading()
        return data  # type: ignore[return-value]  # only measured and appended

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._ended:
            raise httpcore2.WriteError("connection closed by the other side")
        exchange = current.get()
        if len(self._held) + len(buffer) <= SMALL_BODY_BYTES:
            self._held += buffer
            return
        transport = self._open_transport()
        if self._held:
            held, self._held = self._held, b""
            transport.write(held)
        transport.write(buffer)
        if self._full:
            await self._wait_writable(exchange.clip(timeout))

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
            await asyncio.sleep(0)  # the loop closes the socket in its next turn, maybe its last

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
        left = max(current.get().clip(timeout), 1e-3)
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


async def _connect(loop: asyncio.AbstractEventLoop, host: str, port: int) -> LoopSocket:
    """Connect to the address that answers first; a later one begins while earlier ones are silent.

    So a dead address costs `HEAD_START` seconds, not the time there is (RFC 8305). The race that
    asyncio has leaves tasks behind when it is cancelled, and other loops have none.
    """
    if _is_address(host):
        return (await loop.create_connection(LoopSocket, host, port))[1]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [_written(entry[4]) for entry in found]
    if len(addresses) == 1:
        return (await loop.create_connection(LoopSocket, addresses[0], port))[1]
    return await _first_of(loop, addresses, port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _written(address: Any) -> str:
    """An address as text, with the interface that a link-local one belongs to."""
    host = str(address[0])
    scope = address[3] if len(address) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


async def _first_of(loop: asyncio.AbstractEventLoop, addresses: list[str], port: int) -> LoopSocket:
    racing: set[asyncio.Task[Any]] = set()
    waiting, failure = deque(addresses), OSError("the name has no address")
    try:
        while waiting or racing:
            if waiting:
                connecting = loop.create_connection(LoopSocket, waiting.popleft(), port)
                racing.add(loop.create_task(connecting))
            patience = HEAD_START if waiting else None
            first = asyncio.FIRST_COMPLETED
            done, racing = await asyncio.wait(racing, timeout=patience, return_when=first)
            while done:
                one = done.pop()
                error = one.exception()
                if error is None:
                    racing |= done
                    return cast("LoopSocket", one.result()[1])
                failure = error if isinstance(error, OSError) else failure
    finally:
        await _drop(racing)
    raise failure


async def _drop(racing: set[asyncio.Task[Any]]) -> None:
    """End those that did not win, also one that connected a moment later."""
    for one in racing:
        one.cancel()
    for late in await asyncio.gather(*racing, return_exceptions=True):
        if not isinstance(late, BaseException):
            late[0].abort()


class LoopSockets(httpcore2.AsyncNetworkBackend):
    """Opens sockets of the running loop within the deadline of the attempt at hand."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[LoopSocket] = weakref.WeakSet()

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
        exchange = current.get()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(exchange.clip(timeout), 1e-3)):
                stream = await _connect(loop, host, port)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        exchange.connected = True
        self._open.add(stream)
        return stream
