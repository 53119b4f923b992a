"""What `Client` and `AsyncClient` share: configuration, and every decision that needs no I/O."""

from __future__ import annotations

import copy
import importlib
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from aiaas_client import _calls as calls
from aiaas_client import _errors as errors
from aiaas_client._answers import status_error
from aiaas_client._breaker import BreakerPolicy
from aiaas_client._calls import Call, RawHeaders, Response
from aiaas_client._config import (
    DEFAULT_DEADLINE,
    MAX_ANSWER_BYTES,
    MAX_SERVER_TIMEOUT_MS,
    CallOptions,
    Limits,
    ServerFacts,
    Timeouts,
    resolve_api_key,
    resolve_base_urls,
    user_agent,
)
from aiaas_client._endpoints import Endpoint, Endpoints
from aiaas_client._retry import Attempts, RetryBudget, RetryPolicy
from aiaas_client._wire import WireRequest

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_LIMITS = Limits()
DEFAULT_RETRY = RetryPolicy()
DEFAULT_BREAKER = BreakerPolicy()
_FIRST_POLL, _SLOWEST_POLL = 0.05, 1.0  # seconds between two looks of `wait_ready`


class Shared:
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


class Trip(Generic[T]):
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


class Core:
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
        transport: Any = None,
    ) -> None:
        key = resolve_api_key(api_key)
        self._urls = (
            ("local:",)
            if transport is not None and base_url is None
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
        self._given_transport = transport
        self._facts = ServerFacts(getattr(transport, "needs_wire", True))
        self._shared = Shared(self._urls, breaker, retry)

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

    def _begin(self, call: Call[T]) -> Trip[T]:
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
        return Trip(call, attempts, self._headers, request_id, self._timeouts)

    def _wire(self, trip: Trip[Any], endpoint: Endpoint) -> WireRequest:
        """Write one attempt, clipped to what is left of the deadline."""
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

    def _failed(self, trip: Trip[Any], endpoint: Endpoint, error: BaseException) -> None:
        if isinstance(error, errors.AiaasError):
            trip.annotate(error, endpoint.url)
            self._shared.endpoints.release(endpoint, error)
        else:
            self._shared.endpoints.forget(endpoint)

    def _may_hedge(self, call: Call[Any]) -> bool:
        return self._hedge_after is not None and call.retryable and len(self._urls) > 1

    def _second(self, trip: Trip[Any], first: Endpoint) -> Endpoint | None:
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
        if not isinstance(self._verify, bool | str):
            return self._verify
        from aiaas_client._http.pools import ssl_context

        return ssl_context(self._verify, self._trust_env)

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


def open_local(kind: str, path: str | PathLike[str], options: Mapping[str, Any]) -> Any:
    """Make a transport that runs models in this process."""
    try:
        module = importlib.import_module("aiaas_client._local")
        return getattr(module, kind)(path, **options)
    except ModuleNotFoundError as error:
        raise errors.ConfigurationError(
            f"local models need the server part ({error.name} is not installed): "
            'pip install "aiaas-client[server]"'
        ) from error


def check_http_client(http_client: object, *, asynchronous: bool) -> None:
    from aiaas_client._http.borrowed import is_http_client

    if not is_http_client(http_client, asynchronous=asynchronous):
        wanted = "AsyncClient" if asynchronous else "Client"
        raise TypeError(
            f"http_client: expected httpx2.{wanted} or httpx.{wanted}, "
            f"got {type(http_client).__module__}.{type(http_client).__qualname__}"
        )


class Poll:
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
