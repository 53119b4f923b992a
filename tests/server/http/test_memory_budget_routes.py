"""With a memory budget a model is loaded by the first call for it, on every route that needs it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

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


async def test_what_cannot_fit_is_a_clear_503(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, memory_budget_bytes=10)
    for method, path, body in (
        ("POST", "/v2/models/m/infer", ROW),
        ("GET", "/v2/models/m", b""),
        ("POST", "/v2/repository/models/m/load", b""),
    ):
        answer = await call(method, path, body)
        assert answer.status == 503, answer.body
        assert "memory budget of 10 bytes" in answer.json()["error"]
        assert dict(answer.headers)["retry-after"] == "1"


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
