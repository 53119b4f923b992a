"""What to send and how to read the answer: one pure builder per endpoint, no I/O.

`Client` and `AsyncClient` are shells around the same `Call`: they send it, retry it, and hand the
`Response` to `Call.parse`. The documents' types, and pydantic with them, are loaded when the first
document is read, not when a program starts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._result import InferResult, Timing
from aiaas_client.protocol import codec

if TYPE_CHECKING:
    from aiaas_client.protocol.codec import InferRequest, InferResponse
    from aiaas_client.protocol.messages import (
        ModelMetadata,
        ModelStatistics,
        RepositoryEntry,
        ServerMetadata,
    )

T = TypeVar("T")
RawHeaders = list[tuple[bytes, bytes]]
Chunk = bytes | memoryview

OK = frozenset({200})
OK_OR_UNCHANGED = frozenset({200, 304})
HEALTH_ANSWERS = frozenset({200, 400, 404, 500, 503})


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
    def timing(self) -> Timing:
        """Seconds of the whole call, and of what the server tells of itself."""
        header = self.headers.find(b"server-timing")
        if header is None:
            return Timing(self.elapsed)
        told = _server_timing(header.decode("latin-1"))
        return Timing(self.elapsed, told.get("queue"), told.get("compute"))


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
    """

    method: str
    path: str
    parse: Callable[[Response], T]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content: list[Chunk] | None = None
    content_length: int = 0
    retryable: bool = True
    accept: frozenset[int] = OK
    infer: InferRequest | None = None
    model: str | None = None
    version: str | int | None = None
    optional: bool = False


class FreshMetadata(NamedTuple):
    """A model's metadata with its ETag; `metadata` is None when the known ETag still holds."""

    metadata: ModelMetadata | None
    etag: str


@lru_cache(maxsize=4096)
def model_path(model: str, version: str | int | None = None, suffix: str = "") -> str:
    """Give `/v2/models/{model}[/versions/{version}]{suffix}`, names percent-encoded."""
    if not model:
        raise errors.InputError("model name: expected a non-empty string, got ''")
    path = f"/v2/models/{quote(model, safe='')}"
    if version is not None:
        path = f"{path}/versions/{quote(str(version), safe='')}"
    return path + suffix


def infer(
    model: str, version: str | int | None, request: InferRequest, *, binary: bool = True
) -> Call[InferResult]:
    """`POST /v2/models/{m}/infer`; tensors in binary, or all of it as JSON.

    Raises:
        CodecError: a tensor that the protocol cannot carry.
    """
    encoded = codec.encode_request(request, binary=binary)
    headers: tuple[tuple[bytes, bytes], ...] = (_content_type(encoded.content_type),)
    if encoded.json_length is not None:
        length = b"%d" % encoded.json_length
        headers = (*headers, (b"Inference-Header-Content-Length", length))
    return Call(
        "POST",
        model_path(model, version, "/infer"),
        _ReadInference(model, request),
        headers=headers,
        content=encoded.chunks,
        content_length=encoded.content_length,
        infer=request,
        model=model,
        version=version,
    )


def infer_here(model: str, version: str | int | None, request: InferRequest) -> Call[InferResult]:
    """As `infer` for a transport that takes `Call.infer`: nothing is encoded."""
    return Call(
        "POST",
        model_path(model, version, "/infer"),
        _ReadInference(model, request),
        infer=request,
        model=model,
        version=version,
    )


@lru_cache(maxsize=8)
def _content_type(value: str) -> tuple[bytes, bytes]:
    return b"Content-Type", value.encode("ascii")


@dataclass(frozen=True, slots=True)
class _ReadInference:
    """Reads an inference answer and checks it against what was asked."""

    model: str
    request: InferRequest

    def __call__(self, response: Response) -> InferResult:
        answer = response.local if response.local is not None else self._decode(response)
        self._check(answer)
        return InferResult(
            answer.outputs,
            model_name=answer.model_name or self.model,
            model_version=answer.model_version,
            request_id=answer.id or response.request_id,
            parameters=answer.parameters,
            timing=response.timing,
            attempts=response.attempts,
        )

    def _decode(self, response: Response) -> InferResponse:
        told = response.headers.find(b"inference-header-content-length")
        try:
            length = None if told is None else codec.parse_header_length(told, len(response.body))
            return codec.decode_response(response.body, length)
        except codec.CodecError as error:
            raise errors.ProtocolError(f"model '{self.model}': {error}") from error

    def _check(self, answer: InferResponse) -> None:
        request = self.request
        wanted = {output.name for output in request.outputs}
        if wanted and wanted != answer.outputs.keys():
            got = sorted(answer.outputs)
            raise errors.ProtocolError(
                f"model '{self.model}': expected outputs {sorted(wanted)}, got {got}"
            )
        if request.id and answer.id and answer.id != request.id:
            raise errors.ProtocolError(
                f"model '{self.model}': expected the answer to request '{request.id}', "
                f"got the one to '{answer.id}'"
            )


def metadata(model: str, version: str | int | None = None, etag: str = "") -> Call[FreshMetadata]:
    """`GET /v2/models/{m}`; with a known ETag the server may answer "unchanged"."""
    headers = ((b"If-None-Match", etag.encode("latin-1")),) if etag else ()
    return Call(
        "GET",
        model_path(model, version),
        lambda response: FreshMetadata(
            None if response.status == 304 else _read_model_metadata(response),
            response.headers.get("etag", etag),
        ),
        headers=headers,
        accept=OK_OR_UNCHANGED,
        model=model,
        version=version,
    )


