"""The seam under the clients: one attempt out, one whole answer back.

What every transport shares is here: the request, its deadline, the body as chunks, the reader of
answers, and the one place where foreign exceptions become the SDK's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aiaas_client import _errors as errors
from aiaas_client._calls import Call, Chunk, Headers, RawHeaders, Response
from aiaas_client._config import Timeouts
from aiaas_client.protocol.codec import CodecError
from aiaas_client.protocol.compression import inflate

if TYPE_CHECKING:
    import socket

CHUNK_BYTES = 1 << 20
SMALL_BODY_BYTES = 1 << 16
TIMER_SLACK = 0.005  # seconds by which a socket's timer may end before the clock says so
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
    content: list[Chunk] | None
    content_length: int
    timeouts: Timeouts
    deadline: float
    attempt: int
    request_id: str
    call: Call[Any]
    notes: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = field(default=None, repr=False)

    def abort(self) -> None:
        """Cut the attempt short from another thread: its deadline is now."""
        self.deadline = 0.0
        if self.progress is not None:
            self.progress.abort()


class Transport(Protocol):
    """Sends one attempt and gives the whole answer; raises only `AiaasError`."""

    def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class AsyncTransport(Protocol):
    """As `Transport`, for an event loop; cancelling `send` closes its connection."""

    async def send(self, request: WireRequest) -> Response:
        """Send `request`, read the answer to its end."""
        ...

    async def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


class Progress:
    """What the sockets tell about the attempt they serve, and the deadline they obey."""

    __slots__ = ("cancelled", "connected", "deadline", "placed", "received", "sending", "socket")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.socket: socket.socket | None = None
        self.placed: tuple[bytes, bytes] | None = None  # see `_http.placed`
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


class Body:
    """A request body as views of at most 1 MiB each."""

    __slots__ = ("_chunks",)

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            view = memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
            for start in range(0, len(view), CHUNK_BYTES):
                # A view where the libraries' types say bytes: they only measure and send it.
                yield view[start : start + CHUNK_BYTES]  # type: ignore[misc]


class AsyncBody:
    """As `Body`, for the libraries' async side, which takes nothing that is both."""

    __slots__ = ("_pieces",)

    pieces: type[Body] = Body

    def __init__(self, chunks: list[Chunk]) -> None:
        self._pieces = self.pieces(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


BodyKind = type[Body] | type[AsyncBody]


def content_of(request: WireRequest, kind: BodyKind) -> bytes | Body | AsyncBody | None:
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

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
        self.status = status
        self.headers = Headers(headers)
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


_TIMEOUT_PHASES = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "read",
    "WriteTimeout": "write",
    "PoolTimeout": "pool",
}
_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "aiaas_client")
_NO_ANSWER = "Server disconnected without sending a response"
_BROKE_OFF = "peer closed connection without sending complete message body"


def translate(error: Exception, request: WireRequest, progress: Progress) -> errors.AiaasError:
    """Give our error for one of an HTTP library's, by the name it has in all four of them."""
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__ != "builtins"}
    for name, phase in _TIMEOUT_PHASES.items():
        if name in names:
            return timed_out(phase, request)
    reason = str(error) or type(error).__name__
    where = f"{request.base_url}: {reason}"
    if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return errors.APIConnectionError(f"cannot connect to {where}", phase="connect")
    if "LocalProtocolError" in names:
        return errors.ConfigurationError(f"request cannot be sent to {where}")
    broke = _NO_ANSWER in reason or _BROKE_OFF in reason
    if "ProtocolError" in names and not broke:
        return errors.ProtocolError(f"not an HTTP answer from {where}")
    died_idle = not progress.connected and not progress.received
    return errors.APIConnectionError(
        f"connection broke: {where}", phase="idle" if died_idle else "exchange"
    )


def timed_out(phase: str, request: WireRequest) -> errors.AiaasError:
    if time.monotonic() >= request.deadline - TIMER_SLACK:
        return errors.DeadlineExceededError(
            f"{request.base_url}: no answer within the deadline", phase=phase
        )
    seconds = getattr(request.timeouts, phase)
    if phase == "pool":
        return errors.PoolTimeoutError(
            f"{request.base_url}: no free connection within {seconds:g} s", phase=phase
        )
    return errors.APITimeoutError(
        f"{request.base_url}: {phase} took longer than {seconds:g} s", phase=phase
    )


def is_foreign(error: Exception) -> bool:
    if isinstance(error, errors.AiaasError):
        return False
    module = type(error).__module__.partition(".")[0]
    return module in _LIBRARIES or isinstance(error, OSError)
