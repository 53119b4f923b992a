"""Middleware sees every attempt, in order, and must be of its client's kind."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from aiaas_client import APIConnectionError, AsyncClient, Client
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Headers, Response


class Noting:
    """Notes what passes; of either kind by what it is asked for."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    def sync(self, request: Any, send: Any) -> Response:
        self.notes.append(f"{self.name} {request.attempt}")
        request.headers.append((b"X-Seen-By", self.name.encode()))
        response: Response = send(request)
        self.notes.append(f"{self.name} {response.status}")
        return response

    async def asynchronous(self, request: Any, send: Any) -> Response:
        self.notes.append(f"{self.name} {request.attempt}")
        request.headers.append((b"X-Seen-By", self.name.encode()))
        response: Response = await send(request)
        self.notes.append(f"{self.name} {response.status}")
        return response


def of_kind(kind: str, noting: Noting) -> Any:
    return noting.sync if kind.startswith("sync") else noting.asynchronous


def test_each_attempt_passes_all_of_them_the_first_outermost(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    notes: list[str] = []
    middleware = [of_kind(kind, Noting(name, notes)) for name in ("outer", "inner")]
    server = wire(steps.answer(503, {"error": "busy"}))
    with call_through(kind, server.url, middleware=middleware, retry=fake_clock.policy()) as caller:
        caller.send(calls.server_metadata())
    once = ["outer {n}", "inner {n}", "inner {s}", "outer {s}"]
    assert notes == [
        line.format(n=attempt, s=status)
        for attempt, status in ((1, 503), (2, 200))
        for line in once
    ]
    assert [received.headers["x-seen-by"] for received in server.received] == ["inner", "inner"]


def test_it_sees_failures_as_our_errors(
    kind: str, call_through: Any, dead_url: str, fake_clock: Any
) -> None:
    seen: list[str] = []

    def watch(request: Any, send: Any) -> Any:
        try:
            return send(request)
        except APIConnectionError as error:
            seen.append(error.phase)
            raise

    async def awatch(request: Any, send: Any) -> Any:
        try:
            return await send(request)
        except APIConnectionError as error:
            seen.append(error.phase)
            raise

    middleware = [watch if kind.startswith("sync") else awatch]
    with (
        call_through(kind, dead_url, middleware=middleware, retry=fake_clock.policy()) as caller,
        pytest.raises(APIConnectionError),
    ):
        caller.send(calls.server_metadata())
    assert seen == ["connect"] * 3


def test_it_may_answer_itself(wire: Any) -> None:
    def cached(request: Any, send: Any) -> Response:
        return Response(200, Headers(), bytearray(b'{"name": "from the cache"}'))

    server = wire()
    with Client(server.url, middleware=[cached]) as client:
        assert client.metadata().name == "from the cache"
    assert server.received == []


def test_its_own_exceptions_come_out_unchanged(wire: Any) -> None:
    class Refused(Exception):
        pass

    def refuse(request: Any, send: Any) -> Response:
        raise Refused

    with Client(wire().url, middleware=[refuse]) as client, pytest.raises(Refused):
        client.health()


async def async_one(request: Any, send: Any) -> Any:
    return await send(request)


def sync_one(request: Any, send: Any) -> Any:
    return send(request)


class AsyncObject:
    async def __call__(self, request: Any, send: Any) -> Any:
        return await send(request)


@pytest.mark.parametrize(
    ("client", "middleware", "message"),
    [
        pytest.param(Client, async_one, "'async_one': Client expects a sync", id="function"),
        pytest.param(Client, AsyncObject(), "'AsyncObject': Client expects a sync", id="object"),
        pytest.param(Client, partial(async_one), "Client expects a sync", id="partial"),
        pytest.param(AsyncClient, sync_one, "'sync_one': AsyncClient expects an? async", id="sync"),
        pytest.param(Client, "text", "expected a callable", id="no callable"),
    ],
)
def test_the_wrong_kind_is_refused_at_construction(
    client: Any, middleware: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        client("http://127.0.0.1:1", middleware=[middleware])


def test_the_right_kind_may_be_an_object_or_a_partial() -> None:
    AsyncClient("http://127.0.0.1:1", middleware=[AsyncObject(), partial(async_one)])
    Client("http://127.0.0.1:1", middleware=[partial(sync_one)]).close()
