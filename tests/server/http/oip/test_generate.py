"""The generate extension over tensor models."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

GENERATE = "/v2/models/text/generate"


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository(
        {
            "text": onnx_models.identity("BYTES", ["batch", 1]),
            "free": onnx_models.identity("FP32", ["batch", 2, "n"]),
            "scale": onnx_models.scale(),
            "add": onnx_models.add(),
        }
    )


async def test_a_scalar_in_gives_a_scalar_out(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    sent = {"id": "1", "x": "hi 你", "parameters": {"temperature": 0}, "stream": False}
    answer = await call("POST", GENERATE, sent)
    assert answer.json() == {
        "id": "1",
        "model_name": "text",
        "model_version": "1",
        "y": "hi 你",
    }
    assert answer.headers["content-type"] == "application/json"


async def test_lists_fill_the_innermost_variable_dimension(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    answer = await call("POST", "/v2/models/free/versions/1/generate", {"x": [1, 2, 3, 4, 5, 6]})
    assert answer.json()["y"] == [1, 2, 3, 4, 5, 6]
    assert (await call("POST", "/v2/models/free/generate", {"x": [1, 2, 3]})).status == 400


async def test_members_inside_parameters_are_inputs_too(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    sent = {"a": [1, 2, 3, 4], "parameters": {"b": [1, 1, 1, 1], "priority": 0}}
    answer = await call("POST", "/v2/models/add/generate", sent)
    assert answer.json()["sum"] == [2, 3, 4, 5]


async def test_the_stream_is_one_event_and_no_end_marker(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    answer = await call("POST", "/v2/models/text/generate_stream", {"x": "hi"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.body.startswith(b"data: {")
    assert answer.body.endswith(b"}\n\n")
    assert json.loads(answer.body[6:])["y"] == "hi"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b"{",
        {"x": 1},
        {"x": None},
        {"x": {"a": 1}},
        {"x": ["a", "b"], "id": 1},
        {"x": "a", "id": "i" * 200},
        {"x": "a", "parameters": []},
        {"x": "a", "other": [1]},
        {"x": "a", "other": None},
        {"x": "a", "priority": "high"},
        {"x": "a", "triton_x": 1},
        {"z": "a"},
        b'{"x":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
    ids=lambda sent: str(sent)[:30],
)
@pytest.mark.parametrize("route", ["generate", "generate_stream"])
async def test_bad_bodies_are_400_before_any_event(
    open_app: Any, repository: Any, sent: Any, route: str
) -> None:
    call = await open_app(repository)
    answer = await call("POST", f"/v2/models/text/{route}", sent)
    assert answer.status == 400, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]


async def test_unknown_models_and_large_bodies(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, max_json_bytes=1000)
    assert (await call("POST", "/v2/models/nobody/generate", {"x": 1})).status == 404
    assert (await call("POST", "/v2/models/text/versions/2/generate", {"x": 1})).status == 404
    assert (await call("POST", GENERATE, {"x": "a" * 1000})).status == 413
    compressed = await call("POST", GENERATE, b"", {"content-encoding": "gzip"})
    assert compressed.status == 415
