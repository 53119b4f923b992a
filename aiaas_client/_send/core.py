"""What `ThreadSender` and `LoopSender` share: every decision that needs no I/O."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call, Response
from aiaas_client._config import (
    LOCAL_ENDPOINT,
    MAX_SERVER_TIMEOUT_MS,
    CallOptions,
    Clock,
    Limits,
    ServerFacts,
    Timeouts,
    resolve_api_key,
    resolve_base_urls,
)
from aiaas_client._send import options
from aiaas_client._send.endpoints import BreakerPolicy, Endpoint, Endpoints
from aiaas_client._send.pacing import Paces, RateLimit
from aiaas_client._send.retry import Repeats, RetryPolicy, ends_at_once
from aiaas_client._send.status_errors import status_error
from aiaas_client._transport.wire import WireRequest

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Asked = TypeVar("Asked")  # what steps want to be sent

logger = logging.getLogger("aiaas_client")


class RetryBudget:
    """Retries that are left: a reserve, plus a part of one for each call."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._left = float(policy.budget_reserve)
        self._most = max(10.0 * policy.budget_reserve, 1.0)
        self._kept = policy.budget_reserve / 2.0
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a call."""
        if self._left >= self._most:  # nothing to add, as a rule
            return
        with self._lock:
            self._left = min(self._left + self._ratio, self._most)

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def spend_on_hedge(self) -> bool:
        """The same for a second question, which leaves half of the reserve to what has failed."""
        with self._lock:
            if self._left < 1.0 + self._kept:
                return False
            self._left -= 1.0
            return True


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
        self.paces = Paces()

    def __del__(self) -> None:
        """Let go of the sockets that an event loop would keep for a client that nobody holds."""
        abandon = getattr(self.transport, "abandon", None)
        if abandon is not None and not self.closed and self.process == os.getpid():
            with contextlib.suppress(Exception):
                abandon()


class CallState(Generic[T]):
    """One call on its way: its time, its attempts, its id, and how its answer is read.

    Attributes:
        count: Requests sent so far.
        avoid: Endpoints that a further attempt must not go to, if there are others.
    """

    __slots__ = (
        "_deadline",
        "_monotonic",
        "_started",
        "avoid",
        "call",
        "count",
        "request_id",
    )

    def __init__(
        self, call: Call[T], request_id: str, deadline: float, monotonic: Callable[[], float]
    ) -> None:
        self.call = call
        self.request_id = request_id
        self.count = 0
        self.avoid: set[str] = set()
        self._monotonic = monotonic
        self._started = monotonic()
        self._deadline = self._started + deadline

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - self._monotonic()

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._monotonic() - self._started

    def read(self, response: Response, endpoint: str, wall: float) -> T:
        """Complete the answer with what is known of the call, and read it."""
        self.check(response, endpoint, wall)
        return self.call.parse(response)

    def check(self, response: Response, endpoint: str, wall: float) -> None:
        """Complete the answer with what is known of the call.

        Raises:
            APIStatusError: its status is not one that the call accepts.
        """
        response.attempts = self.count
        response.elapsed = self.elapsed()
        response.endpoint = endpoint
        told = response.headers.find(b"x-request-id")
        response.request_id = self.request_id if told is None else told.decode("latin-1")
        if logger.isEnabledFor(logging.DEBUG):
            text = "%s %s%s: %d, attempt %d, %.3f s"
            values = endpoint, self.call.path, response.status, response.attempts
            logger.debug(text, self.call.method, *values, response.elapsed)
        if response.status not in self.call.accept:
            raise status_error(response, self.call, wall)

    def annotate(self, error: errors.AiaasError, endpoint: str) -> None:
        """Tell the failed attempt's error what is known of the call."""
        error.request_id = error.request_id or self.request_id
        error.model = error.model or self.call.model
        error.attempts = self.count
        error.elapsed = self.elapsed()
        error.endpoint = endpoint
        if isinstance(error, errors.ProtocolError):
            errors.complete(error, f" (answer to {self.call.method} {endpoint}{self.call.path})")
        logger.debug(
            "%s %s%s: %s in attempt %d",
            self.call.method,
            endpoint,
            self.call.path,
            type(error).__name__,
            error.attempts,
        )


