"""The management routes of a fake server, over its `FakeRegistry`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.protocol.management import (
    Asked,
    DraftRequest,
    ModelPatch,
    PromoteRequest,
    RollbackRequest,
    TrafficRequest,
)
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.state import Answer, RecordedRequest

A = TypeVar("A", bound=Asked)


class Managing:
    """Answers what is below `/api/v1`; a POST is carried out once for each `Idempotency-Key`."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self._answered: dict[str, Answer] = {}

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer one request; `rest` is its path behind `/api/v1`."""
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        if key in self._answered:
            return self._answered[key]
        match rest:
            case ["events"]:
                found = self._events(request)
            case ["models"]:
                found = _page(request, self.registry.models(), "name")
            case ["models", name]:
                found = self._model(request, name)
            case ["models", name, "versions", *more]:
                found = self._version(request, name, more)
            case ["models", name, "drafts", *more]:
                found = self._draft(request, name, more)
            case ["models", name, *more]:
                found = self._traffic(request, name, more)
            case _:
                raise FakeError(404, "Not Found")
        if key:
            self._answered[key] = found
        return found

    def _model(self, request: RecordedRequest, name: str) -> Answer:
        match request.method:
            case "GET":
                about = self.registry.about(name)
                return _told(about, etag=about.etag)
            case "PATCH":
                etag = request.headers.get("if-match", "")
                return _told(self.registry.patch(name, _asked(request, ModelPatch), etag))
            case "DELETE":
                force = request.query.get("force") == "true"
                return _told(self.registry.erase(name, None, force=force, replacement=None))
        raise _wrong_method()

    def _version(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                return _page(request, self.registry.versions(name), "version")
            case "GET", [version]:
                return _told(self.registry.version(name, version))
            case "DELETE", [version]:
                force = request.query.get("force") == "true"
                told = request.query.get("replacement")
                replacement = int(told) if told else None
                erased = self.registry.erase(name, version, force=force, replacement=replacement)
                return _told(erased)
            case "GET", [version, "files", file]:
                headers = [("Content-Type", "application/octet-stream")]
                return Answer(200, self.registry.file(name, version, file), headers)
        raise _wrong_method()

    def _draft(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        registry = self.registry
        match request.method, rest:
            case "POST", []:
                draft, is_new = registry.draft(name, _asked(request, DraftRequest))
                return _told(draft, 201 if is_new else 200)
            case "GET", [draft_id]:
                return _told(registry.told_draft(name, draft_id))
            case "DELETE", [draft_id]:
                registry.drop_draft(name, draft_id)
                return Answer(204, b"")
            case "PUT", [draft_id, "files", file]:
                offset = int(request.query.get("offset", "0"))
                return _told(registry.put(name, draft_id, file, offset, request.body))
            case "POST", [draft_id, "commit"]:
                version, is_new = registry.commit(name, draft_id)
                return _told(version, 201 if is_new else 200)
        raise _wrong_method()

    def _traffic(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        registry = self.registry
        match request.method, rest:
            case "PUT", ["aliases", alias]:
                return _told(registry.promote(name, alias, _asked(request, PromoteRequest)))
            case "DELETE", ["aliases", alias]:
                return _told(registry.unalias(name, alias))
            case "GET", ["traffic"]:
                serving, etag = registry.traffic(name)
                return _told(serving, etag=etag)
            case "PATCH", ["traffic"]:
                etag = request.headers.get("if-match", "")
                return _told(registry.change_traffic(name, _asked(request, TrafficRequest), etag))
            case "POST", ["rollback"]:
                return _told(registry.rollback(name, _asked(request, RollbackRequest)))
            case "GET", ["history"]:
                return _page(request, registry.history(name), "seq")
            case "GET", ["diff"]:
                query = request.query
                return _told(registry.diff(name, query.get("old", ""), query.get("new", "")))
        raise FakeError(404, "Not Found")

    def _events(self, request: RecordedRequest) -> Answer:
        told = request.headers.get("last-event-id")
        after = int(told) if told else None
        headers = [("Content-Type", "text/event-stream; charset=utf-8")]
        return Answer(200, b"", headers, _events(self.registry, after))


def _events(registry: FakeRegistry, after: int | None) -> Iterator[bytes]:
    for change in registry.changes(after):
        yield b"id: %d\ndata: %b\n\n" % (change.seq, change.model_dump_json().encode())


def _asked(request: RecordedRequest, kind: type[A]) -> A:
    try:
        return kind.model_validate_json(request.body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise FakeError(400, f"{where}: {first['msg']}") from None


def _told(document: BaseModel, status: int = 200, etag: str = "") -> Answer:
    headers = [("Content-Type", "application/json")]
    if etag:
        headers.append(("ETag", f'"{etag}"'))
    return Answer(status, document.model_dump_json().encode(), headers)


def _page(request: RecordedRequest, items: Sequence[BaseModel], key: str) -> Answer:
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


def _wrong_method() -> FakeError:
    return FakeError(405, "Method Not Allowed")
