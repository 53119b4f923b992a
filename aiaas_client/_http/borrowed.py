"""Transports over an `httpx2` or legacy `httpx` client that the caller made and keeps."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiaas_client import _errors as errors
from aiaas_client._calls import Response
from aiaas_client._wire import (
    AnswerReader,
    AsyncBody,
    Body,
    BodyKind,
    Progress,
    WireRequest,
    content_of,
    has_body,
    is_foreign,
    timed_out,
    translate,
)


class BorrowedTransport:
    """Sends through the caller's `httpx2.Client` or `httpx.Client`, and never closes it."""

    def __init__(self, client: Any, max_answer_bytes: int) -> None:
        self._client = client
        self._max_answer_bytes = max_answer_bytes

    def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        progress = Progress(request.deadline)

        def trace(event: str, info: object) -> None:
            _note(progress, event)

        try:
            answer = self._client.send(
                _borrowed_request(self._client, request, Body, trace),
                stream=True,
                follow_redirects=False,
            )
            try:
                reader = AnswerReader(
                    answer.status_code, answer.headers.raw, self._max_answer_bytes
                )
                for chunk in answer.iter_raw():
                    reader.feed(chunk)
                    _check_deadline(request)
            finally:
                answer.close()
            return reader.finish()
        except Exception as error:
            if is_foreign(error):
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
        progress = Progress(request.deadline)

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
            raise timed_out("read", request) from error
        except Exception as error:
            if is_foreign(error):
                raise translate(error, request, progress) from error
            raise

    async def _guarded(self, request: WireRequest, trace: Any, progress: Progress) -> Response:
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
            reader = AnswerReader(answer.status_code, answer.headers.raw, self._max_answer_bytes)
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


def _note(progress: Progress, event: str) -> None:
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
        raise timed_out("read", request)


def is_http_client(client: object, *, asynchronous: bool) -> bool:
    """Tell whether `client` is an httpx2 or httpx client of the wanted kind, or a subclass."""
    return _is_of(client, "AsyncClient" if asynchronous else "Client", ("httpx", "httpx2"))


def _is_of(client: object, name: str, packages: tuple[str, ...]) -> bool:
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] in packages
        for cls in type(client).__mro__
    )
