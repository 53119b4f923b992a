"""`tritonclient[http]`, unmodified, sync and asyncio: protocol 17 items 1 and 2, every route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as sync_http
import tritonclient.http.aio as async_http
from tritonclient.utils import InferenceServerException

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": object,
}
NO_JSON = {"FP16", "BF16"}  # the client itself refuses to send or read them as JSON
CODINGS = [None, "gzip", "deflate"]


def sample(datatype: str, rows: int) -> np.ndarray:
    """`(rows, 3)`, with the extremes of the datatype."""
    if datatype == "BYTES":
        texts = ["", "plain", "中文 \x00 😀"]
        row = [text.encode() for text in texts]
        return np.array([row] * rows, dtype=object).reshape(rows, 3)
    if datatype == "BOOL":
        row = [True, False, True]
    elif datatype in ("FP16", "FP32", "FP64", "BF16"):
        row = [0.1, -1.5, 3e4]
    else:
        info = np.iinfo(DTYPES[datatype])
        row = [info.min, info.max, 7]
    return np.array([row] * rows, dtype=DTYPES[datatype]).reshape(rows, 3)


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    contents = {name.lower(): onnx_models.identity(name) for name in DTYPES}
    return make_repository(contents | {"add": onnx_models.add(), "scale": onnx_models.scale()})


@contextmanager
def connected(server: Any) -> Iterator[Any]:
    client = sync_http.InferenceServerClient(server.address)
    try:
        yield client
    finally:
        client.close()


def tensor(module: Any, array: np.ndarray, datatype: str, binary: bool, name: str = "x") -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def wanted(module: Any, binary: bool | None, name: str = "y") -> Any:
    return None if binary is None else [module.InferRequestedOutput(name, binary_data=binary)]


def combinations(datatype: str) -> Iterator[tuple[int, bool, bool, str | None, str | None]]:
    """Rows, binary in, binary out, request coding, answer coding."""
    for rows in (0, 2):
        for binary_in in (True, False):
            for binary_out in (True, False):
                if datatype in NO_JSON and not (binary_in and binary_out):
                    continue
                for sent in CODINGS:
                    for received in CODINGS:
                        yield rows, binary_in, binary_out, sent, received


@pytest.mark.parametrize("datatype", DTYPES)
def test_sync_round_trips(serve: Any, models: Any, datatype: str) -> None:
    with connected(serve(models)) as client:
        for rows, binary_in, binary_out, sent, received in combinations(datatype):
            array = sample(datatype, rows)
            result = client.infer(
                datatype.lower(),
                [tensor(sync_http, array, datatype, binary_in)],
                outputs=wanted(sync_http, binary_out),
                request_compression_algorithm=sent,
                response_compression_algorithm=received,
            )
            check(result, array, datatype)


def check(result: Any, array: np.ndarray, datatype: str) -> None:
    answer = result.as_numpy("y")
    assert result.get_output("y")["datatype"] == datatype
    if datatype == "BYTES":  # JSON brings text, binary brings bytes
        answer = np.array(
            [e.encode() if isinstance(e, str) else e for e in answer.reshape(-1)], dtype=object
        ).reshape(answer.shape)
    assert answer.dtype == array.dtype
    assert answer.shape == array.shape
    np.testing.assert_array_equal(answer, array)


@pytest.mark.parametrize("datatype", DTYPES)
async def test_asyncio_round_trips(serve: Any, models: Any, datatype: str) -> None:
    server = serve(models)
    async with async_http.InferenceServerClient(server.address) as client:
        for rows, binary_in, binary_out, sent, received in combinations(datatype):
            array = sample(datatype, rows)
            result = await client.infer(
                datatype.lower(),
                [tensor(async_http, array, datatype, binary_in)],
                outputs=wanted(async_http, binary_out),
                request_compression_algorithm=sent,
                response_compression_algorithm=received,
            )
            check(result, array, datatype)


def test_mixed_inputs_and_mixed_outputs(serve: Any, models: Any) -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    with connected(serve(models)) as client:
        for first in (True, False):
            inputs = [
                tensor(sync_http, array, "FP32", first, "a"),
                tensor(sync_http, array, "FP32", not first, "b"),
            ]
            result = client.infer("add", inputs)
            np.testing.assert_array_equal(result.as_numpy("sum"), array + array)


def test_no_outputs_and_empty_outputs_mean_all(serve: Any, models: Any) -> None:
    array = np.ones((1, 4), np.float32)
    with connected(serve(models)) as client:
        for outputs in (None, []):
            inputs = [tensor(sync_http, array, "FP32", True)]
            result = client.infer("scale", inputs, outputs=outputs)
            np.testing.assert_array_equal(result.as_numpy("y"), array * 2)


@pytest.mark.parametrize(("identifier", "told"), [("", False), ("42", True), ("ö😀", True)])
def test_ids_come_back_when_they_are_not_empty(
    serve: Any, models: Any, identifier: str, told: bool
) -> None:
    with connected(serve(models)) as client:
        inputs = [tensor(sync_http, np.ones((1, 4), np.float32), "FP32", True)]
        response = client.infer("scale", inputs, request_id=identifier).get_response()
        assert ("id" in response) == told
        assert response.get("id", "") == identifier


def test_parameters_priority_and_timeout_are_accepted(serve: Any, models: Any) -> None:
    with connected(serve(models)) as client:
        inputs = [tensor(sync_http, np.ones((1, 4), np.float32), "FP32", True)]
        result = client.infer(
            "scale", inputs, priority=1, timeout=5_000_000, parameters={"mine": "x", "n": 3}
        )
        assert result.as_numpy("y") is not None


def test_non_finite_numbers_survive_json(serve: Any, models: Any) -> None:
    array = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    with connected(serve(models)) as client:
        inputs = [tensor(sync_http, array, "FP32", False)]
        result = client.infer("fp32", inputs, outputs=wanted(sync_http, False))
        np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_classification(serve: Any, models: Any) -> None:
    array = np.array([[0.1, 0.4, 0.2, 0.3]], np.float32)
    with connected(serve(models)) as client:
        for binary in (True, False):
            outputs = [sync_http.InferRequestedOutput("y", binary_data=binary, class_count=2)]
            inputs = [tensor(sync_http, array, "FP32", True)]
            result = client.infer("scale", inputs, outputs=outputs).as_numpy("y")
            texts = [e.decode() if isinstance(e, bytes) else e for e in result[0]]
            assert texts == ["0.800000:1", "0.600000:3"]


def test_errors_tell_status_and_message(serve: Any, models: Any) -> None:
    with connected(serve(models)) as client:
        inputs = [tensor(sync_http, np.ones((1, 5), np.float32), "FP32", True)]
        with pytest.raises(InferenceServerException, match="expected shape") as caught:
            client.infer("scale", inputs)
        assert caught.value.status() == "400"
        with pytest.raises(InferenceServerException, match="nobody") as caught:
            client.get_model_metadata("nobody")
        assert caught.value.status() == "404"


def test_health_and_metadata(serve: Any, models: Any) -> None:
    with connected(serve(models)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("scale")
        assert client.is_model_ready("scale", "1")
        assert not client.is_model_ready("nobody")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("scale", "1")
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        config = client.get_model_config("scale")
        assert config["input"][0]["dims"] == [4]


def test_statistics(serve: Any, models: Any) -> None:
    with connected(serve(models)) as client:
        inputs = [tensor(sync_http, np.ones((3, 4), np.float32), "FP32", True)]
        client.infer("scale", inputs)
        (entry,) = client.get_inference_statistics("scale")["model_stats"]
        assert (entry["inference_count"], entry["execution_count"]) == (3, 1)
        assert len(client.get_inference_statistics()["model_stats"]) == len(DTYPES) + 2


def test_repository_control_with_a_configuration_and_files(
    serve: Any, models: Any, onnx_models: SimpleNamespace
) -> None:
    array = np.ones((1, 4), np.float32)

    def run(client: Any) -> float:
        result = client.infer("scale", [tensor(sync_http, array, "FP32", True)])
        return float(result.as_numpy("y")[0, 0])

    with connected(serve(models)) as client:
        states = {e["name"]: e.get("state") for e in client.get_model_repository_index()}
        assert states["scale"] == "READY"
        client.load_model("scale", config=json.dumps({"name": "scale", "max_batch_size": 3}))
        assert client.get_model_config("scale")["max_batch_size"] == 3
        files = {"file:1/model.onnx": onnx_models.scale(7.0)}
        client.load_model("scale", config=json.dumps({"max_batch_size": 5}), files=files)
        assert client.get_model_config("scale")["max_batch_size"] == 5
        assert run(client) == 7.0
        client.unload_model("scale")
        assert not client.is_model_ready("scale")
        with pytest.raises(InferenceServerException):
            run(client)
        client.unload_model("scale", unload_dependents=True)
        client.load_model("scale")
        assert run(client) == 2.0
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("nobody")
        assert caught.value.status() == "404"
        broken = {"file:1/model.onnx": b"not a model"}
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("scale", config="{}", files=broken)
        assert caught.value.status() == "400"
        assert run(client) == 2.0


def test_logging_trace_and_shared_memory_calls(serve: Any, models: Any) -> None:
    with connected(serve(models)) as client:
        assert client.get_log_settings()["log_info"] is True
        assert client.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0
        assert client.get_trace_settings()["trace_level"] == ["OFF"]
        changed = client.update_trace_settings("scale", {"trace_rate": "5"})
        assert changed["trace_rate"] == "5"
        assert client.get_system_shared_memory_status() == []
        assert client.get_cuda_shared_memory_status() == []
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        with pytest.raises(InferenceServerException) as caught:
            client.register_system_shared_memory("r", "/key", 64)
        assert caught.value.status() == "501"


def test_the_raw_form(serve: Any, models: Any) -> None:
    array = np.arange(4, dtype=np.float32)
    with connected(serve(models)) as client:
        headers = {"Inference-Header-Content-Length": "0"}
        response = client._post("v2/models/scale/infer", array.tobytes(), headers, None)
        assert response.status_code == 200
        length = int(response.get("Inference-Header-Content-Length"))
        body = response.read()
        (output,) = json.loads(body[:length])["outputs"]
        assert (output["shape"], output["parameters"]) == ([1, 4], {"binary_data_size": 16})
        np.testing.assert_array_equal(np.frombuffer(body[length:], np.float32), array * 2)


async def test_asyncio_control_calls(serve: Any, models: Any, onnx_models: SimpleNamespace) -> None:
    server = serve(models)
    async with async_http.InferenceServerClient(server.address) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata("scale"))["versions"] == ["1"]
        await client.unload_model("scale")
        await client.load_model(
            "scale", config="{}", files={"file:1/model.onnx": onnx_models.scale(9.0)}
        )
        array = np.ones((1, 4), np.float32)

        async def one() -> Any:
            return await client.infer("scale", [tensor(async_http, array, "FP32", True)])

        for result in await asyncio.gather(*(one() for _ in range(20))):
            np.testing.assert_array_equal(result.as_numpy("y"), array * 9)
