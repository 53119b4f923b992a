"""What happens where two features meet: memory budget, watching, pipelines, loading."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_server.app import Application
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.server.core.pool.test_memory_budget import UNIT, model
from tests.server.http.serving import AsgiCaller
from tests.task_bundles import write_repository

MIB = 1 << 20
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"text": "good film", "model": "moods"}),
        ("/v1/embeddings", {"model": "vectors", "input": "good"}),
        (
            "/v1/models/best:predict",
            {"instances": [{"query": "good", "documents": ["bad film", "good film"]}]},
        ),
    ],
    ids=["simple", "embeddings", "pipeline"],
)
async def test_budget_loads_on_every_route(
    open_app: Any, onnx_models: SimpleNamespace, tmp_path: Any, path: str, body: Any
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    call = await open_app(root, memory_budget_bytes=500 * MIB)
    answer = await call("POST", path, body)
    assert answer.status == 200, answer.body


async def test_a_pipeline_whose_steps_are_away_does_not_break_other_predictions(
    open_app: Any, onnx_models: SimpleNamespace, tmp_path: Any
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    call = await open_app(root, memory_budget_bytes=500 * MIB)
    await call("GET", "/v1/models/best")
    await call("GET", "/v1/models/table")
    answer = await call("POST", "/predict", {"features": {"a": 1, "b": 2}})
    assert answer.status == 200, answer.body


async def test_budget_a_version_that_is_not_there_is_not_ready(
    open_app: Any, onnx_models: SimpleNamespace, tmp_path: Any
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    call = await open_app(root, memory_budget_bytes=500 * MIB)
    assert (await call("GET", "/v2/models/moods/versions/77/ready")).status != 200
    assert (await call("GET", "/v2/models/moods/versions/1/ready")).status == 200
    await call("GET", "/v2/models/moods")
    assert (await call("GET", "/v2/models/moods/versions/77/ready")).status != 200


async def test_budget_and_watch(make_repository: Any) -> None:
    pool = ModelPool(
        Repository(make_repository({n: model() for n in "abcd"})),
        open_session,
        Settings(memory_budget_bytes=round(2.2 * UNIT), watch=True, watch_interval=1000),
        measure=lambda: 0,
    )
    await pool.start()
    try:
        await pool.obtain("a")
        for _ in range(3):
            await pool.poll()
        assert sorted({m.name for m in pool.models()}) == ["a"]
    finally:
        await pool.close()


async def test_each_over_the_queue_size(
    open_app: Any, onnx_models: SimpleNamespace, tmp_path: Any
) -> None:
    call = await open_app(write_repository(tmp_path / "m", onnx_models))
    placement = call.app.pool.resolve("moods").scheduler._costs._placement
    placement.never, placement.ceiling = True, -1  # as any model slower than 200 us
    body = {"instances": [{"query": "good", "documents": ["good film"] * 300}]}
    answer = await call("POST", "/v1/models/each:predict", body)
    assert answer.status == 200, answer.body
    assert len(answer.json()["predictions"][0]["items"]) == 300


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/models/m/infer", ROW),
        ("POST", "/v2/models/m/versions/1/infer", ROW),
        ("GET", "/v2/models/m", b""),
        ("GET", "/v2/models/m/config", b""),
        ("POST", "/v1/models/m:predict", {"instances": [[1, 2, 3, 4]]}),
        ("POST", "/v1/embeddings", {"model": "m", "input": "x"}),
    ],
)
async def test_while_the_server_loads_a_model_its_routes_answer_503(
    make_repository: Any,
    onnx_models: SimpleNamespace,
    method: str,
    path: str,
    body: Any,
) -> None:
    gate = threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        gate.wait(20)
        return open_session(*args, **options)

    root = make_repository({"a": onnx_models.scale(), "m": onnx_models.scale()})
    settings = Settings(models=root)
    app = Application(ModelPool(Repository(root), slow, settings), settings)
    call = AsgiCaller(app)
    for when in ("before it begins", "while 'a' has its turn"):
        answer = await call(method, path, body)
        assert answer.status == 503, (when, answer.body)
        assert answer.json()["error"]
        assert dict(answer.headers)["retry-after"] == "1"
        if when == "before it begins":
            starting = asyncio.create_task(app.start())
            async with asyncio.timeout(120):
                for _ in iter(app.pool.index, []):
                    await asyncio.sleep(0)
    gate.set()
    await starting
    try:
        assert (await call("POST", "/v2/models/m/infer", ROW)).status == 200
    finally:
        await app.close()


async def test_a_failed_model_says_why_to_those_who_call_it(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"good": onnx_models.scale(), "bad": b"junk"})
    call = await open_app(root)
    answer = await call("POST", "/v2/models/bad/infer", ROW)
    assert answer.status == 404
    told = answer.json()["error"]
    assert told.startswith("model 'bad' has no available versions: ")
    assert str(root) not in told
    await call("POST", "/v2/repository/models/good/unload", b"")
    answer = await call("POST", "/v2/models/good/infer", ROW)
    assert answer.json()["error"] == "model 'good' has no available versions: unloaded"


async def test_a_misspelt_name_is_answered_with_those_near_it(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({n: onnx_models.scale() for n in ("digits", "moods")}))
    answer = await call("POST", "/v2/models/digit/infer", ROW)
    assert answer.status == 404
    assert answer.json()["error"].endswith("'digit' is not found; did you mean 'digits'?")
    assert "mean" not in (await call("GET", "/v2/models/zzz")).json()["error"]
