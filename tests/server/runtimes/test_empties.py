"""No tensor without elements, given or made inside a graph, ends the process."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.runtimes.onnx import open_session
from tests.server.runtimes.graphs import model, node

RNG = np.random.default_rng(0)
CUT = {"one": np.int64([1]), "end": np.int64([2**62])}
STEPS = {"x": ("FP32", ["t", "n", 4])}


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def cut(axis):
    """The first of an axis is cut off: of a single one nothing is left."""
    return node("Slice", ["x", "one", "end", "axis"], ["cut"]), {"axis": np.int64([axis])}


def recurrent(kind, gates, axis):
    first, constants = cut(axis)
    last = node(kind, ["cut", "w", "r"], ["y"], hidden_size=4, name="the layer")
    constants |= {"w": weights(1, 4 * gates, 4), "r": weights(1, 4 * gates, 4)}
    outputs = {"y": ("FP32", ["t", 1, "n", 4])}
    return model([first, last], STEPS, outputs, {**CUT, **constants})


def distinct():
    first, constants = cut(1)
    last = node("Unique", ["cut"], ["y"], axis=0, name="the layer")
    outputs = {"y": ("FP32", ["k", "m"])}
    return model([first, last], {"x": ("FP32", ["n", "m"])}, outputs, {**CUT, **constants})


def enlarged():
    first, constants = cut(2)
    last = node("ConvTranspose", ["cut", "w"], ["y"], name="the layer")
    constants["w"] = weights(2, 3, 3, 3, 3)
    inputs = {"x": ("FP32", ["n", 2, "a", "b", "c"])}
    outputs = {"y": ("FP32", ["n", 3, "d", "e", "f"])}
    return model([first, last], inputs, outputs, {**CUT, **constants})


def spectrum(cut_one="x", frame=16):
    """Of a signal whose first part is cut off, or by a window whose first part is."""
    given = ["cut", "step", "", "frame"] if cut_one == "x" else ["x", "step", "cut"]
    nodes = [
        node("Slice", [cut_one, "one", "end", "axis"], ["cut"]),
        node("STFT", given, ["y"], name="the layer"),
    ]
    inputs = {"x": ("FP32", ["n", "t", 1])}
    if cut_one != "x":
        inputs[cut_one] = ("FP32", ["k"])
    constants = {"step": np.int64(8), "axis": np.int64([1 if cut_one == "x" else 0]), **CUT}
    constants["frame"] = np.int64(frame)
    return model(nodes, inputs, {"y": ("FP32", ["n", "f", "b", 2])}, constants)


def branched():
    """The layer stands in one branch and takes what the graph around it makes."""
    first, constants = cut(0)
    layer = node("GRU", ["cut", "w", "r"], ["deep"], hidden_size=4, name="the layer")
    value = helper.make_tensor_value_info("deep", TensorProto.FLOAT, ["t", 1, "n", 4])
    branch = helper.make_graph([layer], "branch", [], [value])
    total = node("ReduceSum", ["x"], ["total"], keepdims=0)
    positive = node("Greater", ["total", "nought"], ["yes"])
    choice = node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    constants |= {"w": weights(1, 12, 4), "r": weights(1, 12, 4), "nought": np.float32(0)}
    outputs = {"y": ("FP32", ["t", 1, "n", 4])}
    return model([first, total, positive, choice], STEPS, outputs, {**CUT, **constants})


ENDING = {
    "LSTM, no steps": (recurrent("LSTM", 4, 0), {"x": (1, 2, 4)}, {"x": (3, 2, 4)}),
    "LSTM, no rows": (recurrent("LSTM", 4, 1), {"x": (2, 1, 4)}, {"x": (2, 3, 4)}),
    "GRU, no steps": (recurrent("GRU", 3, 0), {"x": (1, 2, 4)}, {"x": (3, 2, 4)}),
    "GRU, no rows": (recurrent("GRU", 3, 1), {"x": (2, 1, 4)}, {"x": (2, 3, 4)}),
    "GRU in a branch": (branched(), {"x": (1, 2, 4)}, {"x": (3, 2, 4)}),
    "Unique": (distinct(), {"x": (3, 1)}, {"x": (3, 4)}),
    "ConvTranspose": (enlarged(), {"x": (1, 2, 1, 4, 4)}, {"x": (1, 2, 3, 4, 4)}),
    "STFT, no signal": (spectrum(), {"x": (1, 1, 1)}, {"x": (1, 65, 1)}),
    "STFT, no window": (
        spectrum("w"), {"x": (1, 64, 1), "w": (1,)}, {"x": (1, 64, 1), "w": (17,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDING)
def test_what_a_graph_makes_without_elements_is_the_callers_mistake(name):
    content, ending, sound = ENDING[name]
    session = open_session(content)
    (said,) = session.graph.changes
    assert said.endswith("tensor(s) guarded against having no elements")
    empty = {name: np.ones(shape, np.float32) for name, shape in ending.items()}
    with pytest.raises(InvalidInput, match="it needs at least one element"):
        session.run(empty, ["y"])
    full = {name: np.ones(shape, np.float32) for name, shape in sound.items()}
    (answer,) = session.run(full, ["y"])
    assert answer.size


def test_answers_stay_as_they_were():
    content, x = ENDING["LSTM, no steps"][0], weights(5, 2, 4)
    (told,) = ort.InferenceSession(content).run(None, {"x": x})
    (answer,) = open_session(content).run({"x": x}, ["y"])
    np.testing.assert_array_equal(answer, told)


def test_a_constant_without_elements_is_refused_at_load():
    with pytest.raises(LoadFailed, match="'STFT' needs a tensor with elements, got none"):
        open_session(spectrum(frame=0))


def test_what_a_request_gives_without_elements_is_refused_by_its_name():
    inputs = {"x": ("FP32", ["n", "m"])}
    session = open_session(
        model([node("Unique", ["x"], ["y"], axis=0)], inputs, {"y": ("FP32", ["k", "m"])})
    )
    assert session.graph.changes == ()
    with pytest.raises(InvalidInput, match="input 'x': expected at least one element"):
        session.run({"x": np.ones((3, 0), np.float32)}, ["y"])


def test_without_an_axis_nothing_needs_a_guard():
    nodes = [node("Identity", ["x"], ["i"]), node("Unique", ["i"], ["y"])]
    session = open_session(model(nodes, {"x": ("FP32", ["n"])}, {"y": ("FP32", ["k"])}))
    assert session.graph.changes == ()
    assert session.run({"x": np.ones(0, np.float32)}, ["y"])[0].size == 0
