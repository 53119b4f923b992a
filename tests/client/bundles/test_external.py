"""Which files hold a model's weights, as its tensors say, wherever they stand in the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aiaas_client._bundles.external import external_files


def outside(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location, 0, 16)
    tensor.ClearField("raw_data")
    return tensor


def written(tmp_path: Path, graph: onnx.GraphProto) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_initializers_attributes_and_subgraphs_are_searched(tmp_path: Path) -> None:
    inner = helper.make_graph([], "inner", [], [], [outside("c", "inner.bin")])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=outside("a", "attribute.bin")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
    ]
    kept = [outside("w", "weights.bin"), outside("v", "weights.bin")]
    path = written(tmp_path, helper.make_graph(nodes, "g", [], [], kept))
    assert sorted(external_files(path)) == ["attribute.bin", "inner.bin", "weights.bin"]


def test_a_self_contained_model_has_none(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    node = helper.make_node("Constant", [], ["a"], value=weights)
    path = written(tmp_path, helper.make_graph([node], "g", [], [], [weights]))
    assert external_files(path) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 100, b"\x3a\x05\x0a"],
    ids=["empty", "text", "long", "varint", "cut"],
)
def test_what_is_no_model_names_no_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert external_files(path) == []


def test_a_graph_that_is_nested_without_end_is_left(tmp_path: Path) -> None:
    content = b""
    for _ in range(200):  # each a graph in an attribute of a node of the one around it
        for key in (0x32, 0x2A, 0x0A):
            size = len(content)
            length = bytes([size & 0x7F | 0x80, size >> 7]) if size > 0x7F else bytes([size])
            content = bytes([key]) + length + content
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7]) + content)
    assert external_files(path) == []
