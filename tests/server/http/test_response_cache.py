"""The response cache as clients see it: the same answers, and exact counts of hits and misses."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


def asking(value: float, **more: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}
    return {"inputs": [tensor], **more}


async def test_equal_requests_are_answered_from_memory_and_counted(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    config = json.dumps({"max_batch_size": 4, "response_cache": {"enable": True}})
    root = make_repository({"m": onnx_models.scale(2)}, configs={"m": config})
    call = await open_app(root)
    path = "/v2/models/m/infer"
    assert (await call("GET", "/v2/models/m/config")).json()["response_cache"] == {"enable": True}
    for value, identifier in ((1.0, "a"), (1.0, "b"), (2.0, "c"), (1.0, "")):
        answer = (await call("POST", path, asking(value, id=identifier))).json()
        assert answer["outputs"][0]["data"] == [2 * value] * 4
        assert answer.get("id", "") == identifier
    classes = {"outputs": [{"name": "y", "parameters": {"classification": 1}}]}
    for _ in range(2):
        answer = (await call("POST", path, asking(1.0, **classes))).json()
        assert answer["outputs"][0]["datatype"] == "BYTES"
    page = (await call("GET", "/metrics")).body.decode()
    counted = {line.split("{")[0]: line.split()[-1] for line in page.splitlines() if "{" in line}
    assert counted["nv_cache_num_hits_per_model"] == "4"
    assert counted["nv_cache_num_misses_per_model"] == "2"
    assert counted["nv_inference_request_success"] == "6"
    assert counted["nv_inference_exec_count"] == "2"
    (entry,) = (await call("GET", "/v2/models/m/stats")).json()["model_stats"]
    assert entry["inference_stats"]["cache_hit"]["count"] == 4
    assert entry["inference_stats"]["compute_infer"]["count"] == 2
