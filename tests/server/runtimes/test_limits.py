"""What a graph may not be is found before a runtime sees it, and in no time."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import helper

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.runtimes import limits
from aiaas_server.runtimes.facts import look_into
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.wire import read_model
from tests.server.runtimes.graphs import constant, model, node, value

X = {"x": ("FP32", ["n"])}
Y = {"y": ("FP32", ["n"])}
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def function(name, nodes):
    return helper.make_function("own", name, ["p"], ["q"], nodes, OPSETS)


def chain(length, *, twice=True, last="f0"):
    """Functions that each call the next, twice; the last one is a Relu, or calls `last`."""
    made = []
    for index in range(length):
        nodes = [node(f"f{index + 1}", ["p"], ["h"], domain="own")]
        follower = node(f"f{index + 1}", ["h"], ["q"], domain="own")
        nodes.append(follower if twice else node("Relu", ["h"], ["q"]))
        made.append(function(f"f{index}", nodes))
    made.append(function(f"f{length}", [node("Relu", ["p"], ["q"])]))
    return model([node(last, ["x"], ["y"], domain="own")], X, Y, functions=made)


def test_functions_that_call_one_another_twice_are_counted_not_expanded():
    content = chain(30)
    assert len(content) < 4096
    began = time.thread_time()
    with pytest.raises(LoadFailed, match="at most 50000 nodes after functions are expanded"):
        open_session(content)
    assert time.thread_time() - began < 5


def test_a_long_chain_of_functions_is_counted_right():
    facts, _, _ = look_into(chain(900, twice=False))
    assert not facts.cost_in_values
    limits.refuse_unusable(read_model(chain(14)))
    with pytest.raises(LoadFailed, match="50000"):
        limits.refuse_unusable(read_model(chain(16)))
    with pytest.raises(LoadFailed, match="at most 1000 functions, got 1001"):
        limits.refuse_unusable(read_model(chain(1000, twice=False)))


def test_functions_that_call_many_others_are_ordered_in_no_time():
    names = range(300)
    made = [
        function(f"f{i}", [node(f"f{j}", ["p"], ["q"], domain="own") for j in names[i + 1 :]]
                 or [node("Relu", ["p"], ["q"])])
        for i in names
    ]  # fmt: skip
    content = model([node("f0", ["x"], ["y"], domain="own")], X, Y, functions=made)
    began = time.thread_time()
    with pytest.raises(LoadFailed, match="50000"):
        open_session(content)
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_function_that_calls_itself_is_refused(length):
    made = [
        function(f"f{i}", [node(f"f{(i + 1) % length}", ["p"], ["q"], domain="own")])
        for i in range(length)
    ]
    content = model([node("f0", ["x"], ["y"], domain="own")], X, Y, functions=made)
    with pytest.raises(LoadFailed, match="the function 'f.' calls itself"):
        open_session(content)


def test_a_function_is_told_by_its_overload():
    one, other = (function("f", [node(kind, ["p"], ["q"])]) for kind in ("Relu", "Neg"))
    one.overload, other.overload = "a", "b"
    call = node("f", ["x"], ["y"], domain="own")
    call.overload = "b"
    (y,) = open_session(model([call], X, Y, functions=[one, other])).run(
        {"x": np.float32([1])}, ["y"]
    )
    assert y.tolist() == [-1]


def nested(depth):
    def leaf(name):
        return helper.make_graph([node("Relu", ["x"], [name])], "b", [], [value(name, 1, ["n"])])

    body = leaf("y0")
    for level in range(1, depth + 1):
        name = "y" if level == depth else f"y{level}"
        choice = node("If", ["c"], [name], then_branch=body, else_branch=leaf(f"e{level}"))
        body = helper.make_graph([choice], "b", [], [value(name, 1, ["n"])])
    return model([body.node[0]], {**X, "c": ("BOOL", [])}, Y)


def test_graphs_within_graphs_are_bounded():
    assert open_session(nested(10)).graph.cost_in_values
    limits.refuse_unusable(read_model(nested(16)))
    with pytest.raises(LoadFailed, match="graphs within graphs 16 deep at most"):
        open_session(nested(17))


def test_a_graph_without_outputs_is_refused():
    with pytest.raises(LoadFailed, match="the graph has no outputs"):
        open_session(model([node("Relu", ["x"], ["y"])], X, {}))


def twice_given(where, large):
    tensor = constant("w", np.zeros(40_000 if large else 1, np.float32))
    tensor.float_data.extend([1.0] * (40_000 if large else 1))
    if where == "constant":
        return model([node("Constant", [], ["y"], value=tensor)], X, {"y": ("FP32", None)})
    made = onnx.load_from_string(model([node("Add", ["x", "w"], ["y"])], X, Y))
    made.graph.initializer.append(tensor)
    return made.SerializeToString()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_a_tensor_given_in_two_ways_is_refused(where, large):
    with pytest.raises(LoadFailed, match="'w' has both raw_data and typed data"):
        open_session(twice_given(where, large))


def test_more_tensors_than_a_request_may_hold_are_refused():
    names = [f"c{index}" for index in range(1024)]
    content = model([node("Concat", names, ["y"], axis=0)], dict.fromkeys(names, X["x"]), Y)
    with pytest.raises(LoadFailed, match="at most 1024 inputs and outputs, got 1025"):
        open_session(content)


def test_onnxruntimes_own_format_is_refused_by_name():
    with pytest.raises(LoadFailed, match="onnxruntime's own format"):
        open_session(b"\x10\0\0\0ORTM" + bytes(64))


def test_a_huge_constant_is_not_made_at_load():
    """2^33 elements; made, they would be 32 GiB."""
    nodes = [
        node("ConstantOfShape", ["s"], ["c"]),
        node("ReduceSum", ["c"], ["sum"], keepdims=0),
        node("Add", ["x", "sum"], ["y"]),
    ]
    open_session(model(nodes, X, Y, {"s": np.int64([1 << 33])}))


@pytest.mark.parametrize("shape", [(3, 0, 2), (0, 0, 2)], ids=["no rows", "nothing"])
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_what_would_end_the_process_without_elements_is_asked_for_some(kind, gates, shape):
    nodes = [node(kind, ["x", "w", "r"], ["y", ""], hidden_size=3)]
    weights = {
        "w": np.zeros((1, gates * 3, 2), np.float32),
        "r": np.zeros((1, gates * 3, 3), np.float32),
    }
    inputs = {"x": ("FP32", ["time", "batch", 2])}
    session = open_session(model(nodes, inputs, {"y": ("FP32", None)}, weights))
    with pytest.raises(InvalidInput, match="input 'x': expected at least one element"):
        session.run({"x": np.zeros(shape, np.float32)}, ["y"])
    assert session.run({"x": np.zeros((3, 1, 2), np.float32)}, ["y"])[0].shape == (3, 1, 1, 3)


def test_the_models_text_and_weights_survive_a_rewrite(onnx_models):
    """What is not understood here is kept: names, metadata, large and small weights."""
    made = onnx.load_from_string(onnx_models.mlp())
    made.producer_name = "trainer"
    helper.set_model_props(made, {"task": "demo"})
    written = onnx.load_from_string(read_model(made.SerializeToString()).written())
    for graph in (made.graph, written.graph):
        graph.initializer.sort(key=lambda tensor: tensor.name)
    assert written == made
