"""A data directory with versions in it, servers on it, and deployments over its database."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio

from aiaas_server.app import Application, create_app
from aiaas_server.registry.deployment import Deployment
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from tests.server.http.serving import AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.server.registry.deploying import open_deployment
from tests.server.registry.rollouts import Process, three_versions

OpenDeployment = Callable[..., Deployment]


class OpenServer(Protocol):
    """Starts a server on the data directory; closed after the test."""

    async def __call__(self, **settings: Any) -> AsgiCaller: ...


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of the server."""
    return tmp_path / "data"


@pytest.fixture
def bringer(data: Path) -> Iterator[Bringer]:
    """Brings versions."""
    made = Bringer(data)
    yield made
    made.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The directory beside the registry, which is empty."""
    place = tmp_path / "models"
    place.mkdir()
    return place


@pytest_asyncio.fixture
async def open_server(data: Path, models: Path) -> AsyncIterator[OpenServer]:
    """See `OpenServer`."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> AsgiCaller:
            app: Application = create_app(Settings(data=data, models=models, **settings))
            return AsgiCaller(await stack.enter_async_context(app))

        yield make


@pytest_asyncio.fixture
async def open_here(database: Database, tmp_path: Path) -> AsyncIterator[OpenDeployment]:
    """`open_here(**given)`: a deployment on `tmp_path / 'data'`, closed afterwards."""
    made: list[Deployment] = []

    def make(**given: object) -> Deployment:
        deployment = open_deployment(database, tmp_path / "data", **given)
        made.append(deployment)
        return deployment

    yield make
    for deployment in made:
        await deployment.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("state") / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
async def make_process(tmp_path, empty_database):
    """`process = make_process("a")`: processes that share one database."""
    path, made = tmp_path / "state.db", []
    shutil.copy(empty_database, path)
    url = f"sqlite:///{path}"

    def make(node="a"):
        made.append(Process(url, node))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
async def process(make_process):
    """One process, and model `m` with versions 1, 2, 3 of which 2 is in production."""
    made = make_process()
    await made.write(three_versions)
    return made
