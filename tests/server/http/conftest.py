"""Fixtures that open the server for the tests of its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings
from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.scripted_generator import ScriptedGenerator, scripted_app
from tests.server.http.serving import AsgiCaller, LiveServer, serving
from tests.server.http.streams import Served

OpenApp = Callable[..., Awaitable[AsgiCaller | EdgeCaller]]
CALLERS: dict[str, Callable[[Application], AsgiCaller | EdgeCaller]] = {
    "bare": AsgiCaller,
    "lane": EdgeCaller,
    "edge": lambda app: EdgeCaller(app, lane=False),
}
"""How a request reaches the application: as from any ASGI server, or by a connection of ours."""


@pytest.fixture
def adapter() -> str:
    """One of `CALLERS`. A module whose tables hold for several overrides it."""
    return "bare"


@pytest_asyncio.fixture
async def open_app(adapter: str) -> AsyncIterator[OpenApp]:
    """`call = await open_app(repository, **settings)`: a started application, closed afterwards."""
    async with AsyncExitStack() as stack:

        async def make(repository: Path, **settings: Any) -> AsgiCaller | EdgeCaller:
            app = create_app(Settings(models=repository, **settings))
            return CALLERS[adapter](await stack.enter_async_context(app))

        yield make


Serve = Callable[..., LiveServer]
Scripted = Callable[..., Awaitable[Served]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`server = serve(repository, **settings)`: a loopback server, stopped afterwards."""
    with ExitStack() as stack:

        def make(
            repository: Path, *, edge: bool = True, lane: bool = True, **settings: Any
        ) -> LiveServer:
            app = create_app(Settings(models=repository, **settings))
            return stack.enter_context(serving(app, edge=edge, lane=lane))

        yield make


@pytest_asyncio.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """`served = await scripted(steps or script)`: started, and closed afterwards."""
    async with AsyncExitStack() as stack:

        async def make(script: Any = (), **settings: Any) -> Served:
            generator = ScriptedGenerator(script)
            app = scripted_app(tmp_path / "models", generator, **settings)
            return Served(await stack.enter_async_context(app), generator)

        yield make
