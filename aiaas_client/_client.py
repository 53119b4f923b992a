"""`Client` and `AsyncClient`: two shells around one core without I/O.

A call goes `_send` (retries) → `_attempt` (hedging) → `_exchange` (one endpoint) → middleware →
transport. What is decided on the way is decided in `_Core`, `_Trip` and the modules below them;
the shells differ in where they wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import importlib
import json
import os
import queue
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from aiaas_client import _calls as calls
from aiaas_client import _errors as errors
from aiaas_client._breaker import BreakerPolicy
from aiaas_client._calls import Call, RawHeaders, Response
from aiaas_client._config import (
    DEFAULT_DEADLINE,
    MAX_ANSWER_BYTES,
    MAX_SERVER_TIMEOUT_MS,
    CallOptions,
    Limits,
    Timeouts,
    resolve_api_key,
    resolve_base_urls,
    user_agent,
)
from aiaas_client._endpoints import Endpoint, Endpoints
from aiaas_client._middleware import AsyncMiddleware, Middleware, achain, chain, check_kinds
from aiaas_client._resources import AsyncModels, AsyncRawClient, Models, RawClient
from aiaas_client._retry import Attempts, RetryBudget, RetryPolicy, parse_retry_after

if TYPE_CHECKING:
    from aiaas_client._batcher import AsyncBatcher, Batcher
    from aiaas_client._http import AsyncTransport, Transport, WireRequest
    from aiaas_client._model import AsyncModel, Model
    from aiaas_client.protocol.messages import ServerMetadata

T = TypeVar("T")

KEPT_ERROR_BYTES = 2048
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_LIMITS = Limits()
DEFAULT_RETRY = RetryPolicy()
DEFAULT_BREAKER = BreakerPolicy()
_FIRST_POLL, _SLOWEST_POLL = 0.05, 1.0  # seconds between two looks of `wait_ready`


class _Shared:
    """What a client and those made from it by `with_options` have in common."""

    def __init__(
        self, urls: tuple[str, ...], breaker: BreakerPolicy | None, retry: RetryPolicy
    ) -> None:
        self._arguments = urls, breaker, retry
        self.closed = False
        self.transport: Any = None
        self.owner: object = None
        self.renew()

    def renew(self) -> None:
        """Begin again with nothing inherited from the parent process, its locks least of all."""
        urls, breaker, retry = self._arguments
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.endpoints = Endpoints(urls, breaker, retry.clock.monotonic)
        self.budget = RetryBudget(retry)


class _Trip(Generic[T]):
    """One call on its way: its attempts, its id, and how its answer is read."""

    __slots__ = ("attempts", "call", "headers", "request_id", "timeouts")

    def __init__(
        self,
        call: Call[T],
        attempts: Attempts,
        headers: RawHeaders,
        request_id: str,
        timeouts: Timeouts,
    ) -> None:
        self.call = call
        self.attempts = attempts
        self.headers = headers
        self.request_id = request_id
        self.timeouts = timeouts

    def read(self, response: Response, endpoint: str, wall: float) -> T:
        """Complete the answer with what is known of the trip, and read it."""
        response.attempts = self.attempts.count
        response.elapsed = self.attempts.elapsed()
        response.endpoint = endpoint
        told = response.headers.find(b"x-request-id")
        response.request_id = self.request_id if told is None else told.decode("latin-1")
        if response.status not in self.call.accept:
            raise status_error(response, self.call, wall)
        return self.call.parse(response)

    def annotate(self, error: errors.AiaasError, endpoint: str) -> None:
        """Tell the failed attempt's error what is known of the call."""
        error.request_id = error.request_id or self.request_id
        error.model = error.model or self.call.model
        error.attempts = self.attempts.count
        error.elapsed = self.attempts.elapsed()
        error.endpoint = endpoint


