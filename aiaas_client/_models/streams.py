"""What a model writes, as it writes it: events, and the text of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client._send.sender import AsyncStream, Stream

if TYPE_CHECKING:
    from aiaas_client._api.collecting import Collected
    from aiaas_client._api.generation import Generation

Event = TypeVar("Event")


class Collecting:
    """What is known of a stream besides its events."""

    _collected: Collected

    @property
    def generation(self) -> Generation[Any]:
        """What has come so far, as the answer that the call without `stream` gives; after the
        last event it is all of it, with its `usage`."""
        return self._collected.generation()


class GenerationStream(Stream[Event], Collecting):
    """The events of one answer: `ChatChunk`s of a chat, `Completion`s of a text.

    The request is sent with the first step. Leaving `text_stream` early, `close()`, or the end of
    a `with` closes the connection, and the server stops writing.
    """

    def __init__(self, events: Stream[Event], collected: Collected) -> None:
        super().__init__(events._events)
        self._collected = collected

    @property
    def text_stream(self) -> Generator[str, None, None]:
        """The text of the first choice, piece by piece."""
        return self._texts()

    def _texts(self) -> Generator[str, None, None]:
        with self:
            for event in self:
                if text := text_of(event):
                    yield text


class AsyncGenerationStream(AsyncStream[Event], Collecting):
    """The events of one answer on an event loop; otherwise as `GenerationStream`."""

    def __init__(self, events: AsyncStream[Event], collected: Collected) -> None:
        super().__init__(events._events)
        self._collected = collected

    @property
    def text_stream(self) -> AsyncGenerator[str, None]:
        """The text of the first choice, piece by piece."""
        return self._texts()

    async def _texts(self) -> AsyncGenerator[str, None]:
        async with self:
            async for event in self:
                if text := text_of(event):
                    yield text


def text_of(event: Any) -> str:
    """What an event adds to the text of the first choice."""
    for choice in event.choices:
        if choice.index == 0:
            delta = getattr(choice, "delta", None)
            text: str | None = choice.text if delta is None else delta.content
            return text or ""
    return ""


def generation_stream(events: Any, collected: Collected) -> Any:
    """The stream, in the flavour of its sender."""
    kind = AsyncGenerationStream if isinstance(events, AsyncStream) else GenerationStream
    return kind(events, collected)
