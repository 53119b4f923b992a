"""Answers joined from remembered pieces are the bytes that writing them anew would give."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

NASTY = 'y"data":[1]'


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


def odd_model() -> bytes:
    """`x` FP32 `[n, w]` -> itself under a name like JSON, its negative, and whether it is above."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Identity", ["x"], [NASTY]),
        helper.make_node("Neg", ["x"], ["minus"]),
        helper.make_node("Greater", ["x", "minus"], ["above"]),
    ]
    outputs = [
        info(NASTY, TensorProto.FLOAT, ["n", "w"]),
        info("minus", TensorProto.FLOAT, ["n", "w"]),
        info("above", TensorProto.BOOL, ["n", "w"]),
    ]
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["n", "w"])], outputs)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def asking(values: list[float], **more: Any) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(values)], "data": values}
    return {"inputs": [tensor], **more}


def finite(answer: Any) -> Any:
    return [output["data"] for output in answer.json()["outputs"]]


async def test_json_answers_of_one_shape_differ_in_their_numbers_only(
    open_app: Any, make_repository: Any
) -> None:
    call = await open_app(make_repository({"m": odd_model()}))
    path = "/v2/models/m/infer"
    rows = [[1.0], [1.0], [-2.5], [1e30], [0.1], [3.0, 4.0], [5.0, -6.0], [1.0]]
    for row in rows:
        answer = await call("POST", path, asking(row))
        assert answer.status == 200
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert answer.headers["content-type"] == "application/json"
        x = np.array(row, np.float32)
        assert [o["name"] for o in answer.json()["outputs"]] == [NASTY, "minus", "above"]
        for got, expected in zip(finite(answer), (x, -x, x > -x), strict=True):
            np.testing.assert_array_equal(np.array(got, np.asarray(expected).dtype), expected)


async def test_numbers_that_json_lacks_come_between_those_it_has(
    open_app: Any, make_repository: Any
) -> None:
    call = await open_app(make_repository({"m": odd_model()}))
    for text in ("1.0", "NaN", "Infinity", "2.0"):
        body = json.dumps(asking([0.0])).replace("[0.0]", f"[{text}]").encode()
        answer = await call("POST", "/v2/models/m/infer", body)
        (got,) = json.loads(answer.body)["outputs"][0]["data"]
        np.testing.assert_array_equal(got, float(text))


@pytest.mark.parametrize(
    "more",
    [
        {"id": "7"},
        {"outputs": [{"name": "minus"}]},
        {"outputs": [{"name": "minus", "parameters": {"binary_data": True}}]},
        {"outputs": [{"name": "minus", "parameters": {"classification": 1}}]},
        {"outputs": [{"name": "above"}, {"name": "minus"}]},
    ],
    ids=["id", "one output", "binary", "classes", "another order"],
)
async def test_what_asks_for_another_form_gets_it(
    open_app: Any, make_repository: Any, more: Any
) -> None:
    call = await open_app(make_repository({"m": odd_model()}))
    path = "/v2/models/m/infer"
    fresh = await call("POST", path, asking([2.0], **more))
    for _ in range(2):
        await call("POST", path, asking([1.0]))
    again = await call("POST", path, asking([2.0], **more))
    assert again.body == fresh.body
    assert again.headers["content-type"] == fresh.headers["content-type"]


async def test_a_reload_is_told_in_the_next_answer(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"m": onnx_models.scale(2)})
    call = await open_app(root)
    body = asking([1.0, 1.0, 1.0, 1.0])
    for _ in range(2):
        await call("POST", "/v2/models/m/infer", body)
    make_repository({"m": {2: onnx_models.scale(3)}})
    assert (await call("POST", "/v2/repository/models/m/load")).status == 200
    answer = await call("POST", "/v2/models/m/infer", body)
    assert answer.json()["model_version"] == "2"
    assert answer.json()["outputs"][0]["data"] == [3, 3, 3, 3]
