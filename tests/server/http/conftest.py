"""Fixtures that open the server for the tests of its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller, LiveServer, serving

OpenApp = Callable[..., Awaitable[AsgiCaller]]


@pytest_asyncio.fixture
async def open_app() -> AsyncIterator[OpenApp]:
    """`call = await open_app(repository, **settings)`: a started application, closed afterwards."""
    async with AsyncExitStack() as stack:

        async def make(repository: Path, **settings: Any) -> AsgiCaller:
            app = create_app(Settings(models=repository, **settings))
            return AsgiCaller(await stack.enter_async_context(app))

        yield make


Serve = Callable[..., LiveServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`server = serve(repository, **settings)`: a loopback server, stopped afterwards."""
    with ExitStack() as stack:

        def make(repository: Path, *, edge: bool = True, **settings: Any) -> LiveServer:
            app = create_app(Settings(models=repository, **settings))
            return stack.enter_context(serving(app, edge=edge))

        yield make
