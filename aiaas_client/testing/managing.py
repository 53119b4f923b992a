"""The management routes of a fake server, over its `FakeRegistry`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aiaas_client.protocol.management import (
    DraftRequest,
    ModelPatch,
    PromoteRequest,
    RollbackRequest,
    TrafficRequest,
)
from aiaas_client.testing.answers import asked, page, told, wrong_method
from aiaas_client.testing.auditing import FakeAudit
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.prices import FakePrices
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.state import Answer, RecordedRequest
from aiaas_client.testing.tenants import FakeTenants
from aiaas_client.testing.usage import FakeUsage
from aiaas_client.testing.working import Working


class Managing:
    """Answers what is below `/api/v1`; a POST is carried out once for each `Idempotency-Key`."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.work = Working(self.registry)
        self.audit = FakeAudit()
        self.tenants = FakeTenants()
        self.usage = FakeUsage()
        self.prices = FakePrices()
        self._answered: dict[str, Answer] = {}

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer one request; `rest` is its path behind `/api/v1`."""
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        if key in self._answered:
            return self._answered[key]
        if rest[:1] == ["audit"]:
            return self.audit.answer(request, rest[1:])
        try:
            found = self._answer(request, rest)
        except FakeError as error:
            self.audit.note(request, rest, error.status)
            raise
        self.audit.note(request, rest, found.status)
        if key:
            self._answered[key] = found
        return found

    def _answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        match rest:
            case ["events"]:
                found = self._events(request)
            case ["usage"] if request.method == "GET":
                found = self.usage.answer(request)
            case ["models"]:
                found = page(request, self.registry.models(), "name")
            case ["models", name]:
                found = self._model(request, name)
            case ["models", name, "versions", *more]:
                found = self._version(request, name, more)
            case ["models", name, "drafts", *more]:
                found = self._draft(request, name, more)
            case ["models", name, *more]:
                found = self._traffic(request, name, more)
            case ["datasets" | "jobs" | "recipes", *_]:
                found = self.work.answer(request, rest)
            case ["me"] | ["tenants" | "plans" | "keys", *_]:
                found = self.tenants.answer(request, rest)
            case ["prices" | "statements", *_]:
                found = self.prices.answer(request, rest)
            case _:
                raise FakeError(404, "Not Found")
        return found

    def close(self) -> None:
        """End the streams of events."""
        self.registry.close()
        self.work.jobs.close()

    def _model(self, request: RecordedRequest, name: str) -> Answer:
        match request.method:
            case "GET":
                about = self.registry.about(name)
                return told(about, etag=about.etag)
            case "PATCH":
                etag = request.headers.get("if-match", "")
                return told(self.registry.patch(name, asked(request, ModelPatch), etag))
            case "DELETE":
                force = request.query.get("force") == "true"
                return told(self.registry.erase(name, None, force=force, replacement=None))
        raise wrong_method()

    def _version(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                return page(request, self.registry.versions(name), "version")
            case "GET", [version]:
                return told(self.registry.version(name, version))
            case "DELETE", [version]:
                force = request.query.get("force") == "true"
                text = request.query.get("replacement")
                replacement = int(text) if text else None
                erased = self.registry.erase(name, version, force=force, replacement=replacement)
                return told(erased)
            case "GET", [version, "files", file]:
                headers = [("Content-Type", "application/octet-stream")]
                return Answer(200, self.registry.file(name, version, file), headers)
        raise wrong_method()

    def _draft(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        registry = self.registry
        match request.method, rest:
            case "POST", []:
                draft, is_new = registry.draft(name, asked(request, DraftRequest))
                return told(draft, 201 if is_new else 200)
            case "GET", [draft_id]:
                return told(registry.told_draft(name, draft_id))
            case "DELETE", [draft_id]:
                registry.drop_draft(name, draft_id)
                return Answer(204, b"")
            case "PUT", [draft_id, "files", file]:
                offset = int(request.query.get("offset", "0"))
                return told(registry.put(name, draft_id, file, offset, request.body))
            case "POST", [draft_id, "commit"]:
                version, is_new = registry.commit(name, draft_id)
                return told(version, 201 if is_new else 200)
        raise wrong_method()

    def _traffic(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        registry = self.registry
        match request.method, rest:
            case "PUT", ["aliases", alias]:
                return told(registry.promote(name, alias, asked(request, PromoteRequest)))
            case "DELETE", ["aliases", alias]:
                return told(registry.unalias(name, alias))
            case "GET", ["traffic"]:
                serving, etag = registry.traffic(name)
                return told(serving, etag=etag)
            case "PATCH", ["traffic"]:
                etag = request.headers.get("if-match", "")
                return told(registry.change_traffic(name, asked(request, TrafficRequest), etag))
            case "POST", ["rollback"]:
                return told(registry.rollback(name, asked(request, RollbackRequest)))
            case "GET", ["history"]:
                return page(request, registry.history(name), "seq")
            case "GET", ["diff"]:
                query = request.query
                return told(registry.diff(name, query.get("old", ""), query.get("new", "")))
        raise FakeError(404, "Not Found")

    def _events(self, request: RecordedRequest) -> Answer:
        told = request.headers.get("last-event-id")
        after = int(told) if told else None
        headers = [("Content-Type", "text/event-stream; charset=utf-8")]
        return Answer(200, b"", headers, _events(self.registry, after))


def _events(registry: FakeRegistry, after: int | None) -> Iterator[bytes]:
    for change in registry.changes(after):
        yield b"id: %d\ndata: %b\n\n" % (change.seq, change.model_dump_json().encode())
