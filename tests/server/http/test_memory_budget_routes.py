"""With a memory budget a model is loaded by the first call for it, on every route that needs it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_server.app import Application
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.oip import generate_extension
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller
from tests.task_bundles import write_repository

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
MIB = 1024 * 1024


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository({"m": onnx_models.scale(), "n": onnx_models.scale()})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/models/m/infer", ROW),
        ("POST", "/v2/models/m/versions/1/infer", ROW),
        ("GET", "/v2/models/m", b""),
        ("GET", "/v2/models/m/config", b""),
        ("GET", "/v1/models/m", b""),
    ],
)
async def test_the_first_call_loads_and_only_that_model(
    open_app: Any, repository: Any, method: str, path: str, body: Any
) -> None:
    call = await open_app(repository, memory_budget_bytes=500 * MIB)
    assert (await call("POST", "/v2/repository/index", {"ready": True})).json() == []
    assert (await call("GET", "/v2/models/m/ready")).status == 200
    assert (await call(method, path, body)).status == 200
    ready = (await call("POST", "/v2/repository/index", {"ready": True})).json()
    assert [entry["name"] for entry in ready] == ["m"]


async def test_what_can_never_fit_is_told_so_and_nobody_is_to_come_back(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository, memory_budget_bytes=10)
    for method, path, body in (
        ("POST", "/v2/models/m/infer", ROW),
        ("GET", "/v2/models/m", b""),
        ("POST", "/v2/repository/models/m/load", b""),
    ):
        answer = await call(method, path, body)
        assert answer.status == 400, answer.body
        told = answer.json()
        assert "can never fit: the memory budget is 10 bytes" in told["error"]
        assert (told["code"], told["retryable"]) == ("load_failed", False)
        assert "retry-after" not in dict(answer.headers)


async def test_unknown_models_and_other_routes_stay_as_they_are(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository, memory_budget_bytes=500 * MIB)
    assert (await call("GET", "/v2/models/q")).status == 404
    assert (await call("GET", "/v2/models/stats")).json() == {"model_stats": []}


async def test_without_the_key_nothing_is_loaded(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, memory_budget_bytes=500 * MIB, api_key="k" * 32)
    assert (await call("GET", "/v2/models/m")).status == 401
    assert (await call("POST", "/v2/models/m/infer", ROW)).status == 401
    key = {"authorization": "Bearer " + "k" * 32}
    index = await call("POST", "/v2/repository/index", {"ready": True}, headers=key)
    assert index.json() == []


async def test_a_payload_for_no_loaded_model_is_told_to_name_one(
    open_app: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    root = write_repository(tmp_path / "models", onnx_models)
    call = await open_app(root, memory_budget_bytes=500 * MIB)
    answer = await call("POST", "/predict", {"text": "good film"})
    assert answer.status == 404
    assert "any other is loaded when it is named as 'model'" in answer.json()["error"]
    named = await call("POST", "/predict", {"text": "good film", "model": "moods"})
    assert named.json()["label"] == "positive"
    assert (await call("POST", "/predict", {"text": "good film"})).status == 200


async def test_a_model_whose_request_is_read_makes_no_room(
    make_repository: Any, onnx_models: SimpleNamespace, monkeypatch: Any
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    read_document = generate_extension.read_document

    def slowly(*arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return read_document(*arguments)

    monkeypatch.setattr(generate_extension, "read_document", slowly)
    model = onnx_models.identity("FP32", ["batch", 2])
    settings = Settings(memory_budget_bytes=round(1.5 * len(model)))
    root = make_repository(dict.fromkeys("ab", model))
    # Files only: what the process grows by is the machine's business.
    pool = ModelPool(Repository(root), open_session, settings, measure=lambda: 0)
    async with Application(pool, settings) as app:
        call = AsgiCaller(app)
        reading = asyncio.create_task(call("POST", "/v2/models/a/generate", {"x": [1, 2]}))
        assert await asyncio.to_thread(entered.wait, 30)
        other = await call("GET", "/v2/models/b")
        go_on.set()
        assert (await reading).status == 200
        assert other.status == 503
        assert "memory budget" in other.json()["error"]
        assert (await call("GET", "/v2/models/b")).status == 200
