"""`AsyncClient`: calls from one event loop; otherwise as `Client`, name by name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aiaas_client import _calls as calls
from aiaas_client import _errors as errors
from aiaas_client._breaker import BreakerPolicy
from aiaas_client._calls import Call
from aiaas_client._config import DEFAULT_DEADLINE, MAX_ANSWER_BYTES, Limits, Timeouts
from aiaas_client._core import (
    DEFAULT_BREAKER,
    DEFAULT_LIMITS,
    DEFAULT_RETRY,
    DEFAULT_TIMEOUTS,
    Core,
    Poll,
    Trip,
    check_http_client,
    open_local,
)
from aiaas_client._endpoints import Endpoint
from aiaas_client._middleware import AsyncMiddleware, achain, check_kinds
from aiaas_client._resources import AsyncModels, AsyncRawClient
from aiaas_client._retry import RetryPolicy
from aiaas_client._tasks import AsyncTaskClient

if TYPE_CHECKING:
    import ssl

    from aiaas_client._async_model import AsyncModel
    from aiaas_client._batcher import AsyncBatcher
    from aiaas_client._wire import AsyncTransport, WireRequest
    from aiaas_client.protocol.messages import ServerMetadata

T = TypeVar("T")

_BACKENDS = {
    "httpx2": ("aiaas_client._http.pools", "AsyncPooledTransport"),
    "aiohttp": ("aiaas_client._aiohttp", "AiohttpTransport"),
}


class AsyncClient(AsyncTaskClient, Core):
    """Calls models on a server, from one event loop at a time; otherwise as `Client`.

    Used on a second event loop, it leaves its connections to the first and opens new ones. A
    cancelled call closes its connection and gives its place in the pool back.

    Args:
        base_url: Where the server is, or several addresses of equal servers; by default
            `AIAAS_BASE_URL` (several separated by commas).
        api_key: By default `AIAAS_API_KEY`. Sent only to `base_url`.
        timeout: `Timeouts` of the phases of an attempt, or seconds for reading and writing.
        deadline: Seconds for a whole call, retries and waits included.
        retry: When and how often to try again.
        http_client: An `httpx2.AsyncClient` or `httpx.AsyncClient` to send through; it stays the
            caller's.
        backend: The library that sends: "httpx2", or "aiohttp" (the extra of that name), which
            takes about half the CPU and suits hundreds of calls in flight.
        transport: Anything that sends attempts in place of HTTP, for tests and embedding.
        headers: Sent with every request.
        middleware: Called around every attempt, the first one outermost.
        limits: How many connections to keep.
        max_answer_bytes: Answers beyond this raise `ProtocolError`.
        verify: True for the system's trust store, a path of a CA bundle, an `ssl.SSLContext`, or
            False to trust any certificate.
        trust_env: Heed `SSL_CERT_FILE` and `SSL_CERT_DIR`. Proxy variables are never heeded: hand
            in an `http_client` with a proxy.
        allow_insecure_http: Let a key travel over http:// to another machine.
        breaker: When to stop calling an endpoint that keeps failing; None for never.
        hedge_after: Seconds after which a second endpoint is asked as well; None for never.
    Raises:
        ConfigurationError: the arguments do not make a client.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout: float | Timeouts = DEFAULT_TIMEOUTS,
        deadline: float = DEFAULT_DEADLINE,
        retry: RetryPolicy = DEFAULT_RETRY,
        http_client: Any = None,
        backend: str = "httpx2",
        transport: AsyncTransport | None = None,
        headers: Mapping[str, str] | None = None,
        middleware: Sequence[AsyncMiddleware] = (),
        limits: Limits = DEFAULT_LIMITS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        verify: bool | str | ssl.SSLContext = True,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        breaker: BreakerPolicy | None = DEFAULT_BREAKER,
        hedge_after: float | None = None,
    ) -> None:
        check_kinds(middleware, asynchronous=True)
        _check_backend(backend)
        self._backend = backend
        if http_client is not None:
            check_http_client(http_client, asynchronous=True)
        super().__init__(
            base_url,
            api_key=api_key,
            timeout=timeout,
            deadline=deadline,
            retry=retry,
            headers=headers,
            limits=limits,
            max_answer_bytes=max_answer_bytes,
            verify=verify,
            trust_env=trust_env,
            allow_insecure_http=allow_insecure_http,
            breaker=breaker,
            hedge_after=hedge_after,
            transport=transport,
        )
        self._middleware = tuple(middleware)
        self._http_client = http_client

    @classmethod
    def local(cls, path: str | PathLike[str], **options: Any) -> Self:
        """Run the models under `path` in this process: the same calls, no server, no socket.

        Args:
            path: A directory of models, or one `.onnx` file.
            options: As `aiaas_client._local.AsyncLocalTransport` takes them.
        Raises:
            ConfigurationError: the server part is not installed.
        """
        return cls(transport=open_local("AsyncLocalTransport", path, options))

    @property
    def models(self) -> AsyncModels:
        """The server's models: list, load, unload and the like."""
        return AsyncModels(self._send)

    @property
    def with_raw_response(self) -> AsyncRawClient:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return AsyncRawClient(self._send)

    def model(self, name: str, version: str | int | None = None) -> AsyncModel:
        """Give a handle on one model; nothing is sent yet."""
        from aiaas_client._async_model import AsyncModel

        return AsyncModel(self, name, version)

    def batcher(
        self,
        model: str,
        version: str | int | None = None,
        *,
        max_wait: float = 0.002,
        max_rows: int | None = None,
        concurrency: int = 4,
    ) -> AsyncBatcher:
        """Join single calls from many tasks into few requests.

        Args:
            model: The model's name.
            version: Its version; by default the newest that is ready.
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's own limit by default.
            concurrency: Requests in flight at once.
        """
        return self.model(model, version).batcher(
            max_wait=max_wait, max_rows=max_rows, concurrency=concurrency
        )

    async def health(self) -> bool:
        """Tell whether the server lives; raises if it cannot be reached."""
        return await self._send(calls.health())

    async def ready(self) -> bool:
        """Tell whether the server takes inference now; raises if it cannot be reached."""
        return await self._send(calls.ready())

    async def wait_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server, or one model, takes inference.

        Raises:
            DeadlineExceededError: it did not within `timeout` seconds; its cause tells why.
        """
        poll = Poll(self, timeout, model)
        while not poll.is_over():
            try:
                if await poll.client._send(poll.call):
                    return
                poll.refused(None)
            except errors.AiaasError as error:
                poll.refused(error)
            await self._retry.clock.async_sleep(poll.pause())
        raise poll.error() from poll.cause

    async def metadata(self) -> ServerMetadata:
        """Name, version and extensions of the server."""
        return await self._send(calls.server_metadata())

    async def close(self) -> None:
        """Close all connections, for good; clients made by `with_options` close with it."""
        shared = self._shared
        if shared.closed:
            return
        shared.closed = True
        transport = shared.transport or self._given_transport
        if transport is None or shared.process != os.getpid():
            return
        if transport is self._given_transport or shared.owner is asyncio.get_running_loop():
            await transport.close()
        else:
            _abandon(transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        """Send `call`, with retries inside the deadline, and read its answer."""
        trip = self._begin(call)
        return await trip.attempts.arun(partial(self._attempt, trip))

    async def _attempt(self, trip: Trip[T]) -> T:
        endpoint = self._shared.endpoints.take(trip.attempts.avoid)
        if self._may_hedge(trip.call):
            return await self._hedged(trip, endpoint)
        return await self._exchange(trip, endpoint)

    async def _exchange(self, trip: Trip[T], endpoint: Endpoint) -> T:
        try:
            request = self._wire(trip, endpoint)
            began = time.monotonic()
            response = await self._pipeline()(request)
            response.attempt_elapsed = time.monotonic() - began
            value = trip.read(response, endpoint.url, self._wall())
        except BaseException as error:
            self._failed(trip, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)
        return value

    def _pipeline(self) -> Callable[[WireRequest], Any]:
        transport = self._open_transport()
        return achain(self._middleware, transport.send) if self._middleware else transport.send

    def _open_transport(self) -> AsyncTransport:
        shared = self._shared
        loop = asyncio.get_running_loop()
        if shared.transport is None or shared.owner is not loop:
            if shared.transport is not None:
                _abandon(shared.transport)
            shared.transport = self._new_transport()
            shared.owner = loop
        return shared.transport  # type: ignore[no-any-return]  # an AsyncTransport, set above

    def _new_transport(self) -> AsyncTransport:
        if self._given_transport is not None:
            return self._given_transport  # type: ignore[no-any-return]  # an AsyncTransport
        if self._http_client is not None:
            from aiaas_client._http.borrowed import AsyncBorrowedTransport

            return AsyncBorrowedTransport(self._http_client, self._max_answer_bytes)
        module, name = _BACKENDS[self._backend]
        pooled: Callable[..., AsyncTransport] = getattr(import_module(module), name)
        return pooled(self._ssl_context, self._limits, self._max_answer_bytes)

    async def _hedged(self, trip: Trip[T], first: Endpoint) -> T:
        """Ask a second endpoint when the first is slow; the first good answer wins."""
        racing = {asyncio.create_task(self._exchange(trip, first))}
        try:
            done, _ = await asyncio.wait(racing, timeout=self._hedge_after)
            second = None if done else self._second(trip, first)
            if second is not None:
                racing.add(asyncio.create_task(self._exchange(trip, second)))
            return await _first_good(racing)
        finally:
            await _cancel_all(racing)


def _check_backend(backend: str) -> None:
    if backend not in _BACKENDS:
        known = ", ".join(map(repr, _BACKENDS))
        raise errors.ConfigurationError(f"backend: expected one of {known}, got {backend!r}")
    if find_spec(backend) is None:
        raise errors.ConfigurationError(
            f'backend: {backend} is not installed: pip install "aiaas-client[{backend}]"'
        )


async def _first_good(racing: set[asyncio.Task[T]]) -> T:
    """Give the first value; the last error when there is none."""
    pending = set(racing)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        good = [one for one in done if one.exception() is None]
        if good:
            return good[0].result()
        if not pending:
            return done.pop().result()


async def _cancel_all(racing: set[asyncio.Task[T]]) -> None:
    for one in racing:
        one.cancel()
    await asyncio.gather(*racing, return_exceptions=True)


def _abandon(transport: Any) -> None:
    """Let go of the connections of another event loop."""
    abandon = getattr(transport, "abandon", None)
    if abandon is not None:
        abandon()
