"""What to send to the management routes, `/api/v1`, and how to read the answers; no I/O.

Bodies are checked against `protocol.management` before they leave, so that a wrong argument is
found here. A POST carries an `Idempotency-Key` that is made with the call: sending it again, as
retries do, has it carried out once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from aiaas_client import _errors as errors
from aiaas_client._api.call import (
    BINARY_BODY,
    DOWNLOAD,
    JSON_BODY,
    OK,
    BytesLike,
    Call,
    DownloadCall,
    Response,
    ServerEvent,
    StreamCall,
    model_path,
    read_json,
    version_text,
)
from aiaas_client._api.failures import stream_error

if TYPE_CHECKING:
    from pydantic import BaseModel

    from aiaas_client.protocol.management import (
        Change,
        Diff,
        Draft,
        DraftRequest,
        Erasure,
        Model,
        ModelPatch,
        PromoteRequest,
        RollbackRequest,
        TrafficRequest,
        Version,
    )

T = TypeVar("T")
M = TypeVar("M", bound="BaseModel")
Query = Mapping[str, str | int | bool | None]

ROOT = "/api/v1"
NO_REGISTRY = "this server has no registry: start it with `aiaas serve --data DIR`"
CREATED = 201
OK_OR_CREATED = frozenset({200, CREATED})
NO_CONTENT = frozenset({200, 204})
PAGE_ITEMS = 1000
"""The most that a server gives at once."""

Method = Literal["GET", "PUT", "POST", "PATCH", "DELETE"]


class Part(NamedTuple):
    """A part of a list, and what the following one begins after; None at the end."""

    items: list[Any]
    following: str | None


class Tagged(NamedTuple):
    """A document and the ETag of the state that it tells of."""

    document: Any
    etag: str


# Models


def models(after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/models`: by name."""
    return _list("Model", f"{ROOT}/models", None, after, limit)


def model(name: str) -> Call[Model]:
    """`GET /api/v1/models/{m}`."""
    return _call("GET", "Model", _path(name), name)


def update_model(name: str, patch: ModelPatch, etag: str = "") -> Call[Model]:
    """`PATCH /api/v1/models/{m}`; members that are not set stay as they are."""
    return _call("PATCH", "Model", _path(name), name, body=patch, etag=etag)


def delete_model(name: str, *, force: bool = False) -> Call[Erasure]:
    """`DELETE /api/v1/models/{m}`."""
    return _call("DELETE", "Erasure", _path(name, query={"force": force}), name)


