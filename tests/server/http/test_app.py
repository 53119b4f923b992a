"""The application as a whole: lifespan, in process, unexpected errors, shared headers."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from aiaas_server.app import create_app
from aiaas_server.core.errors import LoadFailed
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller
from tests.waiting import until

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository({"scale": onnx_models.scale()})


async def test_it_answers_in_process_through_httpx(repository: Any) -> None:
    async with create_app(Settings(models=repository)) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.post("/v2/models/scale/infer", json=ROW)
            assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8]
            assert (await client.get("/v2/health/ready")).status_code == 200


async def test_the_lifespan_starts_at_once_and_loads_in_the_background(repository: Any) -> None:
    app = create_app(Settings(models=repository))
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    await until(lambda: app.pool.ready)
    await incoming.put({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await task
    assert not app.pool.ready


async def test_a_stop_while_models_load_is_clean(repository: Any) -> None:
    app = create_app(Settings(models=repository))
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    await incoming.put({"type": "lifespan.startup"})
    await incoming.put({"type": "lifespan.shutdown"})
    await app({"type": "lifespan"}, incoming.get, outgoing.put)
    assert outgoing.qsize() == 2


async def test_a_websocket_is_closed() -> None:
    app = create_app(Settings(models="."))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/v2"}, send, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
    await app.close()


def test_a_repository_that_is_missing_is_told(tmp_path: Any) -> None:
    with pytest.raises(LoadFailed, match="does not exist"):
        create_app(Settings(models=tmp_path / "nothing"))


@pytest.mark.parametrize("path", ["/v2/models/scale/infer", "/v2/models/scale/generate"])
async def test_a_bug_is_a_500_without_detail_and_a_log_line_with_it(
    open_app: Any, repository: Any, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    call = await open_app(repository)
    model = call.app.pool.resolve("scale")
    model.signature.check = None  # anything that must not happen
    sent = ROW if path.endswith("infer") else {"x": [1, 2, 3, 4]}
    headers = {"traceparent": TRACE, "x-request-id": "bug-1"}
    with caplog.at_level(logging.ERROR, "aiaas_server"):
        answer = await call("POST", path, sent, headers)
    assert (answer.status, answer.json()["code"]) == (500, "internal")
    assert answer.json()["error"] == "internal error"
    assert answer.json()["request_id"] == "bug-1"
    assert "bug-1" in caplog.text
    assert TRACE in caplog.text


@pytest.mark.parametrize(
    "traceparent", ["", "x", TRACE.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACE + "x"]
)
async def test_a_malformed_trace_changes_nothing(
    open_app: Any, repository: Any, traceparent: str
) -> None:
    call = await open_app(repository)
    answer = await call("POST", "/v2/models/scale/infer", ROW, {"traceparent": traceparent})
    assert answer.status == 200


async def test_a_remembered_answer_ends_with_its_model(
    open_app: Any, repository: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    """The same request before and after a reload to another datatype tells the new one."""
    call = await open_app(repository)
    binary = {"parameters": {"binary_data_output": True}}
    for _ in range(3):
        answer = await call("POST", "/v2/models/scale/infer", ROW | binary)
        assert b'"FP32"' in answer.body
    make_repository({"scale": onnx_models.identity("INT32", ["batch", 4])}, root=repository)
    force = {"parameters": {"force": True}}
    assert (await call("POST", "/v2/repository/models/scale/load", force)).status == 200
    tensor = ROW["inputs"][0] | {"datatype": "INT32"}
    for _ in range(3):
        answer = await call("POST", "/v2/models/scale/infer", {"inputs": [tensor]} | binary)
        assert b'"INT32"' in answer.body


@pytest.mark.parametrize(
    ("path", "status"),
    [("sc%61le/infer", 200), ("scale/versions/0001/infer", 200), ("scale/versions/7/infer", 404)],
)
async def test_a_path_may_be_spelt_in_other_ways(
    open_app: Any, repository: Any, path: str, status: int
) -> None:
    call = await open_app(repository)
    for _ in range(2):  # whatever is remembered of the first
        assert (await call("POST", f"/v2/models/{path}", ROW)).status == status


async def test_a_chooser_decides_the_version_of_calls_that_name_none(make_repository, onnx_models):
    versions = {1: onnx_models.scale(1), 2: onnx_models.scale(2)}
    root = make_repository({"m": versions}, configs={"m": '{"version_policy": {"all": {}}}'})
    app = create_app(Settings(models=root), choose=lambda name, caller: 1)
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
    async with app:
        call = AsgiCaller(app)
        for path, factor in (("/v2/models/m/infer", 1), ("/v2/models/m/versions/2/infer", 2)):
            answer = await call("POST", path, {"inputs": [x]})
            assert answer.json()["outputs"][0]["data"] == [factor] * 4
