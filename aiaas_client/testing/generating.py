"""The generate routes of a fake server: a Python generator function as a model that streams."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.state import Answer, GeneratorFunction, RecordedRequest, State

Documents = Iterator[Mapping[str, Any]]


def generated(state: State, request: RecordedRequest, name: str, *, stream: bool) -> Answer:
    """Answer `generate` with one document, `generate_stream` with an event for each."""
    function = state.generators.get(name)
    if function is None:
        raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
    if request.method != "POST":
        raise FakeError(405, "Method Not Allowed")
    documents = iter(function(**_members(name, function, request.body)))
    if not stream:
        return Answer(200, _text(_joined(documents)), [("Content-Type", "application/json")])
    first = list(islice(documents, 1))  # what fails before it is an answer, not an event
    headers = [("Content-Type", "text/event-stream; charset=utf-8")]
    return Answer(200, b"", headers, _events(first, documents))


def _members(name: str, function: GeneratorFunction, body: bytes) -> dict[str, Any]:
    document = PYDANTIC_JSON.loads(body)
    if not isinstance(document, dict):
        raise FakeError(400, f"expected a JSON object, got {type(document).__name__}")
    members = {**document, **(document.get("parameters") or {})}
    for own in ("id", "parameters"):
        members.pop(own, None)
    try:
        inspect.signature(function).bind(**members)
    except TypeError as error:
        raise FakeError(400, f"model {name!r}: {error}") from None
    return members


def _joined(documents: Documents) -> dict[str, Any]:
    """All documents as one: their texts joined, anything else as it was told last."""
    whole: dict[str, Any] = {}
    for document in documents:
        for name, value in document.items():
            known = whole.get(name)
            both = isinstance(known, str) and isinstance(value, str)
            whole[name] = f"{known}{value}" if both else value
    return whole


def _events(first: list[Mapping[str, Any]], rest: Documents) -> Iterator[bytes]:
    """The documents as events; an error after the first is told in an event of its own."""
    try:
        for document in first:
            yield _event(document)
        for document in rest:
            yield _event(document)
    except FakeError as error:
        yield _event({"error": error.text, "code": error.code})
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        yield _event({"error": text, "code": "inference_failed"})
    finally:  # also when the client has gone
        close = getattr(rest, "close", None)
        if close is not None:
            close()


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + _text(document) + b"\n\n"


def _text(document: Mapping[str, Any]) -> bytes:
    return PYDANTIC_JSON.dumps(dict(document))
