"""Mounted under a prefix in another application, everything is below that prefix."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.task_bundles import write_repository

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


async def test_mounted(open_app: Any, make_repository: Any, onnx_models: SimpleNamespace) -> None:
    call = await open_app(make_repository({"m": onnx_models.scale()}))
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/ai", app=call.app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        assert (await client.get("/ai/v2/models/m")).status_code == 200
        for _ in range(2):
            answer = await client.post("/ai/v2/models/m/infer", json=BODY)
            assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8]
        assert (await client.get("/ai/v2/models/m/infer")).status_code == 405
        assert (await client.post("/v2/models/m/infer", json=BODY)).status_code == 404
    # Without the prefix nothing has changed, and what was learnt under it is not answered here.
    assert (await call("POST", "/v2/models/m/infer", BODY)).status == 200
    assert (await call("POST", "/ai/v2/models/m/infer", BODY)).status == 404


async def test_the_document_and_the_predictions_under_a_prefix(
    open_app: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(write_repository(tmp_path / "models", onnx_models))
    inner = Starlette(routes=[Mount("/ml", app=call.app)])
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/api/v7", app=inner)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/api/v7/ml") as client:
        document = (await client.get("/openapi.json")).json()
        assert document["servers"] == [{"url": "/api/v7/ml"}]
        assert "/v2/models/{model}/infer" in document["paths"]
        answer = await client.post("/predict", json={"text": "good film"})
        assert answer.json()["label"] == "positive"
        body = {"instances": ["bad film"]}
        answer = await client.post("/v1/models/moods:predict", json=body)
        assert answer.json()["predictions"][0]["label"] == "negative"
        refused = await client.post("/v1/embeddings", json={"model": "nobody", "input": "x"})
        assert refused.json()["error"]["code"] == "model_not_found"  # as OpenAI's clients read it


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/models/m"])
async def test_the_key_is_asked_for_below_the_prefix(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace, path: str
) -> None:
    call = await open_app(make_repository({"m": onnx_models.scale()}), api_key="k" * 32)
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/ai", app=call.app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/ai") as client:
        answer = await client.get(path)
        assert answer.status_code == (200 if "health" in path else 401)


def test_behind_a_proxy_that_takes_a_prefix_off(
    make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    """uvicorn's `root_path` puts before each path what a proxy has taken off."""
    app = create_app(Settings(models=make_repository({"m": onnx_models.scale()})))
    config = uvicorn.Config(app, root_path="/ai", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            transport = httpx.HTTPTransport(retries=5)
            with httpx.Client(base_url=url, transport=transport, timeout=30) as client:
                while client.get("/v2/health/ready").status_code != 200:
                    pass
                assert client.post("/v2/models/m/infer", json=BODY).status_code == 200
                assert client.get("/openapi.json").json()["servers"] == [{"url": "/ai"}]
        finally:
            server.should_exit = True
            thread.join(30)
