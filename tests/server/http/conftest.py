"""Ways to reach the server: as a bare ASGI callable, and over a loopback socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio
import uvicorn

from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings


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
        body: bytes | list[bytes] | Any = b"",
        headers: Mapping[str, str] | list[tuple[bytes, bytes]] = {},
        *,
        client: str = "127.0.0.1",
    ) -> Answer:
        """Send bytes, a list of chunks, or anything else as JSON."""
        if not isinstance(body, bytes | list) or (
            isinstance(body, list) and not all(isinstance(c, bytes) for c in body)
        ):
            body = json.dumps(body).encode()
        chunks = body if isinstance(body, list) else [body]
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


def _scope(method: str, path: str, headers: Any, client: str) -> dict[str, Any]:
    target, _, query = path.partition("?")
    pairs = (
        [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        if isinstance(headers, Mapping)
        else headers
    )
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
        "headers": pairs,
        "client": (client, 50000),
        "server": ("127.0.0.1", 8000),
    }


def _answer(sent: list[Any]) -> Answer:
    start, *parts = sent
    headers = {k.decode().lower(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], headers, b"".join(part["body"] for part in parts))


OpenApp = Callable[..., Awaitable[AsgiCaller]]


@pytest_asyncio.fixture
async def open_app() -> AsyncIterator[OpenApp]:
    """`call = await open_app(repository, **settings)`: a started application, closed afterwards."""
    async with AsyncExitStack() as stack:

        async def make(repository: Path, **settings: Any) -> AsgiCaller:
            app = create_app(Settings(models=repository, **settings))
            return AsgiCaller(await stack.enter_async_context(app))

        yield make


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
def serving(settings: Settings) -> Iterator[LiveServer]:
    """Run the application under uvicorn until the block ends; its models are loaded."""
    app = create_app(settings)
    loaded = threading.Event()
    config = uvicorn.Config(
        _announcing(app, loaded),
        host="127.0.0.1",
        port=0,
        log_level="warning",
        lifespan="on",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert loaded.wait(30)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield LiveServer(app, port)
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


Serve = Callable[..., LiveServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`server = serve(repository, **settings)`: a loopback server, stopped afterwards."""
    with ExitStack() as stack:

        def make(repository: Path, **settings: Any) -> LiveServer:
            return stack.enter_context(serving(Settings(models=repository, **settings)))

        yield make
