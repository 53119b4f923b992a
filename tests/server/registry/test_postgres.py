"""Two servers that share one PostgreSQL database, which goes away and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.postgres import Postgres, why_not
from tests.server.http.serving import AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.waiting import until

INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
JSON = {"content-type": "application/json"}


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of this test's own, since it is stopped."""
    if reason := why_not():
        pytest.skip(reason)
    server = Postgres()
    yield server
    server.remove()


async def version(call: AsgiCaller) -> str:
    answer = await call("POST", "/v2/models/m/infer", INFER, JSON)
    assert answer.status == 200, answer.body
    told: Any = answer.json()
    assert told["outputs"][0]["data"] == [float(told["model_version"])] * 4
    return str(told["model_version"])


async def promote(call: AsgiCaller, number: int) -> int:
    path = "/api/v1/models/m/aliases/production"
    return (await call("PUT", path, {"version": number}, JSON)).status


@pytest.mark.slow
async def test_two_servers_follow_and_outlive_their_database(
    postgres: Postgres, data: Path, models: Path, onnx_models: SimpleNamespace
) -> None:
    url = postgres.make_database()
    bringer = Bringer(data, url.replace("postgresql:", "postgresql+psycopg:", 1))
    try:
        for factor in (1.0, 2.0):
            bringer.bring("m", onnx_models.scale(factor))
    finally:
        bringer.close()
    settings = Settings(data=data, models=models, database_url=SecretStr(url))
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(create_app(settings)) for _ in range(2)]
        one, other = map(AsgiCaller, apps)
        for number in (1, 2, 1):
            assert await promote(one, number) == 200
            assert await version(one) == str(number)
            await until(lambda n=number: other.app.pool.ready_versions("m") == [n])  # type: ignore[misc]
            assert await version(other) == str(number)
        postgres.stop()
        assert [await version(one), await version(other)] == ["1", "1"]
        assert await promote(one, 2) == 503
        assert [await version(one), await version(other)] == ["1", "1"]
        postgres.start()
        await until(lambda: other.app.pool.ready_versions("m") == [1])
        for _ in range(50):
            if await promote(one, 2) == 200:
                break
        assert await version(one) == "2"
        await until(lambda: other.app.pool.ready_versions("m") == [2], timeout=60)
        assert await version(other) == "2"
        page = (await one("GET", "/api/v1/models/m/history")).json()
        assert [entry["version"] for entry in page["items"]][:2] == [2, 1]