class Core(ABC):
    """Configuration, and every decision that needs no I/O."""

    _chain: ClassVar[Callable[..., Any]]  # `chain`, or `achain`

    def __init__(
        self,
        base_url: str | Sequence[str] | None,
        *,
        api_key: str | None,
        timeout: float | Timeouts,
        deadline: float,
        retry: RetryPolicy,
        max_retries: int | None,
        headers: Mapping[str, str] | None,
        limits: Limits,
        max_answer_bytes: int,
        verify: bool | str | ssl.SSLContext,
        trust_env: bool,
        allow_insecure_http: bool,
        breaker: BreakerPolicy | None,
        hedge_after: float | None,
        pace: bool,
        transport: Any,
        http_client: Any,
        backend: str,
        middleware: Sequence[Any],
    ) -> None:
        """Take the arguments of a client; their meanings and defaults are told where it is made."""
        self._check(backend, http_client, middleware)
        options.of_type("retry", retry, RetryPolicy, "a RetryPolicy")
        options.of_type("limits", limits, Limits, "Limits")
        options.of_type("pace", pace, bool, "True or False")
        options.of_type("breaker", breaker, (BreakerPolicy, type(None)), "a BreakerPolicy or None")
        key = resolve_api_key(api_key)
        self.urls = (
            (LOCAL_ENDPOINT,)
            if transport is not None and base_url is None
            else resolve_base_urls(
                base_url, with_key=key is not None, allow_insecure_http=allow_insecure_http
            )
        )
        self._set_timeouts(timeout)
        self._deadline = options.positive("deadline", deadline)
        self._retry = retry
        self._max_retries = options.counted(
            "max_retries", retry.max_retries if max_retries is None else max_retries
        )
        self._limits = limits
        self._max_answer_bytes = options.counted("max_answer_bytes", max_answer_bytes)
        self._verify = options.verification(verify)
        self._trust_env = trust_env
        self._hedge_after = (
            None if hedge_after is None else options.positive("hedge_after", hedge_after)
        )
        self._headers = options.base_headers(key, headers or {})
        self._paces = pace
        self._given_transport = transport
        self._http_client = http_client
        self._middleware = tuple(middleware)
        self._facts = ServerFacts(getattr(transport, "needs_wire", True))
        self._shared = Shared(self.urls, breaker, retry)

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._shared.closed

    @property
    def facts(self) -> ServerFacts:
        """What has been learned about the servers; all handles share it."""
        return self._facts

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Give a sender that differs in these, on the same connections.

        Raises:
            ConfigurationError: a value that an option cannot have.
        """
        other = copy.copy(self)
        other._apply(CallOptions(timeout, deadline, max_retries, headers or {}))
        return other

    def _apply(self, given: CallOptions) -> None:
        if given.timeout is not None:
            self._set_timeouts(given.timeout)
        if given.deadline is not None:
            self._deadline = options.positive("deadline", given.deadline)
        if given.max_retries is not None:
            self._max_retries = options.counted("max_retries", given.max_retries)
        if given.headers:
            self._headers = options.merged(self._headers, given.headers)

    @property
    def rate_limits(self) -> list[RateLimit]:
        """What servers have told of limits, for the key of this sender."""
        return self._shared.paces.view(options.key_of(self._headers), self.clock.monotonic())

    @property
    def clock(self) -> Clock:
        """The time that this sender goes by."""
        return self._retry.clock

    @abstractmethod
    def _check(self, backend: str, http_client: Any, middleware: Sequence[Any]) -> None:
        """Refuse what belongs to the other flavour.

        Raises:
            ConfigurationError: names what was expected.
        """

    def _set_timeouts(self, value: float | Timeouts) -> None:
        self._timeouts = options.timeouts_of(value)
        self._longest_wait = self._timeouts.longest()

    def _begin(self, call: Call[T]) -> CallState[T]:
        shared = self._shared
        self._check_open(call)
        if shared.process != os.getpid():
            shared.renew()
        shared.budget.earn()
        given = call.infer.id if call.infer is not None else ""
        request_id = given or os.urandom(12).hex()
        return CallState(call, request_id, self._deadline, self._retry.clock.monotonic)

    def _check_open(self, call: Call[Any]) -> None:
        if self._shared.closed:
            raise errors.ClientClosedError(errors.ClientClosedError.TEXT, model=call.model)

    def _repeats(self, state: CallState[Any], failed: errors.AiaasError) -> Repeats:
        """Give what makes further attempts after the first has failed.

        Raises:
            AiaasError: the failure, where it is final.
        """
        if ends_at_once(failed, self._max_retries):
            raise failed
        return Repeats(
            self._retry,
            failed,
            left=state.left,
            spend=self._shared.budget.spend,
            max_retries=self._max_retries,
            retryable=state.call.retryable,
            avoid=state.avoid,
            has_other=self._shared.endpoints.has_other,
        )

    def _wire(self, state: CallState[Any], endpoint: Endpoint) -> WireRequest:
        """Write one attempt, clipped to what is left of the deadline."""
        self._check_open(state.call)
        left = state.left()
        if left <= 0:
            raise errors.DeadlineExceededError("the deadline passed", phase="deadline")
        state.count += 1
        call = state.call
        milliseconds = min(max(int(left * 1e3), 1), MAX_SERVER_TIMEOUT_MS)
        return WireRequest(
            call.method,
            endpoint.url,
            call.path,
            [
                *self._headers,
                *call.headers,
                (b"X-Request-Id", state.request_id.encode("ascii")),
                (b"X-Request-Timeout-Ms", b"%d" % milliseconds),
            ],
            call.content,
            call.content_length,
            self._timeouts if left >= self._longest_wait else self._timeouts.clipped(left),
            time.monotonic() + left,
            state.count,
            state.request_id,
            call,
        )

    def _turn(self, state: CallState[Any], endpoint: Endpoint) -> float:
        """Seconds until a server that told of its limits is to be asked."""
        key, now = options.key_of(self._headers), self.clock.monotonic()
        return self._shared.paces.take(endpoint.url, key, now, state.left())

    def _answered(self, endpoint: Endpoint, response: Response, began: float) -> None:
        """Take note of when an answer has come, and of what it tells of limits."""
        age = response.attempt_elapsed = time.monotonic() - began
        if self._paces and response.headers.find(b"ratelimit") is not None:
            key, now = options.key_of(self._headers), self.clock.monotonic()
            others = endpoint.in_flight - 1
            self._shared.paces.hear(endpoint.url, key, response.headers, now, age, others)

    def _failed(self, state: CallState[Any], endpoint: Endpoint, error: BaseException) -> None:
        if isinstance(error, errors.AiaasError):
            state.annotate(error, endpoint.url)
            tried = state.call.trial and isinstance(error, errors.InternalServerError)
            self._shared.endpoints.release(endpoint, None if tried else error)
        else:
            self._shared.endpoints.forget(endpoint)

    def _attempt(self, state: CallState[T]) -> Any:
        """One attempt, with a second endpoint where that is asked for; awaitable in tasks."""
        endpoint = self._shared.endpoints.take(state.avoid)
        if self._may_hedge(state.call):
            return self._hedged(state, endpoint)
        return self._exchange(state, endpoint)

    def _pipeline(self) -> Callable[[WireRequest], Any]:
        send: Callable[[WireRequest], Any] = self._open_transport().send
        return self._chain(self._middleware, send) if self._middleware else send

    @abstractmethod
    def _open_transport(self) -> Any:
        """Give the transport, made with the first call that needs it."""

    @abstractmethod
    def _exchange(self, state: CallState[T], endpoint: Endpoint) -> Any:
        """Make one attempt at one endpoint, and read its answer."""

    @abstractmethod
    def _hedged(self, state: CallState[T], first: Endpoint) -> Any:
        """Ask a second endpoint when the first is slow; the first good answer wins."""

    def _may_hedge(self, call: Call[Any]) -> bool:
        return self._hedge_after is not None and call.retryable and len(self.urls) > 1

    def _second(self, state: CallState[Any], first: Endpoint) -> Endpoint | None:
        """Another endpoint for the same request, if one may be used."""
        endpoints = self._shared.endpoints
        if not endpoints.has_other({first.url}) or not self._shared.budget.spend_on_hedge():
            return None
        other = endpoints.take({first.url, *state.avoid})
        if other is first:
            endpoints.forget(other)
            return None
        return other

    def _trust(self) -> Callable[[], ssl.SSLContext]:
        """Give what makes the TLS context once one is needed.

        It knows nothing of the client: a transport outlives a client that nobody holds, if only by
        a moment, and must not keep it.
        """
        return partial(_ssl_context, self._verify, self._trust_env)

    def _wall(self) -> float:
        return self._retry.clock.wall()


def _ssl_context(verify: Any, trust_env: bool) -> ssl.SSLContext:
    if not isinstance(verify, bool | str):
        return verify  # type: ignore[no-any-return]  # checked when it was given
    from aiaas_client._transport.pools import ssl_context

    return ssl_context(verify, trust_env)


def streaming(transport: T) -> T:
    """Give `transport`, which is to have a `stream`.

    Raises:
        ConfigurationError: it is one of the caller's that has none.
    """
    if not hasattr(transport, "stream"):
        kind = type(transport).__name__
        raise errors.ConfigurationError(f"transport {kind}: it sends calls, it has no stream()")
    return transport


def drive(steps: Generator[Asked, Any, T], send: Callable[[Asked], object]) -> T:
    """Send what `steps` ask for, one after another, and give what they return.

    Steps are thinking without I/O: they yield what is to be sent and are told each answer or its
    error, so that what happens when is written once for threads and tasks.
    """
    try:
        asked = next(steps)
        while True:
            try:
                value = send(asked)
            except errors.AiaasError as error:
                asked = steps.throw(error)
            else:
                asked = steps.send(value)
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        steps.close()


async def async_drive(
    steps: Generator[Asked, Any, T], send: Callable[[Asked], Awaitable[object]]
) -> T:
    """As `drive`, on an event loop."""
    try:
        asked = next(steps)
        while True:
            try:
                value = await send(asked)
            except errors.AiaasError as error:
                asked = steps.throw(error)
            else:
                asked = steps.send(value)
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        steps.close()