def history(name: str, after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/models/{m}/history`: the newest first."""
    return _list("HistoryEntry", _path(name, "/history"), name, after, limit)


def diff(name: str, old: str | int, new: str | int) -> Call[Diff]:
    """`GET /api/v1/models/{m}/diff?old=&new=`."""
    query = {"old": version_text(old), "new": version_text(new)}
    return _call("GET", "Diff", _path(name, "/diff", query=query), name)


# Versions


def versions(name: str, after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/models/{m}/versions`: the newest first."""
    return _list("Version", _path(name, "/versions"), name, after, limit)


def version(name: str, version: str | int) -> Call[Version]:
    """`GET /api/v1/models/{m}/versions/{v}`: a number, an alias, or `latest`."""
    return _call("GET", "Version", _path(name, version=version), name, version=version)


def delete_version(
    name: str, version: int, *, force: bool = False, replacement: int | None = None
) -> Call[Erasure]:
    """`DELETE /api/v1/models/{m}/versions/{v}`."""
    path = _path(name, version=version, query={"force": force, "replacement": replacement})
    return _call("DELETE", "Erasure", path, name, version=version)


def download(name: str, version: str | int, file: str) -> DownloadCall:
    """`GET /api/v1/models/{m}/versions/{v}/files/{name}`: the bytes as they come."""
    path = _path(name, f"/files/{quote(file, safe='')}", version=version)
    request = registry_call("GET", path, nothing, name, headers=(DOWNLOAD,), version=version)
    return DownloadCall(request, no_event)


# Drafts


def create_draft(name: str, request: DraftRequest) -> Call[Draft]:
    """`POST /api/v1/models/{m}/drafts`; an open draft of the same bundle is given again."""
    return _call("POST", "Draft", _path(name, "/drafts"), name, body=request)


def draft(name: str, draft: str) -> Call[Draft]:
    """`GET /api/v1/models/{m}/drafts/{d}`."""
    return _call("GET", "Draft", _draft_path(name, draft), name)


def drop_draft(name: str, draft: str) -> Call[None]:
    """`DELETE /api/v1/models/{m}/drafts/{d}`."""
    path = _draft_path(name, draft)
    return registry_call("DELETE", path, nothing, name, accept=NO_CONTENT)


def put_file(name: str, draft: str, file: str, offset: int, content: BytesLike) -> Call[Draft]:
    """`PUT /api/v1/models/{m}/drafts/{d}/files/{name}?offset=N`: the bytes from there on.

    It is not repeated as it is: what has come of it is asked first.
    """
    path = _draft_path(name, draft, f"/files/{quote(file, safe='')}", {"offset": offset})
    return registry_call(
        "PUT",
        path,
        partial(_read, "Draft"),
        name,
        headers=(BINARY_BODY,),
        content=[content],
        content_length=len(content),
        retryable=False,
        accept=OK_OR_CREATED,
    )


def commit(name: str, draft: str) -> Call[Version]:
    """`POST /api/v1/models/{m}/drafts/{d}/commit`: verify, then keep."""
    call = _call("POST", "Version", _draft_path(name, draft, "/commit"), name)
    return replace(call, parse=_read_committed)


# Who gets which version


def promote(name: str, alias: str, request: PromoteRequest) -> Call[Model]:
    """`PUT /api/v1/models/{m}/aliases/{a}`; the start of a rollout is not repeated."""
    path = _alias_path(name, alias)
    return _call("PUT", "Model", path, name, body=request, retryable=request.guard is None)


def unalias(name: str, alias: str) -> Call[Model]:
    """`DELETE /api/v1/models/{m}/aliases/{a}`."""
    return _call("DELETE", "Model", _alias_path(name, alias), name)


def traffic(name: str) -> Call[Tagged]:
    """`GET /api/v1/models/{m}/traffic`: a `Serving` with its ETag."""
    return registry_call("GET", _path(name, "/traffic"), _read_tagged, name)


def change_traffic(name: str, request: TrafficRequest, etag: str = "") -> Call[Model]:
    """`PATCH /api/v1/models/{m}/traffic`: what is set changes, the rest stays."""
    return _call("PATCH", "Model", _path(name, "/traffic"), name, body=request, etag=etag)


def rollback(name: str, request: RollbackRequest) -> Call[Model]:
    """`POST /api/v1/models/{m}/rollback`."""
    return _call("POST", "Model", _path(name, "/rollback"), name, body=request)


def changes(after: str = "") -> StreamCall[tuple[str, Change]]:
    """`GET /api/v1/events`: each change with the id that the stream can go on after."""
    seen = ((b"Last-Event-ID", after.encode("ascii")),) if after else ()
    headers = ((b"Accept", b"text/event-stream"), *seen)
    request = registry_call("GET", f"{ROOT}/events", nothing, headers=headers)
    return StreamCall(request, _read_change)


# Requests


def asked(kind: str, name: str = "", **members: Any) -> Any:
    """Make the request document `kind` of `protocol.management`.

    Args:
        kind: The name of its class.
        name: The model it is about, for the error.
        members: Those to be sent.
    Raises:
        InputError: a member that it cannot have; the text names it.
    """
    from pydantic import ValidationError

    from aiaas_client.protocol import management

    try:
        return getattr(management, kind).model_validate(members)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or kind
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            text = f"unknown; {kind} has {', '.join(getattr(management, kind).model_fields)}"
        raise errors.InputError(
            f"{where}: {text}, got {str(first.get('input'))[:64]!r}", model=name or None
        ) from None


def members_of(kind: str, name: str, document: Any) -> dict[str, Any]:
    """The members of a document that is given as one or as a mapping.

    Raises:
        InputError: it is neither.
    """
    from aiaas_client.protocol import management

    if not isinstance(document, (Mapping, getattr(management, kind))):
        raise errors.InputError(
            f"{kind.lower()}: expected a {kind}, or a dict of its members, "
            f"got {type(document).__name__}",
            model=name or None,
        )
    return dict(document)


def checked_name(name: str) -> str:
    """Give the name of a model.

    Raises:
        InputError: no registry takes it.
    """
    from aiaas_client.protocol.names import NAME

    if re.fullmatch(NAME, str(name)) is None or name == "stats":
        raise errors.InputError(
            f"model name: expected letters, digits, '.', '_' and '-', at most 255 and none of "
            f"the last three first, and not 'stats', got {str(name)[:80]!r}"
        )
    return name


def checked_alias(alias: str) -> str:
    """Give the name of an alias.

    Raises:
        InputError: it could be a version's number, or is the automatic one.
    """
    from aiaas_client.protocol.names import ALIAS, LATEST

    if re.fullmatch(ALIAS, str(alias)) is None or alias == LATEST:
        raise errors.InputError(
            f"alias: expected letters, digits, '_' and '-', at most 63 and a letter first, "
            f"and not '{LATEST}', which moves by itself, got {str(alias)[:80]!r}"
        )
    return alias


def _path(
    name: str,
    suffix: str = "",
    *,
    version: str | int | None = None,
    query: Query | None = None,
) -> str:
    path = model_path(checked_name(name), version, suffix, root=f"{ROOT}/models")
    told = {key: _query_text(value) for key, value in (query or {}).items()}
    wanted = urlencode({key: value for key, value in told.items() if value})
    return f"{path}?{wanted}" if wanted else path


def _query_text(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else ""
    return "" if value is None else str(value)


def _draft_path(name: str, draft: str, suffix: str = "", query: Query | None = None) -> str:
    return _path(name, f"/drafts/{quote(draft, safe='')}{suffix}", query=query)


def _alias_path(name: str, alias: str) -> str:
    return _path(name, f"/aliases/{checked_alias(alias)}")


def registry_call(
    method: Method,
    path: str,
    parse: Callable[[Response], T],
    name: str | None = None,
    **members: Any,
) -> Call[T]:
    """A request of the routes that a server has with a registry, or not at all.

    Args:
        parse: Reads the answer.
        name: The model it is about.
        members: More of the `Call`.
    """
    return Call(method, path, parse, model=name, optional=True, absent=NO_REGISTRY, **members)


def _call(
    method: Method,
    kind: str,
    path: str,
    name: str | None,
    *,
    version: str | int | None = None,
    body: BaseModel | None = None,
    etag: str = "",
    retryable: bool | None = None,
) -> Call[Any]:
    """A request whose answer is a document `kind`.

    What has run cannot be told from what has not after a DELETE or a PATCH: those are repeated only
    where they never ran.
    """
    content = b"" if body is None else body.model_dump_json(exclude_unset=True).encode()
    headers: list[tuple[bytes, bytes]] = [JSON_BODY] if content else []
    if method == "POST":
        headers.append((b"Idempotency-Key", os.urandom(16).hex().encode()))
    if etag:
        headers.append((b"If-Match", etag.encode("latin-1")))
    return registry_call(
        method,
        path,
        partial(_read, kind),
        name,
        headers=tuple(headers),
        content=[content] if content else None,
        content_length=len(content),
        retryable=method in ("GET", "PUT", "POST") if retryable is None else retryable,
        accept=OK_OR_CREATED if method == "POST" else OK,
        version=version,
    )


def _list(kind: str, path: str, name: str | None, after: str | None, limit: int) -> Call[Part]:
    query = urlencode({"limit": limit, **({"after": after} if after else {})})
    return registry_call("GET", f"{path}?{query}", partial(_read_part, kind), name)


# Answers


def validated(kind: type[M], value: Any) -> M:
    """A document that a server tells.

    Raises:
        ProtocolError: it is none of this kind.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{step}: " for step in [".".join(map(str, first["loc"]))] if step)
        raise errors.ProtocolError(
            f"{kind.__name__}: not what the protocol says: {where}{first['msg']}"
        ) from error


def nothing(response: Response) -> None:
    """Its status says all."""


def _read(kind: str, response: Response) -> Any:
    return _validated(kind, response.json())


def _read_committed(response: Response) -> Version:
    """A version, 201 where it is a new one."""
    version: Version = _read("Version", response)
    return version.model_copy(update={"created_now": response.status == CREATED})


def _read_tagged(response: Response) -> Tagged:
    return Tagged(_read("Serving", response), response.headers.get("etag", ""))


def _read_part(kind: str, response: Response) -> Part:
    page = _validated("Page", response.json())
    return Part([_validated(kind, item) for item in page.items], page.next)


def _read_change(event: ServerEvent) -> tuple[str, Change]:
    document = read_json(event.data)
    failure = stream_error(document, None)
    if failure is not None:
        raise failure
    change = _validated("Change", document)
    return event.id or str(change.seq), change


def _validated(kind: str, value: Any) -> Any:
    from aiaas_client.protocol import management

    return validated(getattr(management, kind), value)


def no_event(event: ServerEvent) -> bytes:
    """A download has none."""
    raise errors.ProtocolError("expected bytes, got an event")
