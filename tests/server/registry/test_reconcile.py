"""A process follows the registry, whoever changes it; what fails changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from aiaas_client.protocol.management import PromoteRequest, TrafficRequest
from aiaas_server.app import Application, create_app
from aiaas_server.core.errors import (
    Conflict,
    ModelNotFound,
    Rejected,
    StateUnavailable,
    VersionNotFound,
)
from aiaas_server.core.events import NOBODY, Caller
from aiaas_server.registry import models
from aiaas_server.registry.cache import Cache
from aiaas_server.registry.registry import Registry
from aiaas_server.registry.rows import VersionRow
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller
from tests.server.registry.bringing import AUTHOR, Bringer
from tests.task_bundles import MOOD_CARD, write_repository
from tests.waiting import until

ONES = {"x": np.ones((1, 4), np.float32)}


class Server:
    """A started application, and the registry that changes are made with beside it."""

    def __init__(self, app: Application, bringer: Bringer) -> None:
        self.app = app
        self.pool = app.pool
        self.platform = app._platform
        assert self.platform is not None
        self.reconcile = self.platform._reconcile
        self.elsewhere = Registry(bringer.database)  # as another process has it

    async def infer(self, version: int | str | None = None, caller: Caller = NOBODY) -> float:
        model = await self.pool.obtain("m", version, caller)
        outcome = await model.infer(ONES)
        return float(outcome.outputs["y"][0, 0])

    async def promote(self, version: int, alias: str = "production") -> None:
        await self.elsewhere.promote(AUTHOR, "m", PromoteRequest(version=version), alias)

    async def serves(self, *versions: int) -> None:
        """Wait until exactly these are loaded."""
        await until(lambda: self.pool.ready_versions("m") == list(versions))


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def started(stack: AsyncExitStack, bringer: Bringer, models: Path, **settings: Any) -> Server:
    app = create_app(Settings(data=bringer.data, models=models, **settings))
    server = Server(await stack.enter_async_context(app), bringer)
    return server


@pytest_asyncio.fixture
async def server(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> Server:
    """A server with two versions of `m`, each of which multiplies by its number."""
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    return await started(stack, bringer, models)


async def test_what_another_process_changes_is_followed(server: Server) -> None:
    assert await server.infer() == 2.0
    await server.promote(1)
    await server.serves(1)
    assert await server.infer() == 1.0
    await server.promote(2, "canary")
    await until(lambda: server.platform.aliases("m", "canary") == 2)
    await server.serves(1, 2)
    assert [await server.infer(), await server.infer("canary")] == [1.0, 2.0]


async def test_a_new_version_is_followed_and_a_model_that_goes_is_unloaded(
    server: Server, bringer: Bringer, onnx_models: SimpleNamespace
) -> None:
    bringer.bring("m", onnx_models.scale(3.0))
    await server.serves(3)
    assert await server.infer() == 3.0

    def erase(connection: Any) -> None:
        model = models.get_model(connection, AUTHOR.tenant, "m")
        for number in (1, 2, 3):
            models.set_state(connection, model.id, number, "erased", "gone")

    await bringer.database.write(erase)
    await server.reconcile.bring("m")
    await server.serves()
    with pytest.raises(ModelNotFound):
        await server.infer()


async def test_a_version_that_cannot_be_loaded_changes_nothing_and_is_tried_again(
    server: Server,
    bringer: Bringer,
    onnx_models: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialise, away = Cache.materialise, True

    def perhaps(self: Cache, version: VersionRow, tenant: str) -> Path:
        if away and version.number == 9:
            raise StateUnavailable("the store does not answer")
        return materialise(self, version, tenant)

    monkeypatch.setattr(Cache, "materialise", perhaps)
    await server.promote(1)
    await server.serves(1)
    bringer.bring("m", onnx_models.scale(9.0), number=9)
    for _ in range(2):
        await server.promote(9)
        await server.reconcile.bring("m")
    assert await server.infer() == 1.0
    assert await server.infer("production") == 1.0
    assert server.pool.ready_versions("m") == [1]
    assert server.reconcile.problem("default", "m", 9) == "the store does not answer"
    lines = [one.message for one in caplog.records if "version 9 cannot be loaded" in one.message]
    assert len(lines) == 1, lines
    away = False
    await server.serves(9)  # by itself, after a pause
    assert await server.infer() == 9.0
    assert server.reconcile.problem("default", "m", 9) == ""


async def test_bytes_that_are_no_model_change_nothing(server: Server, bringer: Bringer) -> None:
    bringer.bring("m", b"bytes", number=5)
    await server.reconcile.bring("m")
    assert await server.infer() == 2.0
    assert "not an ONNX protobuf" in server.reconcile.problem("default", "m", 5)
    with pytest.raises(Rejected, match="version 5 of model 'm' cannot be loaded"):
        async with server.reconcile.loaded("default", "m", [5]):
            pass


async def test_files_that_are_gone_change_nothing(
    server: Server, bringer: Bringer, onnx_models: SimpleNamespace
) -> None:
    row = bringer.bring("m", onnx_models.scale(5.0), number=5)
    bringer.lose(row)
    await server.reconcile.bring("m")
    assert await server.infer() == 2.0
    with pytest.raises(Conflict, match="version 5 of model 'm' is corrupt"):
        async with server.reconcile.loaded("default", "m", [5]):
            pass


async def test_a_damaged_version_that_is_loaded_serves_on(server: Server, bringer: Bringer) -> None:
    def damage(connection: Any) -> None:
        model = models.get_model(connection, AUTHOR.tenant, "m")
        models.set_state(connection, model.id, 1, "corrupt", "bytes differ")

    await server.promote(1)
    await server.serves(1)
    await bringer.database.write(damage)
    await server.reconcile.bring("m")
    assert await server.infer() == 1.0


async def test_a_version_is_kept_while_somebody_is_about_to_promote_it(server: Server) -> None:
    async with server.reconcile.loaded("default", "m", [1]):
        assert server.pool.ready_versions("m") == [1, 2]
        await server.reconcile.bring("m")
        assert server.pool.ready_versions("m") == [1, 2]
        assert await server.infer() == 2.0
    await server.reconcile.bring("m")
    await server.serves(2)


async def test_a_call_that_uses_a_version_keeps_it_until_it_ends(server: Server) -> None:
    model = await server.pool.obtain("m")
    model.in_use += 1
    await server.promote(1)
    await until(lambda: server.pool.ready_versions("m") == [1])
    assert await server.infer() == 1.0
    outcome = await model.infer(ONES)  # one more run of the same call
    assert outcome.outputs["y"][0, 0] == 2.0
    model.in_use -= 1
    await until(lambda: not server.pool._unloader.ending)


async def test_the_database_may_go_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, bringer: Bringer
) -> None:
    platform = server.platform
    assert platform is not None

    async def away(work: object) -> None:
        raise StateUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(platform.database, "read", away)
        await server.reconcile.bring("m")
        assert await server.infer() == 2.0
        await server.promote(1)
    await server.serves(1)  # by itself, once it is back


async def test_a_name_that_the_directory_has_is_the_directorys(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> None:
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "1" / "model.onnx").write_bytes(onnx_models.scale(7.0))
    bringer.bring("m", onnx_models.scale(2.0), number=2)
    server = await started(stack, bringer, models)
    await server.reconcile.bring("m")
    assert await server.infer() == 7.0
    with pytest.raises(VersionNotFound):
        await server.infer("latest")


async def test_at_the_start_whoever_can_be_loaded_serves(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> None:
    bringer.bring("m", onnx_models.scale(1.0))
    bringer.bring("m", b"no model")
    registry = Registry(bringer.database)
    await registry.patch_traffic(AUTHOR, "m", TrafficRequest(split={"1": 0.5, "2": 0.5}))
    server = await started(stack, bringer, models)
    await until(lambda: server.reconcile.problem("default", "m", 2) != "")
    answers = {await server.infer(caller=Caller(request_id=f"r{n}")) for n in range(20)}
    assert answers == {1.0}


async def test_only_what_is_wanted_is_touched_at_the_start(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> None:
    for number in range(1, 40):
        bringer.bring("m", onnx_models.scale(float(number)))
    server = await started(stack, bringer, models)
    assert server.pool.ready_versions("m") == [39]
    assert await server.reconcile._unsettled() == []


async def test_two_servers_follow_one_database(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    servers = [await started(stack, bringer, models) for _ in range(2)]
    for version in (1, 2, 1):
        one = servers[0]
        assert one.platform is not None
        async with one.reconcile.loaded("default", "m", [version]):
            await one.platform._registry.promote(AUTHOR, "m", PromoteRequest(version=version))
            await one.reconcile.bring("m")
        assert await one.infer() == version
        for server in servers:
            await server.serves(version)
            assert await server.infer() == version


async def test_with_a_memory_budget_what_is_wanted_loads_when_it_is_called(
    stack: AsyncExitStack, bringer: Bringer, models: Path, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    server = await started(stack, bringer, models, memory_budget_bytes=500 << 20)
    assert server.pool.ready_versions("m") == []
    await server.promote(1)
    await server.reconcile.bring("m")
    assert await server.infer() == 1.0
    assert server.pool.ready_versions("m") == [1]
    await server.promote(2)
    await server.serves(2)
    assert [await server.infer(), await server.infer("production")] == [2.0, 2.0]


async def test_answers_that_are_kept_are_those_of_the_version(
    server: Server, bringer: Bringer
) -> None:
    def cache(connection: Any) -> None:
        model = models.get_model(connection, AUTHOR.tenant, "m")
        policy = model.policy.model_copy(update={"config": {"response_cache": {"enable": True}}})
        models.update_model(connection, model, policy=policy)

    await bringer.database.write(cache)
    await server.reconcile.bring("m")
    for version in (1, 2, 1):
        await server.promote(version)
        await server.serves(version)
        assert [await server.infer() for _ in range(3)] == [version] * 3


async def test_steps_of_a_pipeline_follow_the_choice_of_the_caller(
    stack: AsyncExitStack, bringer: Bringer, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    root = write_repository(tmp_path / "tasks", onnx_models)
    bundle = {one.name: one.read_bytes() for one in (root / "moods" / "1").iterdir()}
    shutil.rmtree(root / "moods")
    for version in ("1", "2"):
        card = MOOD_CARD | {"labels": [f"bad {version}", f"good {version}"]}
        files = bundle | {"model.json": json.dumps(card).encode()}
        bringer.bring("moods", files)
    registry = Registry(bringer.database)
    split = TrafficRequest(split={"1": 0.5, "2": 0.5})
    await registry.patch_traffic(AUTHOR, "moods", split)
    server = await started(stack, bringer, root)
    assert server.pool.ready_versions("moods") == [1, 2]
    call = AsgiCaller(server.app)
    payload = {"query": "good film", "documents": ["good film", "bad film"]}
    seen = set()
    for user in range(12):
        headers = {"x-sticky-key": f"user-{user}", "content-type": "application/json"}
        body = {"instances": ["good film"]}
        direct = (await call("POST", "/v1/models/moods:predict", body, headers)).json()
        (mood,) = direct["predictions"]
        inside = await call("POST", "/v1/models/best:predict", {"instances": [payload]}, headers)
        assert inside.status == 200, inside.body
        (whole,) = inside.json()["predictions"]
        assert mood["label"] in json.dumps(whole)
        plain = await call("POST", "/predict", {"text": "good film", "model": "moods"}, headers)
        assert plain.json()["label"] == mood["label"]
        seen.add(mood["label"])
    assert seen == {"good 1", "good 2"}