class _Core:
    """Configuration, and every decision that needs no I/O."""

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout: float | Timeouts = DEFAULT_TIMEOUTS,
        deadline: float = DEFAULT_DEADLINE,
        retry: RetryPolicy = DEFAULT_RETRY,
        headers: Mapping[str, str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        verify: bool | str | ssl.SSLContext = True,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        breaker: BreakerPolicy | None = DEFAULT_BREAKER,
        hedge_after: float | None = None,
        is_local: bool = False,
    ) -> None:
        key = resolve_api_key(api_key)
        self._urls = (
            ("local:",)
            if is_local
            else resolve_base_urls(
                base_url, with_key=key is not None, allow_insecure_http=allow_insecure_http
            )
        )
        self._timeouts = Timeouts.of(timeout)
        self._deadline = _positive("deadline", deadline)
        self._retry = retry
        self._max_retries = retry.max_retries
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes
        self._verify = verify
        self._trust_env = trust_env
        self._hedge_after = hedge_after
        self._headers = _base_headers(key, headers or {})
        self._shared = _Shared(self._urls, breaker, retry)

    def __repr__(self) -> str:
        urls = self._urls[0] if len(self._urls) == 1 else list(self._urls)
        state = ", closed" if self._shared.closed else ""
        return f"<{type(self).__name__} {urls}{state}>"

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._shared.closed

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Give a client that differs in these, on the same connections.

        Args:
            timeout: `Timeouts`, or seconds for reading and writing.
            deadline: Seconds for a whole call.
            max_retries: Attempts after the first.
            headers: Sent in addition to, or in place of, those of this client.
        """
        other = copy.copy(self)
        other._apply(CallOptions(timeout, deadline, max_retries, headers or {}))
        return other

    def _apply(self, options: CallOptions) -> None:
        if options.timeout is not None:
            self._timeouts = Timeouts.of(options.timeout)
        if options.deadline is not None:
            self._deadline = _positive("deadline", options.deadline)
        if options.max_retries is not None:
            self._max_retries = options.max_retries
        if options.headers:
            self._headers = _merged(self._headers, options.headers)

    def _begin(self, call: Call[T]) -> _Trip[T]:
        shared = self._shared
        if shared.closed:
            raise errors.ClientClosedError(
                "this client was closed; make a new one", model=call.model
            )
        if shared.process != os.getpid():
            shared.renew()
        attempts = Attempts(
            self._retry,
            shared.budget,
            deadline=self._deadline,
            max_retries=self._max_retries,
            retryable=call.retryable,
            has_other=shared.endpoints.has_other,
        )
        given = call.infer.id if call.infer is not None else ""
        request_id = given if _SAFE_ID.fullmatch(given) else os.urandom(12).hex()
        return _Trip(call, attempts, self._headers, request_id, self._timeouts)

    def _wire(self, trip: _Trip[Any], endpoint: Endpoint) -> WireRequest:
        """Write one attempt, clipped to what is left of the deadline."""
        from aiaas_client._http import WireRequest

        left = trip.attempts.left()
        if left <= 0:
            raise errors.DeadlineExceededError("the deadline passed", phase="deadline")
        trip.attempts.count += 1
        call = trip.call
        milliseconds = min(max(int(left * 1e3), 1), MAX_SERVER_TIMEOUT_MS)
        return WireRequest(
            call.method,
            endpoint.url,
            call.path,
            [
                *trip.headers,
                *call.headers,
                (b"X-Request-Id", trip.request_id.encode("ascii")),
                (b"X-Request-Timeout-Ms", b"%d" % milliseconds),
            ],
            call.content,
            call.content_length,
            trip.timeouts.clipped(left),
            time.monotonic() + left,
            trip.attempts.count,
            trip.request_id,
            call,
        )

    def _failed(self, trip: _Trip[Any], endpoint: Endpoint, error: BaseException) -> None:
        if isinstance(error, errors.AiaasError):
            trip.annotate(error, endpoint.url)
            self._shared.endpoints.release(endpoint, error)
        else:
            self._shared.endpoints.forget(endpoint)

    def _may_hedge(self, call: Call[Any]) -> bool:
        return self._hedge_after is not None and call.retryable and len(self._urls) > 1

    def _second(self, trip: _Trip[Any], first: Endpoint) -> Endpoint | None:
        """Another endpoint for the same request, if one may be used."""
        endpoints = self._shared.endpoints
        if not endpoints.has_other({first.url}) or not trip.attempts.may_hedge():
            return None
        other = endpoints.take({first.url, *trip.attempts.avoid})
        if other is first:
            endpoints.forget(other)
            return None
        return other

    def _ssl_context(self) -> ssl.SSLContext:
        from aiaas_client import _http

        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return _http.ssl_context(self._verify, self._trust_env)

    def _wall(self) -> float:
        return self._retry.clock.wall()


def _positive(name: str, seconds: float) -> float:
    if not seconds > 0:
        raise errors.ConfigurationError(f"{name}: expected seconds above 0, got {seconds!r}")
    return seconds


def _base_headers(key: str | None, extra: Mapping[str, str]) -> RawHeaders:
    own = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
    if key is not None:
        own["Authorization"] = f"Bearer {key}"
    return _merged([_raw_header(name, value) for name, value in own.items()], extra)


def _merged(known: RawHeaders, extra: Mapping[str, str]) -> RawHeaders:
    added = [_raw_header(name, value) for name, value in extra.items()]
    replaced = {name.lower() for name, _ in added}
    return [header for header in known if header[0].lower() not in replaced] + added


def _raw_header(name: str, value: str) -> tuple[bytes, bytes]:
    if "\r" in name + value or "\n" in name + value:
        raise errors.ConfigurationError(f"header {name!r}: expected one line")
    try:
        return name.encode("ascii"), value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise errors.ConfigurationError(f"header {name!r}: {error.reason}") from error


def status_error(response: Response, call: Call[Any], wall: float) -> errors.APIStatusError:
    """Give the error for an answer whose status the call does not accept."""
    text, code, retryable = _read_error_body(bytes(response.body))
    kind = errors.status_class(response.status, code)
    if call.optional and _is_absent(response.status, code, text, call.model):
        kind = errors.NotSupportedError
        text = text or f"{call.method} {call.path} is not offered by this server"
    if 300 <= response.status < 400:
        text = f"redirect to {response.headers.get('location', '?')!r} not followed"
    return kind(
        f"{text or 'no reason given'} (HTTP {response.status})",
        status_code=response.status,
        code=code,
        retryable=retryable,
        retry_after=parse_retry_after(response.headers, wall),
        body=bytes(response.body[:KEPT_ERROR_BYTES]),
        request_id=response.request_id,
        model=call.model,
    )


def _is_absent(status: int, code: str, text: str, model: str | None) -> bool:
    """Whether an optional endpoint is missing, as against the model it was asked about."""
    if status in (405, 501):
        return True
    names_model = model is not None and re.search(rf"(?<!\w){re.escape(model)}(?!\w)", text)
    return status == 404 and code in ("", "not_found") and not names_model


def _read_error_body(body: bytes) -> tuple[str, str, bool | None]:
    """Read text, code and the server's word on retrying, as any of the known servers put them."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip(), "", None
    if not isinstance(document, dict):
        return str(document)[:200], "", None
    error = document.get("error", document.get("detail", ""))
    source = error if isinstance(error, dict) else document
    text = error.get("message", "") if isinstance(error, dict) else error
    code, retryable = source.get("code"), source.get("retryable")
    return (
        text if isinstance(text, str) else json.dumps(text)[:500],
        code if isinstance(code, str) else "",
        retryable if isinstance(retryable, bool) else None,
    )


