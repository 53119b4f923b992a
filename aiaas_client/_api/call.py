"""A call before anyone knows which server gets it, and the answer before anyone has read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from aiaas_client._errors import InputError, ProtocolError

if TYPE_CHECKING:
    from aiaas_client.protocol.inference import InferRequest, InferResponse

T = TypeVar("T")
RawHeaders = list[tuple[bytes, bytes]]
BytesLike = bytes | memoryview

# What our own server says of its time; any other way to say it is read as well.
_MILLISECONDS = rb"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
_OURS = re.compile(rb"queue;dur=%b, compute;dur=%b" % (_MILLISECONDS, _MILLISECONDS))

OK = frozenset({200})
OK_OR_UNCHANGED = frozenset({200, 304})
JSON_BODY = (b"Content-Type", b"application/json")
DOWNLOAD = (b"Accept", b"application/octet-stream")
BINARY_BODY = (b"Content-Type", b"application/octet-stream")
HEALTH_ANSWERS = frozenset({200, 400, 404, 500, 503})
SERVER_HEALTH_ANSWERS = HEALTH_ANSWERS - {404}  # where that route is not, no such server is


class Headers(Mapping[str, str]):
    """Headers of an answer, looked up without regard to case; repeated ones joined by commas."""

    __slots__ = ("_values", "raw")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.raw = list(raw)
        self._values: dict[bytes, bytes] = {}
        for name, value in self.raw:
            key = name.lower()
            known = self._values.get(key)
            self._values[key] = value if known is None else known + b", " + value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower().encode("latin-1", "replace")].decode("latin-1")

    def find(self, name: bytes) -> bytes | None:
        """Give the raw value of a header whose name is written in lower case, or None."""
        return self._values.get(name)

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({dict(self)!r})"


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one call went, in seconds.

    Attributes:
        total: From the call to the decoded answer, retries and waits between them included.
        server_queue: Waiting in the server's queue; None when the server did not tell.
        server_compute: Running the model; None when the server did not tell.
    """

    total: float = 0.0
    server_queue: float | None = None
    server_compute: float | None = None


@dataclass(slots=True)
class Response:
    """One answer, whole.

    Attributes:
        status: The HTTP status.
        headers: Its headers, without regard to case.
        body: The whole body, decompressed; writable and owned by this object.
        attempts: Requests sent for this call, the answered one included.
        elapsed: Seconds since the call began, retries and waits included.
        attempt_elapsed: Seconds of the attempt that was answered.
        request_id: The id the call travelled with.
        endpoint: Base URL that answered.
        local: The finished value, where the model ran in this process and nothing was encoded.
    """

    status: int
    headers: Headers
    body: bytearray
    attempts: int = 1
    elapsed: float = 0.0
    attempt_elapsed: float = 0.0
    request_id: str = ""
    endpoint: str = ""
    local: InferResponse | None = None

    @property
    def text(self) -> str:
        """The body as UTF-8 text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ProtocolError: it is not JSON.
        """
        return read_json(self.body)

    @property
    def timing(self) -> Timing:
        """Seconds of the whole call, and of what the server tells of itself."""
        header = self.headers.find(b"server-timing")
        if header is None:
            return Timing(self.elapsed)
        ours = _OURS.fullmatch(header)
        if ours is not None:
            return Timing(self.elapsed, float(ours[1]) / 1e3, float(ours[2]) / 1e3)
        told = _server_timing(header.decode("latin-1"))
        return Timing(self.elapsed, told.get("queue"), told.get("compute"))


def read_json(body: bytes | bytearray | str) -> Any:
    """Parse a JSON text.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"expected a JSON body, got {len(body)} bytes: {error}") from error


def _server_timing(text: str) -> dict[str, float]:
    """Read `queue;dur=0.12, compute;dur=3.4` (milliseconds) into seconds."""
    told: dict[str, float] = {}
    for entry in text.split(","):
        name, _, rest = entry.strip().partition(";")
        for field in rest.split(";"):
            key, _, value = field.strip().partition("=")
            try:
                if key == "dur":
                    told[name] = float(value) / 1e3
            except ValueError:
                continue
    return told


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request of the API, before anyone knows which server gets it.

    Attributes:
        method: The HTTP method, upper case.
        path: The target, percent-encoded, from the root of the base URL.
        parse: Reads an answer whose status is in `accept`; raises only `AiaasError`.
        headers: Added to the client's own.
        content: Body chunks, or None for no body.
        content_length: Bytes of all chunks together.
        retryable: Whether sending it again is safe even if the first one ran.
        accept: Statuses that `parse` understands; any other raises `APIStatusError`.
        infer: The inference in array form, for a transport that needs no wire.
        model: The model called, for errors and for the circuit.
        version: Its version, if one was asked for.
        optional: The endpoint may be absent: 404, 405 and 501 become `NotSupportedError`.
        absent: What that error says of a family of routes that a server has as a whole or not at
            all: there a 404 that gives a reason speaks of a thing, not of the route.
        trial: It asks whether the server understands this form at all: a 500 says that it does
            not, and nothing against the endpoint.
    """

    method: str
    path: str
    parse: Callable[[Response], T]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content: list[BytesLike] | None = None
    content_length: int = 0
    retryable: bool = True
    accept: frozenset[int] = OK
    infer: InferRequest | None = None
    model: str | None = None
    version: str | int | None = None
    optional: bool = False
    absent: str = ""
    trial: bool = False


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream of server-sent events.

    Attributes:
        data: Its data lines, joined by line feeds.
        event: Its type.
        id: The last id that the stream has told, up to this event.
        retry: Seconds the server asked to wait before a reconnection, if this event told it.
    """

    data: str
    event: str = "message"
    id: str = ""
    retry: float | None = None


@dataclass(frozen=True, slots=True)
class StreamCall(Generic[T]):
    """A request whose answer is a stream of events.

    Attributes:
        request: What is sent; its `parse` is not used.
        read: Reads one event; raises only `AiaasError`, for an event that tells of an error too.
        end: Data of the event that ends the stream; empty where the end of the body does.
    """

    request: Call[None]
    read: Callable[[ServerEvent], T]
    end: str = ""


@dataclass(frozen=True, slots=True)
class DownloadCall(StreamCall[bytes]):
    """A request whose answer is bytes, handed out as they come, however many."""


@lru_cache(maxsize=4096)
def model_path(
    model: str, version: str | int | None = None, suffix: str = "", *, root: str = "/v2/models"
) -> str:
    """Give `{root}/{model}[/versions/{version}]{suffix}`, names percent-encoded."""
    if not model:
        raise InputError("model name: expected a non-empty string, got ''")
    path = f"{root}/{quote(model, safe='')}"
    version = version_text(version)
    if version is not None:
        path = f"{path}/versions/{quote(version, safe='')}"
    return path + suffix


def version_text(version: str | int | None) -> str | None:
    """A version as addresses carry it; servers have versions that are no numbers, too.

    Raises:
        InputError: it is neither text nor a whole number.
    """
    if version is None or (isinstance(version, str) and version):
        return version
    if isinstance(version, int) and not isinstance(version, bool):
        return str(version)
    raise InputError(
        f"version: expected the name of a version, such as '1', a whole number, or None "
        f"for the one that serves, got {version!r}"
    )
