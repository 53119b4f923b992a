"""Weights in further files: only plain siblings, wherever in the graph they are named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.core.errors import LoadFailed
from aiaas_server.repository.external_data import external_files
from aiaas_server.runtimes.onnx import open_session

WEIGHTS = np.arange(4, dtype=np.float32)


def external(location, name="w"):
    """A tensor of four floats that lie in the file `location`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_initializer(location):
    return [helper.make_node("Add", ["x", "w"], ["y"])], [external(location)]


def in_attribute(location):
    constant = helper.make_node("Constant", [], ["w"], value=external(location))
    return [constant, helper.make_node("Add", ["x", "w"], ["y"])], []


def in_subgraph(location):
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    branch = helper.make_graph(add, "b", [], [info], [external(location)])
    condition = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.array(True), "c")
    )
    return [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch,
                                        else_branch=branch)], []  # fmt: skip


def write(path, nodes, initializers):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


PLACES = pytest.mark.parametrize("place", [in_initializer, in_attribute, in_subgraph])


@PLACES
def test_a_plain_file_beside_the_model_is_found_and_loads(tmp_path, place):
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    model = write(tmp_path / "model.onnx", *place("weights.bin"))
    assert external_files(model) == [tmp_path / "weights.bin"]
    if place is not in_attribute:  # the runtime keeps attributes inside the file
        (y,) = open_session(model).run({"x": np.zeros((1, 4), np.float32)}, ["y"])
        assert y.tolist() == [[0, 1, 2, 3]]


@PLACES
@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "sub/weights.bin", "sub\\weights.bin", "..", ".", "C:w", ""],
)
def test_any_other_place_is_refused(tmp_path, place, location):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    model = write(tmp_path / "model.onnx", *place(location))
    with pytest.raises(LoadFailed, match="expected a plain file name beside the model"):
        external_files(model)


def test_a_link_that_leads_away_and_a_missing_file_are_refused(tmp_path):
    away = tmp_path / "away.bin"
    away.write_bytes(WEIGHTS.tobytes())
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "w.bin").symlink_to(away)
    for name in ("w.bin", "missing.bin"):
        model = write(tmp_path / "bundle" / "model.onnx", *in_initializer(name))
        with pytest.raises(LoadFailed, match=f"there is no file '{name}' beside it"):
            external_files(model)


def test_a_model_that_only_speaks_of_locations_has_no_further_files(tmp_path):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("location", "y")]
    node = helper.make_node("Identity", ["location"], ["y"], name="location")
    graph = helper.make_graph([node], "location", values[:1], values[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    assert external_files(path) == []


def test_damage_behind_a_location_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xff location \xff")
    with pytest.raises(LoadFailed, match="damaged"):
        external_files(path)
