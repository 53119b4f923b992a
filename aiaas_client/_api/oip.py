"""What to send and how to read the answer: one pure builder per endpoint, no I/O.

`Client` and `AsyncClient` are shells around the same `Call`: they send it, retry it, and hand the
`Response` to `Call.parse`. The documents' types, and pydantic with them, are loaded when the first
document is read, not when a program starts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import (
    HEALTH_ANSWERS,
    JSON_BODY,
    OK_OR_UNCHANGED,
    SERVER_HEALTH_ANSWERS,
    Call,
    Response,
    ServerEvent,
    StreamCall,
    model_path,
    read_json,
)
from aiaas_client._api.failures import stream_error

if TYPE_CHECKING:
    from aiaas_client.protocol.messages import (
        ModelMetadata,
        ModelStatistics,
        RepositoryEntry,
        ServerMetadata,
    )

T = TypeVar("T")


class FreshMetadata(NamedTuple):
    """A model's metadata with its ETag; `metadata` is None when the known ETag still holds."""

    metadata: ModelMetadata | None
    etag: str


def generate(
    model: str, version: str | int | None, document: Mapping[str, Any]
) -> Call[dict[str, Any]]:
    """`POST /v2/models/{m}/generate`: flat JSON in and out.

    Raises:
        InputError: a member that JSON cannot carry.
    """
    content = _flat_json(model, document)
    return Call(
        "POST",
        model_path(model, version, "/generate"),
        _read_object,
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
        model=model,
        version=version,
        optional=True,
    )


def generate_stream(
    model: str, version: str | int | None, document: Mapping[str, Any]
) -> StreamCall[dict[str, Any]]:
    """`POST /v2/models/{m}/generate_stream`: each event is one flat JSON object.

    Raises:
        InputError: a member that JSON cannot carry.
    """
    content = _flat_json(model, document)
    return StreamCall(
        Call(
            "POST",
            model_path(model, version, "/generate_stream"),
            _read_nothing,
            headers=(JSON_BODY, (b"Accept", b"text/event-stream")),
            content=[content],
            content_length=len(content),
            model=model,
            version=version,
            optional=True,
        ),
        _ReadGenerated(model),
    )


@dataclass(frozen=True, slots=True)
class _ReadGenerated:
    """Reads one event of a generate stream."""

    model: str

    def __call__(self, event: ServerEvent) -> dict[str, Any]:
        document = read_json(event.data)
        failure = stream_error(document, self.model)
        if failure is not None:
            raise failure
        if not isinstance(document, dict):
            raise errors.ProtocolError(f"event: expected a JSON object, got {_kind(document)}")
        return document


def _flat_json(model: str, document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(document), separators=(",", ":"), default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InputError(f"model {model!r}: {error}", model=model) from error


def _plain(value: Any) -> Any:
    """Give what JSON knows for an array, a number of numpy's or bytes of text."""
    if isinstance(value, bytes):
        return value.decode()
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"expected text, numbers, booleans, lists or arrays, got {_kind(value)}")
    return tolist()


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
    return Call("GET", "/v2/health/live", _is_success, accept=SERVER_HEALTH_ANSWERS)


def ready(model: str | None = None, version: str | int | None = None) -> Call[bool]:
    """`GET .../ready`: whether the server, or one model, takes inference now."""
    if model is None:
        return Call("GET", "/v2/health/ready", _is_success, accept=SERVER_HEALTH_ANSWERS)
    path = model_path(model, version, "/ready")
    return Call("GET", path, _is_success, accept=HEALTH_ANSWERS, model=model, version=version)


def _is_success(response: Response) -> bool:
    return response.status == 200


def index(*, ready: bool = False) -> Call[list[RepositoryEntry]]:
    """`POST /v2/repository/index`: the known versions, or only those that are ready."""
    # A body even where nothing is asked: other servers refuse an empty one.
    return _post("/v2/repository/index", {"ready": True} if ready else {}, _read_index, True)


def _read_index(response: Response) -> list[RepositoryEntry]:
    from aiaas_client.protocol.messages import RepositoryEntry

    rows = response.json()
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
    value = response.json()
    if not isinstance(value, dict):
        raise errors.ProtocolError(f"expected a JSON object, got {_kind(value)}")
    return value


def _repository_path(model: str, verb: str) -> str:
    return f"/v2/repository/models/{quote(model, safe='')}/{verb}"


def _post(
    path: str,
    body: Mapping[str, Any] | None,
    parse: Callable[[Response], T],
    retryable: bool = False,
    *,
    model: str | None = None,
) -> Call[T]:
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    return Call(
        "POST",
        path,
        parse,
        headers=(JSON_BODY,) if content else (),
        content=[content] if content else None,
        content_length=len(content),
        retryable=retryable,
        model=model,
        optional=True,
    )


def _read_nothing(response: Response) -> None:
    """A control call says all with its status."""


def _document(response: Response, kind: type[T]) -> T:
    return _validated(response.json(), kind)


def _validated(value: Any, kind: type[T]) -> T:
    try:
        return kind.model_validate(value)  # type: ignore[attr-defined,no-any-return]  # pydantic's
    except ValueError as error:
        reason = str(error).splitlines()[-1].strip()
        raise errors.ProtocolError(
            f"{kind.__name__}: not what the protocol says: {reason}"
        ) from error


def _kind(value: Any) -> str:
    return type(value).__name__
