"""KServe's own REST client, unmodified, over HTTP/1.1."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the package does on import is not ours to judge
    kserve = pytest.importorskip("kserve", reason="KServe's client is not installed")
    from kserve.protocol.infer_type import RequestedOutput


@pytest.fixture
async def client() -> Any:
    made = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0))
    yield made
    await made.close()


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository(
        {"scale": onnx_models.scale(), "text": onnx_models.identity("BYTES", ["batch", 1])}
    )


async def test_health(serve: Any, repository: Any, client: Any) -> None:
    server = serve(repository)
    assert await client.is_server_live(server.url)
    assert await client.is_server_ready(server.url)
    assert await client.is_model_ready(server.url, "scale")


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("listed", [False, True], ids=["all outputs", "listed"])
async def test_round_trip(
    serve: Any, repository: Any, client: Any, binary: bool, listed: bool
) -> None:
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    tensor = kserve.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    request = kserve.InferRequest(
        "scale",
        [tensor],
        request_id="k-1",
        parameters={"binary_data_output": binary},
        request_outputs=[RequestedOutput("y", {"binary_data": binary})] if listed else None,
    )
    answer = await client.infer(serve(repository).url, request, model_name="scale")
    assert (answer.id, answer.model_name) == ("k-1", "scale")
    (output,) = answer.outputs
    np.testing.assert_array_equal(output.as_numpy(), array * 2)


async def test_text_round_trip(serve: Any, repository: Any, client: Any) -> None:
    tensor = kserve.InferInput("x", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([["你好"]], dtype=object), binary_data=False)
    request = kserve.InferRequest("text", [tensor])
    answer = await client.infer(serve(repository).url, request, model_name="text")
    assert answer.outputs[0].data == ["你好"]


async def test_plain_dictionaries(serve: Any, repository: Any, client: Any) -> None:
    data = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answer = await client.infer(serve(repository).url, data, model_name="scale")
    outputs = answer["outputs"] if isinstance(answer, dict) else answer.outputs
    first = outputs[0]["data"] if isinstance(outputs[0], dict) else outputs[0].data
    assert list(first) == [2, 4, 6, 8]
