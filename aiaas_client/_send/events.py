"""The answer to a streaming call, piece by piece; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api.call import DOWNLOAD, DownloadCall
from aiaas_client._send.sse import EventDecoder

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, Headers, StreamCall

T = TypeVar("T")

MEDIA_TYPE = "text/event-stream"


class EventReader(Generic[T]):
    """Turns the pieces of one stream into the values of a call.

    Args:
        limit: Bytes that one event may have.
    """

    def __init__(self, call: StreamCall[T], limit: int) -> None:
        self._call = call
        self._decoder = EventDecoder(limit)
        self.ended = not call.end

    def values(self, piece: bytes) -> Iterator[T]:
        """Give what `piece` completes, up to the event that ends the stream.

        Raises:
            AiaasError: an event tells of an error, or is none.
        """
        for event in self._decoder.feed(piece):
            if self._call.end and event.data == self._call.end:
                self.ended = True
                return
            yield self._call.read(event)

    @property
    def is_over(self) -> bool:
        """Whether the event that ends the stream has come."""
        return bool(self._call.end) and self.ended

    def finish(self) -> None:
        """Hear that the body has ended.

        Raises:
            APIConnectionError: it ended before the stream did.
        """
        if not self.ended:
            raise errors.APIConnectionError("event stream broke off before its last event")


class PieceReader:
    """Hands out the pieces of a download as they are."""

    is_over = False

    def values(self, piece: bytes) -> Iterator[bytes]:
        """Give the piece."""
        if piece:
            yield bytes(piece)

    def finish(self) -> None:
        """Nothing: what is missing of a body of known length, the transport tells."""


def reader_of(call: StreamCall[T], limit: int) -> EventReader[T]:
    """Give what reads the answer to `call`."""
    if isinstance(call, DownloadCall):
        return PieceReader()  # type: ignore[return-value]  # a download's T is bytes
    return EventReader(call, limit)


def check_head(headers: Headers, call: Call[None]) -> None:
    """Check that an answer is what the request accepts: a stream of events, or plain bytes.

    Raises:
        ProtocolError: it says that it is something else.
    """
    told = headers.get("content-type", "")
    is_stream = told.partition(";")[0].strip().lower() == MEDIA_TYPE
    if not is_stream and DOWNLOAD not in call.headers:
        raise errors.ProtocolError(f"expected {MEDIA_TYPE}, got {told[:80]!r}")
    encoding = headers.get("content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise errors.ProtocolError(f"Content-Encoding of a stream: cannot read {encoding[:40]!r}")
