"""Two tenants on one server, each with models, data sets, jobs and files of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from aiaas_client.protocol.management import Policy
from aiaas_server.app import create_app
from aiaas_server.registry.models import get_model, update_model
from aiaas_server.settings import Settings
from tests import tiny_llm
from tests.server.http.serving import Answer, AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.task_bundles import MOOD_CARD, MOODS, PARTS, table_model, tokenizer
from tests.tenants import Tenants

A, B, OPERATOR = "acme", "beta", "default"


class Keys(NamedTuple):
    """Of both tenants, and of the operator."""

    a: str
    b: str
    operator: str


class Asking:
    """Asks a server with one key."""

    def __init__(self, call: AsgiCaller, key: str) -> None:
        self._call = call
        self._key = key

    async def __call__(
        self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        given = {"authorization": f"Bearer {self._key}"}
        if not isinstance(body, bytes):
            given["content-type"] = "application/json"
        return await self._call(method, path, body, given | (headers or {}), client="10.0.0.1")


@contextmanager
def bringing(data: Path, tenant: str, url: str = "") -> Iterator[Bringer]:
    """Brings versions of a tenant."""
    bringer = Bringer(data, url, tenant)
    try:
        yield bringer
    finally:
        bringer.close()


def moods(*, turned: bool = False) -> dict[str, bytes]:
    """A bundle that tells good films from bad ones, or the other way about."""
    table = [row[::-1] for row in MOODS] if turned else MOODS
    return {
        "model.onnx": table_model(table, PARTS, pooled=True),
        "model.json": json.dumps(MOOD_CARD).encode(),
        "tokenizer.json": tokenizer(),
    }


def writer(place: Path, **generation: Any) -> dict[str, bytes]:
    """A bundle that writes text."""
    directory = tiny_llm.write_model(place, **generation)
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def make_public(bringer: Bringer, name: str, *, public: bool = True) -> None:
    """As the operator does by the routes."""

    def work(connection: Any) -> None:
        model = get_model(connection, OPERATOR, name)
        update_model(connection, model, policy=Policy(public=public))

    bringer.database.submit(work).result()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of the server."""
    return tmp_path / "data"


@pytest.fixture
def beside(tmp_path: Path, onnx_models: SimpleNamespace) -> Path:
    """The directory of models, with one that everybody may call."""
    place = tmp_path / "models"
    place.mkdir()
    (place / "open.onnx").write_bytes(onnx_models.scale(10.0))
    return place


@pytest.fixture
def bring_all(data: Path, tmp_path: Path, onnx_models: SimpleNamespace) -> Callable[[str], None]:
    """Writes all models into a database: `m`, `moods` and `writer` of both tenants, and others."""

    def bring(url: str = "") -> None:
        for number, tenant in enumerate((A, B)):
            with bringing(data, tenant, url) as bringer:
                bringer.bring("m", onnx_models.scale(2.0 + number))
                bringer.bring("moods", moods(turned=tenant == B))
                context = 64 - 16 * number
                bringer.bring("writer", writer(tmp_path / tenant, context=context))
        with bringing(data, A, url) as bringer:
            bringer.bring("okapis", onnx_models.scale(7.0))
            bringer.bring("open", onnx_models.scale(8.0))
        with bringing(data, OPERATOR, url) as bringer:
            bringer.bring("house", onnx_models.scale(5.0))
            bringer.bring("shared", onnx_models.scale(6.0))
            make_public(bringer, "shared")

    return bring


@pytest.fixture
def keys(data: Path) -> Keys:
    """With all scopes."""
    tenants = Tenants(data)
    return Keys(tenants.key(A), tenants.key(B), tenants.key())


class World(NamedTuple):
    """A server, and everyone who asks it."""

    call: AsgiCaller
    a: Asking
    b: Asking
    operator: Asking

    @property
    def app(self) -> Any:
        """The application."""
        return self.call.app


OpenWorld = Callable[..., Any]


@pytest_asyncio.fixture
async def open_world(data: Path, beside: Path, keys: Keys) -> AsyncIterator[OpenWorld]:
    """`await open_world(**settings)`: a server on what was brought, closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> World:
            given = {"models": beside, "tenants": True, "sandbox": "none", **settings}
            app = create_app(Settings(data=data, **given))
            call = AsgiCaller(await stack.enter_async_context(app))
            return World(call, *(Asking(call, key) for key in keys))

        yield make


@pytest_asyncio.fixture
async def world(bring_all: Callable[[], None], open_world: OpenWorld) -> World:
    """A server with everything."""
    bring_all()
    made: World = await open_world()
    return made
