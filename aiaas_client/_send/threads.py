"""`ThreadSender`: calls from threads.

A call goes `send` (retries) → `_attempt` (hedging) → `_exchange` (one endpoint) → middleware →
transport; a stream goes `stream` → `_events` (retries up to the first event) → `_open`. What is
decided on the way is decided in `core` and the modules below it; this sender and `LoopSender`
differ in where they wait.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call, Response, StreamCall
from aiaas_client._send.backends import Backends
from aiaas_client._send.core import CallState, streaming
from aiaas_client._send.endpoints import Endpoint
from aiaas_client._send.events import check_head, reader_of
from aiaas_client._send.middleware import chain
from aiaas_client._send.retry import most_telling
from aiaas_client._send.sender import Stream
from aiaas_client._send.tracebacks import trimmed

if TYPE_CHECKING:
    from aiaas_client._transport.wire import OpenAnswer, Transport, WireRequest

T = TypeVar("T")


class ThreadSender(Backends):
    """Sends calls from any number of threads; see `Sender`."""

    _asynchronous = False
    _backends: ClassVar = {
        "httpx2": ("aiaas_client._transport.pools", "PooledTransport"),
        "urllib3": ("aiaas_client._transport.urllib3", "Urllib3Transport"),
    }
    _borrowed = ("aiaas_client._transport.borrowed", "BorrowedTransport")
    _chain = staticmethod(chain)

    def send(self, call: Call[T], /) -> T:
        """Send one call of the API, with retries inside the deadline, and read its answer.

        Raises:
            AiaasError: whatever went wrong.
        """
        state = self._begin(call)
        try:
            value: T = self._tried(self._attempt, state)
            return value
        except errors.AiaasError as error:
            raise trimmed(error)  # noqa: B904  # the same error

    def stream(self, call: StreamCall[T], /) -> Stream[T]:
        """Send one call with the first step of the iteration, and give its events as they come.

        Raises:
            AiaasError: in the iteration; after the first event nothing is tried again.
        """
        return Stream(self._events(call))

    def _events(self, call: StreamCall[T]) -> Generator[T, None, None]:
        state = self._begin(call.request)
        try:
            first, events = self._tried(self._first, state, call)
            with closing(events):
                yield from first
                yield from events
        except errors.AiaasError as error:
            raise trimmed(error)  # noqa: B904  # the same error

    def _first(
        self, state: CallState[None], call: StreamCall[T]
    ) -> tuple[list[T], Generator[T, None, None]]:
        """Make one attempt, up to its first event if there is one."""
        events = self._streamed(state, call)
        try:
            return [next(events)], events
        except StopIteration:
            return [], events

    def _streamed(self, state: CallState[None], call: StreamCall[T]) -> Generator[T, None, None]:
        """One attempt; its endpoint has the call until the stream ends or is left."""
        endpoint = self._shared.endpoints.take(state.avoid)
        try:
            answer = self._open(state, endpoint)
            with closing(answer):
                reader = reader_of(call, self._max_answer_bytes)
                for piece in answer.pieces:
                    yield from reader.values(piece)
                    if reader.is_over:
                        break
                else:
                    reader.finish()
        except BaseException as error:
            self._failed(state, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)

    def _open(self, state: CallState[None], endpoint: Endpoint) -> OpenAnswer:
        """Send one attempt and check the head of its answer."""
        from aiaas_client._transport.wire import OpenAnswer, read_open

        opened: list[OpenAnswer] = []

        def send(request: WireRequest) -> Response:
            answer = streaming(self._open_transport()).stream(request)
            if answer.status not in state.call.accept:
                with closing(answer):
                    return read_open(answer, self._max_answer_bytes)
            opened.append(answer)
            return Response(answer.status, answer.headers, bytearray())

        try:
            if self._shared.paces.known:
                self._await_turn(state, endpoint)
            pipeline = chain(self._middleware, send) if self._middleware else send
            began = time.monotonic()
            response = pipeline(self._wire(state, endpoint))
            self._answered(endpoint, response, began)
            state.check(response, endpoint.url, self._wall())
            if not opened:  # middleware has answered itself
                return OpenAnswer.of(response)
            check_head(opened[-1].headers, state.call)
        except BaseException:
            for answer in opened:
                answer.close()
            raise
        for answer in opened[:-1]:  # middleware has sent the request more than once
            answer.close()
        return opened[-1]

    def _tried(self, attempt: Callable[..., Any], *given: Any) -> Any:
        """Make attempts until one succeeds or its failure is final."""
        try:
            return attempt(*given)
        except errors.AiaasError as error:
            repeats = self._repeats(given[0], error)
        return repeats.run(partial(attempt, *given))

    def _exchange(self, state: CallState[T], endpoint: Endpoint, race: _Race | None = None) -> T:
        try:
            if self._shared.paces.known:
                self._await_turn(state, endpoint, race)
            request = self._wire(state, endpoint)
            if race is not None:
                race.requests.append(request)
            began = time.monotonic()
            response = self._pipeline()(request)
            self._answered(endpoint, response, began)
            value = state.read(response, endpoint.url, self._wall())
        except BaseException as error:
            if race is not None and race.is_over:
                self._shared.endpoints.forget(endpoint)
            else:
                self._failed(state, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)
        return value

    def _await_turn(
        self, state: CallState[Any], endpoint: Endpoint, race: _Race | None = None
    ) -> None:
        """Wait where the server has told that nothing is left of a limit."""
        if (seconds := self._turn(state, endpoint)) > 0:
            self.clock.sleep(seconds)
        if race is not None and race.is_over:
            raise errors.APIConnectionError("not sent: another endpoint has answered")

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

    def close(self) -> None:
        """Close all connections, for good."""
        if (transport := self._last_transport()) is not None:
            transport.close()

    def _hedged(self, state: CallState[T], first: Endpoint) -> T:
        """Ask a second endpoint when the first is slow; the first good answer wins."""
        race = _Race()
        self._start(race, state, first)
        outcome = race.wait(self._hedge_after)
        if outcome is None:
            second = self._second(state, first)
            if second is not None:
                self._start(race, state, second)
            outcome = race.wait(None)
        failures = []
        while isinstance(outcome, BaseException):
            failures.append(outcome)
            outcome = race.wait(None) if race.running else None
        race.end()
        if outcome is None:
            raise most_telling(failures)
        return outcome[0]  # type: ignore[no-any-return]  # a one-tuple, as `_start` puts it

    def _start(self, race: _Race, state: CallState[T], endpoint: Endpoint) -> None:
        def run() -> None:
            try:
                race.outcomes.put((self._exchange(state, endpoint, race),))
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
