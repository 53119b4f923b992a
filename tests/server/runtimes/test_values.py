"""Where values, not sizes, set how long a run takes, and where only shapes do."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from aiaas_server.runtimes.onnx import open_session
from tests.server.runtimes.graphs import model, node

X = {"x": ("FP32", ["n", 4])}
Y = {"y": ("FP32", None)}
SIZES = {"s": ("INT64", [2])}


def two_steps(shape_of_input):
    """`Expand` in a function, by its second input: a shape, or what a request carries."""
    function = helper.make_function(
        "own", "Grow", ["p", "q"], ["r"], [node("Expand", ["p", "q"], ["r"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    source = node("Shape", ["x"], ["s2"]) if shape_of_input else node("Identity", ["s"], ["s2"])
    inputs = X if shape_of_input else {**X, **SIZES}
    call = node("Grow", ["one", "s2"], ["y"], domain="own")
    return model([source, call], inputs, Y, {"one": np.float32([[1]])}, functions=[function])


BY_VALUES = {
    "ConstantOfShape": model([node("ConstantOfShape", ["s"], ["y"])], SIZES, Y),
    "Tile": model([node("Tile", ["x", "s"], ["y"])], {**X, **SIZES}, Y),
    "Expand": model([node("Expand", ["x", "s"], ["y"])], {**X, **SIZES}, Y),
    "computed": model(
        [node("Mul", ["s", "two"], ["t"]), node("Expand", ["x", "t"], ["y"])],
        {**X, **SIZES}, Y, {"two": np.int64([2, 1])},
    ),
    "Range": model(
        [node("Range", ["zero", "k", "one"], ["y"])],
        {"k": ("INT64", [])}, {"y": ("INT64", None)}, {"zero": np.int64(0), "one": np.int64(1)},
    ),
    "Resize": model(
        [node("Resize", ["x", "", "", "s"], ["y"])], {**X, **SIZES}, Y,
    ),
    "NonZero": model([node("NonZero", ["x"], ["y"])], X, {"y": ("INT64", None)}),
    "TopK": model([node("TopK", ["x", "k"], ["y", "at"])], {**X, "k": ("INT64", [1])}, Y),
    "OneHot": model(
        [node("OneHot", ["i", "k", "values"], ["y"])],
        {"i": ("INT64", ["n"]), "k": ("INT64", [])}, Y, {"values": np.float32([0, 1])},
    ),
    "Pad": model([node("Pad", ["x", "p"], ["y"])], {**X, "p": ("INT64", [4])}, Y),
    "the largest value": model(
        [node("ReduceMax", ["i"], ["k"], keepdims=0), node("Range", ["zero", "k", "one"], ["y"])],
        {"i": ("INT64", ["n"])}, {"y": ("INT64", None)},
        {"zero": np.int64(0), "one": np.int64(1)},
    ),
    "a function": two_steps(False),
    "text": model([node("Identity", ["t"], ["y"])], {"t": ("BYTES", ["n"])},
                  {"y": ("BYTES", ["n"])}),
}  # fmt: skip
BY_SHAPES = {
    "constant sizes": model([node("Tile", ["x", "s"], ["y"])], X, Y, {"s": np.int64([1, 2])}),
    "Expand to the shape of an input": model(
        [node("Shape", ["x"], ["s"]), node("Expand", ["one", "s"], ["y"])],
        X, Y, {"one": np.float32([[1]])},
    ),
    "positions of a sequence": model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["k"]),
            node("Range", ["zero", "k", "one"], ["positions"]),
            node("Unsqueeze", ["k", "axes"], ["k1"]),
            node("ConstantOfShape", ["k1"], ["zeros"]),
            node("Cast", ["positions"], ["f"], to=1),
            node("Add", ["f", "zeros"], ["y"]),
        ],
        X, Y, {"zero": np.int64(0), "one": np.int64(1), "axes": np.int64([0])},
    ),
    "a mask spread out": model(
        [
            node("Shape", ["x"], ["s"]),
            node("Expand", ["mask", "s"], ["wide"]),
            node("Mul", ["x", "wide"], ["y"]),
        ],
        {**X, "mask": ("FP32", ["n", 1])}, Y,
    ),
    "values that only select": model(
        [node("Gather", ["table", "i"], ["y"])], {"i": ("INT64", ["n"])}, Y,
        {"table": np.float32([1, 2])},
    ),
    "a function": two_steps(True),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_VALUES)
def test_a_graph_whose_values_set_its_work_is_marked(name):
    assert open_session(BY_VALUES[name]).graph.cost_in_values


@pytest.mark.parametrize("name", BY_SHAPES)
def test_a_graph_whose_shapes_set_its_work_is_not(name):
    assert not open_session(BY_SHAPES[name]).graph.cost_in_values
