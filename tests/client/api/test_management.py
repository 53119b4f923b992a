"""Which request each management call is, and what it makes of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aiaas_client import InputError, ProtocolError
from aiaas_client._api import management as calls
from aiaas_client._api.call import Call, Headers, Response, ServerEvent

ASKED = calls.asked
PROMOTE = ASKED("PromoteRequest", version=3)
GUARDED = ASKED("PromoteRequest", version=3, guard={"window": 1})
FILES = [{"name": "model.onnx", "size": 1, "sha256": "0" * 64}]
M = "/api/v1/models/m"

ROUTES: list[tuple[Callable[[], Call[Any]], str, str, Any, bool]] = [
    (lambda: calls.models(), "GET", "/api/v1/models?limit=1000", None, True),
    (lambda: calls.models("a b", 5), "GET", "/api/v1/models?limit=5&after=a+b", None, True),
    (lambda: calls.model("m"), "GET", M, None, True),
    (
        lambda: calls.update_model("m", ASKED("ModelPatch", description="d")),
        "PATCH",
        M,
        {"description": "d"},
        False,
    ),
    (lambda: calls.delete_model("m"), "DELETE", M, None, False),
    (lambda: calls.delete_model("m", force=True), "DELETE", f"{M}?force=true", None, False),
    (lambda: calls.history("m", "7"), "GET", f"{M}/history?limit=1000&after=7", None, True),
    (lambda: calls.diff("m", 3, "canary"), "GET", f"{M}/diff?old=3&new=canary", None, True),
    (lambda: calls.versions("m"), "GET", f"{M}/versions?limit=1000", None, True),
    (lambda: calls.version("m", 3), "GET", f"{M}/versions/3", None, True),
    (
        lambda: calls.delete_version("m", 3, force=True, replacement=2),
        "DELETE",
        f"{M}/versions/3?force=true&replacement=2",
        None,
        False,
    ),
    (lambda: calls.download("m", 3, "a.b").request, "GET", f"{M}/versions/3/files/a.b", None, True),
    (
        lambda: calls.create_draft("m", ASKED("DraftRequest", files=FILES)),
        "POST",
        f"{M}/drafts",
        {"files": FILES},
        True,
    ),
    (lambda: calls.draft("m", "d"), "GET", f"{M}/drafts/d", None, True),
    (lambda: calls.drop_draft("m", "d"), "DELETE", f"{M}/drafts/d", None, True),
    (lambda: calls.commit("m", "d"), "POST", f"{M}/drafts/d/commit", None, True),
    (lambda: calls.promote("m", "a", PROMOTE), "PUT", f"{M}/aliases/a", {"version": 3}, True),
    (
        lambda: calls.promote("m", "a", GUARDED),
        "PUT",
        f"{M}/aliases/a",
        {"version": 3, "guard": {"window": 1.0}},
        False,
    ),
    (lambda: calls.unalias("m", "a"), "DELETE", f"{M}/aliases/a", None, False),
    (lambda: calls.traffic("m"), "GET", f"{M}/traffic", None, True),
    (
        lambda: calls.change_traffic("m", ASKED("TrafficRequest", shadow=None), '"4"'),
        "PATCH",
        f"{M}/traffic",
        {"shadow": None},
        False,
    ),
    (
        lambda: calls.rollback("m", ASKED("RollbackRequest", steps=2)),
        "POST",
        f"{M}/rollback",
        {"steps": 2},
        True,
    ),
    (lambda: calls.changes("7").request, "GET", "/api/v1/events", None, True),
]


@pytest.mark.parametrize(
    ("make", "method", "path", "body", "retryable"),
    ROUTES,
    ids=[f"{method} {path}" for _, method, path, _, _ in ROUTES],
)
def test_each_call_is_its_request(
    make: Callable[[], Call[Any]], method: str, path: str, body: Any, retryable: bool
) -> None:
    call = make()
    sent = b"".join(call.content or ())
    assert (call.method, call.path, call.retryable) == (method, path, retryable)
    assert (json.loads(sent) if sent else None) == body
    assert call.content_length == len(sent)
    assert call.optional
    assert "aiaas serve --data DIR" in call.absent
    assert (b"Idempotency-Key" in dict(call.headers)) == (method == "POST")


def test_a_file_is_sent_from_an_offset_and_not_repeated_blindly() -> None:
    call = calls.put_file("m", "d", "model.onnx", 5, memoryview(b"abc"))
    assert (call.method, call.path) == ("PUT", f"{M}/drafts/d/files/model.onnx?offset=5")
    assert (call.content_length, call.retryable) == (3, False)


def test_each_post_has_a_key_of_its_own() -> None:
    keys = {dict(calls.commit("m", "d").headers)[b"Idempotency-Key"] for _ in range(9)}
    assert len(keys) == 9


def test_conditions_and_places_in_the_feed_are_headers() -> None:
    request = ASKED("TrafficRequest", pins=[1])
    headers = dict(calls.change_traffic("m", request, '"4"').headers)
    assert headers[b"If-Match"] == b'"4"'
    assert dict(calls.changes("7").request.headers)[b"Last-Event-ID"] == b"7"
    assert b"Last-Event-ID" not in dict(calls.changes().request.headers)


@pytest.mark.parametrize("name", ["", "a/b", "..", "stats", "ä", "a" * 256, "-m"])
def test_names_that_no_registry_takes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="model name"):
        calls.model(name)


@pytest.mark.parametrize("alias", ["", "3", "3a", "latest", "a b", "a" * 64])
def test_aliases_that_look_like_versions_are_refused(alias: str) -> None:
    with pytest.raises(InputError, match="alias: "):
        calls.unalias("m", alias)


def test_a_wrong_member_is_named() -> None:
    with pytest.raises(InputError, match=r"steps: .*got '0'"):
        ASKED("RollbackRequest", "m", steps=0)
    with pytest.raises(InputError, match="max_errors: unknown; Guard has max_error_rate, "):
        ASKED("Guard", "m", max_errors=1)


@pytest.mark.parametrize("guard", [True, "0.05", [1]])
def test_what_is_no_document_is_refused(guard: object) -> None:
    assert calls.members_of("Guard", "m", {"window": 1}) == {"window": 1}
    with pytest.raises(InputError, match="guard: expected a Guard, or a dict of its members, got"):
        calls.members_of("Guard", "m", guard)


def answer(body: object, **headers: str) -> Response:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Response(200, Headers(raw), bytearray(json.dumps(body).encode()))


def test_documents_are_read_tolerantly() -> None:
    told = calls.model("m").parse(answer({"name": "m", "latest": 3, "new": 1}))
    assert (told.name, told.latest) == ("m", 3)
    serving, etag = calls.traffic("m").parse(answer({"aliases": {"a": 1}}, ETag='"9"'))
    assert (serving.aliases, etag) == ({"a": 1}, '"9"')
    part = calls.versions("m").parse(
        answer({"items": [{"model": "m", "version": 1, "digest": ""}], "next": "1"})
    )
    assert ([one.version for one in part.items], part.following) == ([1], "1")


def test_what_is_no_document_is_a_breach_of_the_protocol() -> None:
    for body in ([], {"latest": 3}, "m"):
        with pytest.raises(ProtocolError, match="Model: not what"):
            calls.model("m").parse(answer(body))


def test_events_are_changes_with_their_place() -> None:
    read = calls.changes().read
    text = json.dumps({"seq": 4, "kind": "promote", "object": "m"})
    assert read(ServerEvent(text, id="9"))[0] == "9"
    place, change = read(ServerEvent(text))
    assert (place, change.kind) == ("4", "promote")
    with pytest.raises(ProtocolError):
        read(ServerEvent("{}"))
