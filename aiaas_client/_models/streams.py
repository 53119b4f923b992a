"""What a model writes, as it writes it: events, and the text of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._send.sender import AsyncStream, Stream

if TYPE_CHECKING:
    from aiaas_client._api.collecting import Collected
    from aiaas_client._api.generation import Generation

Event = TypeVar("Event")
Texts = TypeVar("Texts")  # a generator of texts


class Collecting(Generic[Texts], ABC):
    """What is known of a stream besides its events.

    Args:
        stream: The events as a sender gives them.
        collected: What adds them up.
    """

    def __init__(self, stream: Any, collected: Collected) -> None:
        self._events = stream._events
        self._collected = collected

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: so far {self.generation!r}>"

    @property
    def generation(self) -> Generation[Any]:
        """What has come so far, as the answer that the call without `stream` gives; after the
        last event it is all of it, with its `usage`."""
        return self._collected.generation()

    @property
    def text_stream(self) -> Texts:
        """The text of the first choice, piece by piece; leaving it early closes the stream."""
        return self._texts()

    @abstractmethod
    def _texts(self) -> Texts:
        """Go through the events."""


class GenerationStream(Collecting[Generator[str, None, None]], Stream[Event]):
    """The events of one answer: `ChatChunk`s of a chat, `Completion`s of a text.

    The request is sent with the first step. Leaving `text_stream` early, `close()`, or the end of
    a `with` closes the connection, and the server stops writing.
    """

    def _texts(self) -> Generator[str, None, None]:
        with self:
            for event in self:
                if text := text_of(event):
                    yield text


class AsyncGenerationStream(Collecting[AsyncGenerator[str, None]], AsyncStream[Event]):
    """The events of one answer on an event loop; otherwise as `GenerationStream`."""

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
