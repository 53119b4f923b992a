"""`Client`: calls from threads.

A call goes `_send` (retries) → `_attempt` (hedging) → `_exchange` (one endpoint) → middleware →
transport. What is decided on the way is decided in `_core` and the modules below it; this client
and `AsyncClient` differ in where they wait.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aiaas_client import _calls as calls
from aiaas_client import _errors as errors
from aiaas_client._breaker import BreakerPolicy
from aiaas_client._calls import Call, Response
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
from aiaas_client._middleware import Middleware, chain, check_kinds
from aiaas_client._resources import Models, RawClient
from aiaas_client._retry import RetryPolicy
from aiaas_client._tasks import TaskClient

if TYPE_CHECKING:
    import ssl

    from aiaas_client._batcher import Batcher
    from aiaas_client._model import Model
    from aiaas_client._wire import Transport, WireRequest
    from aiaas_client.protocol.messages import ServerMetadata

T = TypeVar("T")


class Client(TaskClient, Core):
    """Calls models on a server, from any number of threads; make one for the life of a program.

    Args:
        base_url: Where the server is, or several addresses of equal servers; by default
            `AIAAS_BASE_URL` (several separated by commas).
        api_key: By default `AIAAS_API_KEY`. Sent only to `base_url`.
        timeout: `Timeouts` of the phases of an attempt, or seconds for reading and writing.
        deadline: Seconds for a whole call, retries and waits included.
        retry: When and how often to try again.
        http_client: An `httpx2.Client` or `httpx.Client` to send through; it stays the caller's.
        backend: The library that sends; threads have "httpx2" alone.
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
        transport: Transport | None = None,
        headers: Mapping[str, str] | None = None,
        middleware: Sequence[Middleware] = (),
        limits: Limits = DEFAULT_LIMITS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        verify: bool | str | ssl.SSLContext = True,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        breaker: BreakerPolicy | None = DEFAULT_BREAKER,
        hedge_after: float | None = None,
    ) -> None:
        check_kinds(middleware, asynchronous=False)
        if backend != "httpx2":
            raise errors.ConfigurationError(f"backend: expected 'httpx2', got {backend!r}")
        if http_client is not None:
            check_http_client(http_client, asynchronous=False)
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
            options: As `aiaas_client._local.LocalTransport` takes them.
        Raises:
            ConfigurationError: the server part is not installed.
        """
        return cls(transport=open_local("LocalTransport", path, options))

    @property
    def models(self) -> Models:
        """The server's models: list, load, unload and the like."""
        return Models(self._send)

    @property
    def with_raw_response(self) -> RawClient:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return RawClient(self._send)

    def model(self, name: str, version: str | int | None = None) -> Model:
        """Give a handle on one model; nothing is sent yet."""
        from aiaas_client._model import Model

        return Model(self, name, version)

    def batcher(
        self,
        model: str,
        version: str | int | None = None,
        *,
        max_wait: float = 0.002,
        max_rows: int | None = None,
        concurrency: int = 4,
    ) -> Batcher:
        """Join single calls from many threads into few requests.

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

    def health(self) -> bool:
        """Tell whether the server lives; raises if it cannot be reached."""
        return self._send(calls.health())

    def ready(self) -> bool:
        """Tell whether the server takes inference now; raises if it cannot be reached."""
        return self._send(calls.ready())

    def wait_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server, or one model, takes inference.

        Raises:
            DeadlineExceededError: it did not within `timeout` seconds; its cause tells why.
        """
        poll = Poll(self, timeout, model)
        while not poll.is_over():
            try:
                if poll.client._send(poll.call):
                    return
                poll.refused(None)
            except errors.AiaasError as error:
                poll.refused(error)
            self._retry.clock.sleep(poll.pause())
        raise poll.error() from poll.cause

    def metadata(self) -> ServerMetadata:
        """Name, version and extensions of the server."""
        return self._send(calls.server_metadata())

    def close(self) -> None:
        """Close all connections, for good; clients made by `with_options` close with it."""
        shared = self._shared
        if shared.closed:
            return
        shared.closed = True
        transport = shared.transport or self._given_transport
        if transport is not None and shared.process == os.getpid():
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        """Send `call`, with retries inside the deadline, and read its answer."""
        trip = self._begin(call)
        return trip.attempts.run(partial(self._attempt, trip))

    def _attempt(self, trip: Trip[T]) -> T:
        endpoint = self._shared.endpoints.take(trip.attempts.avoid)
        if self._may_hedge(trip.call):
            return self._hedged(trip, endpoint)
        return self._exchange(trip, endpoint)

    def _exchange(self, trip: Trip[T], endpoint: Endpoint, race: _Race | None = None) -> T:
        try:
            request = self._wire(trip, endpoint)
            if race is not None:
                race.requests.append(request)
            began = time.monotonic()
            response = self._pipeline()(request)
            response.attempt_elapsed = time.monotonic() - began
            value = trip.read(response, endpoint.url, self._wall())
        except BaseException as error:
            if race is not None and race.is_over:
                self._shared.endpoints.forget(endpoint)
            else:
                self._failed(trip, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)
        return value

    def _pipeline(self) -> Callable[[WireRequest], Response]:
        transport = self._open_transport()
        return chain(self._middleware, transport.send) if self._middleware else transport.send

    def _open_transport(self) -> Transport:
        shared = self._shared
        if shared.transport is not None and shared.owner == shared.process:
            return shared.transport  # type: ignore[no-any-return]  # a Transport, set below
        with shared.lock:
            if shared.transport is None or shared.owner != shared.process:
                _keep_for_parent(shared.transport)
                shared.transport = self._new_transport()
                shared.owner = shared.process
        return shared.transport  # type: ignore[no-any-return]

    def _new_transport(self) -> Transport:
        if self._given_transport is not None:
            return self._given_transport  # type: ignore[no-any-return]  # a Transport
        if self._http_client is not None:
            from aiaas_client._http.borrowed import BorrowedTransport

            return BorrowedTransport(self._http_client, self._max_answer_bytes)
        from aiaas_client._http.pools import PooledTransport

        return PooledTransport(self._ssl_context, self._limits, self._max_answer_bytes)

    def _hedged(self, trip: Trip[T], first: Endpoint) -> T:
        """Ask a second endpoint when the first is slow; the first good answer wins."""
        race = _Race()
        self._start(race, trip, first)
        outcome = race.wait(self._hedge_after)
        if outcome is None:
            second = self._second(trip, first)
            if second is not None:
                self._start(race, trip, second)
            outcome = race.wait(None)
        while isinstance(outcome, BaseException) and race.running:
            outcome = race.wait(None)
        race.end()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome[0]  # type: ignore[index,no-any-return]  # a one-tuple, as `_start` puts it

    def _start(self, race: _Race, trip: Trip[T], endpoint: Endpoint) -> None:
        def run() -> None:
            try:
                race.outcomes.put((self._exchange(trip, endpoint, race),))
            except BaseException as error:
                race.outcomes.put(error)

        race.running += 1
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), daemon=True).start()


class _Race:
    """Two requests for one answer, each on its own thread."""

    def __init__(self) -> None:
        self.outcomes: queue.SimpleQueue[tuple[Any] | BaseException] = queue.SimpleQueue()
        self.requests: list[WireRequest] = []
        self.running = 0
        self.is_over = False

    def wait(self, timeout: float | None) -> tuple[Any] | BaseException | None:
        """Give the next outcome, or None when there is none within `timeout` seconds."""
        try:
            outcome = self.outcomes.get(timeout=timeout)
        except queue.Empty:
            return None
        self.running -= 1
        return outcome

    def end(self) -> None:
        """Cut the connections of those that did not win."""
        self.is_over = True
        for request in self.requests:
            request.abort()


_of_parent: list[object] = []


def _keep_for_parent(transport: object) -> None:
    """Keep a transport made before `fork`: its sockets are the parent's to close."""
    if transport is not None:
        _of_parent.append(transport)
