"""The seam: what handles, task models, batchers and resources take to reach a server.

The clients hold one each, `ThreadSender` or `LoopSender`; whatever sends calls in another way needs
no more than this.
A call is built by `_api` and knows how to read its own answer, so a sender is told nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, StreamCall
    from aiaas_client._config import ServerFacts, Timeouts

T = TypeVar("T")


class Sender(Protocol):
    """Sends calls from threads."""

    @property
    def facts(self) -> ServerFacts:
        """What has been learned about the servers; all handles share it."""
        ...

    def send(self, call: Call[T], /) -> T:
        """Send a call, with retries inside the deadline, and read its answer.

        Raises:
            AiaasError: whatever went wrong.
        """
        ...

    def stream(self, call: StreamCall[T], /) -> Stream[T]:
        """Send a call with the first step of the iteration, and give its events as they come.

        Raises:
            AiaasError: in the iteration; after the first event nothing is tried again.
        """
        ...

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Give a sender that differs in these, on the same connections."""
        ...


class AsyncSender(Protocol):
    """Sends calls from an event loop."""

    @property
    def facts(self) -> ServerFacts:
        """What has been learned about the servers; all handles share it."""
        ...

    def send(self, call: Call[T], /) -> Awaitable[T]:
        """Send a call, with retries inside the deadline, and read its answer.

        Raises:
            AiaasError: whatever went wrong.
        """
        ...

    def stream(self, call: StreamCall[T], /) -> AsyncStream[T]:
        """Send a call with the first step of the iteration, and give its events as they come.

        Raises:
            AiaasError: in the iteration; after the first event nothing is tried again.
        """
        ...

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Give a sender that differs in these, on the same connections."""
        ...


AnySender = TypeVar("AnySender", Sender, AsyncSender)


def limited(sender: AnySender, timeout: float | None, deadline: float | None) -> AnySender:
    """The sender, with the limits of one call."""
    if timeout is None and deadline is None:
        return sender
    return sender.with_options(timeout=timeout, deadline=deadline)


class Stream(Generic[T]):
    """Events as they come; leaving early, or `close()`, closes the connection."""

    def __init__(self, events: Generator[T, None, None]) -> None:
        self._events = events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._events)

    def close(self) -> None:
        """End the stream; what the server still says is not read."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream(Generic[T]):
    """Events as they come; leaving early, or `aclose()`, closes the connection."""

    def __init__(self, events: AsyncGenerator[T, None]) -> None:
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End the stream; what the server still says is not read."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
