"""The seam under the clients: one attempt out, one whole answer back.

What every transport shares is here: the request, its deadline, the body in pieces and the reader
of answers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aiaas_client import _errors as errors
from aiaas_client._api.call import BytesLike, Call, Headers, RawHeaders, Response
from aiaas_client._config import Timeouts
from aiaas_client.protocol.compression import inflate
from aiaas_client.protocol.inference import CodecError

if TYPE_CHECKING:
    import socket

CHUNK_BYTES = 1 << 20
SMALL_BODY_BYTES = 1 << 16
HEAD_START = 0.25  # seconds that an address has before the next one is tried beside it
IDENTITY = frozenset({b"", b"identity"})


@dataclass(slots=True)
class WireRequest:
    """One attempt, ready to be sent; middleware may change `headers`.

    Attributes:
        method: The HTTP method, upper case.
        base_url: The endpoint, without a trailing slash.
        path: The target below it, percent-encoded.
        headers: All headers but Host and Content-Length, as they go on the wire.
        content: Body chunks, or None for no body.
        content_length: Bytes of all chunks.
        timeouts: Each phase, already clipped to what is left of the deadline.
        deadline: `time.monotonic()` at which the attempt must have ended.
        attempt: 1 for the first request of a call.
        request_id: The id this call travels with.
        call: What is being asked, in the API's terms.
        notes: A place for middleware to keep its own things.
    """

    method: str
    base_url: str
    path: str
    headers: RawHeaders
    content: list[BytesLike] | None
    content_length: int
    timeouts: Timeouts
    deadline: float
    attempt: int
    request_id: str
    call: Call[Any]
    notes: dict[str, Any] = field(default_factory=dict)
    exchange: WireExchange | None = field(default=None, repr=False)

    def abort(self) -> None:
        """Cut the attempt short from another thread: its deadline is now."""
        self.deadline = 0.0
        if self.exchange is not None:
            self.exchange.abort()


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """The head of an answer whose body is still coming.

    Attributes:
        status: The HTTP status.
        headers: Its headers, without regard to case.
        pieces: The body as it comes, within the deadline of its request.
        close: Ends the exchange; unless the body was read to its end, the connection closes.
    """

    status: int
    headers: Headers
    pieces: Iterator[bytes]
    close: Callable[[], None]

    @classmethod
    def of(cls, response: Response) -> OpenAnswer:
        """Give a whole answer in this form."""
        return cls(response.status, response.headers, iter([bytes(response.body)]), _nothing)


@dataclass(frozen=True, slots=True)
class AsyncOpenAnswer:
    """As `OpenAnswer`, on an event loop."""

    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, response: Response) -> AsyncOpenAnswer:
        """Give a whole answer in this form."""
        pieces = _once(bytes(response.body))
        return cls(response.status, response.headers, pieces, _anothing)


def _nothing() -> None: ...


async def _anothing() -> None: ...


async def _once(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


class Transport(Protocol):
    """Sends one attempt and gives the whole answer; raises only `AiaasError`."""

    def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    def stream(self, request: WireRequest) -> OpenAnswer:
        """Send `request`, read the head of the answer; whoever gets it closes it."""
        ...

    def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class AsyncTransport(Protocol):
    """As `Transport`, for an event loop; cancelling `send` closes its connection."""

    async def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    async def stream(self, request: WireRequest) -> AsyncOpenAnswer:
        """Send `request`, read the head of the answer; whoever gets it closes it."""
        ...

    async def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class WireExchange:
    """What the sockets tell about the attempt they serve, and the deadline they obey."""

    __slots__ = ("cancelled", "connected", "deadline", "received", "sending", "socket")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.socket: socket.socket | None = None
        self.sending = False
        self.cancelled = False
        self.connected = False
        self.received = False

    def clip(self, timeout: float | None) -> float:
        left = self.deadline - time.monotonic()
        return left if timeout is None or left < timeout else timeout

    def abort(self) -> None:
        self.deadline = 0.0
        if self.socket is not None:
            import socket

            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


# The exchange that this context serves. A stream sets it anew for every step, since its steps may
# run in other contexts than its beginning.
current: ContextVar[WireExchange] = ContextVar("aiaas_exchange")


class Pieces:
    """A request body as views of at most 1 MiB each."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: list[BytesLike]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            view = memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
            for start in range(0, len(view), CHUNK_BYTES):
                # A view where the libraries' types say bytes: they only measure and send it.
                yield view[start : start + CHUNK_BYTES]  # type: ignore[misc]


