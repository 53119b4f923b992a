"""Models that nobody should load: each is one way to harm a server, or to say two things."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
node = helper.make_node


def value(name: str, dims: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: Any = (),
    inputs: Any = (),
    outputs: Any = (),
    *,
    opset: int = 17,
    weights: Any = (),
    functions: Any = (),
    domains: Any = (),
) -> Any:
    """A model message, by default the smallest that works: `y = Identity(x)`."""
    graph = helper.make_graph(
        list(nodes) or [node("Identity", ["x"], ["y"])],
        "g",
        list(inputs) or [value("x", ["n", 2])],
        list(outputs) or [value("y", ["n", 2])],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def plus(rows: int = 1, columns: int = 2) -> Any:
    """`y = x + w`, with a weight to be tampered with."""
    weight = numpy_helper.from_array(np.ones((rows, columns), np.float32), "w")
    return model([node("Add", ["x", "w"], ["y"])], weights=[weight])


def external(location: str, **entries: str) -> Any:
    """`y = x + w`, where `w` lies in another file."""
    made = plus()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=text)
    return made


def doubling(levels: int) -> Any:
    """Functions that call one another twice: 2^levels nodes in a few hundred bytes."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bomb", 1)]
    functions = [
        helper.make_function("bomb", "f0", ["a"], ["b"], [node("Neg", ["a"], ["b"])], opsets)
    ]
    for level in range(1, levels + 1):
        called = f"f{level - 1}"
        body = [
            node(called, ["a"], ["m"], domain="bomb"),
            node(called, ["m"], ["b"], domain="bomb"),
        ]
        functions.append(helper.make_function("bomb", f"f{level}", ["a"], ["b"], body, opsets))
    top = [node(f"f{levels}", ["x"], ["y"], domain="bomb")]
    return model(top, functions=functions, domains=["bomb"])


def calls_itself() -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    body = [node("again", ["a"], ["b"], domain="own")]
    again = helper.make_function("own", "again", ["a"], ["b"], body, opsets)
    return model([node("again", ["x"], ["y"], domain="own")], functions=[again], domains=["own"])


def nested(levels: int) -> Any:
    """`If` inside `If`, that many."""
    name = "b0"
    body = helper.make_graph([node("Identity", ["x"], [name])], "b", [], [value(name, None)])
    for level in range(1, levels + 1):
        name = f"b{level}"
        other = helper.make_graph(
            [node("Neg", ["x"], [f"o{level}"])], "o", [], [value(f"o{level}", None)]
        )
        inner = node("If", ["yes"], [name], then_branch=body, else_branch=other)
        body = helper.make_graph([inner], "b", [], [value(name, None)])
    (top,) = body.node
    top.output[0] = "y"
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([top], weights=[yes])


def bottomless(levels: int) -> bytes:
    """Graphs inside attributes inside nodes inside graphs, deeper than anything can write it."""
    content = b""
    for level in range(levels):
        tag = (b"\x32", b"\x2a", b"\x0a")[level % 3]  # an attribute's graph, a node's, a graph's
        content = tag + encoded(len(content)) + content
    return b"\x08\x0a\x3a" + encoded(len(content)) + content


def encoded(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def endless() -> Any:
    """A loop of 2^62 turns around the input."""
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["goes_on"]),
            node("Add", ["held", "held"], ["next"]),
        ],
        "body",
        [
            value("turn", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("held", ["n", 2]),
        ],
        [value("goes_on", [], TensorProto.BOOL), value("next", ["n", 2])],
    )
    trips = numpy_helper.from_array(np.array(2**62, np.int64), "trips")
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model([node("Loop", ["trips", "yes", "x"], ["y"], body=body)], weights=[trips, yes])


def huge(elements: int) -> Any:
    """Makes a tensor of that many numbers and adds it to the input."""
    shape = numpy_helper.from_array(np.array([elements // 2, 2], np.int64), "shape")
    nodes = [
        node("ConstantOfShape", ["shape"], ["many"]),
        node("ReduceSum", ["many"], ["sum"]),
        node("Add", ["x", "sum"], ["y"]),
    ]
    return model(nodes, weights=[shape])


def grows() -> Any:
    """A loop that joins a tensor to itself: twice the memory with every turn."""
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["goes_on"]),
            node("Concat", ["held", "held"], ["next"], axis=0),
        ],
        "body",
        [
            value("turn", [], TensorProto.INT64),
            value("going", [], TensorProto.BOOL),
            value("held", None),
        ],
        [value("goes_on", [], TensorProto.BOOL), value("next", None)],
    )
    trips = numpy_helper.from_array(np.array(60, np.int64), "trips")
    yes = numpy_helper.from_array(np.array(True), "yes")
    return model(
        [node("Loop", ["trips", "yes", "x"], ["y"], body=body)],
        outputs=[value("y", ["m", 2])],
        weights=[trips, yes],
    )


def serialized(made: Any) -> bytes:
    assert isinstance(made, onnx.ModelProto)
    content = made.SerializeToString()
    assert isinstance(content, bytes)
    return content