def _open_local(kind: str, path: str | PathLike[str], options: Mapping[str, Any]) -> Any:
    """Make a transport that runs models in this process."""
    try:
        module = importlib.import_module("aiaas_client._local")
        return getattr(module, kind)(path, **options)
    except ModuleNotFoundError as error:
        raise errors.ConfigurationError(
            f"local models need the server part ({error.name} is not installed): "
            'pip install "aiaas-client[server]"'
        ) from error


def _check_http_client(http_client: object, *, asynchronous: bool) -> None:
    from aiaas_client import _http

    if not _http.is_http_client(http_client, asynchronous=asynchronous):
        wanted = "AsyncClient" if asynchronous else "Client"
        raise TypeError(
            f"http_client: expected httpx2.{wanted} or httpx.{wanted}, "
            f"got {type(http_client).__module__}.{type(http_client).__qualname__}"
        )


class Client(_Core):
    """Calls models on a server, from any number of threads; make one for the life of a program.

    Args:
        base_url: Where the server is, or several addresses of equal servers; by default
            `AIAAS_BASE_URL` (several separated by commas).
        api_key: By default `AIAAS_API_KEY`. Sent only to `base_url`.
        timeout: `Timeouts` of the phases of an attempt, or seconds for reading and writing.
        deadline: Seconds for a whole call, retries and waits included.
        retry: When and how often to try again.
        http_client: An `httpx2.Client` or `httpx.Client` to send through; it stays the caller's.
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
        if http_client is not None:
            _check_http_client(http_client, asynchronous=False)
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
            is_local=transport is not None and base_url is None,
        )
        self._middleware = tuple(middleware)
        self._http_client = http_client
        self._given_transport = transport

    @classmethod
    def local(cls, path: str | PathLike[str], **options: Any) -> Self:
        """Run the models under `path` in this process: the same calls, no server, no socket.

        Args:
            path: A directory of models, or one `.onnx` file.
            options: As `aiaas_client._local.LocalTransport` takes them.
        Raises:
            ConfigurationError: the server part is not installed.
        """
        return cls(transport=_open_local("LocalTransport", path, options))

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
        poll = _Poll(self, timeout, model)
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

    def _attempt(self, trip: _Trip[T]) -> T:
        endpoint = self._shared.endpoints.take(trip.attempts.avoid)
        if self._may_hedge(trip.call):
            return self._hedged(trip, endpoint)
        return self._exchange(trip, endpoint)

    def _exchange(self, trip: _Trip[T], endpoint: Endpoint, race: _Race | None = None) -> T:
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
        from aiaas_client import _http

        if self._given_transport is not None:
            return self._given_transport
        if self._http_client is not None:
            return _http.BorrowedTransport(self._http_client, self._max_answer_bytes)
        return _http.PooledTransport(self._ssl_context, self._limits, self._max_answer_bytes)

    def _hedged(self, trip: _Trip[T], first: Endpoint) -> T:
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

    def _start(self, race: _Race, trip: _Trip[T], endpoint: Endpoint) -> None:
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


class _Poll:
    """The state of `wait_ready`, for both clients."""

    def __init__(self, client: Any, timeout: float, model: str | None) -> None:
        self.timeout = _positive("timeout", timeout)
        self._clock = client._retry.clock
        self._ends = self._clock.monotonic() + timeout
        self._model = model
        self._pause = _FIRST_POLL
        self.call = calls.ready(model)
        self.client = client.with_options(deadline=timeout, max_retries=0)
        self.cause: errors.AiaasError | None = None

    def left(self) -> float:
        return float(self._ends - self._clock.monotonic())

    def is_over(self) -> bool:
        left = self.left()
        if left > 0:
            self.client._deadline = left
        return left <= 0

    def refused(self, error: errors.AiaasError | None) -> None:
        if isinstance(error, (errors.ClientClosedError, errors.AuthenticationError)):
            raise error
        self.cause = error

    def pause(self) -> float:
        seconds = min(self._pause, max(self.left(), 0.0))
        self._pause = min(self._pause * 2, _SLOWEST_POLL)
        return seconds

    def error(self) -> errors.DeadlineExceededError:
        what = "the server" if self._model is None else f"model '{self._model}'"
        return errors.DeadlineExceededError(
            f"{what} was not ready within {self.timeout:g} s", phase="deadline", model=self._model
        )


class AsyncClient(_Core):
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
        if http_client is not None:
            _check_http_client(http_client, asynchronous=True)
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
            is_local=transport is not None and base_url is None,
        )
        self._middleware = tuple(middleware)
        self._http_client = http_client
        self._given_transport = transport

    @classmethod
    def local(cls, path: str | PathLike[str], **options: Any) -> Self:
        """Run the models under `path` in this process: the same calls, no server, no socket.

        Args:
            path: A directory of models, or one `.onnx` file.
            options: As `aiaas_client._local.AsyncLocalTransport` takes them.
        Raises:
            ConfigurationError: the server part is not installed.
        """
        return cls(transport=_open_local("AsyncLocalTransport", path, options))

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
        from aiaas_client._model import AsyncModel

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
        poll = _Poll(self, timeout, model)
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

    async def _attempt(self, trip: _Trip[T]) -> T:
        endpoint = self._shared.endpoints.take(trip.attempts.avoid)
        if self._may_hedge(trip.call):
            return await self._hedged(trip, endpoint)
        return await self._exchange(trip, endpoint)

    async def _exchange(self, trip: _Trip[T], endpoint: Endpoint) -> T:
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
        from aiaas_client import _http

        if self._given_transport is not None:
            return self._given_transport
        if self._http_client is not None:
            return _http.AsyncBorrowedTransport(self._http_client, self._max_answer_bytes)
        return _http.AsyncPooledTransport(self._ssl_context, self._limits, self._max_answer_bytes)

    async def _hedged(self, trip: _Trip[T], first: Endpoint) -> T:
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
