"""Transports over an `httpx2` or legacy `httpx` client that the caller made and keeps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api.call import Headers, Response
from aiaas_client._transport.failures import is_foreign, serving, timed_out, translate
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
    has_body,
)

T = TypeVar("T")


class BorrowedTransport:
    """Sends through the caller's `httpx2.Client` or `httpx.Client`, and never closes it."""

    def __init__(self, client: Any, max_answer_bytes: int) -> None:
        self._client = client
        self._max_answer_bytes = max_answer_bytes

    def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        exchange = WireExchange(request.deadline)

        def trace(event: str, info: object) -> None:
            _note(exchange, event)

        with serving(request, exchange):
            answer = self._client.send(
                _borrowed_request(self._client, request, Pieces, trace),
                stream=True,
                follow_redirects=False,
            )
            try:
                reader = AnswerReader(
                    answer.status_code, answer.headers.raw, self._max_answer_bytes
                )
                for piece in answer.iter_raw():
                    reader.feed(piece)
                    _check_deadline(request)
            finally:
                answer.close()
            return reader.finish()

    def stream(self, request: WireRequest) -> OpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = WireExchange(request.deadline)

        def trace(event: str, info: object) -> None:
            _note(exchange, event)

        with serving(request, exchange):
            answer = self._client.send(
                _borrowed_request(self._client, request, Pieces, trace),
                stream=True,
                follow_redirects=False,
            )
        pieces = _steps(answer.iter_raw(), request, exchange)
        return OpenAnswer(answer.status_code, Headers(answer.headers.raw), pieces, answer.close)

    def close(self) -> None:
        """Leave the client open: it is the caller's."""


def _steps(
    pieces: Iterator[bytes], request: WireRequest, exchange: WireExchange
) -> Iterator[bytes]:
    while True:
        with serving(request, exchange):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
        _check_deadline(request)


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
        self._leaving: set[asyncio.Task[Any]] = set()

    async def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        exchange = WireExchange(request.deadline)

        async def trace(event: str, info: object) -> None:
            _note(exchange, event)

        with _within(request, exchange):
            async with asyncio.timeout(exchange.clip(None)):
                return await self._guarded(self._read(request, trace), exchange)

    async def stream(self, request: WireRequest) -> AsyncOpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = WireExchange(request.deadline)

        async def trace(event: str, info: object) -> None:
            _note(exchange, event)

        with _within(request, exchange):
            async with asyncio.timeout(exchange.clip(None)):
                answer = await self._guarded(self._open(request, trace), exchange)
        pieces = _async_steps(answer.aiter_raw(), request, exchange)
        headers = Headers(answer.headers.raw)
        return AsyncOpenAnswer(answer.status_code, headers, pieces, answer.aclose)

    async def _guarded(self, work: Coroutine[Any, Any, T], exchange: WireExchange) -> T:
        if not self._loses_places:
            return await work
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if exchange.sending:
                task.cancel()
            exchange.cancelled = True
            leaving = asyncio.create_task(_leave(task))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            raise

    async def _open(self, request: WireRequest, trace: Any) -> Any:
        return await self._client.send(
            _borrowed_request(self._client, request, AsyncPieces, trace),
            stream=True,
            follow_redirects=False,
        )

    async def _read(self, request: WireRequest, trace: Any) -> Response:
        answer = await self._open(request, trace)
        try:
            reader = AnswerReader(answer.status_code, answer.headers.raw, self._max_answer_bytes)
            async for piece in answer.aiter_raw():
                reader.feed(piece)
        finally:
            await answer.aclose()
        return reader.finish()

    async def close(self) -> None:
        """Leave the client open, it is the caller's; only calls on their way out are awaited."""
        if self._leaving:
            await asyncio.wait(self._leaving)


async def _leave(task: asyncio.Task[Any]) -> None:
    """See a cancelled exchange to its end: if its answer has come after all, let go of it."""
    await asyncio.wait([task])
    if task.cancelled() or task.exception() is not None:
        return
    close = getattr(task.result(), "aclose", None)  # of an answer that was to be a stream
    if close is not None:
        await close()


@contextlib.contextmanager
def _within(request: WireRequest, exchange: WireExchange) -> Iterator[None]:
    """Errors become ours; the end of an `asyncio.timeout` is the deadline's."""
    try:
        yield
    except errors.AiaasError:
        raise
    except TimeoutError as error:
        raise timed_out("read", request) from error
    except Exception as error:
        if is_foreign(error):
            raise translate(error, request, exchange) from error
        raise


async def _async_steps(
    pieces: AsyncIterator[bytes], request: WireRequest, exchange: WireExchange
) -> AsyncIterator[bytes]:
    while True:
        with _within(request, exchange):
            async with asyncio.timeout(exchange.clip(None)):
                piece = await anext(pieces, None)
        if piece is None:
            return
        yield piece


def _borrowed_request(client: Any, request: WireRequest, body: PiecesKind, trace: Any) -> Any:
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    if has_body(request):
        headers.append(("Content-Length", str(request.content_length)))
    timeouts = request.timeouts
    return client.build_request(
        request.method,
        request.base_url + request.path,
        headers=headers,
        content=content_of(request, body),
        timeout=(timeouts.connect, timeouts.read, timeouts.write, timeouts.pool),
        extensions={"trace": trace},
    )


def _note(exchange: WireExchange, event: str) -> None:
    if event == "connection.connect_tcp.complete":
        exchange.connected = True
    elif event == "http11.send_request_headers.started":
        exchange.sending = True
        if exchange.cancelled:
            raise asyncio.CancelledError
    elif event.endswith("receive_response_headers.complete"):
        exchange.received = True


def _check_deadline(request: WireRequest) -> None:
    if time.monotonic() >= request.deadline:
        raise timed_out("read", request)


def is_http_client(client: object, *, asynchronous: bool) -> bool:
    """Tell whether `client` is an httpx2 or httpx client of the wanted kind, or a subclass."""
    return _is_of(client, "AsyncClient" if asynchronous else "Client", ("httpx", "httpx2"))


def _is_of(client: object, name: str, packages: tuple[str, ...]) -> bool:
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] in packages
        for cls in type(client).__mro__
    )
