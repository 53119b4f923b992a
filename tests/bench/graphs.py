"""Small models made for a measurement."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def total() -> bytes:
    """`x (n)` to `total (1)`: all the bytes go there, four come back."""
    return _graph(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=1)],
        [helper.make_tensor_value_info("x", FLOAT, ["n"])],
        [helper.make_tensor_value_info("total", FLOAT, [1])],
    )


def filled() -> bytes:
    """`size (1)` int64 to that many numbers: all the bytes come back."""
    value = numpy_helper.from_array(np.ones(1, np.float32), "")
    return _graph(
        [helper.make_node("ConstantOfShape", ["size"], ["x"], value=value)],
        [helper.make_tensor_value_info("size", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("x", FLOAT, ["n"])],
    )


def heavy(megabytes: int) -> bytes:
    """One matrix of that size: `x (batch, 1000)` to `y`."""
    return linear(1000, megabytes * 1_000_000 // 4 // 1000)


def linear(features: int, width: int = 1) -> bytes:
    """One matrix: `x (batch, features)` to `y (batch, width)`."""
    weights = np.random.default_rng(0).standard_normal((features, width), np.float32)
    return _graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", width])],
        [numpy_helper.from_array(weights, "w")],
    )


def variant(content: bytes, number: int) -> bytes:
    """The same model in other bytes: with that many for its description."""
    text = b"%08d" % number
    return content + b"\x32" + bytes([len(text)]) + text  # field 6 of a ModelProto


def place(repository: Path, name: str, content: bytes) -> None:
    """Put a model into a repository in Triton's layout."""
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def copies(model: Path, repository: Path, count: int) -> list[str]:
    """The same model under many names, which it gives."""
    names = [f"{model.name}-{number}" for number in range(count)]
    for name in names:
        shutil.copytree(model, repository / name)
    return names


def _graph(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
) -> bytes:
    graph = helper.make_graph(nodes, "made", inputs, outputs, weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
