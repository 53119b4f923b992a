"""How the management routes of a fake server read requests and write answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aiaas_client.protocol.documents import Asked
from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.state import Answer, RecordedRequest

A = TypeVar("A", bound=Asked)


def asked(request: RecordedRequest, kind: type[A]) -> A:
    """The document of a request; 400 where it is none."""
    try:
        return kind.model_validate_json(request.body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise FakeError(400, f"{where}: {first['msg']}") from None


def told(document: BaseModel, status: int = 200, etag: str = "") -> Answer:
    """An answer that is a document."""
    headers = [("Content-Type", "application/json")]
    if etag:
        headers.append(("ETag", f'"{etag}"'))
    return Answer(status, document.model_dump_json().encode(), headers)


def page(request: RecordedRequest, items: Sequence[BaseModel], key: str) -> Answer:
    """A part of a list; `after` is the `key` of the last one that was told."""
    documents: list[Mapping[str, Any]] = [item.model_dump(mode="json") for item in items]
    after = request.query.get("after", "")
    keys = [str(document[key]) for document in documents]
    begin = keys.index(after) + 1 if after in keys else 0
    limit = int(request.query.get("limit", "100"))
    part = documents[begin : begin + limit]
    following = str(part[-1][key]) if part and begin + limit < len(documents) else None
    body = PYDANTIC_JSON.dumps({"items": part, "next": following})
    return Answer(200, body, [("Content-Type", "application/json")])


def wrong_method() -> FakeError:
    """405."""
    return FakeError(405, "Method Not Allowed")
