"""ONNX models of one small graph, for tests that say themselves what the graph is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name: str, dims: Sequence[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output; a dimension is a size, a symbol, or None."""
    return helper.make_tensor_value_info(name, kind, dims)


def model(nodes: Any, inputs: Any, outputs: Any, **constants: Any) -> bytes:
    """A checked model file; `constants` are its initializers by name."""
    kept = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, kept)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def takes_long(steps: int) -> bytes:
    """`x` (n, 4) -> `y` = 2x, after so many matrix products whose result adds nothing."""
    square = [128, 128]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["before", "weights"], ["after"]),
        ],
        "step",
        [
            value("i", [], TensorProto.INT64),
            value("go_in", [], TensorProto.BOOL),
            value("before", square),
        ],
        [value("go_out", [], TensorProto.BOOL), value("after", square)],
    )
    nodes = [
        helper.make_node("Loop", ["steps", "", "weights"], ["state"], body=body),
        helper.make_node("ReduceSum", ["state"], ["zero"], keepdims=0),
        helper.make_node("Mul", ["x", "factor"], ["twice"]),
        helper.make_node("Add", ["twice", "zero"], ["y"]),
    ]
    constants = {
        "steps": np.int64(steps),
        "weights": np.zeros((128, 128), np.float32),
        "factor": np.float32(2),
    }
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], **constants)


def fails_at(limit: int) -> bytes:
    """`x` (n, 4) -> `y` = 2x; fails at run time where the first element is `limit` or more."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]),
        helper.make_node("Mul", ["x", "factor"], ["twice"]),
        helper.make_node("Add", ["twice", "nothing"], ["y"]),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),  # the end, and the axis
        "table": np.zeros(limit, np.float32),
        "factor": np.float32(2),
    }
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], **constants)
