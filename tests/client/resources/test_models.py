"""`client.models` and raw answers, against a server with and without the optional endpoints."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    APIStatusError,
    BadRequestError,
    LoadFailedError,
    ModelNotFoundError,
    NotFoundError,
    NotSupportedError,
)

INDEX = [{"name": "m", "version": "1", "state": "READY"}, {"name": "new"}]
STATISTICS = {"model_stats": [{"name": "m", "version": "1", "inference_count": 4}]}
MODEL = {
    "name": "m",
    "versions": ["1"],
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
}


def test_the_index_lists_versions(either: Any, wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(body=INDEX))
    caller = either(server.url)
    entries = caller.run(caller.client.models.list())
    assert [(entry.name, entry.version, entry.is_ready) for entry in entries] == [
        ("m", "1", True),
        ("new", "", False),
    ]
    caller.run(caller.client.models.list(ready=True))
    assert [received.body for received in server.received] == [b"{}", b'{"ready":true}']


def test_metadata_config_and_statistics_are_read(either: Any, wire: Any, steps: Any) -> None:
    server = wire(
        steps.answer(body=MODEL),
        steps.answer(body={"max_batch_size": 4}),
        steps.answer(body=STATISTICS),
    )
    caller = either(server.url)
    models = caller.client.models
    assert caller.run(models.get("m", 1)).inputs[0].shape == (-1, 2)
    assert caller.run(models.config("m")) == {"max_batch_size": 4}
    assert caller.run(models.statistics("m"))[0].inference_count == 4


def test_loading_sends_configuration_and_files(
    either: Any, wire: Any, steps: Any, tmp_path: Any
) -> None:
    server = wire(default=steps.answer(body=b""))
    caller = either(server.url)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    files = {"1/model.onnx": tmp_path / "model.onnx"}
    caller.run(caller.client.models.load("m", config={"backend": "x"}, files=files))
    caller.run(caller.client.models.unload("m", unload_dependents=True))
    load, unload = (json.loads(received.body) for received in server.received)
    assert load["parameters"]["config"] == '{"backend": "x"}'
    assert load["parameters"]["file:1/model.onnx"] == "b25ueA=="
    assert unload == {"parameters": {"unload_dependents": True}}


ABSENT = [
    pytest.param(404, {"detail": "Not Found"}, id="404 of a framework"),
    pytest.param(404, b"<html>nothing here</html>", id="404 page"),
    pytest.param(404, {"error": "unknown route", "code": "not_found"}, id="404 of ours"),
    pytest.param(405, {"error": "no"}, id="405"),
    pytest.param(501, {"error": "no"}, id="501"),
]


@pytest.mark.parametrize(("status", "body"), ABSENT)
def test_an_optional_endpoint_that_is_missing_is_not_supported(
    either: Any, wire: Any, steps: Any, status: int, body: object
) -> None:
    caller = either(wire(default=steps.answer(status, body)).url)
    models = caller.client.models
    for call in (
        lambda: models.list(),
        lambda: models.statistics(),
        lambda: models.statistics("m"),
        lambda: models.config("m"),
        lambda: models.load("m"),
        lambda: models.unload("m"),
    ):
        with pytest.raises(NotSupportedError) as caught:
            caller.run(call())
        assert caught.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"error": "gone", "code": "model_not_found"}, id="by code"),
        pytest.param({"error": "Request for unknown model: 'm' is not found"}, id="by name"),
    ],
)
def test_a_missing_model_is_not_a_missing_endpoint(
    either: Any, wire: Any, steps: Any, body: object
) -> None:
    caller = either(wire(default=steps.answer(404, body)).url)
    with pytest.raises(NotFoundError):
        caller.run(caller.client.models.config("m"))


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        pytest.param({"error": "bad"}, "bad", "", id="text"),
        pytest.param({"error": {"message": "bad", "code": "x"}}, "bad", "x", id="object"),
        pytest.param({"detail": "bad"}, "bad", "", id="detail"),
        pytest.param({"detail": [{"msg": "bad"}]}, '"msg": "bad"', "", id="detail list"),
        pytest.param({"error": None}, "null", "", id="null"),
        pytest.param(b"plain bad", "plain bad", "", id="plain text"),
        pytest.param(b"\xff\xfe", "", "", id="not text"),
        pytest.param(b"", "no reason given", "", id="nothing"),
        pytest.param(b"[1, 2]", "1, 2", "", id="an array"),
        pytest.param({"error": {"message": 7}, "code": 3}, "7", "", id="odd types"),
    ],
)
def test_errors_are_read_as_any_server_writes_them(
    either: Any, wire: Any, steps: Any, body: object, text: str, code: str
) -> None:
    caller = either(wire(default=steps.answer(400, body)).url)
    with pytest.raises(BadRequestError) as caught:
        caller.run(caller.client.models.get("m"))
    assert text in str(caught.value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(400, "load_failed", LoadFailedError), (404, "model_not_found", ModelNotFoundError)],
)
def test_a_failed_load_says_why(
    either: Any, wire: Any, steps: Any, status: int, code: str, error: type[APIStatusError]
) -> None:
    told = {"error": "failed to load 'm': bad", "code": code, "retryable": False}
    caller = either(wire(default=steps.answer(status, told)).url)
    with pytest.raises(error, match="failed to load"):
        caller.run(caller.client.models.load("m"))


def test_a_raw_answer_has_everything_and_can_be_read(either: Any, wire: Any, steps: Any) -> None:
    server = wire(default=steps.answer(body=INDEX, X_Extra="1"))
    caller = either(server.url)
    raw = caller.run(caller.client.with_raw_response.models.list())
    assert raw.status == 200
    assert raw.headers["x-extra"] == "1"
    assert json.loads(raw.body) == INDEX
    assert raw.attempts == 1
    assert raw.endpoint == server.url
    assert raw.request_id == server.received[0].headers["x-request-id"]
    assert raw.parse()[0].name == "m"


def test_a_raw_inference_is_sent_as_given(either: Any, wire: Any, steps: Any) -> None:
    told = {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1, 2]}],
    }
    caller = either(wire(default=steps.answer(body=told)).url)
    inputs = {"x": np.ones((1, 2), np.float32)}
    raw = caller.run(caller.client.with_raw_response.infer("m", inputs, outputs=["y"]))
    assert raw.parse()["y"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("path", ["health", "ready", "metadata"])
def test_the_other_raw_answers(either: Any, wire: Any, path: str) -> None:
    caller = either(wire().url)
    raw = caller.run(getattr(caller.client.with_raw_response, path)())
    assert raw.status == 200
    assert raw.parse()
