"""Ways for tests to reach the server: as a bare ASGI callable, and over a loopback socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import uvicorn

from aiaas_server.app import Application
from aiaas_server.http.edge.connection import make_protocol
from aiaas_server.process import edge_limits


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class AsgiCaller:
    """Calls an application with one request and collects its answer."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        client: str = "127.0.0.1",
    ) -> Answer:
        """Send bytes, a tuple of chunks, or anything else as JSON."""
        if not isinstance(body, bytes | tuple):
            body = json.dumps(body).encode()
        chunks = body if isinstance(body, tuple) else (body,)
        messages = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else await _never()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(_scope(method, path, headers, client), receive, send)
        return _answer(sent)


async def _never() -> Any:
    await asyncio.Event().wait()


def _scope(
    method: str, path: str, headers: Mapping[str, str] | None, client: str
) -> dict[str, Any]:
    target, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": (client, 50000),
        "server": ("127.0.0.1", 8000),
    }


def _answer(sent: list[Any]) -> Answer:
    start, *parts = sent
    headers = {k.decode().lower(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], headers, b"".join(part["body"] for part in parts))


@dataclass(frozen=True)
class LiveServer:
    """A server on a loopback port, in a thread of this process."""

    app: Application
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(app: Application, *, edge: bool = True, lane: bool = True) -> Iterator[LiveServer]:
    """Serve `app` on a loopback port until the block ends; its models are loaded.

    Args:
        app: The application.
        edge: Behind the server's own HTTP edge; else behind uvicorn as it comes.
        lane: The edge answers hot requests itself; else the application answers them all.
    """
    loaded = threading.Event()
    http: Any = "httptools"
    if edge:
        hot = app.hot if lane else None
        http = make_protocol(edge_limits(app.settings), on_refusal=app.refused, hot=hot)
    config = uvicorn.Config(
        _announcing(app, loaded), http=http, log_level="warning", lifespan="on", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert loaded.wait(30)
            yield LiveServer(app, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)


def _announcing(app: Application, loaded: threading.Event) -> Any:
    """Load the models before the port opens, and tell the test's thread."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        await app.start()
        await send({"type": "lifespan.startup.complete"})
        loaded.set()
        await receive()
        await app.close()
        await send({"type": "lifespan.shutdown.complete"})
        return None

    return asgi
