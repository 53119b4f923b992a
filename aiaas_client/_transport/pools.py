"""Connection pools of our own: httpx2's (`httpcore2`, released and pinned with it), our sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from pathlib import Path

import httpcore2
import httpx2

from aiaas_client._api.call import Headers, Response
from aiaas_client._config import Limits
from aiaas_client._transport.failures import is_foreign, serving, translate
from aiaas_client._transport.loop import LoopSockets
from aiaas_client._transport.threads import BlockingSockets
from aiaas_client._transport.wire import (
    AnswerReader,
    AsyncOpenAnswer,
    AsyncPieces,
    OpenAnswer,
    Pieces,
    PiecesKind,
    WireExchange,
    WireRequest,
    content_of,
    current,
    has_body,
)


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


def _wire(request: WireRequest, body: PiecesKind) -> httpcore2.Request:
    headers = [_host(request.base_url), *request.headers]
    if has_body(request):
        headers.append((b"Content-Length", b"%d" % request.content_length))
    timeouts = request.timeouts
    return httpcore2.Request(
        request.method,
        _target(request.base_url, request.path),
        headers=headers,
        content=content_of(request, body),
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
        exchange = request.exchange = WireExchange(request.deadline)
        token = current.set(exchange)
        try:
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = pool.handle_request(_wire(request, Pieces))
            try:
                reader = AnswerReader(answer.status, answer.headers, self._max_answer_bytes)
                for chunk in answer.iter_stream():
                    reader.feed(chunk)
            finally:
                answer.close()
            return reader.finish()
        except Exception as error:
            if is_foreign(error):
                raise translate(error, request, exchange) from error
            raise
        finally:
            current.reset(token)

    def stream(self, request: WireRequest) -> OpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with serving(request, exchange):
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = pool.handle_request(_wire(request, Pieces))
        pieces = _steps(iter(answer.iter_stream()), request, exchange)
        return OpenAnswer(answer.status, Headers(answer.headers), pieces, answer.close)

    def _open(self, request: WireRequest) -> httpcore2.ConnectionPool:
        tls = _is_tls(request.base_url)
        pool = httpcore2.ConnectionPool(
            ssl_context=self._ssl_context() if tls else None,
            max_connections=self._limits.max_connections,
            max_keepalive_connections=self._limits.max_keepalive_connections,
            keepalive_expiry=self._limits.keepalive_expiry,
            network_backend=BlockingSockets(),
        )
        return self._pools.setdefault(tls, pool)

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()


def _steps(
    pieces: Iterator[bytes], request: WireRequest, exchange: WireExchange
) -> Iterator[bytes]:
    while True:
        with serving(request, exchange):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


class AsyncPooledTransport:
    """As `PooledTransport`, on the event loop that first used it."""

    def __init__(
        self, ssl_context: Callable[[], ssl.SSLContext], limits: Limits, max_answer_bytes: int
    ) -> None:
        self._ssl_context = ssl_context
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes
        self._pools: dict[bool, httpcore2.AsyncConnectionPool] = {}
        self._sockets = LoopSockets()

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        token = current.set(exchange)
        try:
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = await pool.handle_async_request(_wire(request, AsyncPieces))
            try:
                reader = AnswerReader(answer.status, answer.headers, self._max_answer_bytes)
                async for chunk in answer.aiter_stream():
                    reader.feed(chunk)
            finally:
                await answer.aclose()
            return reader.finish()
        except Exception as error:
            if is_foreign(error):
                raise translate(error, request, exchange) from error
            raise
        finally:
            current.reset(token)

    async def stream(self, request: WireRequest) -> AsyncOpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with serving(request, exchange):
            pool = self._pools.get(_is_tls(request.base_url)) or self._open(request)
            answer = await pool.handle_async_request(_wire(request, AsyncPieces))
        pieces = _async_steps(aiter(answer.aiter_stream()), request, exchange)
        return AsyncOpenAnswer(answer.status, Headers(answer.headers), pieces, answer.aclose)

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


async def _async_steps(
    pieces: AsyncIterator[bytes], request: WireRequest, exchange: WireExchange
) -> AsyncIterator[bytes]:
    while True:
        with serving(request, exchange):
            piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece
