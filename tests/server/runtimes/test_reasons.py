"""What a caller and an operator are told of onnxruntime's messages."""

from __future__ import annotations

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.reasons import clean, explain, where
from tests.server.runtimes.graphs import model, node

FREE = ("FP32", ["n", "k"])


def both(kind, **attributes):
    nodes = [node(kind, ["a", "b"], ["y"], name="/encoder/layer.0/step", **attributes)]
    return open_session(model(nodes, {"a": FREE, "b": FREE}, {"y": ("FP32", None)}))


@pytest.mark.parametrize(
    ("session", "shapes", "said"),
    [
        (both("MatMul"), [(2, 4), (3, 4)], "inner dimensions of two matrices differ"),
        (both("Add"), [(2, 4), (3, 4)], "expected equal ones or 1, got 2 and 3"),
        (both("Concat", axis=1), [(2, 4), (3, 4)], "expected equal ones, got 3 and 2"),
        (both("Gemm"), [(2, 4), (3, 4)], r"a matrix of shape \[3,4\] does not fit 4 columns"),
    ],
    ids=["MatMul", "Add", "Concat", "Gemm"],
)
def test_shapes_that_do_not_fit_are_told_with_node_and_sizes(session, shapes, said):
    a, b = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(InvalidInput, match=said) as caught:
        session.run({"a": a, "b": b}, ["y"])
    message = caught.value.message
    assert " at node '/encoder/layer.0/step' (" in message
    assert "onnxruntime" not in message
    assert ".h" not in message


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "x" * 500, "C:\\private\\model"])
def test_the_name_of_a_node_is_escaped_and_cut(name):
    said = where(f"Non-zero status code returned while running Add node. Name:'{name}' Status")
    assert said.isprintable()
    assert len(said) < 120


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Input channels C is not equal to kernel channels * group. C: 2 kernel channels: 3 "
         "group: 1", "expected 3 channels, got 2"),
        ("Invalid input shape: {1,1}", "an input of shape [1,1] is too small for it"),
        ("Input cannot be split evenly on selected axis. Input shape={3,4} Axis=0 NumOutputs=2",
         "a tensor of shape [3,4] cannot be split into 2 along axis 0"),
        ("axis 7 is not in valid range [-3,2]", "an axis: expected -3 to 2, got 7"),
        ("/home/user/secret.cc: something new", ""),
    ],
    ids=["channels", "too small", "split", "axis", "unknown"],
)  # fmt: skip
def test_what_the_runtime_says_is_said_again(text, said):
    assert explain(text) == said


def test_a_graph_of_operators_too_new_says_which_are_understood():
    content = model([node("Relu", ["x"], ["y"])], {"x": FREE}, {"y": FREE}, opset=99)
    with pytest.raises(LoadFailed) as caught:
        open_session(content)
    message = caught.value.message
    assert message.startswith("ONNX Runtime only *guarantees* support")
    assert "is till opset" in message
    assert len(message) <= 300
    assert "std::" not in message


def test_a_graph_of_a_format_too_new_says_which_is_understood():
    message = clean(
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
        "onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const "
        "onnxruntime::logging::Logger&, const onnxruntime::ModelOptions&) Unsupported model IR "
        "version: 99, max supported IR version: 14"
    )
    assert message == "Unsupported model IR version: 99, max supported IR version: 14"


def test_a_try_that_fails_is_no_warning(caplog):
    session = both("Add")
    inputs = {"a": np.zeros((2, 4), np.float32), "b": np.zeros((3, 4), np.float32)}
    with pytest.raises(InvalidInput):
        session.run(inputs, ["y"], StopToken(tries=True))
    assert "a run failed" not in caplog.text
    with pytest.raises(InvalidInput):
        session.run(inputs, ["y"])
    assert "a run failed" in caplog.text
