"""Middleware: code of the application around every attempt.

A middleware is called once per attempt (so twice for a call that was retried once) with the
request and the next step; it may change the request's headers, look at the answer, or answer
itself. For `Client` it is a plain function, for `AsyncClient` a coroutine function::

    def timed(request: WireRequest, send: Send) -> Response:
        began = time.perf_counter()
        response = send(request)
        print(request.path, response.status, time.perf_counter() - began)
        return response

The first of the list is the outermost. Statuses other than 200 arrive as answers; failures to get
one arrive as exceptions of the SDK's tree. Of a stream, middleware sees the head as an answer with
an empty body; the events pass it by.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aiaas_client._errors import OptionTypeError

if TYPE_CHECKING:
    from aiaas_client._api.call import Response
    from aiaas_client._transport.wire import WireRequest

    Send = Callable[[WireRequest], Response]
    AsyncSend = Callable[[WireRequest], Awaitable[Response]]


class Middleware(Protocol):
    """What `Client(middleware=[...])` takes: a function called once for each attempt.

    It may change `request.headers`, look at the answer, or answer itself. An answer of another
    status than 200 arrives as an answer; a failure to get one as an exception of the SDK's tree.
    """

    def __call__(self, request: WireRequest, send: Send, /) -> Response:
        """Handle one attempt; `send(request)` passes it on."""
        ...


class AsyncMiddleware(Protocol):
    """What `AsyncClient(middleware=[...])` takes: as `Middleware`, a coroutine function."""

    async def __call__(self, request: WireRequest, send: AsyncSend, /) -> Response:
        """Handle one attempt; `await send(request)` passes it on."""
        ...


def check_kinds(middleware: object, *, asynchronous: bool) -> None:
    """Refuse middleware of the other client's kind.

    Raises:
        OptionTypeError: names the middleware, and the kind that was expected.
    """
    if not isinstance(middleware, Sequence):
        kind = type(middleware).__name__
        raise OptionTypeError(f"middleware: expected a list of callables, got {kind}")
    for one in middleware:
        if not callable(one):
            raise OptionTypeError(f"middleware {one!r}: expected a callable")
        if _is_async(one) != asynchronous:
            client, kind = ("AsyncClient", "async") if asynchronous else ("Client", "sync")
            name = getattr(one, "__qualname__", type(one).__qualname__)
            raise OptionTypeError(f"middleware '{name}': {client} expects a {kind} one")


def _is_async(one: object) -> bool:
    target = one
    while isinstance(target, partial):
        target = target.func
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004  # the method itself is looked at
    )


def chain(middleware: Sequence[Middleware], send: Send) -> Send:
    """Wrap `send` in `middleware`, the first one outermost."""
    for one in reversed(middleware):
        send = partial(_step, one, send)
    return send


def _step(one: Middleware, send: Send, request: WireRequest) -> Response:
    return one(request, send)


def achain(middleware: Sequence[AsyncMiddleware], send: AsyncSend) -> AsyncSend:
    """As `chain`, for coroutine functions."""
    for one in reversed(middleware):
        send = partial(_astep, one, send)
    return send


async def _astep(one: AsyncMiddleware, send: AsyncSend, request: WireRequest) -> Response:
    return await one(request, send)
