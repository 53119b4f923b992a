"""`LoopSender`: calls from one event loop; otherwise as `ThreadSender`, step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call, Response, StreamCall
from aiaas_client._send.backends import Backends
from aiaas_client._send.core import CallState, streaming
from aiaas_client._send.endpoints import Endpoint
from aiaas_client._send.events import check_head, reader_of
from aiaas_client._send.middleware import achain
from aiaas_client._send.retry import most_telling
from aiaas_client._send.sender import AsyncStream
from aiaas_client._send.tracebacks import trimmed

if TYPE_CHECKING:
    from aiaas_client._transport.wire import AsyncOpenAnswer, AsyncTransport, WireRequest

T = TypeVar("T")


class LoopSender(Backends):
    """Sends calls from one event loop at a time; see `AsyncSender`."""

    _asynchronous = True
    _backends: ClassVar = {
        "httpx2": ("aiaas_client._transport.pools", "AsyncPooledTransport"),
        "aiohttp": ("aiaas_client._transport.aiohttp", "AiohttpTransport"),
    }
    _borrowed = ("aiaas_client._transport.borrowed", "AsyncBorrowedTransport")
    _chain = staticmethod(achain)

    async def send(self, call: Call[T], /) -> T:
        """Send one call of the API, with retries inside the deadline, and read its answer.

        Raises:
            AiaasError: whatever went wrong.
        """
        state = self._begin(call)
        try:
            value: T = await self._tried(self._attempt, state)
            return value
        except errors.AiaasError as error:
            raise trimmed(error)  # noqa: B904  # the same error

    def stream(self, call: StreamCall[T], /) -> AsyncStream[T]:
        """Send one call with the first step of the iteration, and give its events as they come.

        Raises:
            AiaasError: in the iteration; after the first event nothing is tried again.
        """
        return AsyncStream(self._events(call))

    async def _events(self, call: StreamCall[T]) -> AsyncGenerator[T, None]:
        state = self._begin(call.request)
        try:
            first, events = await self._tried(self._first, state, call)
            async with aclosing(events):
                for value in first:
                    yield value
                async for value in events:
                    yield value
        except errors.AiaasError as error:
            raise trimmed(error)  # noqa: B904  # the same error

    async def _first(
        self, state: CallState[None], call: StreamCall[T]
    ) -> tuple[list[T], AsyncGenerator[T, None]]:
        """Make one attempt, up to its first event if there is one."""
        events = self._streamed(state, call)
        try:
            return [await anext(events)], events
        except StopAsyncIteration:
            return [], events

    async def _streamed(
        self, state: CallState[None], call: StreamCall[T]
    ) -> AsyncGenerator[T, None]:
        """One attempt; its endpoint has the call until the stream ends or is left."""
        endpoint = self._shared.endpoints.take(state.avoid)
        try:
            async with _closing(await self._open(state, endpoint)) as answer:
                reader = reader_of(call, self._max_answer_bytes)
                async for piece in answer.pieces:
                    for value in reader.values(piece):
                        yield value
                    if reader.is_over:
                        break
                else:
                    reader.finish()
        except BaseException as error:
            self._failed(state, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)

    async def _open(self, state: CallState[None], endpoint: Endpoint) -> AsyncOpenAnswer:
        """Send one attempt and check the head of its answer."""
        from aiaas_client._transport.wire import AsyncOpenAnswer, aread_open

        opened: list[AsyncOpenAnswer] = []

        async def send(request: WireRequest) -> Response:
            answer = await streaming(self._open_transport()).stream(request)
            if answer.status not in state.call.accept:
                async with _closing(answer):
                    return await aread_open(answer, self._max_answer_bytes)
            opened.append(answer)
            return Response(answer.status, answer.headers, bytearray())

        try:
            if self._shared.paces.known:
                await self._await_turn(state, endpoint)
            pipeline = achain(self._middleware, send) if self._middleware else send
            began = time.monotonic()
            response = await pipeline(self._wire(state, endpoint))
            self._answered(endpoint, response, began)
            state.check(response, endpoint.url, self._wall())
            if not opened:  # middleware has answered itself
                return AsyncOpenAnswer.of(response)
            check_head(opened[-1].headers, state.call)
        except BaseException:
            for answer in opened:
                await answer.close()
            raise
        for answer in opened[:-1]:  # middleware has sent the request more than once
            await answer.close()
        return opened[-1]

    async def _tried(self, attempt: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        """Make attempts until one succeeds or its failure is final."""
        try:
            return await attempt(*given)
        except errors.AiaasError as error:
            repeats = self._repeats(given[0], error)
        return await repeats.arun(partial(attempt, *given))

    async def _exchange(self, state: CallState[T], endpoint: Endpoint) -> T:
        try:
            if self._shared.paces.known:
                await self._await_turn(state, endpoint)
            request = self._wire(state, endpoint)
            began = time.monotonic()
            response = await self._pipeline()(request)
            self._answered(endpoint, response, began)
            value = state.read(response, endpoint.url, self._wall())
        except BaseException as error:
            self._failed(state, endpoint, error)
            raise
        self._shared.endpoints.release(endpoint, None)
        return value

    async def _await_turn(self, state: CallState[Any], endpoint: Endpoint) -> None:
        """Wait where the server has told that nothing is left of a limit."""
        if (seconds := self._turn(state, endpoint)) > 0:
            await self.clock.async_sleep(seconds)

    def _open_transport(self) -> AsyncTransport:
        shared = self._shared
        loop = asyncio.get_running_loop()
        if shared.transport is None or shared.owner is not loop:
            if shared.transport is not None:
                _abandon(shared.transport)
            shared.transport = self._new_transport()
            shared.owner = loop
        return shared.transport  # type: ignore[no-any-return]  # an AsyncTransport, set above

    async def close(self) -> None:
        """Close all connections, for good."""
        if (transport := self._last_transport()) is None:
            return
        ours = transport is self._given_transport
        if ours or self._shared.owner is asyncio.get_running_loop():
            await transport.close()
        else:
            _abandon(transport)

    async def _hedged(self, state: CallState[T], first: Endpoint) -> T:
        """Ask a second endpoint when the first is slow; the first good answer wins."""
        racing = {asyncio.create_task(self._exchange(state, first))}
        try:
            done, _ = await asyncio.wait(racing, timeout=self._hedge_after)
            second = None if done else self._second(state, first)
            if second is not None:
                racing.add(asyncio.create_task(self._exchange(state, second)))
            return await _first_good(racing)
        finally:
            await _cancel_all(racing)


@asynccontextmanager
async def _closing(answer: AsyncOpenAnswer) -> AsyncIterator[AsyncOpenAnswer]:
    try:
        yield answer
    finally:
        await answer.close()


async def _first_good(racing: set[asyncio.Task[T]]) -> T:
    """Give the first value; the most telling error when there is none."""
    pending, failures = set(racing), []
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            if (error := one.exception()) is None:
                return one.result()
            failures.append(error)
    raise most_telling(failures)


async def _cancel_all(racing: set[asyncio.Task[T]]) -> None:
    for one in racing:
        one.cancel()
    await asyncio.gather(*racing, return_exceptions=True)


def _abandon(transport: Any) -> None:
    """Let go of the connections of another event loop."""
    abandon = getattr(transport, "abandon", None)
    if abandon is not None:
        abandon()
