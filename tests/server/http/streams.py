"""Answers in events, looked at write by write; and a server whose answers are written down."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiaas_server.app import Application
from tests.server.http.scripted_generator import ScriptedGenerator
from tests.server.http.serving import Answer, AsgiCaller
from tests.waiting import until


class Live:
    """A request under way: what the application has sent so far, each message by itself."""

    def __init__(self, app: Application, path: str, body: Any) -> None:
        self.sent: list[Any] = []
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._came.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8000),
        }
        self.task = asyncio.create_task(app(scope, self._came.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def writes(self) -> list[bytes]:
        """Pieces of the body."""
        return [m["body"] for m in self.sent if m["type"] == "http.response.body" and m["body"]]

    async def events(self, count: int) -> list[bytes]:
        """Wait for so many pieces."""
        await until(lambda: len(self.writes) >= count or self.task.done())
        assert len(self.writes) >= count, self.sent
        return self.writes

    async def leave(self) -> None:
        """The client goes."""
        self._came.put_nowait({"type": "http.disconnect"})
        await self.task


class Served:
    """The server, its generator, and ways to call it."""

    def __init__(self, app: Application, generator: ScriptedGenerator) -> None:
        self.app = app
        self.generator = generator
        self.call = AsgiCaller(app)

    async def post(self, path: str, body: Any) -> Answer:
        """Send JSON and wait for the whole answer."""
        return await self.call("POST", path, body)

    def live(self, path: str, body: Any) -> Live:
        """Send JSON, and look at the answer as it comes."""
        return Live(self.app, path, body)

    @property
    def in_use(self) -> int:
        """How many calls hold the model."""
        (model,) = [one for one in self.app.pool.models() if one.name == "writer"]
        return model.in_use


def documents(body: bytes) -> list[Any]:
    """The documents of a stream's events; what is no JSON stays a text."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        data = block.rpartition("\n")[2].removeprefix("data: ")
        found.append(json.loads(data) if data.startswith("{") else data)
    return found
