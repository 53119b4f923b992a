"""The seam under the clients, and the only place that knows the HTTP library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from aiaas_client._calls import Call, Chunk, RawHeaders, Response


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for each phase of one attempt; None waits for ever."""

    connect: float | None = 5.0
    read: float | None = 30.0
    write: float | None = 30.0
    pool: float | None = 5.0


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
