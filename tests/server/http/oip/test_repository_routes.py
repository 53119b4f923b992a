"""Repository control over HTTP: what is accepted, what is refused, what goes on serving."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest

LOAD = "/v2/repository/models/scale/load"
UNLOAD = "/v2/repository/models/scale/unload"
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    root = make_repository({"scale": onnx_models.scale(), "broken": b"not a model"})
    (root / "empty").mkdir()
    return root


async def first(call: Any) -> float:
    answer = await call("POST", "/v2/models/scale/infer", ROW)
    assert answer.status == 200, answer.body
    return float(answer.json()["outputs"][0]["data"][0])


async def test_a_damaged_model_is_told_in_the_index_and_stops_nothing(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    entries = {e["name"]: e for e in (await call("POST", "/v2/repository/index")).json()}
    assert entries["scale"] == {"name": "scale", "version": "1", "state": "READY"}
    assert entries["broken"]["state"] == "UNAVAILABLE"
    assert entries["broken"]["reason"]
    assert str(repository) not in entries["broken"]["reason"]
    ready = (await call("POST", "/v2/repository/index", {"ready": True})).json()
    assert [entry["name"] for entry in ready] == ["scale"]
    assert await first(call) == 2


async def test_a_new_directory_appears_in_the_index_with_only_its_name(
    open_app: Any, repository: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(repository)
    make_repository({"later": onnx_models.scale(5.0)}, root=repository)
    entries = (await call("POST", "/v2/repository/index")).json()
    assert {"name": "later"} in entries
    assert (await call("POST", "/v2/repository/models/later/load")).status == 200
    assert (await call("GET", "/v2/models/later/ready")).status == 200


async def test_unload_and_load(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    sent = {"parameters": {"unload_dependents": True}}
    assert (await call("POST", UNLOAD, sent)).status == 200
    gone = await call("POST", "/v2/models/scale/infer", ROW)
    assert (gone.status, gone.json()["code"]) == (404, "model_not_found")
    entries = (await call("POST", "/v2/repository/index")).json()
    unloaded = {"name": "scale", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert unloaded in entries
    assert (await call("POST", UNLOAD)).status == 200
    assert (await call("POST", "/v2/repository/models/nobody/unload")).status == 200
    assert (await call("POST", LOAD)).status == 200
    assert await first(call) == 2


async def test_a_model_unloaded_on_purpose_does_not_keep_the_server_from_being_ready(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository, load_models="scale")
    assert (await call("GET", "/v2/health/ready")).status == 200
    await call("POST", UNLOAD)
    assert (await call("GET", "/v2/health/ready")).status == 200
    assert (await call("GET", "/v2/models/scale/ready")).status == 404


async def test_force_reloads_what_has_not_changed(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    before = call.app.pool.resolve("scale")
    assert (await call("POST", LOAD)).status == 200
    assert call.app.pool.resolve("scale") is before
    assert (await call("POST", LOAD, {"parameters": {"force": True}})).status == 200
    assert call.app.pool.resolve("scale") is not before


async def test_files_replace_the_repository_for_this_load(
    open_app: Any, repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(repository)
    encoded = base64.b64encode(onnx_models.scale(9.0)).decode()
    parameters = {"config": '{"max_batch_size": 2}', "file:4/model.onnx": encoded}
    answer = await call("POST", LOAD, {"parameters": parameters})
    assert answer.status == 200, answer.body
    assert await first(call) == 9
    assert (await call("GET", "/v2/models/scale")).json()["versions"] == ["4"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"unknown": 1},
        {"config": {}},
        {"config": "not JSON"},
        {"config": "[]"},
        {"force": "yes"},
        {"file:1/model.onnx": "AAAA"},
        {"config": "{}", "file:1/model.onnx": 7},
        {"config": "{}", "file:1/model.onnx": "not base64!"},
        {"config": "{}", "file:1/model.onnx": "AAAA"},
        {"config": "{}", "file:/etc/passwd": "AAAA"},
        {"config": "{}", "file:../../x": "AAAA"},
        {"config": "{}", "file:1/../x": "AAAA"},
        {"config": "{}", "file:1/..": "AAAA"},
        {"config": "{}", "file:1/a/b": "AAAA"},
        {"config": "{}", "file:x/model.onnx": "AAAA"},
        {"config": "{}", "file:model.onnx": "AAAA"},
        {"config": "{}", "file:1/a\x00b": "AAAA"},
        {"config": '{"max_batch_size": -1}'},
        {"config": '{"name": "another"}'},
    ],
    ids=lambda p: str(p)[:50],
)
async def test_bad_loads_are_400_and_the_old_version_serves_on(
    open_app: Any, repository: Any, parameters: dict[str, Any]
) -> None:
    call = await open_app(repository)
    answer = await call("POST", LOAD, {"parameters": parameters})
    assert answer.status == 400, answer.body
    assert await first(call) == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/models/nobody/load", b"", 404),
        ("/v2/repository/models/broken/load", b"", 400),
        ("/v2/repository/models/empty/load", b"", 404),
        (LOAD, b"{", 400),
        (LOAD, b"[]", 400),
        (LOAD, b'{"parameters": []}', 400),
        (UNLOAD, b'{"parameters": {"x": 1}}', 400),
        (UNLOAD, b'{"parameters": {"unload_dependents": 1}}', 400),
        ("/v2/repository/index", b'{"ready": 1}', 400),
        ("/v2/repository/index", b'"ready"', 400),
        ("/v2/repository/index", b" " * (1 << 20) + b"{}", 413),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_control_calls(
    open_app: Any, repository: Any, path: str, body: bytes, status: int
) -> None:
    call = await open_app(repository)
    answer = await call("POST", path, body)
    assert answer.status == status, answer.body
    assert answer.json()["error"]


@pytest.mark.parametrize("name", ["_x", "-x", "stats", "two%20words", "%E6%A8%A1", "n" * 256])
async def test_a_name_that_no_route_could_reach_is_refused(
    open_app: Any, repository: Any, onnx_models: SimpleNamespace, name: str
) -> None:
    call = await open_app(repository)
    model = base64.b64encode(onnx_models.scale()).decode()
    load = {"parameters": {"config": "{}", "file:1/model.onnx": model}}
    answer = await call("POST", f"/v2/repository/models/{name}/load", load)
    assert (answer.status, answer.json()["code"]) == (400, "load_failed")


async def test_a_directory_with_such_a_name_says_so_in_the_index(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"two words": onnx_models.scale()}))
    (entry,) = (await call("POST", "/v2/repository/index")).json()
    assert entry["state"] == "UNAVAILABLE"
    assert entry["reason"].startswith("the name of a model begins with")


async def test_control_can_be_switched_off(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, control="none")
    for path in (LOAD, UNLOAD):
        answer = await call("POST", path)
        assert (answer.status, answer.json()["code"]) == (503, "control_disabled")
        assert not answer.json()["retryable"]
    assert (await call("POST", "/v2/repository/index")).status == 200
    assert await first(call) == 2


async def test_an_upload_over_the_limit_is_413(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, max_upload_bytes=1000)
    sent = {"parameters": {"config": json.dumps({}), "file:1/model.onnx": "A" * 2000}}
    assert (await call("POST", LOAD, sent)).status == 413
