"""`client.request`: anything the server offers, sent as every call is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aiaas_client import (
    APIStatusError,
    AsyncClient,
    Client,
    ConfigurationError,
    ProtocolError,
    ServiceUnavailableError,
)


class Both:
    """`request` of either client."""

    def __init__(self, kind: str, url: str, arguments: dict[str, Any]) -> None:
        self._kind, self._url, self._arguments = kind, url, arguments

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._kind == "sync":
            with Client(self._url, **self._arguments) as client:
                return client.request(*args, **options)

        async def ask() -> Any:
            async with AsyncClient(self._url, **self._arguments) as client:
                return await client.request(*args, **options)

        return asyncio.run(ask())


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest) -> Any:
    """`asked(url, **client)` gives a `request`."""
    return lambda url, **arguments: Both(request.param, url, arguments)


def test_it_sends_what_it_is_given(asked: Any, wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(201, {"a": 1}, X_Told="yes"))
    request = asked(server.url + "/base", api_key="k1", headers={"X-A": "1"})
    answer = request("put", "/v2/ä?x=1%20", json={"b": [1, None]}, headers={"X-B": "2"})
    (received,) = server.received
    assert (received.method, received.target) == ("PUT", "/base/v2/%C3%A4?x=1%20")
    assert json.loads(received.body) == {"b": [1, None]}
    assert received.headers["content-type"] == "application/json"
    assert received.headers["authorization"] == "Bearer k1"
    assert (received.headers["x-a"], received.headers["x-b"]) == ("1", "2")
    assert (answer.status, answer.headers["x-told"], answer.json()) == (201, "yes", {"a": 1})
    assert answer.endpoint == server.url + "/base"


@pytest.mark.parametrize("content", [b"\x00\xff", "t\u00e4xt"])
def test_it_sends_a_body_as_it_is(asked: Any, wire: Any, content: Any) -> None:
    server = wire()
    headers = {"Content-Type": "text/plain"}
    asked(server.url)("POST", "/v2", content=content, headers=headers)
    (received,) = server.received
    assert received.body == (content.encode() if isinstance(content, str) else content)
    assert received.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "options", "requests"),
    [("GET", {}, 3), ("DELETE", {}, 3), ("POST", {}, 1), ("POST", {"retryable": True}, 3)],
)
def test_it_is_tried_again_as_calls_are(
    asked: Any,
    wire: Any,
    steps: Any,
    fake_clock: Any,
    method: str,
    options: dict[str, Any],
    requests: int,
) -> None:
    server = wire(default=steps.answer(502, {"error": "lost"}))
    with pytest.raises(APIStatusError, match="lost") as caught:
        asked(server.url, retry=fake_clock.policy())(method, "/v2", **options)
    assert caught.value.attempts == len(server.received) == requests


def test_its_deadline_is_told(asked: Any, wire: Any) -> None:
    server = wire()
    asked(server.url)("GET", "/v2", deadline=2.0, timeout=1.0)
    assert int(server.received[0].headers["x-request-timeout-ms"]) <= 2000


def test_statuses_that_are_no_success_are_errors(asked: Any, wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(503, {"error": "busy", "retryable": False}))
    with pytest.raises(ServiceUnavailableError, match="busy"):
        asked(server.url)("GET", "/v2")


def test_what_is_no_json_is_told(asked: Any, wire: Any, steps: Any) -> None:
    answer = asked(wire(default=steps.answer(body=b"t\xc3\xa4xt")).url)("GET", "/v2")
    assert answer.text == "t\u00e4xt"
    with pytest.raises(ProtocolError, match="expected a JSON body"):
        answer.json()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("GET", "v2"), {}),
        (("GET", "http://other/v2"), {}),
        (("GET", 2), {}),
        (("GE T", "/v2"), {}),
        ((None, "/v2"), {"json": {1}}),
        (("POST", "/v2"), {"json": {1}}),
        (("POST", "/v2"), {"json": float}),
        (("POST", "/v2"), {"content": 3}),
        (("POST", "/v2"), {"content": b"", "json": 1}),
        (("GET", "/v2"), {"headers": 3}),
    ],
)
def test_what_is_no_request_is_refused(asked: Any, wire: Any, arguments: Any, options: Any) -> None:
    server = wire()
    with pytest.raises(ConfigurationError):
        asked(server.url)(*arguments, **options)
    assert server.received == []


def test_the_target_cannot_hold_a_line_end(asked: Any, wire: Any) -> None:
    server = wire()
    asked(server.url)("GET", "/v2/a b\r\nX: 1")
    assert server.received[0].target == "/v2/a%20b%0D%0AX:%201"