class AsyncPieces:
    """As `Pieces`, for the libraries' async side, which takes nothing that is both."""

    __slots__ = ("_pieces",)

    def __init__(self, chunks: list[BytesLike]) -> None:
        self._pieces = Pieces(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


PiecesKind = type[Pieces] | type[AsyncPieces]


def content_of(request: WireRequest, kind: PiecesKind) -> bytes | Pieces | AsyncPieces | None:
    if request.content is None:
        return None
    if request.content_length <= SMALL_BODY_BYTES:
        return b"".join(request.content)
    return kind(request.content)


def has_body(request: WireRequest) -> bool:
    return request.content is not None or request.method == "POST"


class AnswerReader:
    """Collects one body into one buffer, never beyond what was announced or allowed."""

    __slots__ = ("_announced", "_body", "_filled", "_limit", "headers", "status")

    def __init__(
        self, status: int, headers: Headers | Iterable[tuple[bytes, bytes]], limit: int
    ) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self._limit = limit
        self._filled = 0
        self._announced = self._read_length()
        if self._announced > limit:
            raise errors.ProtocolError(
                f"answer of {self._announced} bytes: at most {limit} are accepted"
            )
        # Grown, not made at full length: that would write every page once more, with zeros.
        self._body = bytearray()

    def _read_length(self) -> int:
        told = self.headers.find(b"content-length")
        if told is None or self.status == 304:
            return -1
        if not told.isdigit() or len(told) > 18:
            raise errors.ProtocolError(f"Content-Length: expected a number, got {told[:40]!r}")
        return int(told)

    def feed(self, chunk: bytes) -> None:
        self._filled += len(chunk)
        if self._announced < 0 and self._filled > self._limit:
            raise errors.ProtocolError(f"answer without end: over {self._limit} bytes")
        self._body += chunk

    def finish(self) -> Response:
        if 0 <= self._announced != self._filled:
            raise errors.APIConnectionError(
                f"answer broke off: expected {self._announced} bytes, got {self._filled}"
            )
        encoding = self.headers.find(b"content-encoding") or b""
        if encoding.lower() not in IDENTITY:
            self._body = self._inflated(encoding.lower())
        return Response(self.status, self.headers, self._body)

    def _inflated(self, encoding: bytes) -> bytearray:
        if encoding not in (b"gzip", b"deflate"):
            raise errors.ProtocolError(f"Content-Encoding: cannot read {encoding[:40]!r}")
        try:
            return bytearray(inflate(self._body, self._limit))
        except CodecError as error:
            raise errors.ProtocolError(f"compressed answer: {error}") from error


def read_open(answer: OpenAnswer, limit: int) -> Response:
    """Read the rest of an answer: what a server says instead of a stream.

    Raises:
        AiaasError: it broke off, or is larger than `limit` bytes.
    """
    reader = AnswerReader(answer.status, answer.headers.raw, limit)
    for piece in answer.pieces:
        reader.feed(piece)
    return reader.finish()


async def aread_open(answer: AsyncOpenAnswer, limit: int) -> Response:
    """As `read_open`, on an event loop."""
    reader = AnswerReader(answer.status, answer.headers.raw, limit)
    async for piece in answer.pieces:
        reader.feed(piece)
    return reader.finish()
