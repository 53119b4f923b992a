"""The stream of changes: what happens, what was missed, and its end."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_client.protocol.management import PromoteRequest
from aiaas_server.http.manage.changes import ChangeRoutes
from aiaas_server.registry.registry import Registry
from aiaas_server.state import changes
from tests.server.http.serving import AsgiCaller, _scope
from tests.server.registry.bringing import AUTHOR, Bringer
from tests.server.registry.conftest import OpenServer
from tests.waiting import until


class Stream:
    """One client of `/api/v1/events`."""

    def __init__(self, call: AsgiCaller, last: str = "") -> None:
        self.status = 0
        self.text = ""
        self._left = asyncio.Event()
        headers = {"last-event-id": last} if last else {}
        scope = _scope("GET", "/api/v1/events", headers, "127.0.0.1")
        self.task = asyncio.create_task(call.app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message.get("body", b"").decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What came, each as its document."""
        blocks = [block for block in self.text.split("\n\n") if block.startswith("id: ")]
        found = []
        for block in blocks:
            number, kind, data = block.split("\n")
            document = json.loads(data.removeprefix("data: "))
            assert number == f"id: {document['seq']}"
            assert kind == f"event: {document['kind']}"
            found.append(document)
        return found

    async def leave(self) -> None:
        """Close the connection; returns when the server has noticed."""
        self._left.set()
        await self.task


@pytest.fixture
def brought(bringer: Bringer, onnx_models: SimpleNamespace) -> Bringer:
    """Two versions of `m`."""
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    return bringer


async def test_changes_come_as_they_happen(brought: Bringer, open_server: OpenServer) -> None:
    stream = Stream(await open_server())
    await until(lambda: stream.text != "")
    registry = Registry(brought.database)
    await registry.promote(AUTHOR, "m", PromoteRequest(version=1, note="calmer"))
    await until(lambda: len(stream.events) == 1)
    (event,) = stream.events
    assert (event["kind"], event["object"]) == ("model", "m")
    assert event["data"] == {"change": "promoted", "by": "tester", "version": 1, "reason": "calmer"}
    await stream.leave()


async def test_who_comes_back_gets_what_was_missed(
    brought: Bringer, open_server: OpenServer
) -> None:
    call = await open_server()
    stream = Stream(call, last="1")
    await until(lambda: len(stream.events) == 1)
    assert stream.events[0]["data"]["version"] == 2
    await stream.leave()
    everything = Stream(call, last="0")
    await until(lambda: len(everything.events) == 2)
    await everything.leave()


async def test_changes_of_another_tenant_are_not_told(
    brought: Bringer, open_server: OpenServer
) -> None:
    stream = Stream(await open_server(), last="0")
    await until(lambda: len(stream.events) == 2)
    for tenant in ("other", AUTHOR.tenant):
        await brought.database.write(
            lambda c, t=tenant: changes.tell(c, t, "drift", f"of-{t}", {})  # type: ignore[misc]
        )
    await until(lambda: len(stream.events) == 3)
    assert [event["object"] for event in stream.events] == ["m", "m", "of-default"]
    await stream.leave()


async def test_a_wrong_id_is_refused(brought: Bringer, open_server: OpenServer) -> None:
    call = await open_server()
    for wrong in ("x", "-1", "1.5", "9" * 19):
        answer = await call("GET", "/api/v1/events", b"", {"last-event-id": wrong})
        assert answer.status == 400
        assert "Last-Event-ID" in answer.json()["error"]


async def test_streams_end_when_the_server_stops(brought: Bringer, open_server: OpenServer) -> None:
    call = await open_server()
    stream = Stream(call)
    await until(lambda: stream.text != "")
    call.app.pool.begin_drain()
    await asyncio.wait_for(stream.task, 120)
    assert stream.status == 200


class Silent:
    """A feed of which nothing comes."""

    async def last(self) -> int:
        return 0

    async def wait_beyond(self, seq: int) -> list[changes.ChangeRow]:
        await asyncio.Event().wait()
        return []


async def test_a_silent_stream_sends_a_comment_now_and_then_and_frees_itself() -> None:
    routes = ChangeRoutes(Silent(), lambda: False, heartbeat=0.0)
    events = routes._events("default", 0)
    assert [await anext(events) for _ in range(2)] == [b": changes\n\n", b": still here\n\n"]
    assert routes.streams == 1
    await events.aclose()  # type: ignore[attr-defined]
    assert routes.streams == 0