def model_metadata(model: str, version: str | int | None = None) -> Call[ModelMetadata]:
    """`GET /v2/models/{m}`, whole."""
    return Call("GET", model_path(model, version), _read_model_metadata, model=model)


def _read_model_metadata(response: Response) -> ModelMetadata:
    from aiaas_client.protocol.messages import ModelMetadata

    return _document(response, ModelMetadata)


def server_metadata() -> Call[ServerMetadata]:
    """`GET /v2`."""
    return Call("GET", "/v2", _read_server_metadata)


def _read_server_metadata(response: Response) -> ServerMetadata:
    from aiaas_client.protocol.messages import ServerMetadata

    return _document(response, ServerMetadata)


def health() -> Call[bool]:
    """`GET /v2/health/live`: whether the process can answer."""
    return Call("GET", "/v2/health/live", _is_success, accept=HEALTH_ANSWERS)


def ready(model: str | None = None, version: str | int | None = None) -> Call[bool]:
    """`GET .../ready`: whether the server, or one model, takes inference now."""
    if model is None:
        return Call("GET", "/v2/health/ready", _is_success, accept=HEALTH_ANSWERS)
    path = model_path(model, version, "/ready")
    return Call("GET", path, _is_success, accept=HEALTH_ANSWERS, model=model, version=version)


def _is_success(response: Response) -> bool:
    return response.status == 200


def index(*, ready: bool = False) -> Call[list[RepositoryEntry]]:
    """`POST /v2/repository/index`: the known versions, or only those that are ready."""
    return _post(
        "/v2/repository/index", {"ready": True} if ready else None, _read_index, retryable=True
    )


def _read_index(response: Response) -> list[RepositoryEntry]:
    from aiaas_client.protocol.messages import RepositoryEntry

    rows = _json(response)
    if not isinstance(rows, list):
        raise errors.ProtocolError(f"repository index: expected an array, got {_kind(rows)}")
    return [_validated(row, RepositoryEntry) for row in rows]


def load(
    model: str,
    config: str | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    force: bool = False,
) -> Call[None]:
    """`POST /v2/repository/models/{m}/load`, with a configuration (JSON text) and files to use."""
    parameters: dict[str, Any] = {} if config is None else {"config": config}
    for name, content in (files or {}).items():
        parameters[f"file:{name}"] = base64.b64encode(content).decode("ascii")
    if force:
        parameters["force"] = True
    body = {"parameters": parameters} if parameters else None
    return _post(_repository_path(model, "load"), body, _read_nothing, model=model)


def unload(model: str, *, unload_dependents: bool = False) -> Call[None]:
    """`POST /v2/repository/models/{m}/unload`."""
    body = {"parameters": {"unload_dependents": unload_dependents}}
    return _post(_repository_path(model, "unload"), body, _read_nothing, model=model)


def load_config(config: str | Mapping[str, Any] | None) -> str | None:
    """Give a configuration as the JSON text the wire wants."""
    return config if config is None or isinstance(config, str) else json.dumps(dict(config))


def load_files(files: Mapping[str, bytes | str | PathLike[str]] | None) -> dict[str, bytes]:
    """Read the files to load from: bytes as they are, anything else is a path."""
    return {name: _file_bytes(content) for name, content in (files or {}).items()}


def _file_bytes(content: bytes | str | PathLike[str]) -> bytes:
    return content if isinstance(content, bytes) else Path(content).read_bytes()


def statistics(
    model: str | None = None, version: str | int | None = None
) -> Call[list[ModelStatistics]]:
    """`GET /v2/models[/{m}[/versions/{v}]]/stats`."""
    path = "/v2/models/stats" if model is None else model_path(model, version, "/stats")
    return Call(
        "GET",
        path,
        _read_statistics,
        model=model,
        version=version,
        optional=True,
    )


def _read_statistics(response: Response) -> list[ModelStatistics]:
    from aiaas_client.protocol.messages import StatisticsAnswer

    return _document(response, StatisticsAnswer).model_stats


def config(model: str, version: str | int | None = None) -> Call[dict[str, Any]]:
    """`GET /v2/models/{m}[/versions/{v}]/config`."""
    path = model_path(model, version, "/config")
    return Call("GET", path, _read_object, model=model, version=version, optional=True)


def _read_object(response: Response) -> dict[str, Any]:
    value = _json(response)
    if not isinstance(value, dict):
        raise errors.ProtocolError(f"expected a JSON object, got {_kind(value)}")
    return value


def _repository_path(model: str, verb: str) -> str:
    return f"/v2/repository/models/{quote(model, safe='')}/{verb}"


def _post(
    path: str,
    body: Mapping[str, Any] | None,
    parse: Callable[[Response], T],
    *,
    model: str | None = None,
    retryable: bool = False,
) -> Call[T]:
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    return Call(
        "POST",
        path,
        parse,
        headers=(_content_type("application/json"),) if content else (),
        content=[content] if content else None,
        content_length=len(content),
        retryable=retryable,
        model=model,
        optional=True,
    )


def _read_nothing(response: Response) -> None:
    """A control call says all with its status."""


def _document(response: Response, kind: type[T]) -> T:
    return _validated(_json(response), kind)


def _validated(value: Any, kind: type[T]) -> T:
    try:
        return kind.model_validate(value)  # type: ignore[attr-defined,no-any-return]  # pydantic's
    except ValueError as error:
        reason = str(error).splitlines()[-1].strip()
        raise errors.ProtocolError(
            f"{kind.__name__}: not what the protocol says: {reason}"
        ) from error


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise errors.ProtocolError(
            f"expected a JSON body, got {len(response.body)} bytes: {error}"
        ) from error


def _kind(value: Any) -> str:
    return type(value).__name__
